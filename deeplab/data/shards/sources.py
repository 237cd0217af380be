"""Records the files that the shards of a split were made from, so that later changes are noticed.

The manifest holds a fingerprint of the class table and of all file sizes. Next to it, SPLIT.sources.txt holds a digest
of each file's contents and the file system's data about the file at that time (its stamp). While the stamp is the same,
the contents are not read again; otherwise the digest decides.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deeplab.data.source.classes import ClassTable
from deeplab.data.source.voc import Pair
from deeplab.files import digest, write_text

_SHA256_DIGITS = 64
_LINE = re.compile(rf"([0-9a-f]{{{_SHA256_DIGITS}}}) (\d+ -?\d+ -?\d+ \d+) ((?:image|mask) .+)")


class Source(NamedTuple):
    """A file when it was read: its stamp and the SHA-256 of its contents."""

    stamp: str
    sha256: str

    @classmethod
    def of(cls, path: str) -> "Source | None":
        """None if the file does not exist."""
        stamp = _stamp(path)  # before the contents, so that a write in between is noticed next time
        return Source(stamp, digest(Path(path), "sha256")) if stamp and Path(path).is_file() else None


Sources = dict[str, Source]
"""By "image NAME" or "mask NAME"."""


def _stamp(path: str) -> str:
    """A file's size, times of modification and change in ns, and inode, as text; empty if it does not exist.

    Programs cannot set the time of change, so every rewrite alters it.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  half the time of path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def stamps_of(pairs: Iterable[Pair]) -> list[str]:
    """The current stamps of the examples' files, in the order of `files`."""
    return [_stamp(path) for _, path in files(pairs)]


def fingerprint(pairs: Iterable[Pair], stamps: Sequence[str], classes: ClassTable, choices: str = "") -> str:
    """SHA-256 over the class table and each example's name and file sizes; does not read the contents.

    `choices` holds other settings that the shards depend on, unless they have their defaults.
    """
    content = hashlib.sha256(f"{classes.as_text()}{choices}".encode())
    sizes = (stamp.partition(" ")[0] or "None" for stamp in stamps)
    for pair, image, mask in zip(pairs, sizes, sizes, strict=True):
        content.update(f"\n{pair.name} {image} {mask}".encode())
    return content.hexdigest()


def files(pairs: Iterable[Pair]) -> Iterator[tuple[str, str]]:
    """The files of the examples: keys of `Sources`, and paths."""
    for pair in pairs:
        yield f"image {pair.name}", pair.image_file
        yield f"mask {pair.name}", pair.mask_file


def are_recorded(path: Path, pairs: Iterable[Pair], stamps: Iterable[str]) -> bool:
    """Whether the sources in a file have these stamps and this order, so that no file has changed.

    Unlike `read_sources` and `compare`, it keeps nothing in memory: a data set may have a million files.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            recorded = (line[_SHA256_DIGITS + 1 :] for line in lines)
            now = (f"{stamp} {key}\n" for stamp, (key, _) in zip(stamps, files(pairs), strict=True) if stamp)
            return all(old == new for old, new in itertools.zip_longest(recorded, now))
    except (OSError, ValueError):
        return False


def current_sources(pairs: Iterable[Pair]) -> Sources:
    """The current sources of the examples, without missing files."""
    found = ((key, Source.of(path)) for key, path in files(pairs))
    return {key: source for key, source in found if source is not None}


def compare(pairs: Iterable[Pair], stamps: Iterable[str], before: Sources) -> tuple[list[Path], Sources]:
    """The files whose contents changed, and the current sources. Reads only files with another stamp than before."""
    changed = []
    now = {}
    for stamp, (key, path) in zip(stamps, files(pairs), strict=True):
        old = before.get(key)
        new = old if old is not None and old.stamp == stamp else Source.of(path)
        if (new and new.sha256) != (old and old.sha256):
            changed.append(Path(path))
        if new is not None:
            now[key] = new
    return changed, now


def sources_path(folder: Path, split_name: str) -> Path:
    """The file that holds the sources of a split's shards."""
    return folder / f"{split_name}.sources.txt"


def write_sources(path: Path, sources: Sources) -> None:
    """Writes a line for each file: SHA-256, stamp, kind and name."""
    write_text(path, "".join(f"{source.sha256} {source.stamp} {key}\n" for key, source in sources.items()))


def read_sources(path: Path) -> Sources | None:
    """None if the file is missing or was not written by `write_sources`."""
    sources: Sources = {}
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            found = _LINE.fullmatch(line)
            if found is None:
                return None
            sha256, stamp, key = found.groups()
            sources[key] = Source(stamp, sha256)
    except (OSError, ValueError):
        return None
    return sources


def digests_of_images(path: Path) -> list[str]:
    """The SHA-256 of each image, by a file that `write_sources` wrote; none if it is missing."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        return [line[:_SHA256_DIGITS] for line in lines if line.split(" ", 6)[5:6] == ["image"]]
