"""Text files as written by various editors and tools."""

import codecs
from pathlib import Path

from deeplab.errors import DataError


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file in UTF-8 or UTF-16, with or without a byte order mark; surrounding blanks are removed.

    Raises:
        DataError: missing, unreadable or not text; the message says `what` the file is.
    """
    try:
        content = path.read_bytes()
        return [line.strip() for line in content.decode(_encoding(content)).splitlines()]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({what})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({what}): {error}") from error


def _encoding(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell's `>` writes
        return "utf-16"
    if content[1:2] == b"\0" and content[3:4] in (b"\0", b""):  # the same without a mark, in ASCII
        return "utf-16-le"
    return "utf-8-sig"
