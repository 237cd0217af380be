"""A split: a folder of TFRecord shards with a JSON manifest that describes them."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from deeplab.data.shards.settings import SplitSettings
from deeplab.data.source.classes import read_classes
from deeplab.errors import DataError, UsageError
from deeplab.files import digest, is_plain_name, write_text
from deeplab.json_fields import from_fields, read_json
from deeplab.labels import ColoredNames
from deeplab.settings import require

logger = logging.getLogger("deeplab")

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Shard:
    """One shard file: its name in the folder, its number of records, its size in bytes and its SHA-256."""

    name: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split and their contents.

    `class_pixels[c]` counts the pixels of class c over the whole split, `void_pixels` the pixels labeled 255.
    `class_colors` are those of `ColoredNames`; a manifest has them only if there are any.
    `max_height` and `max_width` are in pixels. `source` is a fingerprint of the files that the shards were made from;
    `num_bad_examples` is the number of examples that were left out.
    """

    folder: Path
    name: str
    class_names: tuple[str, ...]
    num_examples: int
    num_bad_examples: int
    max_height: int
    max_width: int
    class_pixels: tuple[int, ...]
    void_pixels: int
    source: str
    shards: tuple[Shard, ...]
    class_colors: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path, name: str) -> "Split":
        """Reads a split's manifest and checks that its shards exist and have the sizes listed in it.

        Raises:
            DataError: the manifest is missing, damaged or foreign, or a shard is missing or has another size.
        """
        path = manifest_path(folder, name)
        if not path.exists():
            names = sorted(file.stem for file in folder.glob("*.json"))
            hint = f"splits here: {', '.join(names)}" if names else "train.py writes them: --prepare_only --voc_dir=..."
            raise DataError(f"{path}: no such manifest, so no shards of split {name!r}; {hint}")
        split = _parse(path)
        if split.name != name:
            raise DataError(f"{path}: this is the manifest of another split, {split.name!r}; was it renamed?")
        for shard in split.shards:
            file = folder / shard.name
            if not file.is_file():
                raise DataError(f"{file}: missing, though {path.name} lists it")
            size = file.stat().st_size
            if size != shard.num_bytes:
                raise DataError(f"{file}: damaged: {size:,} bytes, {path.name} says {shard.num_bytes:,}")
        return split

    @property
    def num_classes(self) -> int:
        """Number of classes, without void."""
        return len(self.class_names)

    @property
    def colored_names(self) -> ColoredNames:
        """The classes, for pictures."""
        return ColoredNames(self.class_names, self.class_colors)

    @property
    def shard_paths(self) -> list[str]:
        """The shard files, in order."""
        return [str(self.folder / shard.name) for shard in self.shards]

    @property
    def digest(self) -> str:
        """SHA-256 of the classes and of the shards' own sums: equal for equal examples in the same order."""
        content = [self.class_names, [shard.sha256 for shard in self.shards]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def manifest_path(self) -> Path:
        """The manifest's file."""
        return manifest_path(self.folder, self.name)

    def write(self) -> None:
        """Writes the manifest atomically; the shards must exist."""
        fields = asdict(self)
        del fields["folder"]
        if not self.class_colors:
            del fields["class_colors"]
        fields = {"format_version": FORMAT_VERSION, "split": fields.pop("name"), **fields}
        text = json.dumps({**fields, "checksum": _checksum(fields)}, indent=1)
        write_text(self.manifest_path, text + "\n")

    def verify(self) -> None:
        """Compares every shard's SHA-256 with the manifest; raises DataError that names the shards that differ."""
        damaged = [shard.name for shard in self.shards if digest(self.folder / shard.name, "sha256") != shard.sha256]
        if damaged:
            raise DataError(
                f"{self.folder}: SHA-256 mismatch: {', '.join(damaged)}; delete {self.manifest_path.name} and these "
                "files, and write the shards again"
            )
        logger.info("%s: %d shards of %s verified", self.folder, len(self.shards), self.name)

    def check_counts(self) -> None:
        """Raises ValueError for counts that no split has."""
        counts = [
            self.num_bad_examples,
            self.void_pixels,
            *self.class_pixels,
            *(each.num_bytes for each in self.shards),
        ]
        sizes = [self.num_examples, self.max_height, self.max_width]
        if min(counts) < 0 or min(sizes) < 1 or not self.class_names or not self.shards:
            raise ValueError("a count that is out of range")
        if len(self.class_pixels) != len(self.class_names):
            raise ValueError(f"pixels of {len(self.class_pixels)} classes, {len(self.class_names)} names")
        if sum(shard.num_examples for shard in self.shards) != self.num_examples:
            raise ValueError(f"{self.num_examples} examples, but its shards hold another number")

    def check_two_classes(self) -> None:
        """Raises DataError if all pixels are of one class or void, so that nothing can be learned."""
        if sum(pixels > 0 for pixels in self.class_pixels) < 2:
            raise DataError(
                f"{self.manifest_path}: all pixels are of one class or void (255); "
                "masks hold class indices, so two classes are 0 and 1, not 0 and 255"
            )


def manifest_path(folder: Path, name: str) -> Path:
    """Where the manifest of a split is, or will be."""
    return folder / f"{name}.json"


def read_splits(
    settings: SplitSettings, train_split: str, val_split: str, class_names: Path | None
) -> tuple[Split, Split | None]:
    """The training split, and the validation split or None if `val_split` is empty; verified with --verify.

    Raises:
        DataError: as `Split.read` and `Split.verify`, or the `class_names` file cannot be read.
        UsageError: the classes differ from the `class_names` file, or between the splits.
    """
    folder = require("tfrecord_dir", settings.tfrecord_dir)

    def read(name: str) -> Split:
        split = Split.read(folder, name)
        if class_names is not None and split.class_names != read_classes(class_names).names:
            raise UsageError(f"--class_names={class_names}: not the classes of the shards in {split.folder}")
        if settings.verify:
            split.verify()
        return split

    train = read(train_split)
    val = read(val_split) if val_split else None
    if val is not None and val.class_names != train.class_names:
        raise UsageError(f"--tfrecord_dir: {train.name} and {val.name} have different classes")
    return train, val


@contextmanager
def name_damaged_shard(splits: Sequence[Split]) -> Iterator[None]:
    """Turns TensorFlow's error about a damaged record, which names no file, into a DataError with file and record."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        for split in splits:
            for path in split.shard_paths:
                record = _first_damaged_record(path)
                if record is not None:
                    raise DataError(
                        f"{path}: damaged at record {record}; delete {split.manifest_path.name} and "
                        "this file, and write the shards again"
                    ) from error
        raise


def _parse(path: Path) -> Split:
    """The split that a manifest describes; does not check its shards."""
    try:
        fields = read_json(path)
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format {version!r}, this program reads {FORMAT_VERSION}; write the shards again")
        if fields.pop("checksum") != _checksum(fields):
            raise DataError(
                f"{path}: checksum mismatch: changed or damaged since it was written; write the shards again"
            )
        del fields["format_version"]
        fields["name"] = fields.pop("split")
        split = from_fields(Split, fields, folder=path.parent)
        plain = all(map(is_plain_name, (split.name, *(shard.name for shard in split.shards))))
        if plain:
            split.check_counts()
            ColoredNames(split.class_names, split.class_colors)  # raises ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({type(error).__name__}: {error}); write the shards again") from error
    if not plain:
        raise DataError(f"{path}: names a shard in another folder; this program did not write this manifest")
    return split


def _checksum(fields: dict) -> str:
    """SHA-256 of a manifest's other fields; the file's white space does not matter."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _first_damaged_record(path: str) -> int | None:
    """Number (0 is the first) of the first record whose checksum does not match; None if all match."""
    number = 0
    try:
        for number, _ in enumerate(tf.data.TFRecordDataset(path), 1):  # noqa: B007
            pass
    except tf.errors.DataLossError:
        return number
    return None
