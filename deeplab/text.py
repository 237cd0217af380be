"""Text files as written by various editors and tools."""

import codecs
import sys
from pathlib import Path

from deeplab.errors import DataError
from deeplab.files import read_regular

_OTHER_ENCODINGS = ("GBK", "CP1252", "SHIFT_JIS", "EUC-KR")
"""What a file that is not UTF-8 may be, by the names of iconv: editors on Windows write the system's encoding."""


MAX_BYTES = 16 << 20
"""Largest list; a name of 100 bytes in each line makes 160,000 examples."""

_MAX_LINES = 1_000_000
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What `splitlines` splits at."""


def read_lines(path: Path, what: str, max_bytes: int = MAX_BYTES) -> list[str]:
    """The lines of a text file as `read_text` reads it; surrounding blanks are removed.

    Raises:
        DataError: as `read_text`, or more than a million lines.
    """
    text = read_text(path, what, max_bytes)
    if sum(map(text.count, _LINE_ENDS)) > _MAX_LINES:
        raise DataError(f"{path}: cannot be read ({what}): more than {_MAX_LINES:,} lines")
    return [line.strip() for line in text.splitlines()]


def read_text(path: Path, what: str, max_bytes: int = sys.maxsize) -> str:
    """The content of a text file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        DataError: missing, unreadable, no regular file, larger than `max_bytes`, or in another encoding; the message
            says `what` the file is, and what the line would be in the encodings that it may be in.
    """
    try:
        content = read_regular(path, max_bytes)
        text = content.decode(_encoding(content))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({what})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({what}): {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read ({what}): {_not_utf8(content, error.start)}") from error
    if "\0" in text:  # which no name of a file can have
        raise DataError(f"{path}: cannot be read ({what}): it holds a null character, so it is not text")
    return text


def _encoding(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell's `>` writes
        return "utf-16"
    if content[1:2] == b"\0" and content[3:4] in (b"\0", b""):  # the same without a mark, in ASCII
        return "utf-16-le"
    return "utf-8-sig"


def _not_utf8(content: bytes, place: int) -> str:
    """What the line of the first byte that is not UTF-8 would be in other encodings, and how to convert the file."""
    number = content.count(b"\n", 0, place) + 1
    line = content.splitlines()[number - 1] if b"\0" not in content else b""
    readings = []
    for encoding in _OTHER_ENCODINGS:
        try:
            text = line.decode(encoding).strip()
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text.isprintable() and text:
            readings.append(f"{text[:40]!r} in {encoding}")
    if not readings:
        return "it is neither UTF-8 nor UTF-16 text"
    return (
        f"line {number} is not UTF-8; it would be {' or '.join(readings)}; convert the file from the right one, "
        "for example: iconv -f GBK -t UTF-8 OLD > NEW"
    )
