"""Text files as people's editors and tools write them."""

import codecs
from pathlib import Path

from deeplab.errors import DataError


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file in UTF-8 or UTF-16, with or without a byte order mark; blanks at both ends are cut off.

    Raises:
        DataError: missing, unreadable or no text; the line says `what` the file is.
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
