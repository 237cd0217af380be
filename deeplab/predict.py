"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE|FOLDER|'GLOB'|-...
python -m deeplab.predict --model_dir=runs/voc --output_dir=submission --voc_dir=VOC2012 --split=test

`-` is one picture from standard input; it is called stdin. With --truth_dir, masks of the same names (PNG) are shown
beside the predictions.
"""

import glob
import io
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab import flags, program, visualize
from deeplab.api import Model
from deeplab.data import tfrecord, voc
from deeplab.errors import DataError, UsageError
from deeplab.flags import FLAGS
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

STANDARD_INPUT = Path("-")
BATCH_PIXELS = 2**22
"""Of a batch; four million pixels of 21 classes are 0.35 GB of probabilities. A larger picture goes alone."""


def main(argv: list[str]) -> None:
    """Images -> masks/NAME.png (palettised class indices) and overlays/NAME.png (with a legend), and so on.

    A split of VOC -> masks alone, in the folder that VOC's evaluation server takes: the images need none of their own.
    """
    flags.require("model_dir", "output_dir")
    output_dir, voc_dir = flags.path("output_dir"), flags.optional_path("voc_dir")
    if voc_dir is None:
        images, folders = named_images(argv[1:]), [output_dir / name for name in ("masks", "coloured", "overlays")]
        if FLAGS.truth_dir:
            folders.append(output_dir / "side_by_side")
    elif argv[1:]:
        raise UsageError(f"{argv[1]}: name images or --voc_dir, not both")
    else:
        images = [voc_dir / "JPEGImages" / f"{name}.jpg" for name in voc.read_split(voc_dir, FLAGS.split)]
        folders = [output_dir / "results" / "VOC2012" / "Segmentation" / f"comp6_{FLAGS.split}_cls"]
    model = Model.from_run(flags.path("model_dir"), FLAGS.checkpoint, flags.output_stride(), flags.inference())

    progress = Progress("segmenting", len(images), "images")
    unread: list[DataError] = []
    number = 0
    for batch in batches_of_one_size(images, unread, FLAGS.batch_size):
        masks = model.segment(np.stack([image for _, image in batch]))
        for (path, image), mask in zip(batch, masks, strict=True):
            name = "stdin" if path == STANDARD_INPUT else path.stem
            shares = {index: f"{model.class_names[index]} {share:.1%}" for index, share in visualize.class_shares(mask)}
            pictures = [visualize.colour_mask(mask)]
            if voc_dir is None:
                pictures += pictures_to_look_at(name, image, mask, shares, model.class_names)
            for folder, picture in zip(folders, pictures, strict=True):
                folder.mkdir(parents=True, exist_ok=True)
                visualize.save(picture, folder / f"{name}.png")
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


def pictures_to_look_at(
    name: str, image: np.ndarray, mask: np.ndarray, shares: dict[int, str], class_names: Sequence[str]
) -> list[Image.Image]:
    """For the folders coloured, overlays and, with --truth_dir, side_by_side."""
    overlay = visualize.overlay(image, mask)
    pictures = [visualize.coloured(mask), visualize.stack(overlay, visualize.legend(shares, overlay.width))]
    if FLAGS.truth_dir:
        truth = read_truth(flags.path("truth_dir") / f"{name}.png", mask.shape, len(class_names))
        pictures.append(visualize.panel(image, truth, mask, class_names, max(mask.shape)))
    return pictures


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


def read_truth(path: Path, shape: tuple[int, ...], num_classes: int) -> np.ndarray:
    """A mask of the predicted one's shape (height, width); DataError for any other, and as `tfrecord.read_mask`."""
    truth = tfrecord.read_mask(path, num_classes)
    if truth.shape != shape:
        raise DataError(f"{path}: {truth.shape[1]}x{truth.shape[0]} pixels, its image is {shape[1]}x{shape[0]}")
    return truth


if __name__ == "__main__":
    program.run(main, flags.define_predict_flags)
