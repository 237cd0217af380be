"""Writing the TFRecord shards of a split: once, whole or not at all; afterwards they are only read.

The manifest is written last: a split without one has not been written.
"""

import concurrent.futures
import concurrent.futures.process
import hashlib
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

from deeplab.data import voc
from deeplab.data.download import DownloadSettings, download_voc
from deeplab.data.palette import IGNORE_LABEL
from deeplab.data.records import encode_example
from deeplab.data.split import Shard, Split, manifest_path
from deeplab.errors import DataError, DeepLabError, UsageError
from deeplab.files import digest, locked, write_text, written_whole
from deeplab.progress import Progress
from deeplab.settings import setting

logger = logging.getLogger("deeplab")

EXAMPLES_PER_PROCESS = 100
"""Another process costs about four seconds of imports, which pays from about this many examples on."""

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class ShardSettings:
    """Data set and shards to write."""

    voc_dir: Path | None = setting(
        None, "Folder in VOC layout (VOCdevkit/VOC2012); shards are written from it.", compared=False
    )
    class_names: Path | None = setting(
        None, "Text file of class names, one a line, class 0 first. Default: VOC's 21.", compared=False
    )
    mask_dir: Path | None = setting(
        None,
        "Folder of index masks of --train_split, if they are not in VOC_DIR/SegmentationClass; for trainaug.",
        compared=False,
    )
    train_split: str = setting("train", "Split to train on: a list in ImageSets/Segmentation.")
    val_split: str = setting("val", "Split to evaluate on while training; empty for none.")
    num_shards: int = setting(16, "Shard files per split, when they are written.", lower=1, compared=False)
    max_bad_examples: int = setting(
        0,
        "Bad images or masks of a split that are left out when its shards are written, and named in "
        "SPLIT.bad_examples.txt; one more is an error.",
        lower=0,
        compared=False,
    )
    prepare_only: bool = setting(
        False, "Write the shards (and download) and stop; needs no --model_dir.", compared=False
    )

    def __post_init__(self) -> None:
        if self.prepare_only and not self.voc_dir:
            raise UsageError("--prepare_only needs --voc_dir")


@dataclass(frozen=True)
class _Task:
    """One shard to write: its file, its examples, and the number of classes."""

    path: Path
    pairs: list[voc.Pair]
    num_classes: int


@dataclass(frozen=True)
class _ShardReport:
    """The shard that was written, statistics of its examples, and the problems of those left out."""

    shard: Shard
    class_pixels: np.ndarray
    void_pixels: int
    max_height: int
    max_width: int
    num_examples: int
    problems: list[str]


def write_shards(settings: ShardSettings, download: DownloadSettings, tfrecord_dir: Path) -> None:
    """Writes the shards of the training and validation splits unless they exist; does nothing without --voc_dir.

    The data set is downloaded first if the flags say so.

    Raises:
        DataError: as `download_voc`, `voc.read_class_names` and `prepare`.
    """
    if settings.voc_dir is None:
        return
    if download.download:
        download_voc(settings.voc_dir, download.voc_url)
    class_names = voc.read_class_names(settings.class_names)
    for split_name in filter(None, (settings.train_split, settings.val_split)):
        prepare(settings, tfrecord_dir, split_name, class_names)


def prepare(settings: ShardSettings, tfrecord_dir: Path, split_name: str, class_names: tuple[str, ...]) -> Split:
    """Writes the shards of one split in parallel processes; existing shards are checked and kept.

    If another process is writing to the folder, waits for it.

    Args:
        settings: the data set and how to write it; its `mask_dir` applies to its `train_split` only, and its
            `max_bad_examples` are left out at most and named in SPLIT.bad_examples.txt.
        tfrecord_dir: where the shards go.
        split_name: as `voc.read_split` takes it.
        class_names: class 0 first.

    Raises:
        DataError: too many bad examples (all are logged, no manifest is written), or shards made from something else.
        UsageError: the settings name no data set.
    """
    if settings.voc_dir is None:
        raise UsageError("--voc_dir is needed")
    mask_dir = settings.mask_dir if split_name == settings.train_split else None
    pairs = voc.pairs(settings.voc_dir, split_name, mask_dir)
    source = _fingerprint(pairs, class_names)
    if not manifest_path(tfrecord_dir, split_name).exists():
        with locked(tfrecord_dir, waits=True):
            # Another process may have written it in the meantime.
            if not manifest_path(tfrecord_dir, split_name).exists():
                return _write(settings, tfrecord_dir, split_name, class_names, pairs, source)
    split = Split.read(tfrecord_dir, split_name)
    if split.source != source:
        raise DataError(
            f"{split.manifest_path}: these shards were made from other files or classes than "
            f"{settings.voc_dir}, split {split_name}; name another --tfrecord_dir, or delete them"
        )
    if split.num_bad_examples > settings.max_bad_examples:
        raise DataError(
            f"{_bad_examples_path(tfrecord_dir, split_name)}: names {split.num_bad_examples} bad examples that these "
            f"shards leave out, --max_bad_examples={settings.max_bad_examples}; mend them, or raise it"
        )
    return split


def _write(
    settings: ShardSettings,
    tfrecord_dir: Path,
    split_name: str,
    class_names: tuple[str, ...],
    pairs: list[voc.Pair],
    source: str,
) -> Split:
    for leftover in tfrecord_dir.glob(f".{split_name}-*.part"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    num_shards = min(settings.num_shards, len(pairs))
    paths = [tfrecord_dir / f"{split_name}-{index:05d}-of-{num_shards:05d}.tfrecord" for index in range(num_shards)]
    tasks = [_Task(path, pairs[index::num_shards], len(class_names)) for index, path in enumerate(paths)]
    reports = _run_tasks(tasks, len(pairs), f"writing {split_name} shards")
    problems = [problem for report in reports for problem in report.problems]
    if len(problems) > settings.max_bad_examples or len(problems) == len(pairs):
        for path in paths:
            path.unlink()
        _refuse(problems)
    if problems:
        path = _bad_examples_path(tfrecord_dir, split_name)
        write_text(path, "".join(f"{problem}\n" for problem in problems))
        logger.warning("%d bad examples of %s are left out: %s names them", len(problems), split_name, path)
    split = Split(
        folder=tfrecord_dir,
        name=split_name,
        class_names=class_names,
        num_examples=len(pairs) - len(problems),
        num_bad_examples=len(problems),
        max_height=max(report.max_height for report in reports),
        max_width=max(report.max_width for report in reports),
        class_pixels=tuple(np.sum([report.class_pixels for report in reports], 0).tolist()),
        void_pixels=sum(report.void_pixels for report in reports),
        source=source,
        shards=tuple(report.shard for report in reports),
    )
    split.write()
    absent = [name for name, pixels in zip(class_names, split.class_pixels, strict=True) if not pixels]
    if absent:
        logger.warning("%s has no pixel of %s (masks hold class indices; 255 is void)", split_name, ", ".join(absent))
    return split


def _refuse(problems: list[str]) -> NoReturn:
    for problem in problems[1:_SHOWN_PROBLEMS]:
        logger.error("%s", problem)
    count = f" ({len(problems)} bad examples in all, no manifest written)" if len(problems) > 1 else ""
    raise DataError(problems[0] + count)


def _bad_examples_path(tfrecord_dir: Path, split: str) -> Path:
    return tfrecord_dir / f"{split}.bad_examples.txt"


def _run_tasks(tasks: list[_Task], num_examples: int, label: str) -> list[_ShardReport]:
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
    """Keeps a process that writes shards off the GPUs, and leaves Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tf.config.set_visible_devices([], "GPU")


def _write_shard(task: _Task) -> _ShardReport:
    counts, sizes, problems = np.zeros(256, np.int64), [(0, 0)], []
    with written_whole(task.path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for pair in task.pairs:
            try:
                record, mask = encode_example(pair, task.num_classes)
            except DataError as error:
                problems.append(str(error))
                continue
            writer.write(record)
            counts += np.bincount(mask.ravel(), minlength=256)
            sizes.append(mask.shape)
    max_height, max_width = np.max(sizes, 0).tolist()
    return _ShardReport(
        shard=Shard(
            task.path.name, len(task.pairs) - len(problems), task.path.stat().st_size, digest(task.path, "sha256")
        ),
        class_pixels=counts[: task.num_classes],
        void_pixels=int(counts[IGNORE_LABEL]),
        max_height=max_height,
        max_width=max_width,
        num_examples=len(task.pairs),
        problems=problems,
    )


def _fingerprint(pairs: list[voc.Pair], class_names: tuple[str, ...]) -> str:
    """SHA-256 over the class names and each example's name and file sizes (contents are not read)."""
    checksum = hashlib.sha256("\n".join(class_names).encode())
    for pair in pairs:
        image_size, mask_size = (path.stat().st_size if path.exists() else None for path in (pair.image, pair.mask))
        checksum.update(f"\n{pair.name} {image_size} {mask_size}".encode())
    return checksum.hexdigest()
