"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE|FOLDER|'GLOB'|-...
python -m deeplab.predict --model_dir=runs/voc --output_dir=submission --voc_dir=VOC2012 --split=test

`-` is one picture from standard input; it is called stdin. With --truth_dir, masks of the same names (PNG) are shown
beside the predictions.
"""

from deeplab.program.run import run

import glob
import io
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab.api import Model
from deeplab.data import voc
from deeplab.data.classes import ClassTable
from deeplab.data.masks import read_mask
from deeplab.errors import DataError, UsageError
from deeplab.model.inference import Inference
from deeplab.progress import Progress
from deeplab.run.folder import LoadSettings
from deeplab.settings import Classes, Options, require, setting
from deeplab.view import pictures

logger = logging.getLogger("deeplab")

STANDARD_INPUT = Path("-")
BATCH_PIXELS = 2**22
"""Of a batch; four million pixels of 21 classes are 0.35 GB of probabilities. A larger picture goes alone."""


@dataclass(frozen=True)
class PredictSettings:
    """What to segment, and where the pictures go."""

    model_dir: Path = setting(None, "Folder of the run whose model predicts.")
    checkpoint: str | None = setting(None, "Checkpoint to use. Default: the best of --model_dir.")
    output_dir: Path = setting(None, "Folder for the pictures.")
    truth_dir: Path | None = setting(None, "Folder of true masks, NAME.png, to show beside the predictions.")
    voc_dir: Path | None = setting(
        None, "Folder in VOC layout: segment the images of its --split, for VOC's evaluation server."
    )
    split: str = setting("test", "Split of --voc_dir.")
    batch_size: int = setting(8, "Most neighbouring images of one size that are segmented together.", lower=1)


SETTINGS: Classes = (PredictSettings, LoadSettings, Inference)


def main(argv: list[str]) -> None:
    """Images -> masks/NAME.png (palettised class indices) and overlays/NAME.png (with a legend), and so on.

    A split of VOC -> masks alone, in the folder that VOC's evaluation server takes: the images need none of their own.
    """
    options = Options(SETTINGS)
    wanted = options[PredictSettings]
    require(wanted, "model_dir", "output_dir")
    images, folders = images_and_folders(argv[1:], wanted)
    model = Model.from_run(wanted.model_dir, wanted.checkpoint, options[LoadSettings].output_stride, options[Inference])
    progress = Progress("segmenting", len(images), "images")
    unread: list[DataError] = []
    number = 0
    for batch in batches_of_one_size(images, unread, wanted.batch_size):
        masks = model.segment(np.stack([image for _, image in batch]))
        for (path, image), mask in zip(batch, masks, strict=True):
            name = "stdin" if path == STANDARD_INPUT else path.stem
            shares = {index: f"{model.class_names[index]} {share:.1%}" for index, share in pictures.class_shares(mask)}
            written = [pictures.colour_mask(mask)]
            if wanted.voc_dir is None:
                written += pictures_to_look_at(image, mask, shares)
                if wanted.truth_dir is not None:
                    truth = read_truth(wanted.truth_dir / f"{name}.png", mask.shape, model.class_names)
                    written.append(pictures.panel(image, truth, mask, model.class_names, max(mask.shape)))
            for folder, picture in zip(folders, written, strict=True):
                folder.mkdir(parents=True, exist_ok=True)
                pictures.save(picture, folder / f"{name}.png")
            progress.clear()
            logger.info("%s: %s", path, ", ".join(shares.values()))
            number += 1
            progress.update(number)
    if number:
        progress.close()
    if unread:
        left_out = f"; {len(unread)} of {len(images)} images left out" if len(images) > 1 else ""
        raise DataError(f"{unread[0]}{left_out}")


def batches_of_one_size(
    paths: Sequence[Path], unread: list[DataError], batch_size: int
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Neighbouring pictures of one size, as many as `batch_size` and BATCH_PIXELS let, at least one.

    What cannot be read is left out, logged, and its error put into `unread`.
    """
    batch: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            unread.append(error)
            if len(paths) > 1:
                logger.error("%s", error)
            continue
        most = min(batch_size, BATCH_PIXELS // (image.shape[0] * image.shape[1]))
        if batch and (len(batch) >= most or batch[0][1].shape != image.shape):
            yield batch
            batch = []
        batch.append((path, image))
    if batch:
        yield batch


def pictures_to_look_at(image: np.ndarray, mask: np.ndarray, shares: dict[int, str]) -> list[Image.Image]:
    """For the folders coloured and overlays."""
    overlay = pictures.overlay(image, mask)
    return [pictures.coloured(mask), pictures.stack(overlay, pictures.legend(shares, overlay.width))]


def images_and_folders(arguments: list[str], wanted: PredictSettings) -> tuple[list[Path], list[Path]]:
    """The images to segment, and the folders for what is written of each; raises as `named_images`."""
    if wanted.voc_dir is None:
        folders = [wanted.output_dir / name for name in ("masks", "coloured", "overlays")]
        if wanted.truth_dir is not None:
            folders.append(wanted.output_dir / "side_by_side")
        return named_images(arguments), folders
    if arguments:
        raise UsageError(f"{arguments[0]}: name images or --voc_dir, not both")
    images = [wanted.voc_dir / "JPEGImages" / f"{name}.jpg" for name in voc.read_split(wanted.voc_dir, wanted.split)]
    return images, [wanted.output_dir / "results" / "VOC2012" / "Segmentation" / f"comp6_{wanted.split}_cls"]


def named_images(arguments: list[str]) -> list[Path]:
    """The images of the command line: files, all pictures of a folder, what a pattern finds, `-` for standard input.

    Raises:
        DataError: a folder or pattern without pictures.
        UsageError: no image, or two whose masks would have one name.
    """
    images: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in Image.registered_extensions())
        elif glob.has_magic(argument) and not path.exists():
            found = sorted(Path(file) for file in glob.glob(argument, recursive=True) if Path(file).is_file())  # noqa: PTH207
        else:
            found = [path]
        if not found:
            raise DataError(f"{argument}: no pictures there")
        images += found
    if not images:
        raise UsageError("name at least one image, a folder, or --voc_dir and --split")
    names = Counter(image.stem for image in images)
    for name, count in names.items():
        if count > 1:
            raise UsageError(f"{name}: two images of this name would be written to one file; segment them apart")
    return images


def read_image(path: Path) -> np.ndarray:
    """Any picture that Pillow reads -> uint8 RGB [height, width, 3], turned as its EXIF orientation says.

    Raises:
        DataError: missing or unreadable.
    """
    try:
        with Image.open(io.BytesIO(sys.stdin.buffer.read()) if path == STANDARD_INPUT else path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: cannot be read as an image: of no format that Pillow knows, or cut short") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def read_truth(path: Path, shape: tuple[int, ...], class_names: tuple[str, ...]) -> np.ndarray:
    """A mask of the predicted one's shape (height, width); DataError for any other, and as `masks.read_mask`."""
    truth = read_mask(path, ClassTable.of_names(class_names)).labels
    if truth.shape != shape:
        raise DataError(f"{path}: {truth.shape[1]}x{truth.shape[0]} pixels, its image is {shape[1]}x{shape[0]}")
    return truth


if __name__ == "__main__":
    run(main, SETTINGS, __doc__)
