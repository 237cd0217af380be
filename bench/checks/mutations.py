"""Random changes of files, for fuzz.py: of their bytes, of the values in JSON, of the words in text."""

import json
import random
from collections.abc import Callable
from typing import Any

_CHANGES = (1, 1, 1, 2, 3)

Mutate = Callable[[bytes, random.Random], bytes]

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 255, 256, 2**31, -(2**63), 10**400, 0.5, -0.0, 1e300, float("inf"), float("nan")),
    *("", " ", "x", "x" * 5000, "../../etc/passwd", "/etc/passwd", "a/b", "\x00", "a\nb", "\x1b[2J", "é道", "\ud800"),
    *("background", "void", "[", "{", "1e999", "0x10", [], {}, [[]], [None], [[1, 2], [3]], {"a": 1}),
)
"""Odd in one field or another."""

_WORDS = (
    *(
        "",
        " ",
        ":",
        ",",
        "#",
        "*",
        "-",
        "&a",
        "*a",
        "[",
        "{",
        "}",
        "!!python/object:os.system",
        "|",
        ">",
        "%",
        "@",
        "'",
    ),
    *('"', "0", "-1", "256", "1e999", "nan", "inf", "9" * 5000, "x" * 5000, "../", "/", "\\", "\t", "\x00", "\u2028"),
    *("background", "void", "#ff0000", "a.png", "a b", "\N{BYTE ORDER MARK}", "é", "\n", "\n\n"),
)


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to three random changes of bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(changed) or 1)
        end = start + rng.choice((1, 4, 16, 64))
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[start:]
        elif kind == 2:
            changed[start:end] = bytes(len(changed[start:end]))
        elif kind == 3:
            del changed[start:end]
        elif kind == 4:
            changed[start:start] = changed[start:end]
        else:
            changed[start:start] = rng.randbytes(end - start)
    return bytes(changed)


def of_json(content: bytes, rng: random.Random) -> bytes:
    """One to three values of JSON are replaced, removed, repeated or put elsewhere; in one of four times, of bytes."""
    if rng.randrange(4) == 0:
        return of_bytes(content, rng)
    root = {"root": json.loads(content)}
    for _ in range(rng.choice(_CHANGES)):
        places = list(_places(root))
        parent, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0 and parent is not root:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent[key:key] = [parent[key]] * rng.choice((1, 2, 50))
        elif kind == 2:
            other, other_key = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[other_key]))
        elif kind == 3 and isinstance(parent[key], int | float) and abs(parent[key]) < 1e300:
            parent[key] *= rng.choice((-1, 0, 0.5, 1e6, 10**30))
        else:
            parent[key] = rng.choice(_VALUES)
    return json.dumps(root.get("root")).encode()


def _places(value: Any) -> Any:  # noqa: ANN401  any JSON
    """(container, key) of each value in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def of_text(content: bytes, rng: random.Random) -> bytes:
    """One to three words or lines are replaced, removed, repeated or moved; in one of four times, of bytes."""
    if rng.randrange(4) == 0:
        return of_bytes(content, rng)
    parts = content.decode().split(separator := rng.choice(("\n", " ", ":", ",")))
    for _ in range(rng.choice(_CHANGES)):
        place = rng.randrange(len(parts) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            del parts[place : place + 1]
        elif kind == 1:
            parts[place:place] = parts[place : place + 1] * rng.choice((1, 2, 300))
        elif kind == 2 and parts:
            parts[place] += rng.choice(_WORDS)
        elif kind == 3:
            parts.insert(place, rng.choice(parts or [""]))
        else:
            parts[place : place + 1] = [rng.choice(_WORDS)]
    return separator.join(parts).encode()
