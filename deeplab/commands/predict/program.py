"""Segments pictures with a trained model."""

import logging
import os
from collections.abc import Sequence

from deeplab.api import load
from deeplab.commands.predict.devices import on_all_devices
from deeplab.commands.predict.names import STANDARD_INPUT, Named, named_images, share_of
from deeplab.commands.predict.one_image import (
    COLORED,
    FOLDERS,
    MASKS,
    OVERLAYS,
    ROWS,
    VOC_RESULTS,
    OneImage,
    Segments,
    Wanted,
)
from deeplab.commands.settings import PredictSettings
from deeplab.data.source.voc import split_images
from deeplab.distribute.devices import log_kernels
from deeplab.errors import DataError, NothingToDo, UsageError
from deeplab.model.settings import Inference
from deeplab.progress import Progress
from deeplab.run.settings import LoadSettings
from deeplab.settings import Options, require
from deeplab.threads import in_order

logger = logging.getLogger("deeplab")


def folders_of(settings: PredictSettings) -> tuple[str, ...]:
    """The folders below --output_dir; for a split of VOC, that for its evaluation server."""
    if settings.voc_dir is not None:
        return (f"{VOC_RESULTS}/comp6_{settings.split}_cls",)
    if settings.masks_only:
        return (MASKS,)
    return (MASKS, COLORED, OVERLAYS, *((ROWS,) if settings.truth_dir else ()))


def main(options: Options, arguments: list[str]) -> None:
    """Images -> masks/NAME.png (palettized class indices) and overlays/NAME.png (with a legend), and so on.

    A split of VOC -> only masks, in the folder that VOC's evaluation server expects; the images need no true masks.
    """
    settings = options[PredictSettings]
    model_dir = require("model_dir", settings.model_dir)
    output_dir = require("output_dir", settings.output_dir)
    if settings.voc_dir is None:
        images = named_images(arguments, [output_dir / folder for folder in FOLDERS])
    else:
        images = split_images(settings.voc_dir, settings.split)

    # This process's part of them, which is the same however many are done already.
    wanted = Wanted(output_dir, folders_of(settings), settings.truth_dir, settings.max_pixels)
    images = share_of(images, settings.shard_index, settings.num_shards, os.environ)
    if settings.skip_existing:
        images = without_existing(images, wanted)

    log_kernels()
    models = on_all_devices(
        lambda: load(model_dir, settings.checkpoint, options[LoadSettings].output_stride, options[Inference]),
        most=None if options[Inference].window_size else max(len(images), 1),  # windows of one image are shared
    )
    segment(images, models, wanted)


def without_existing(images: list[Named], wanted: Wanted) -> list[Named]:
    """The images without all their pictures, or with older ones.

    Raises:
        NothingToDo: there is none.
        UsageError: standard input, of which it is not known.
    """
    if any(path == STANDARD_INPUT for _, path in images):
        raise UsageError("--skip_existing: whether the picture of `-` is there is not known; give its file")
    missing = [(name, path) for name, path in images if not wanted.exist(name, path)]
    skipped = f"{len(images) - len(missing)} of {len(images)} images have their pictures in {wanted.output_dir}"
    if not missing:
        raise NothingToDo(skipped)
    logger.info("%s and are left out", skipped)
    return missing


def segment(images: list[Named], models: Sequence[Segments], wanted: Wanted) -> None:
    """Writes the pictures of the named images; what cannot be read is named, and the others go on.

    Raises:
        DataError: at the end, if images or true masks could not be read; the message says how many.
    """
    progress = Progress("segmenting", len(images), "images", first="the first takes longer")
    unread: list[DataError] = []
    untrue: list[DataError] = []
    num_threads = 2 + len(models) + (os.cpu_count() or 1)
    for number, outcome in enumerate(in_order(OneImage(models, wanted), images, num_threads), 1):
        progress.clear()
        if outcome.other_bands:
            logger.warning("%s: left out: %d band(s) beside the colours", outcome.path, outcome.other_bands)
        for error, errors in ((outcome.unread, unread), (outcome.untrue, untrue)):
            if error:
                errors.append(error)
                if len(images) > 1:
                    logger.error("%s", error)
        if not outcome.unread:
            logger.info("%s: %s", outcome.path, outcome.shares)
        progress.update(number)
    progress.end()
    if len(unread) < len(images):
        folders = ", ".join(f"{folder}/" for folder in wanted.folders)
        num_read = len(images) - len(unread)
        logger.info("%d of %d images segmented; wrote to %s: %s", num_read, len(images), wanted.output_dir, folders)
    if unread or untrue:
        left_out = f"; {len(unread)} of {len(images)} images left out" if unread and len(images) > 1 else ""
        alone = f"; {len(untrue)} of {len(images)} images without a true mask beside them" if untrue else ""
        raise DataError(f"{[*unread, *untrue][0]}{left_out}{alone}")
