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
        self._prefix = os.path.join(path, "")  # noqa: PTH118  with a slash
        self._endings = tuple(endings)
        self._listed: dict[str, dict[str, str]] = {}

    def has(self, stem: str) -> bool:
        """Whether at least one file has this stem."""
        return self.get(stem) is not None

    def get(self, stem: str) -> str | None:
        """As `find`, but None if there is no such file, and empty if there are several."""
        parent, slash, last = stem.rpartition("/")
        names = self._files(parent).get(normal_form(last))
        if names is None or "/" in names:
            return names and ""
        return f"{self._prefix}{parent}{slash}{names}"

    def find(self, stem: str) -> str:
        """The path of the file with this stem, which may include a subfolder, such as `day1/img_000`.

        The case of the ending and the Unicode normal form do not matter. The path is text, since there may be a
        million.

        Raises:
            DataError: no such file, and the message names the files found instead; or several.
        """
        if found := self.get(stem):
            return found
        parent, _, last = stem.rpartition("/")
        if found is None:
            raise DataError(f"{self.usual(stem)}: missing; {self._there_instead(parent, last)}")
        both = " and ".join(sorted(self._files(parent)[normal_form(last)].split("/")))
        raise DataError(f"{self.path / parent}: both {both} could be {last!r}; keep only one of them")

    def usual(self, stem: str) -> str:
        """Where a file that is missing would be, with the usual ending."""
        return f"{self.path / stem}{self._endings[0]}"

    def _files(self, parent: str) -> dict[str, str]:
        """The files in a subfolder, by their stems' normal form; a slash between several with the same."""
        if parent not in self._listed:
            files: dict[str, str] = {}
            folder = self.path / parent
            endings = {ending.removeprefix(".") for ending in self._endings}
            # Names, not paths: a folder may have a hundred thousand.
            for name in os.listdir(folder) if folder.is_dir() else ():  # noqa: PTH208
                stem, _, ending = name.rpartition(".")
                if ending.lower() in endings:
                    stem = normal_form(stem)
                    files[stem] = f"{files[stem]}/{name}" if stem in files else name
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
