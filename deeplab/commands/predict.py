"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE|FOLDER|'GLOB'|-...
python -m deeplab.predict --model_dir=runs/voc --output_dir=submission --voc_dir=VOC2012 --split=test

`-` is one picture from standard input; it is called stdin. With --truth_dir, masks of the same names (PNG) are shown
next to the predictions.
"""

from deeplab.program.start import start_program

import glob
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.api import Model, load
from deeplab.data.source.classes import ClassTable
from deeplab.data.source.images import ENDINGS, MAX_PIXELS, read_image
from deeplab.data.source.masks import read_mask
from deeplab.data.source.voc import split_images
from deeplab.distribute.devices import log_kernels
from deeplab.errors import DataError, UsageError
from deeplab.labels import foreground
from deeplab.model.inference import Inference
from deeplab.progress import Progress
from deeplab.run.run_folder import LoadSettings
from deeplab.settings import Classes, Options, require, setting
from deeplab.view import pictures
from deeplab.view.colors import class_colors

logger = logging.getLogger("deeplab")

STANDARD_INPUT = Path("-")


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
        upper=2 * MAX_PIXELS,
    )
    truth_dir: Path | None = setting(None, "Folder of true masks, NAME.png, to show next to the predictions.")
    voc_dir: Path | None = setting(
        None, "Folder in VOC layout: segment the images of its --split, for VOC's evaluation server."
    )
    split: str = setting("test", "Split of --voc_dir.")


SETTINGS: Classes = (PredictSettings, LoadSettings, Inference)


def main(argv: list[str]) -> None:
    """Images -> masks/NAME.png (palettized class indices) and overlays/NAME.png (with a legend), and so on.

    A split of VOC -> only masks, in the folder that VOC's evaluation server expects; the images need no true masks.
    """
    options = Options(SETTINGS)
    wanted = options[PredictSettings]
    model_dir = require("model_dir", wanted.model_dir)
    output_dir = require("output_dir", wanted.output_dir)
    if wanted.voc_dir is None:
        images = named_images(argv[1:], output_dir)
    elif argv[1:]:
        raise UsageError(f"{argv[1]}: name images or --voc_dir, not both")
    else:
        images = split_images(wanted.voc_dir, wanted.split)
    log_kernels()
    model = load(model_dir, wanted.checkpoint, options[LoadSettings].output_stride, options[Inference])
    segment(images, model, wanted, output_dir)


def segment(images: list[tuple[str, Path]], model: Model, wanted: PredictSettings, output_dir: Path) -> None:
    """Writes the pictures of the named images; what cannot be read is named, and the others go on.

    Raises:
        DataError: at the end, if images or true masks could not be read; the message says how many.
    """
    progress = Progress("segmenting", len(images), "images", first="the first takes longer")
    unread: list[DataError] = []
    untrue: list[DataError] = []

    def note(error: DataError, errors: list[DataError]) -> None:
        errors.append(error)
        if len(images) > 1:
            progress.clear()
            logger.error("%s", error)

    for number, (name, path) in enumerate(images, 1):
        try:
            image = read_image(sys.stdin.buffer if path == STANDARD_INPUT else path, wanted.max_pixels)
        except DataError as error:
            note(error, unread)
            continue
        mask = model.segment(image)
        truth = None
        if wanted.truth_dir is not None and wanted.voc_dir is None:
            try:
                truth = read_truth(wanted.truth_dir / f"{name}.png", mask.shape, tuple(model.class_names))
            except DataError as error:
                note(error, untrue)
        shares = {index: f"{model.class_names[index]} {share:.1%}" for index, share in pictures.class_shares(mask)}
        for folder, picture in draw(image, mask, truth, shares, wanted, model.class_names).items():
            pictures.save(picture, output_dir / folder / f"{name}.png")
        progress.clear()
        logger.info("%s: %s", path, ", ".join(shares.values()))
        progress.update(number)
    progress.end()
    if len(unread) < len(images):
        logger.info("%d of %d images segmented: %s", len(images) - len(unread), len(images), output_dir)
    if unread or untrue:
        left_out = f"; {len(unread)} of {len(images)} images left out" if unread and len(images) > 1 else ""
        alone = f"; {len(untrue)} of {len(images)} images without a true mask beside them" if untrue else ""
        raise DataError(f"{[*unread, *untrue][0]}{left_out}{alone}")


def draw(
    image: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None,
    shares: dict[int, str],
    wanted: PredictSettings,
    class_names: Sequence[str],
) -> dict[str, Image.Image]:
    """The pictures of an image by folder below --output_dir; for a split of VOC, those for its evaluation server."""
    if wanted.voc_dir is not None:
        return {f"results/VOC2012/Segmentation/comp6_{wanted.split}_cls": pictures.color_mask(mask)}
    overlay = pictures.overlay(image, mask, class_names)
    entries = {index: text for index, text in shares.items() if index in foreground(class_names)}
    drawn = {
        "masks": pictures.color_mask(mask),
        "coloured": pictures.colored(mask),
        "overlays": pictures.stack(overlay, pictures.legend(entries, overlay.width, class_colors(class_names))),
    }
    if truth is not None:
        drawn["side_by_side"] = pictures.panel(image, truth, mask, class_names, max(mask.shape))
    return drawn


def named_images(arguments: list[str], output_dir: Path | None = None) -> list[tuple[str, Path]]:
    """Names and images on the command line: files, folders, patterns, or `-` for standard input.

    A folder stands for all images below it; their names include subfolders, as in day1/img_0. Other files are left out
    and counted by ending. Hidden files are skipped (macOS leaves `._photo.jpg` next to
    `photo.jpg`), and so is `output_dir`.

    Raises:
        DataError: a folder or pattern without images.
        UsageError: no images, or two whose masks would have the same name.
    """
    images: list[tuple[str, Path]] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = _images_below(path, output_dir)
        elif glob.has_magic(argument) and not path.exists():
            matches = map(Path, sorted(glob.glob(argument, recursive=True)))  # noqa: PTH207
            found = [(file.stem, file) for file in matches if file.is_file() and not _is_hidden(file)]
        else:
            found = [("stdin" if path == STANDARD_INPUT else path.stem, path)]
        if not found:
            raise DataError(f"{argument}: no pictures there")
        images += found
    if not images:
        raise UsageError("name at least one image, a folder, or --voc_dir and --split")
    seen: dict[str, Path] = {}
    for name, path in images:
        if name in seen:
            raise UsageError(
                f"{name}: two images of this name would be written to one file: {seen[name]} and {path}; segment them "
                "separately, or name the folder above both"
            )
        seen[name] = path
    return images


def _images_below(folder: Path, output_dir: Path | None) -> list[tuple[str, Path]]:
    """The images below a folder, in order, with their names; logs how many other files there are, by ending."""
    skipped = output_dir and output_dir.resolve()
    images = []
    others: Counter[str] = Counter()
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        is_output = skipped is not None and file.resolve().is_relative_to(skipped)
        if is_output or any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        if file.suffix.lower() in ENDINGS:
            images.append((inside.with_suffix("").as_posix(), file))
        else:
            others[file.suffix.lower() or "without an ending"] += 1
    if others:
        kinds = ", ".join(f"{number} {ending}" for ending, number in sorted(others.items()))
        logger.warning("%s: left out, as their endings are not those of images: %s", folder, kinds)
    return images


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def read_truth(path: Path, shape: tuple[int, ...], class_names: tuple[str, ...]) -> np.ndarray:
    """A mask of the prediction's shape (height, width); DataError for another shape, and as `masks.read_mask`."""
    truth = read_mask(path, ClassTable.of_names(class_names)).labels
    if truth.shape != shape:
        raise DataError(f"{path}: {truth.shape[1]}x{truth.shape[0]} pixels, its image is {shape[1]}x{shape[0]}")
    return truth


def command() -> None:
    """The program as `deeplab-predict` starts it."""
    start_program(main, SETTINGS, __doc__)
