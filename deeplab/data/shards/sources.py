"""Records the files that the shards of a split were made from, so that later changes are noticed.

The manifest holds a fingerprint of the class table and of all file sizes. Next to it, SPLIT.sources.txt holds a digest
of each file's contents and the file system's data about the file at that time (its stamp). While the stamp is the same,
the contents are not read again; otherwise the digest decides.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from deeplab.data.source.classes import ClassTable
from deeplab.data.source.voc import Pair
from deeplab.files import digest, write_text

Key = tuple[str, str]
"""("image" or "mask", the example's name)."""


class Stamp(NamedTuple):
    """The file system's data about a file; programs cannot set the change time, so every rewrite alters it."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """None if the file does not exist."""
        try:
            found = os.stat(path)  # noqa: PTH116  half the time of path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class Source(NamedTuple):
    """A file when it was read: its stamp and the SHA-256 of its contents."""

    stamp: Stamp
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source | None":
        """None if the file does not exist."""
        stamp = Stamp.of(path)  # before the contents, so that a write in between is noticed next time
        return Source(stamp, digest(path, "sha256")) if stamp is not None and path.is_file() else None


Sources = dict[Key, Source]
Stamps = dict[Key, Stamp | None]
"""None for missing files."""


def stamps_of(pairs: Iterable[Pair]) -> Stamps:
    """The current stamps of the examples' files."""
    return {key: Stamp.of(path) for key, path in files(pairs)}


def fingerprint(pairs: Iterable[Pair], stamps: Stamps, classes: ClassTable, choices: str = "") -> str:
    """SHA-256 over the class table and each example's name and file sizes; does not read the contents.

    `choices` holds other settings that the shards depend on, unless they have their defaults.
    """
    lines = [f"{classes.as_text()}{choices}"]
    for pair in pairs:
        image = stamps["image", pair.name]
        mask = stamps["mask", pair.name]
        lines.append(f"{pair.name} {image and image.size} {mask and mask.size}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def files(pairs: Iterable[Pair]) -> Iterator[tuple[Key, Path]]:
    """The files of the examples."""
    for pair in pairs:
        yield ("image", pair.name), pair.image
        yield ("mask", pair.name), pair.mask


def current_sources(pairs: Iterable[Pair]) -> Sources:
    """The current sources of the examples, without missing files."""
    found = ((key, Source.of(path)) for key, path in files(pairs))
    return {key: source for key, source in found if source is not None}


def compare(pairs: Iterable[Pair], stamps: Stamps, before: Sources) -> tuple[list[Path], Sources]:
    """The files whose contents changed, and the current sources. Reads only files with another stamp than before."""
    changed = []
    now = {}
    for key, path in files(pairs):
        old = before.get(key)
        new = old if old is not None and old.stamp == stamps[key] else Source.of(path)
        if (new and new.sha256) != (old and old.sha256):
            changed.append(path)
        if new is not None:
            now[key] = new
    return changed, now


def sources_path(folder: Path, split_name: str) -> Path:
    """The file that holds the sources of a split's shards."""
    return folder / f"{split_name}.sources.txt"


def write_sources(path: Path, sources: Sources) -> None:
    """Writes a line for each file: SHA-256, stamp, kind and name."""
    lines = (
        f"{source.sha256} {' '.join(map(str, source.stamp))} {kind} {name}\n"
        for (kind, name), source in sources.items()
    )
    write_text(path, "".join(lines))


def read_sources(path: Path) -> Sources | None:
    """None if the file is missing or was not written by `write_sources`."""
    sources: Sources = {}
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            sha256, size, modified, changed, inode, kind, name = line.split(" ", 6)
            sources[kind, name] = Source(Stamp(int(size), int(modified), int(changed), int(inode)), sha256)
    except (OSError, ValueError):
        return None
    return sources


def num_images_in_both(first: Sources, second: Sources) -> int:
    """Number of images of the second whose contents equal an image of the first, under any name."""
    digests = {source.sha256 for (kind, _), source in first.items() if kind == "image"}
    return sum(source.sha256 in digests for (kind, _), source in second.items() if kind == "image")
