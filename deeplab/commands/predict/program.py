"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE|FOLDER|'GLOB'|-...
python -m deeplab.predict --model_dir=runs/voc --output_dir=submission --voc_dir=VOC2012 --split=test

`-` is one picture from standard input; it is called stdin. With --truth_dir, masks of the same names (PNG) are shown
next to the predictions. Several processes share one folder by --num_shards, and --skip_existing goes on after an
interruption.
"""

from deeplab.program.start import start_program

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from deeplab.data.source.images import MAX_PIXELS, MOST_PIXELS
from deeplab.data.source.voc import split_images
from deeplab.distribute.devices import log_kernels
from deeplab.errors import DataError, NothingToDo, UsageError
from deeplab.model.inference import Inference
from deeplab.progress import Progress
from deeplab.run.run_folder import LoadSettings
from deeplab.settings import Classes, Options, require, setting
from deeplab.threads import in_order

logger = logging.getLogger("deeplab")


@dataclass(frozen=True)
class PredictSettings:
    """What to segment, and where the pictures go."""

    model_dir: Path | None = setting(None, "Folder of the run whose model predicts, or of an export.")
    checkpoint: str | None = setting(None, "Checkpoint to use. Default: the best of --model_dir.")
    output_dir: Path | None = setting(None, "Folder for the pictures.")
    max_pixels: int = setting(
        MAX_PIXELS,
        "Refuse larger images. --window_size bounds what the network needs for them.",
        lower=1,
        upper=MOST_PIXELS,
    )
    truth_dir: Path | None = setting(None, "Folder of true masks, NAME.png, to show next to the predictions.")
    voc_dir: Path | None = setting(
        None, "Folder in VOC layout: segment the images of its --split, for VOC's evaluation server."
    )
    split: str = setting("test", "Split of --voc_dir.")
    masks_only: bool = setting(False, "Write only masks/, which takes a small part of the time of all pictures.")
    skip_existing: bool = setting(
        False, "Leave out images whose pictures are all there and not older than they, as after an interruption."
    )
    num_shards: int = setting(1, "Number of processes that share these images, each with its --shard_index.", lower=1)
    shard_index: int | None = setting(
        None, "Which of them this is, from 0 on. Default: by its number in Slurm's job array (sbatch --array).", lower=0
    )

    def __post_init__(self) -> None:
        if self.masks_only and self.truth_dir:
            raise UsageError("--masks_only writes no side_by_side/, which --truth_dir is for: give one of them")

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders below --output_dir; for a split of VOC, that for its evaluation server."""
        if self.voc_dir is not None:
            return (f"{VOC_RESULTS}/comp6_{self.split}_cls",)
        if self.masks_only:
            return (MASKS,)
        return (MASKS, COLORED, OVERLAYS, *((ROWS,) if self.truth_dir else ()))


SETTINGS: Classes = (PredictSettings, LoadSettings, Inference)


def main(argv: list[str]) -> None:
    """Images -> masks/NAME.png (palettized class indices) and overlays/NAME.png (with a legend), and so on.

    A split of VOC -> only masks, in the folder that VOC's evaluation server expects; the images need no true masks.
    """
    options = Options(SETTINGS)
    settings = options[PredictSettings]
    model_dir = require("model_dir", settings.model_dir)
    output_dir = require("output_dir", settings.output_dir)
    if settings.voc_dir and settings.truth_dir:
        raise UsageError("--voc_dir writes only masks, for VOC's server, and shows no --truth_dir: give one of them")
    if settings.voc_dir is None:
        images = named_images(argv[1:], [output_dir / folder for folder in FOLDERS])
    elif argv[1:]:
        raise UsageError(f"{argv[1]}: name images or --voc_dir, not both")
    else:
        images = split_images(settings.voc_dir, settings.split)

    # This process's part of them, which is the same however many are done already.
    wanted = Wanted(output_dir, settings.folders, settings.truth_dir, settings.max_pixels)
    images = share_of(images, settings.shard_index, settings.num_shards, os.environ)
    if settings.skip_existing:
        images = without_existing(images, wanted)

    log_kernels()
    models = on_all_devices(
        lambda: load(model_dir, settings.checkpoint, options[LoadSettings].output_stride, options[Inference]),
        most=max(len(images), 1),
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


def command() -> None:
    """The program as `deeplab-predict` starts it."""
    start_program(main, SETTINGS, __doc__)
