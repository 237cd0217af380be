"""The JSON manifest beside the shards of a split: what stands in them, and whether it still does."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from deeplab.errors import DataError
from deeplab.files import digest, is_plain_name, write_text

logger = logging.getLogger("deeplab")

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Shard:
    """One shard file: its name in the folder, its records, its size in bytes and its SHA-256."""

    name: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What stands in the shards of one split.

    `class_pixels[c]` counts the pixels of class c, `void_pixels` those labelled 255, over the whole split.
    `max_height` and `max_width` are in pixels. `source` fingerprints the files that the shards were made from, and
    `num_bad_examples` says how many of them were left out.
    """

    format_version: int
    split: str
    class_names: tuple[str, ...]
    num_examples: int
    num_bad_examples: int
    max_height: int
    max_width: int
    class_pixels: tuple[int, ...]
    void_pixels: int
    source: str
    shards: tuple[Shard, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.class_names)

    def shard_paths(self, tfrecord_dir: Path) -> list[str]:
        """The shard files, in order."""
        return [str(tfrecord_dir / shard.name) for shard in self.shards]


def manifest_path(tfrecord_dir: Path, split: str) -> Path:
    """Where the manifest of a split is."""
    return tfrecord_dir / f"{split}.json"


def write_manifest(tfrecord_dir: Path, manifest: Manifest) -> None:
    """Writes the manifest, whole or not at all; the shards must stand."""
    fields = asdict(manifest)
    text = json.dumps({**fields, "checksum": _checksum(fields)}, indent=1)
    write_text(manifest_path(tfrecord_dir, manifest.split), text + "\n")


def read_manifest(tfrecord_dir: Path, split: str) -> Manifest:
    """Reads a split's manifest and checks that its shards are there with the sizes it gives.

    Raises:
        DataError: no manifest, a damaged or foreign one, a shard missing or of another size.
    """
    path = manifest_path(tfrecord_dir, split)
    if not path.exists():
        found = sorted(file.stem for file in tfrecord_dir.glob("*.json"))
        hint = f"splits here: {', '.join(found)}" if found else "train.py writes them: --prepare_only --voc_dir=..."
        raise DataError(f"{path}: no such manifest, so no shards of split {split!r}; {hint}")
    manifest = _parse(path)
    if manifest.split != split:
        raise DataError(f"{path}: the manifest of another split, {manifest.split!r}; was it renamed?")
    for shard in manifest.shards:
        file = tfrecord_dir / shard.name
        if not file.is_file():
            raise DataError(f"{file}: missing, though {path.name} lists it")
        if file.stat().st_size != shard.num_bytes:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes, {path.name} says {shard.num_bytes:,}; damaged")
    return manifest


def _parse(path: Path) -> Manifest:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format {version}, this program reads {FORMAT_VERSION}; write the shards anew")
        if fields.pop("checksum") != _checksum(fields):
            raise DataError(f"{path}: changed or damaged since it was written, by its checksum; write the shards anew")
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["class_names"], fields["class_pixels"] = tuple(fields["class_names"]), tuple(fields["class_pixels"])
        manifest = Manifest(**fields)
        plain = all(is_plain_name(shard.name) for shard in manifest.shards)
    except (OSError, RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({type(error).__name__}: {error}); write the shards anew") from error
    if not plain:
        raise DataError(f"{path}: names a shard in another folder; a manifest that this program did not write")
    return manifest


def _checksum(fields: dict) -> str:
    """SHA-256 of a manifest's other fields, however the file spaces them."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def verify_shards(tfrecord_dir: Path, manifest: Manifest) -> None:
    """Compares every shard's SHA-256 with the manifest's; raises DataError that names those that differ."""
    damaged = [shard.name for shard in manifest.shards if digest(tfrecord_dir / shard.name, "sha256") != shard.sha256]
    if damaged:
        raise DataError(
            f"{tfrecord_dir}: not what was written, by its SHA-256: {', '.join(damaged)}; delete "
            f"{manifest.split}.json and these, and write the shards anew"
        )
    logger.info("%s: %d shards of %s verified", tfrecord_dir, len(manifest.shards), manifest.split)


@contextmanager
def damage_named(tfrecord_dir: Path, manifests: Sequence[Manifest]) -> Iterator[None]:
    """Turns what TensorFlow raises over a damaged record, of no known file, into a DataError that names both."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        for manifest in manifests:
            for shard in manifest.shards:
                record = _first_damaged_record(tfrecord_dir / shard.name)
                if record is not None:
                    raise DataError(
                        f"{tfrecord_dir / shard.name}: damaged at record {record}; delete {manifest.split}.json and "
                        "this file, and write the shards anew"
                    ) from error
        raise


def _first_damaged_record(path: Path) -> int | None:
    """Number (0 is the first) of the first record that its own checksum does not fit; None if all do."""
    number = 0
    try:
        for number, _ in enumerate(tf.data.TFRecordDataset(str(path)), 1):  # noqa: B007
            pass
    except tf.errors.DataLossError:
        return number
    return None
