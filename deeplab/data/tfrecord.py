"""TFRecord shards of one split beside a JSON manifest: written once, whole or not at all, then only read.

A record holds the JPEG bytes as they are on disk and the mask as an 8-bit greyscale PNG of class indices, so that
reading needs `tf.io` alone. The manifest is written last: a split without one has not been written.
"""

import concurrent.futures
import concurrent.futures.process
import hashlib
import io
import json
import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab.data import voc
from deeplab.errors import DataError, DeepLabError
from deeplab.files import digest, write_text, written_whole
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

FORMAT_VERSION = 1
EXAMPLES_PER_PROCESS = 100
"""A further process costs about four seconds of imports, and pays from about this many examples on."""
_SHOWN_PROBLEMS = 20

FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image/jpeg": tf.io.FixedLenFeature([], tf.string),
    "label/png": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
}


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
    `max_height` and `max_width` are in pixels. `source` fingerprints the files that the shards were made from.
    """

    format_version: int
    split: str
    class_names: tuple[str, ...]
    num_examples: int
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


@dataclass
class _ShardReport:
    """What one worker has to say of the shard it wrote; with problems, no shard was written."""

    shard: Shard | None
    class_pixels: np.ndarray
    void_pixels: int
    max_height: int
    max_width: int
    num_examples: int
    problems: list[str]


def prepare(
    voc_dir: Path,
    tfrecord_dir: Path,
    split: str,
    class_names: tuple[str, ...],
    num_shards: int = 16,
    mask_dir: Path | None = None,
) -> Manifest:
    """Writes the shards of a split in parallel processes; shards that stand there are checked and kept.

    `mask_dir`: where its masks are, if not in `voc_dir`/SegmentationClass.

    Raises:
        DataError: bad examples (all are logged, no manifest is written), or shards made from something else.
    """
    pairs = voc.pairs(voc_dir, split, mask_dir)
    source = _fingerprint(pairs, class_names)
    if _manifest_path(tfrecord_dir, split).exists():
        manifest = read_manifest(tfrecord_dir, split)
        if manifest.source != source:
            raise DataError(
                f"{_manifest_path(tfrecord_dir, split)}: these shards were made from other files or classes than "
                f"{voc_dir}, split {split}; name another --tfrecord_dir, or delete them"
            )
        return manifest
    tfrecord_dir.mkdir(parents=True, exist_ok=True)
    num_shards = min(num_shards, len(pairs))
    tasks = [
        (
            tfrecord_dir / f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord",
            pairs[index::num_shards],
            len(class_names),
        )
        for index in range(num_shards)
    ]
    reports = _run_tasks(tasks, len(pairs), f"writing {split} shards")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        split=split,
        class_names=class_names,
        num_examples=len(pairs),
        max_height=max(report.max_height for report in reports),
        max_width=max(report.max_width for report in reports),
        class_pixels=tuple(sum(report.class_pixels for report in reports).tolist()),  # type: ignore[union-attr]
        void_pixels=sum(report.void_pixels for report in reports),
        source=source,
        shards=tuple(report.shard for report in reports if report.shard is not None),
    )
    write_text(_manifest_path(tfrecord_dir, split), json.dumps(asdict(manifest), indent=1) + "\n")
    return manifest


def read_manifest(tfrecord_dir: Path, split: str) -> Manifest:
    """Reads a split's manifest and checks that its shards are there with the sizes it gives.

    Raises:
        DataError: no manifest, a damaged or foreign one, a shard missing or of another size.
    """
    path = _manifest_path(tfrecord_dir, split)
    if not path.exists():
        found = sorted(file.stem for file in tfrecord_dir.glob("*.json"))
        hint = f"splits here: {', '.join(found)}" if found else "train.py writes them: --prepare_only --voc_dir=..."
        raise DataError(f"{path}: no such manifest, so no shards of split {split!r}; {hint}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format_version"] != FORMAT_VERSION:
            raise DataError(
                f"{path}: format {fields['format_version']}, this program reads {FORMAT_VERSION}; write the shards anew"
            )
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["class_names"] = tuple(fields["class_names"])
        fields["class_pixels"] = tuple(fields["class_pixels"])
        manifest = Manifest(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a manifest ({type(error).__name__}: {error}); write the shards anew") from error
    for shard in manifest.shards:
        file = tfrecord_dir / shard.name
        if not file.is_file():
            raise DataError(f"{file}: missing, though {path.name} lists it")
        if file.stat().st_size != shard.num_bytes:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes, {path.name} says {shard.num_bytes:,}; damaged")
    return manifest


def verify_shards(tfrecord_dir: Path, manifest: Manifest) -> None:
    """Compares every shard's SHA-256 with the manifest's; raises DataError that names those that differ."""
    damaged = [shard.name for shard in manifest.shards if digest(tfrecord_dir / shard.name, "sha256") != shard.sha256]
    if damaged:
        raise DataError(
            f"{tfrecord_dir}: not what was written, by its SHA-256: {', '.join(damaged)}; delete "
            f"{manifest.split}.json and these, and write the shards anew"
        )
    logger.info("%s: %d shards of %s verified", tfrecord_dir, len(manifest.shards), manifest.split)


def encode_example(pair: voc.Pair, num_classes: int) -> tuple[bytes, np.ndarray]:
    """Checks one image and mask; returns the serialized record and the mask (uint8 [height, width]).

    Raises:
        DataError: names the file and what is wrong with it.
    """
    jpeg = pair.image.read_bytes()
    if not jpeg.startswith(b"\xff\xd8"):
        raise DataError(f"{pair.image}: not a JPEG file")
    try:
        height, width = tf.io.decode_jpeg(jpeg, channels=3).shape[:2]
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"{pair.image}: unreadable JPEG ({_first_words(error.message)})") from error
    mask = read_mask(pair.mask, num_classes)
    if mask.shape != (height, width):
        raise DataError(
            f"{pair.mask}: {mask.shape[1]}x{mask.shape[0]} pixels, its image {pair.image.name} is {width}x{height}"
        )
    png = io.BytesIO()
    Image.fromarray(mask).save(png, "PNG")
    feature = {
        "id": _bytes_feature(pair.name.encode()),
        "image/jpeg": _bytes_feature(jpeg),
        "label/png": _bytes_feature(png.getvalue()),
        "height": tf.train.Feature(int64_list=tf.train.Int64List(value=[height])),
        "width": tf.train.Feature(int64_list=tf.train.Int64List(value=[width])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True), mask


def read_mask(path: Path, num_classes: int) -> np.ndarray:
    """Class indices of a mask: uint8 [height, width], each 0..num_classes-1 or 255.

    Raises:
        DataError: unreadable, not a palettised or 8-bit greyscale PNG, or an index without a class.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode = image.mode
            mask = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable PNG ({_first_words(str(error))})") from error
    if mode not in ("P", "L"):
        raise DataError(f"{path}: a PNG of mode {mode}; a mask holds class indices (palette, or 8-bit greyscale)")
    foreign = np.setdiff1d(np.unique(mask), [*range(num_classes), voc.IGNORE_LABEL])
    if foreign.size:
        raise DataError(
            f"{path}: label {foreign[0]}, but there are {num_classes} classes (0..{num_classes - 1}) "
            f"and {voc.IGNORE_LABEL} for void"
        )
    return mask


def parse_example(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Serialized record (string scalar) -> scalar tensors by the keys of `FEATURES`. Nothing is decoded."""
    return tf.io.parse_single_example(record, FEATURES)


def decode_example(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Parsed record -> image (uint8 [height, width, 3], RGB) and label (uint8 [height, width, 1])."""
    image = tf.io.decode_jpeg(features["image/jpeg"], channels=3)
    label = tf.io.decode_png(features["label/png"], channels=1)
    return image, label


def _run_tasks(tasks: list[tuple[Path, list[voc.Pair], int]], num_examples: int, label: str) -> list[_ShardReport]:
    progress = Progress(label, num_examples, "images")
    num_processes = min(os.cpu_count() or 1, len(tasks), math.ceil(num_examples / EXAMPLES_PER_PROCESS))
    reports: list[_ShardReport] = []

    def collect(results: Iterable[_ShardReport]) -> None:
        for report in results:
            reports.append(report)
            progress.update(sum(report.num_examples for report in reports))

    if num_processes == 1:
        collect(map(_write_shard, tasks))
    else:
        context = multiprocessing.get_context("spawn")  # a forked TensorFlow may hang
        with concurrent.futures.ProcessPoolExecutor(num_processes, context, initializer=_start_worker) as pool:
            try:
                collect(pool.map(_write_shard, tasks))
            except concurrent.futures.process.BrokenProcessPool as error:
                raise DeepLabError(f"{label}: a process died (killed, or out of memory?); start again") from error
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        progress.clear()
        for problem in problems[1:_SHOWN_PROBLEMS]:
            logger.error("%s", problem)
        more = f" ({len(problems)} bad examples in all, no manifest written)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    progress.close()
    return reports


def _start_worker() -> None:
    """A process that writes shards must not take memory of a GPU, and leaves Ctrl-C to the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tf.config.set_visible_devices([], "GPU")


def _write_shard(task: tuple[Path, list[voc.Pair], int]) -> _ShardReport:
    path, pairs, num_classes = task
    report = _ShardReport(None, np.zeros(num_classes, np.int64), 0, 0, 0, len(pairs), [])
    with written_whole(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for pair in pairs:
            try:
                record, mask = encode_example(pair, num_classes)
            except DataError as error:
                report.problems.append(str(error))
                continue
            writer.write(record)
            counts = np.bincount(mask.ravel(), minlength=256)
            report.class_pixels += counts[:num_classes]
            report.void_pixels += int(counts[voc.IGNORE_LABEL])
            report.max_height = max(report.max_height, mask.shape[0])
            report.max_width = max(report.max_width, mask.shape[1])
    if report.problems:
        path.unlink()
        return report
    report.shard = Shard(path.name, len(pairs), path.stat().st_size, digest(path, "sha256"))
    return report


def _manifest_path(tfrecord_dir: Path, split: str) -> Path:
    return tfrecord_dir / f"{split}.json"


def _fingerprint(pairs: list[voc.Pair], class_names: tuple[str, ...]) -> str:
    """SHA-256 over the class names and each example's name and file sizes (contents are not read)."""
    checksum = hashlib.sha256("\n".join(class_names).encode())
    for pair in pairs:
        checksum.update(f"\n{pair.name} {pair.image.stat().st_size} {pair.mask.stat().st_size}".encode())
    return checksum.hexdigest()


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _first_words(message: str) -> str:
    return message.splitlines()[0][:120] if message else "no details"
