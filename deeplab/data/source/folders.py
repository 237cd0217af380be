"""The files of a folder, found by their names without endings."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from deeplab.data.source.images import ENDINGS
from deeplab.errors import DataError

_SHOWN_NAMES = 3


class Folder:
    """The files of a folder and its subfolders, found by stem; each folder is listed only once."""

    def __init__(self, path: Path, endings: Sequence[str] = ENDINGS) -> None:
        """`path` need not exist; only files with these `endings` (lower case, with the dot) are found."""
        self.path = path
        self._endings = tuple(endings)
        self._listed: dict[str, dict[str, list[str]]] = {}

    def has(self, stem: str) -> bool:
        """Whether at least one file has this stem."""
        return bool(self._named(stem))

    def find(self, stem: str) -> Path:
        """The file with this stem, which may include a subfolder, such as `day1/img_000`.

        The case of the ending and the Unicode normal form do not matter.

        Raises:
            DataError: no such file, and the message names the files found instead; or several.
        """
        names = self._named(stem)
        parent, _, last = stem.rpartition("/")
        folder = self.path / parent if parent else self.path
        if len(names) == 1:
            return folder / names[0]
        if len(names) > 1:
            raise DataError(f"{folder}: both {' and '.join(names)} could be {last!r}; keep only one of them")
        raise DataError(f"{folder / last}{self._endings[0]}: missing; {self._there_instead(parent, last)}")

    def _named(self, stem: str) -> list[str]:
        parent, _, last = stem.rpartition("/")
        return self._files(parent).get(normal_form(last), [])

    def _files(self, parent: str) -> dict[str, list[str]]:
        """Names of the files in a subfolder, by their stems' normal form."""
        if parent not in self._listed:
            files: dict[str, list[str]] = {}
            folder = self.path / parent
            # Names, not paths: a folder may have a hundred thousand.
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():  # noqa: PTH208
                stem, ending = os.path.splitext(name)  # noqa: PTH122
                if ending.lower() in self._endings:
                    files.setdefault(normal_form(stem), []).append(name)
            self._listed[parent] = files
        return self._listed[parent]

    def _there_instead(self, parent: str, last: str) -> str:
        folder = self.path / parent
        if not folder.is_dir():
            return f"there is no folder {folder}"
        names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
        wanted = normal_form(last).casefold()
        alike = [name for name in names if wanted in normal_form(name).casefold()]
        if alike:
            return f"found instead: {', '.join(alike[:_SHOWN_NAMES])}"
        if not names:
            return "the folder is empty"
        others = ", ".join(names[:_SHOWN_NAMES]) + " ..." * (len(names) > _SHOWN_NAMES)
        return f"the folder holds {others}"


def normal_form(name: str) -> str:
    """A name in Unicode's composed form; macOS writes an accented letter as two characters, other systems as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
