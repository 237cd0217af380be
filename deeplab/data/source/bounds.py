"""Where a data set may name files: it can name any file that the user can read, and images are copied from there."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from deeplab.errors import DataError, shortened


@dataclass(frozen=True)
class Bounds:
    """The folders of a data set: those that the user gave, not those that its files name.

    Attributes:
        folders: they, with all below them.
        allow_outside: whether the data set may name files anywhere, since the user trusts it.
        advice: what to do about a file outside, for the message.
    """

    folders: tuple[Path, ...]
    allow_outside: bool = False
    advice: str = "give a folder that holds the whole data set, or, if you trust it, --allow_outside"

    def hold(self, path: Path) -> bool:
        """Whether a file or folder lies in the folders; symbolic links count as what they lead to."""
        real = Path(os.path.realpath(path))  # unlike Path.resolve, it does not raise for links in a circle
        return self.allow_outside or any(map(real.is_relative_to, self._real_folders))

    @functools.cached_property
    def _real_folders(self) -> tuple[Path, ...]:
        return tuple(folder.resolve() for folder in self.folders)

    def check(self, path: Path, named_by: Path | str) -> None:
        """Raises DataError for a path that they do not hold. Call it before a file that annotations name is read."""
        if not self.hold(path):
            places = " and ".join(map(str, self.folders))
            raise DataError(f"{named_by}: {shortened(path.name)} is outside {places}; {self.advice}")
