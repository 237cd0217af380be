"""What a reader finds beside examples: what is wrong, what it leaves out, and labels that it writes otherwise."""

import logging
import re
import unicodedata
from pathlib import Path

from deeplab.data.source.classes import BACKGROUND, MAX_NAME, VOID
from deeplab.errors import DataError, shortened

logger = logging.getLogger("deeplab")

_VOID_WORDS = (VOID, "ignore", "ignored")
_NOT_IN_NAMES = re.compile(r"\s*[:,#{}][\s:,#{}]*")  # characters that distinguish a class table from plain names
_MAX_SHOWN = 200
_SHOWN_NAMES = 5
_LONGEST_PATH = 300  # shown of a missing file


class Findings:
    """Collects what is wrong or odd with a data set, to report it all at once.

    Attributes:
        left_out: reason why objects or files were left out -> their files, one entry per object.
    """

    def __init__(self, strict: bool = False) -> None:
        """With `strict`, what would be left out is a problem."""
        self.left_out: dict[str, list[str]] = {}
        self._strict = strict
        self._labels: dict[str, dict[str, None]] = {}
        self._chosen: set[str] = set()
        self._problems: list[str] = []
        self._missing: list[str] = []

    def add(self, text: str) -> None:
        """Adds one problem; the text names the file."""
        self._problems.append(text)

    def add_missing(self, path: Path, named_by: str) -> None:
        """Adds a file that `named_by` needs; all missing files together are one problem."""
        self._missing.append(f"{shortened(path, _LONGEST_PATH)} (of {named_by})")

    def omit(self, reason: str, name: str, number: int = 1, chosen: bool = False) -> None:
        """Notes that `number` objects of a file are left out; `chosen` if the user asked for that."""
        self.left_out.setdefault(reason, []).extend([name] * number)
        if chosen:
            self._chosen.add(reason)

    def label(self, label: object) -> str:
        """`clean_label`, for `renamed`. Raises ValueError."""
        cleaned = clean_label(label)
        self._labels.setdefault(cleaned, {})[unicodedata.normalize("NFC", str(label)).strip()] = None
        return cleaned

    @property
    def renamed(self) -> list[str]:
        """One line per class of which a label has characters that names of classes cannot have."""
        return [
            f"{' and '.join(map(repr, labels))} became the class {name!r}"
            for name, labels in self._labels.items()
            if any(map(_NOT_IN_NAMES.search, labels))
        ]

    def raise_if_any(self) -> None:
        """Logs all problems; raises DataError with the first one and their number."""
        if number := len(self._missing):
            rest = f" and {number - _MAX_SHOWN:,} more" if number > _MAX_SHOWN else ""
            self.add(f"{number:,} missing file{'s' * (number > 1)}: {', '.join(self._missing[:_MAX_SHOWN])}{rest}")
            self._missing.clear()
        if self._strict:
            refused = {reason: names for reason, names in self.left_out.items() if reason not in self._chosen}
            for line in lines_of_left_out(refused):
                self.add(f"--strict: {line}")
        if not self._problems:
            return
        if len(self._problems) == 1:
            raise DataError(f"{self._problems[0]}; nothing was written")
        for text in self._problems[:_MAX_SHOWN]:
            logger.error("%s", text)
        shown = "all listed above" if len(self._problems) <= _MAX_SHOWN else f"the first {_MAX_SHOWN} are listed above"
        raise DataError(f"{self._problems[0]} ({len(self._problems):,} problems in all, {shown}; nothing was written)")


def clean_label(label: object) -> str:
    """The label as the name of a class; unifies the spellings of background, and the spellings of void.

    Removes surrounding blanks, normalizes Unicode, and replaces characters reserved for class tables by `_`.

    Raises:
        ValueError: not text, or only blanks.
    """
    if isinstance(label, bool) or not isinstance(label, str | int):
        # Of a list, not what it holds: aliases of YAML can make it endless.
        shown = type(label).__name__ if isinstance(label, list | dict) else repr(label)
        raise ValueError(f"the label {shown} is not text")
    text = unicodedata.normalize("NFC", str(label)).strip()
    if len(text) > MAX_NAME:
        raise ValueError(f"the label {shortened(repr(text))} has {len(text):,} characters, more than {MAX_NAME}")
    if not text or not text.isprintable():
        raise ValueError(f"the label {shortened(repr(label))} is empty or contains control characters")
    word = text.strip("_ ").casefold()
    if word == BACKGROUND:
        return BACKGROUND
    return VOID if word in _VOID_WORDS else _NOT_IN_NAMES.sub("_", text)


def lines_of_left_out(left_out: dict[str, list[str]]) -> list[str]:
    """One line per reason, with the number of objects and some of their files."""
    lines = []
    for reason, names in left_out.items():
        shown = ", ".join(dict.fromkeys(names[:_SHOWN_NAMES])) + (", ..." if len(names) > _SHOWN_NAMES else "")
        lines.append(f"{len(names):,} {reason} ({shown})")
    return lines


def no_area(where: Path | str, findings: Findings) -> DataError:
    """The error for a data set of which no object covers an area."""
    left_out = "".join(f"; left out: {line}" for line in lines_of_left_out(findings.left_out))
    return DataError(f"{where}: no object covers an area{left_out}")
