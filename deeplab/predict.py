"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE...
python -m deeplab.predict --model_dir=runs/voc --output_dir=submission --voc_dir=VOC2012 --split=test
"""

import logging
from collections import Counter
from pathlib import Path

import deeplab.quiet  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from deeplab import flags, runs, visualize
from deeplab.data import voc
from deeplab.errors import DataError, UsageError
from deeplab.flags import FLAGS
from deeplab.model.inference import make_predictor
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")


def main(argv: list[str]) -> None:
    """Images -> masks/NAME.png (palettised class indices) and overlays/NAME.png.

    A split of VOC -> masks alone, in the folder that VOC's evaluation server takes: the images need none of their own.
    """
    flags.require("model_dir", "output_dir")
    output_dir, voc_dir = flags.path("output_dir"), flags.optional_path("voc_dir")
    if voc_dir is None:
        images = named_images(argv[1:])
        masks, overlays = output_dir / "masks", output_dir / "overlays"
        overlays.mkdir(parents=True, exist_ok=True)
    else:
        if argv[1:]:
            raise UsageError(f"{argv[1]}: name images or --voc_dir, not both")
        images = [voc_dir / "JPEGImages" / f"{name}.jpg" for name in voc.read_split(voc_dir, FLAGS.split)]
        masks, overlays = output_dir / "results" / "VOC2012" / "Segmentation" / f"comp6_{FLAGS.split}_cls", None
    masks.mkdir(parents=True, exist_ok=True)
    model, config, _ = runs.load_model(flags.path("model_dir"), FLAGS.checkpoint, flags.output_stride())

    predict = make_predictor(model, flags.inference())

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
    def segment(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.argmax(predict(batch), -1), tf.uint8)

    progress = Progress("segmenting", len(images), "images")
    for number, path in enumerate(images, 1):
        image = read_image(path)
        mask = segment(image[np.newaxis])[0].numpy()
        visualize.save(visualize.colour_mask(mask), masks / f"{path.stem}.png")
        if overlays is not None:
            visualize.save(visualize.overlay(image, mask), overlays / f"{path.stem}.png")
        progress.clear()
        found = ", ".join(f"{config.class_names[index]} {share:.1%}" for index, share in _shares(mask))
        logger.info("%s: %s", path, found)
        progress.update(number)
    progress.close()


def named_images(arguments: list[str]) -> list[Path]:
    """The images of the command line; raises UsageError for none, and for two whose masks would have one name."""
    images = [Path(argument) for argument in arguments]
    if not images:
        raise UsageError("name at least one image, or --voc_dir and --split")
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
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def _shares(mask: np.ndarray) -> list[tuple[int, float]]:
    """Classes found and their share of the pixels, the largest first."""
    indices, counts = np.unique(mask, return_counts=True)
    return sorted(zip(indices.tolist(), (counts / mask.size).tolist(), strict=True), key=lambda item: -item[1])


if __name__ == "__main__":
    flags.run(main, flags.define_predict_flags)
