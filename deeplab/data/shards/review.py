"""Errors and warnings about a whole data set when its shards are written."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from deeplab.data.shards import sources
from deeplab.data.shards.job import Job
from deeplab.data.shards.sources import Sources
from deeplab.data.shards.split import Shard
from deeplab.data.source import images
from deeplab.data.source.palette_checks import Palette, find_disagreement, find_other_order
from deeplab.errors import DataError

logger = logging.getLogger("deeplab")

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class ShardReport:
    """The written shard, statistics and sources of its examples, and the problems of the examples left out.

    `num_examples` counts images with masks, before tiles; `num_void_tiles` tiles were left out, as they are all void.
    `tiles` has each tile's name and image, `palettes` one mask for each palette in the shard, `other_bands` the
    images with bands that are not in it.
    """

    shard: Shard
    class_pixels: np.ndarray
    void_pixels: int
    max_height: int
    max_width: int
    num_examples: int
    num_void_tiles: int
    tiles: list[tuple[str, Path]]
    problems: list[str]
    palettes: dict[Palette, Path]
    other_bands: dict[Path, int]
    sources: Sources


def problems(jobs: list[Job], reports: list[list[ShardReport]], max_bad_examples: int) -> list[str]:
    """Everything wrong with the data set, except bad examples that may be left out."""
    found = [find_disagreement(_palettes(reports)), _void_for_object(jobs[0], reports)]
    wrong = [problem for problem in found if problem]
    for job, of_job in zip(jobs, reports, strict=True):
        bad = [problem for report in of_job for problem in report.problems]
        if len(bad) > max_bad_examples or len(bad) == len(job.pairs):
            wrong += bad
        wrong += _same_names(job, of_job)
    return wrong


def refuse(wrong: list[str]) -> NoReturn:
    """Logs the problems; raises DataError with the first one and their number."""
    for problem in wrong[1:_SHOWN_PROBLEMS]:
        logger.error("%s", problem)
    count = f" ({len(wrong)} problems in all, no manifest written)" if len(wrong) > 1 else ""
    raise DataError(wrong[0] + count)


def warn(jobs: list[Job], reports: list[list[ShardReport]], train_split: str) -> None:
    """Warns about what is odd in a data set that is not refused.

    That is bands left out, palettes in another order, absent classes, and a `train_split` that train.py will refuse.
    """
    all_reports = [report for of_job in reports for report in of_job]
    images.warn_of_other_bands(
        {path: number for report in all_reports for path, number in report.other_bands.items()},
        sum(report.num_examples for report in all_reports),
    )
    classes = jobs[0].form.classes
    # A table of values or colors says outright what a mask means; plain names do not.
    if classes.is_plain and (odd := find_other_order(_palettes(reports), classes.names)):
        logger.warning("%s", odd)
    for job, of_job in zip(jobs, reports, strict=True):
        pixels = np.sum([report.class_pixels for report in of_job], 0)
        absent = [name for name, number in zip(classes.names, pixels, strict=True) if not number]
        if job.name == train_split and len(absent) >= len(classes.names) - 1:
            present = "".join(f"{name} or " for name in classes.names if name not in absent)
            logger.warning(
                "%s: all pixels are %svoid: train.py will refuse it, since there is nothing to learn", job.name, present
            )
        if absent:
            logger.warning("%s has no pixel of %s%s", job.name, ", ".join(absent), classes.if_first_is_other())


def warn_of_overlap(folder: Path, train_split: str, val_split: str) -> None:
    """Counts the images of val that are also in train, by their contents."""
    train, val = (sources.digests_of_images(sources.sources_path(folder, name)) for name in (train_split, val_split))
    in_train = set(train)
    count = sum(digest in in_train for digest in val)
    if count:
        logger.warning(
            "%d of the %d images of %s are also in %s: scores on them say nothing about new images",
            count,
            len(val),
            val_split,
            train_split,
        )


def _palettes(reports: list[list[ShardReport]]) -> list[tuple[Path, Palette]]:
    return [(path, entry) for of_job in reports for report in of_job for entry, path in report.palettes.items()]


def _same_names(job: Job, reports: list[ShardReport]) -> list[str]:
    """A message for each tile with the name of another image or tile; the names of images differ."""
    tiles = [tile for report in reports for tile in report.tiles]
    if not tiles:
        return []
    found = []
    seen = {pair.name: pair.image for pair in job.pairs}
    for name, image in tiles:
        if name in seen:
            found.append(
                f"{name}: the name of two examples, one of {seen[name]} and one of {image}; rename one of them"
            )
        seen[name] = image
    return found


def _void_for_object(job: Job, reports: list[list[ShardReport]]) -> str | None:
    """A message if plain masks hold only 0 and 255, so that 255 would be void; otherwise None."""
    all_reports = [report for of_job in reports for report in of_job]
    pixels = np.sum([report.class_pixels for report in all_reports], 0)
    has_void = any(report.void_pixels for report in all_reports)
    names = job.form.classes.names
    if not job.form.classes.is_plain or len(names) < 2 or not has_void or not pixels[0] or pixels[1:].any():
        return None
    name = names[1] if len(names) == 2 else "NAME"
    return (
        f"{job.pairs[0].mask.parent}: the masks hold only 0 and 255, and 255 is void; if it is an object, give "
        f"--class_names a file with these two lines: `{names[0]}: 0` and `{name}: 255`"
    )
