"""Changed bytes and values of every kind of file that is read: each ends in a result or in one line, soon.

python bench/checks/fuzz.py [MUTATIONS] [SEED] [KIND ...]        mutations of each kind; defaults 3,000, 0 and all

Bytes are flipped, cut, zeroed, removed, repeated or inserted; values of JSON and words of text are replaced, removed,
repeated or moved (mutations.py). What has a checksum must be refused or read as the original. JPEG has none, so that a
changed file may be a different picture to every decoder. Text and JSON may say something else. All that has two
seconds, 500 MB and one line.

Prints a table and a JSON line; exit status 1 for any other outcome, which is kept in fuzz-KIND-NUMBER.
"""

import json
import logging
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import fuzz_kinds
import fuzz_more_kinds
from fuzz_kinds import Kind

from deeplab.errors import DeepLabError, escaped

SECONDS = 2
MEGABYTES = 500
PATIENCE = 20  # seconds until a mutation counts as a hang
LONGEST_LINE = 2500  # characters
_REFERENCE = "reference"
_FORK = multiprocessing.get_context("fork")


def survey(name: str, kind: Kind, number: int, seed: int) -> dict[str, int | float]:
    """Outcomes of all mutations of a kind, the longest time and the most memory; reading happens in another process."""
    original = kind.path.read_bytes()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    largest = 0.0
    done = 0
    while done < number:
        ours, theirs = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_read_mutations, args=(kind, original, range(done, number), seed, theirs))
        process.start()
        theirs.close()
        for outcome, seconds, megabytes in _received(ours):
            if outcome == _REFERENCE:
                continue
            problem = problem_of(kind, outcome, seconds, megabytes)
            if problem:
                _keep(name, kind, original, done, seed, problem)
            outcomes["wrong" if problem else outcome] += 1
            done += 1
            slowest = max(slowest, seconds)
            largest = max(largest, megabytes)
        process.kill()
        process.join()
    kind.path.write_bytes(original)
    return {**outcomes, "slowest": slowest, "largest": largest}


def problem_of(kind: Kind, outcome: str, seconds: float, megabytes: float) -> str:
    """What is wrong with an outcome; empty if nothing is."""
    if outcome not in ("refused", "original", *(() if kind.exact else ("other",))):
        return outcome
    return f"{seconds:.1f} s, {megabytes:.0f} MB" if seconds > SECONDS or megabytes > MEGABYTES else ""


def _received(connection: Connection) -> Iterator[tuple[str, float, float]]:
    """What a process sends, until it ends; a hang or a crash is the last outcome."""
    while connection.poll(PATIENCE):
        try:
            found = connection.recv()
        except EOFError:
            yield "crash", 0.0, 0.0
            return
        if found is None:
            return
        yield found
    yield "hang", 0.0, 0.0


def _read_mutations(kind: Kind, original: bytes, numbers: range, seed: int, connection: Connection) -> None:
    """Sends the outcome, seconds and megabytes of the original and of each mutation."""
    kind.path.write_bytes(original)
    reference = kind.read()
    connection.send((_REFERENCE, 0.0, 0.0))
    for number in numbers:
        kind.path.write_bytes(mutation(kind, original, number, seed))
        before = _peak()
        start = time.perf_counter()
        outcome = outcome_of(kind, reference)
        connection.send((outcome, time.perf_counter() - start, _peak() - before))
    connection.send(None)


def mutation(kind: Kind, original: bytes, number: int, seed: int) -> bytes:
    """The file after the mutation of this number."""
    return kind.mutate(original, random.Random(f"{seed} {number}"))


def outcome_of(kind: Kind, reference: object) -> str:
    """refused, original, other, or what else happened."""
    try:
        return "original" if kind.read() == reference else "other"
    except DeepLabError as error:
        length = len(escaped(str(error)))
        return "refused" if length <= LONGEST_LINE else f"a line of {length} characters"
    except Exception as error:  # whatever it is, it would be a traceback
        return f"{type(error).__name__}: {error}"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _keep(name: str, kind: Kind, original: bytes, number: int, seed: int, outcome: str) -> None:
    path = Path(f"fuzz-{name.replace(' ', '-')}-{number}")
    path.write_bytes(mutation(kind, original, number, seed))
    print(f"{path}: {outcome}"[:300], file=sys.stderr, flush=True)


def main() -> None:
    """Runs the kinds that are asked for."""
    logging.getLogger("deeplab").setLevel(logging.CRITICAL)
    number, seed = (int(text) for text in (sys.argv[1:3] + ["3000", "0"][len(sys.argv[1:3]) :]))
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # In a process of its own, since TensorFlow cannot compute in a process and in those forked from it.
        writer = _FORK.Process(target=fuzz_kinds.write_shards, args=(folder, seed))
        writer.start()
        writer.join()
        kinds = fuzz_kinds.all_kinds(folder) | fuzz_more_kinds.more_kinds(folder)
        print("| bytes of | mutations | refused | read as the original | read as something else | wrong | s | MB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in sys.argv[3:] or kinds:
            found = results[name] = survey(name, kinds[name], number, seed)
            counts = (f"{found.get(outcome, 0):,}" for outcome in ("refused", "original", "other", "wrong"))
            cells = (name, f"{number:,}", *counts, f"{found['slowest']:.2f}", f"{found['largest']:.0f}")
            print(f"| {' | '.join(cells)} |", flush=True)
    print(json.dumps({"bench": "fuzz", "outcomes": results}))
    sys.exit(any(found.get("wrong") for found in results.values()))


if __name__ == "__main__":
    main()
