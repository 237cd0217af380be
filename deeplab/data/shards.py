"""TFRecord shards of one split: written once, whole or not at all, then only read.

A record holds the JPEG bytes as they are on disk and the mask as an 8-bit greyscale PNG of class indices, so that
reading needs `tf.io` alone. The manifest is written last: a split without one has not been written.
"""

import concurrent.futures
import concurrent.futures.process
import hashlib
import io
import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from deeplab.data import voc
from deeplab.data.manifest import FORMAT_VERSION, Manifest, Shard, manifest_path, read_manifest, write_manifest
from deeplab.errors import DataError, DeepLabError
from deeplab.files import digest, locked, write_text, written_whole
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

EXAMPLES_PER_PROCESS = 100
"""A further process costs about four seconds of imports, and pays from about this many examples on."""
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Of an image or mask: what Pillow holds to be safe, 89 million. A header of a few bytes can claim any size."""

_PNG_BIT_DEPTH = 24  # where a PNG has it: signature, length, "IHDR", width, height
_SHOWN_PROBLEMS = 20

FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image/jpeg": tf.io.FixedLenFeature([], tf.string),
    "label/png": tf.io.FixedLenFeature([], tf.string),
    "height": tf.io.FixedLenFeature([], tf.int64),
    "width": tf.io.FixedLenFeature([], tf.int64),
}


@dataclass
class _ShardReport:
    """What one worker has to say of the shard it wrote, and of the examples that it left out of it."""

    shard: Shard
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
    max_bad_examples: int = 0,
) -> Manifest:
    """Writes the shards of a split in parallel processes; shards that stand there are checked and kept.

    Another process that writes there is waited for.

    Args:
        voc_dir: folder in VOC layout.
        tfrecord_dir: where the shards go.
        split: as `voc.read_split` takes it.
        class_names: class 0 first.
        num_shards: files to write.
        mask_dir: where the masks are, if not in `voc_dir`/SegmentationClass.
        max_bad_examples: so many at most are left out, and named in SPLIT.bad_examples.txt.

    Raises:
        DataError: too many bad examples (all are logged, no manifest is written), or shards made from something else.
    """
    pairs = voc.pairs(voc_dir, split, mask_dir)
    source = _fingerprint(pairs, class_names)
    if not manifest_path(tfrecord_dir, split).exists():
        with locked(tfrecord_dir, waits=True):
            if not manifest_path(tfrecord_dir, split).exists():  # nor has another process written it in the meantime
                return _write_shards(pairs, tfrecord_dir, split, class_names, num_shards, max_bad_examples, source)
    manifest = read_manifest(tfrecord_dir, split)
    if manifest.source != source:
        raise DataError(
            f"{manifest_path(tfrecord_dir, split)}: these shards were made from other files or classes than "
            f"{voc_dir}, split {split}; name another --tfrecord_dir, or delete them"
        )
    if manifest.num_bad_examples > max_bad_examples:
        raise DataError(
            f"{_bad_examples_path(tfrecord_dir, split)}: names {manifest.num_bad_examples} bad examples that these "
            f"shards leave out, --max_bad_examples={max_bad_examples}; mend them, or raise it"
        )
    return manifest


def _write_shards(
    pairs: list[voc.Pair],
    tfrecord_dir: Path,
    split: str,
    class_names: tuple[str, ...],
    num_shards: int,
    max_bad_examples: int,
    source: str,
) -> Manifest:
    for leftover in tfrecord_dir.glob(f".{split}-*.part"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
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
    problems = [problem for report in reports for problem in report.problems]
    if len(problems) > max_bad_examples or len(problems) == len(pairs):
        for path, *_ in tasks:
            path.unlink()
        _refuse(problems)
    if problems:
        path = _bad_examples_path(tfrecord_dir, split)
        write_text(path, "".join(f"{problem}\n" for problem in problems))
        logger.warning("%d bad examples of %s are left out: %s names them", len(problems), split, path)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        split=split,
        class_names=class_names,
        num_examples=len(pairs) - len(problems),
        num_bad_examples=len(problems),
        max_height=max(report.max_height for report in reports),
        max_width=max(report.max_width for report in reports),
        class_pixels=tuple(sum(report.class_pixels for report in reports).tolist()),  # type: ignore[union-attr]
        void_pixels=sum(report.void_pixels for report in reports),
        source=source,
        shards=tuple(report.shard for report in reports),
    )
    write_manifest(tfrecord_dir, manifest)
    absent = [name for name, pixels in zip(class_names, manifest.class_pixels, strict=True) if not pixels]
    if absent:
        logger.warning("%s has no pixel of %s (masks hold class indices; 255 is void)", split, ", ".join(absent))
    return manifest


def _refuse(problems: list[str]) -> NoReturn:
    for problem in problems[1:_SHOWN_PROBLEMS]:
        logger.error("%s", problem)
    count = f" ({len(problems)} bad examples in all, no manifest written)" if len(problems) > 1 else ""
    raise DataError(problems[0] + count)


def _bad_examples_path(tfrecord_dir: Path, split: str) -> Path:
    return tfrecord_dir / f"{split}.bad_examples.txt"


def encode_example(pair: voc.Pair, num_classes: int) -> tuple[bytes, np.ndarray]:
    """Checks one image and mask; returns the serialized record and the mask (uint8 [height, width]).

    Raises:
        DataError: names the file and what is wrong with it.
    """
    jpeg = _read_bytes(pair.image)
    if not jpeg.startswith(b"\xff\xd8"):
        raise DataError(f"{pair.image}: not a JPEG file")
    try:
        height, width, _ = tf.io.extract_jpeg_shape(jpeg).numpy().tolist()
        if height * width > MAX_PIXELS:
            raise DataError(f"{pair.image}: {width}x{height} pixels, more than {MAX_PIXELS:,}")
        tf.io.decode_jpeg(jpeg, channels=3)
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
    png = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            mode, bit_depth = image.mode, png[_PNG_BIT_DEPTH]
            image.verify()  # the checksums, at which decoding does not look
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            mask = np.asarray(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: unreadable PNG (of another format, or cut short)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable PNG ({_first_words(str(error))})") from error
    # Pillow stretches greyscale of fewer bits to 0..255: index 1 of 4 bits would be 17.
    if mode != "P" and (mode, bit_depth) != ("L", 8):
        raise DataError(
            f"{path}: a PNG of mode {mode}, {bit_depth} bits; a mask holds class indices (palette, or 8-bit greyscale)"
            "; docs/moving.md makes them of colours"
        )
    foreign = np.setdiff1d(np.unique(mask), [*range(num_classes), voc.IGNORE_LABEL])
    if foreign.size:
        raise DataError(
            f"{path}: label {foreign[0]}, but there are {num_classes} classes (0..{num_classes - 1}) "
            f"and {voc.IGNORE_LABEL} for void"
        )
    return mask


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing, though its split names it") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


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
    progress.close()
    return reports


def _start_worker() -> None:
    """A process that writes shards must not take memory of a GPU, and leaves Ctrl-C to the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tf.config.set_visible_devices([], "GPU")


def _write_shard(task: tuple[Path, list[voc.Pair], int]) -> _ShardReport:
    path, pairs, num_classes = task
    counts, sizes, problems = np.zeros(256, np.int64), [(0, 0)], []
    with written_whole(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for pair in pairs:
            try:
                record, mask = encode_example(pair, num_classes)
            except DataError as error:
                problems.append(str(error))
                continue
            writer.write(record)
            counts += np.bincount(mask.ravel(), minlength=256)
            sizes.append(mask.shape)
    max_height, max_width = np.max(sizes, 0).tolist()
    return _ShardReport(
        shard=Shard(path.name, len(pairs) - len(problems), path.stat().st_size, digest(path, "sha256")),
        class_pixels=counts[:num_classes],
        void_pixels=int(counts[voc.IGNORE_LABEL]),
        max_height=max_height,
        max_width=max_width,
        num_examples=len(pairs),
        problems=problems,
    )


def _fingerprint(pairs: list[voc.Pair], class_names: tuple[str, ...]) -> str:
    """SHA-256 over the class names and each example's name and file sizes (contents are not read)."""
    checksum = hashlib.sha256("\n".join(class_names).encode())
    for pair in pairs:
        image_size, mask_size = (path.stat().st_size if path.exists() else None for path in (pair.image, pair.mask))
        checksum.update(f"\n{pair.name} {image_size} {mask_size}".encode())
    return checksum.hexdigest()


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _first_words(message: str) -> str:
    return message.splitlines()[0][:120] if message else "no details"
