"""What the shards of a split were made from, so that files that changed since are noticed.

The manifest holds a fingerprint of the class table and of all files' sizes. Beside it, SPLIT.sources.txt holds a
digest of each file's contents, and what the file system said about the file at that time. As long as that is the same,
the contents are not read again; else the digest decides.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from deeplab.data.classes import ClassTable
from deeplab.data.voc import Pair
from deeplab.files import digest, write_text

Key = tuple[str, str]
"""("image" or "mask", the example's name)."""


@dataclass(frozen=True)
class Stamp:
    """What the file system says about a file; the change time cannot be set, so that no rewrite leaves it as it was."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """None without such a file."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@dataclass(frozen=True)
class Source:
    """A file as it was when it was read: its stamp and its contents' SHA-256."""

    stamp: Stamp
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source | None":
        """None without such a file."""
        stamp = Stamp.of(path)  # before the contents: what is written meanwhile is noticed next time
        return Source(stamp, digest(path, "sha256")) if stamp is not None and path.is_file() else None


Sources = dict[Key, Source]


def fingerprint(pairs: Iterable[Pair], classes: ClassTable, choices: str = "") -> str:
    """SHA-256 over the class table and each example's name and file sizes; contents are not read.

    `choices` are what else the shards depend on, if it is not the default.
    """
    checksum = hashlib.sha256(f"{classes.as_text()}{choices}".encode())
    for pair in pairs:
        image_size, mask_size = (stamp and stamp.size for stamp in map(Stamp.of, (pair.image, pair.mask)))
        checksum.update(f"\n{pair.name} {image_size} {mask_size}".encode())
    return checksum.hexdigest()


def files(pairs: Iterable[Pair]) -> Iterator[tuple[Key, Path]]:
    """The files of the examples."""
    for pair in pairs:
        yield ("image", pair.name), pair.image
        yield ("mask", pair.name), pair.mask


def look_at(pairs: Iterable[Pair]) -> Sources:
    """The files of the examples as they are; those that are missing are left out."""
    found = ((key, Source.of(path)) for key, path in files(pairs))
    return {key: source for key, source in found if source is not None}


def compare(pairs: Iterable[Pair], before: Sources) -> tuple[list[Path], Sources]:
    """Files whose contents are not what they were, and the sources as they are now. Reads what has another stamp."""
    changed, now = [], {}
    for key, path in files(pairs):
        old = before.get(key)
        new = old if old is not None and old.stamp == Stamp.of(path) else Source.of(path)
        if (new and new.sha256) != (old and old.sha256):
            changed.append(path)
        if new is not None:
            now[key] = new
    return changed, now


def sources_path(folder: Path, split_name: str) -> Path:
    """Where the sources of a split's shards are."""
    return folder / f"{split_name}.sources.txt"


def write_sources(path: Path, sources: Sources) -> None:
    """A line for each file: SHA-256, stamp, kind and name."""
    lines = (
        f"{source.sha256} {' '.join(map(str, astuple(source.stamp)))} {kind} {name}\n"
        for (kind, name), source in sources.items()
    )
    write_text(path, "".join(lines))


def read_sources(path: Path) -> Sources | None:
    """None if there is no such file, or none that `write_sources` wrote."""
    sources: Sources = {}
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            sha256, size, modified, changed, inode, kind, name = line.split(" ", 6)
            sources[kind, name] = Source(Stamp(int(size), int(modified), int(changed), int(inode)), sha256)
    except (OSError, ValueError):
        return None
    return sources


def num_images_in_both(first: Sources, second: Sources) -> int:
    """How many images of the second have the contents of one of the first, whatever their names."""
    digests = {source.sha256 for (kind, _), source in first.items() if kind == "image"}
    return sum(source.sha256 in digests for (kind, _), source in second.items() if kind == "image")
