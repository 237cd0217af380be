"""Writes the TFRecord shards of a split: once and atomically; afterwards they are only read.

The manifest is written last: without a manifest, a split has not been written.
"""

import concurrent.futures
import concurrent.futures.process
import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab.data.shards import review, sources
from deeplab.data.shards.job import Job
from deeplab.data.shards.records import Form, encode_examples
from deeplab.data.shards.review import ShardReport
from deeplab.data.shards.settings import ShardSettings
from deeplab.data.shards.sources import Sources
from deeplab.data.shards.split import Shard, Split, manifest_path
from deeplab.data.shards.tiles import Tiles
from deeplab.data.source import images, voc
from deeplab.data.source.classes import ClassTable, classes_of
from deeplab.data.source.download import DownloadSettings, download_voc
from deeplab.data.source.palette_checks import Palette
from deeplab.errors import DataError, DeepLabError, UsageError
from deeplab.files import atomic_write, digest, locked, write_text
from deeplab.labels import VOID_LABEL
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

EXAMPLES_PER_PROCESS = 100
"""Another process costs about four seconds of imports, which pays off from about this many examples."""


@dataclass(frozen=True)
class _Task:
    """One shard to write: its file, its images and masks, and in which form their examples are stored."""

    path: Path
    pairs: list[voc.Pair]
    form: Form


def write_shards(settings: ShardSettings, download: DownloadSettings, tfrecord_dir: Path) -> bool:
    """Writes the shards of the training and validation splits unless they exist; returns whether it wrote any.

    Does nothing without --voc_dir. The data set is downloaded first if the flags say so.

    Raises:
        DataError: as `download_voc`, `classes_of` and `prepare_splits`.
    """
    if settings.voc_dir is None:
        return False
    if download.download:
        download_voc(settings.voc_dir, download.voc_url)
    classes = classes_of(settings.voc_dir, settings.class_names)
    split_names = list(filter(None, (settings.train_split, settings.val_split)))
    exist = all(manifest_path(tfrecord_dir, name).exists() for name in split_names)
    prepare_splits(settings, tfrecord_dir, split_names, classes)
    if settings.val_split:
        review.warn_of_overlap(tfrecord_dir, settings.train_split, settings.val_split)
    return not exist


def prepare(
    settings: ShardSettings, tfrecord_dir: Path, split_name: str, classes: ClassTable | tuple[str, ...]
) -> Split:
    """`prepare_splits` for one split."""
    return prepare_splits(settings, tfrecord_dir, [split_name], classes)[0]


def prepare_splits(
    settings: ShardSettings, tfrecord_dir: Path, split_names: Sequence[str], classes: ClassTable | tuple[str, ...]
) -> list[Split]:
    """Writes the shards of the splits in parallel processes; existing shards are checked and kept.

    If another process is writing to the folder, waits for it.

    Args:
        settings: the data set and how to write it; its `mask_dir` and `tile_overlap` apply to its `train_split` only,
            and its `max_bad_examples` limits how many of each split are left out and named in SPLIT.bad_examples.txt.
        tfrecord_dir: folder of the shards.
        split_names: as for `voc.read_split`.
        classes: the class table; or only the names, class 0 first, if masks hold class indices.

    Raises:
        DataError: too many bad examples (all are logged, no manifest is written), masks that do not match the class
            table, or shards made from other files or settings.
        UsageError: the settings name no data set.
    """
    table = classes if isinstance(classes, ClassTable) else ClassTable.of_names(classes)
    jobs = [_job(settings, tfrecord_dir, name, table) for name in dict.fromkeys(split_names)]
    if not all(job.is_written for job in jobs):
        with locked(tfrecord_dir, waits=True):
            # Another process may have written them in the meantime.
            if unwritten := [job for job in jobs if not job.is_written]:
                _write(settings, unwritten)
    return [job.written_split(settings.max_bad_examples) for job in jobs]


def _job(settings: ShardSettings, tfrecord_dir: Path, name: str, classes: ClassTable) -> Job:
    if settings.voc_dir is None:
        raise UsageError("--voc_dir is needed")
    is_train = name == settings.train_split
    mask_dir = settings.mask_dir if is_train else None
    tiles = Tiles(settings.tile_size, settings.tile_overlap if is_train else 0.0)  # scores count each pixel once
    form = Form(classes, settings.exif, tiles, settings.max_pixels)
    return Job(name, tfrecord_dir, settings.voc_dir, voc.pairs(settings.voc_dir, name, mask_dir), form)


def _write(settings: ShardSettings, jobs: list[Job]) -> None:
    """Writes all shards of the jobs and then, if there are no problems, their manifests."""
    for job in jobs:
        for leftover in job.folder.glob(f".{job.name}-*.part"):  # from a killed run
            leftover.unlink(missing_ok=True)
    tasks = [_tasks(job, settings.num_shards) for job in jobs]
    names = " and ".join(job.name for job in jobs)
    all_tasks = [task for of_job in tasks for task in of_job]
    try:
        written = _run_tasks(all_tasks, sum(len(job.pairs) for job in jobs), f"writing {names} shards")
    except BaseException:
        # Without a manifest they are of no use; on a full disk they would stay in the way.
        _delete_shards(all_tasks)
        raise
    all_reports = iter(written)
    reports = [[next(all_reports) for _ in of_job] for of_job in tasks]
    problems = review.problems(jobs, reports, settings.max_bad_examples)
    if problems:
        _delete_shards(all_tasks)
        review.refuse(problems)
    for job, of_job in zip(jobs, reports, strict=True):
        _finish(job, of_job)
    review.warn(jobs, reports, settings.train_split)


def _delete_shards(tasks: list[_Task]) -> None:
    for task in tasks:
        task.path.unlink(missing_ok=True)


def _tasks(job: Job, num_shards: int) -> list[_Task]:
    num_shards = min(num_shards, len(job.pairs))
    paths = [job.folder / f"{job.name}-{index:05d}-of-{num_shards:05d}.tfrecord" for index in range(num_shards)]
    return [_Task(path, job.pairs[index::num_shards], job.form) for index, path in enumerate(paths)]


def _finish(job: Job, reports: list[ShardReport]) -> None:
    """Writes the manifest and the files that belong to it; warns about bad examples."""
    problems = [problem for report in reports for problem in report.problems]
    job.bad_examples_path.unlink(missing_ok=True)  # of earlier shards
    if problems:
        write_text(job.bad_examples_path, "".join(f"{problem}\n" for problem in problems))
        logger.warning("%d bad examples of %s are left out, see %s", len(problems), job.name, job.bad_examples_path)
    if num_void_tiles := sum(report.num_void_tiles for report in reports):
        logger.info("%s: %d tiles are all void and are left out", job.name, num_void_tiles)
    read = {key: source for report in reports for key, source in report.sources.items()}
    in_order = {key: read[key] for key, _ in sources.files(job.pairs) if key in read}
    sources.write_sources(job.sources_path, in_order)
    split = Split(
        folder=job.folder,
        name=job.name,
        class_names=job.form.classes.names,
        num_examples=sum(report.shard.num_examples for report in reports),
        num_bad_examples=len(problems),
        max_height=max(report.max_height for report in reports),
        max_width=max(report.max_width for report in reports),
        class_pixels=tuple(np.sum([report.class_pixels for report in reports], 0).tolist()),
        void_pixels=sum(report.void_pixels for report in reports),
        source=job.source(sources.stamps_of(job.pairs), len(problems)),
        shards=tuple(report.shard for report in reports),
        class_colors=job.form.classes.shown,
    )
    split.write()


def _run_tasks(tasks: list[_Task], num_examples: int, label: str) -> list[ShardReport]:
    progress = Progress(label, num_examples, "images")
    num_processes = min(os.cpu_count() or 1, len(tasks), math.ceil(num_examples / EXAMPLES_PER_PROCESS))
    reports: list[ShardReport] = []

    def collect(results: Iterable[ShardReport]) -> None:
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
                raise DeepLabError(
                    f"{label}: a process died (killed, or out of memory?); run the same command again"
                ) from error
    progress.close()
    return reports


def _start_worker() -> None:
    """Keeps a process that writes shards off the GPUs, and leaves Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tf.config.set_visible_devices([], "GPU")


def _write_shard(task: _Task) -> ShardReport:
    counts = np.zeros(256, np.int64)
    sizes = [(0, 0)]
    tiles = []
    problems = []
    palettes: dict[Palette, Path] = {}
    other_bands: dict[Path, int] = {}
    read: Sources = {}
    num_void_tiles = 0
    images.allow_pixels(task.form.max_pixels)
    with atomic_write(task.path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for pair in task.pairs:
            read |= sources.current_sources([pair])
            try:
                for encoded in encode_examples(pair, task.form):
                    in_example = np.bincount(encoded.mask.labels.ravel(), minlength=256)
                    is_tile = encoded.name != pair.name
                    if is_tile and in_example[VOID_LABEL] == encoded.mask.labels.size:
                        num_void_tiles += 1
                        continue
                    writer.write(encoded.record)
                    if is_tile:
                        tiles.append((encoded.name, pair.image))
                    counts += in_example
                    sizes.append(encoded.mask.labels.shape)
                    if encoded.mask.palette:
                        palettes.setdefault(encoded.mask.palette, pair.mask)
                    if encoded.other_bands:
                        other_bands[pair.image] = encoded.other_bands
            except DataError as error:
                problems.append(str(error))

    max_height, max_width = np.max(sizes, 0).tolist()
    return ShardReport(
        shard=Shard(task.path.name, len(sizes) - 1, task.path.stat().st_size, digest(task.path, "sha256")),
        class_pixels=counts[: len(task.form.classes.names)],
        void_pixels=int(counts[VOID_LABEL]),
        max_height=max_height,
        max_width=max_width,
        num_examples=len(task.pairs),
        num_void_tiles=num_void_tiles,
        tiles=tiles,
        problems=problems,
        palettes=palettes,
        other_bands=other_bands,
        sources=read,
    )
