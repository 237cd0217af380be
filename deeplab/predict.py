"""Segments pictures with a trained model.

python -m deeplab.predict --model_dir=runs/voc --output_dir=predictions IMAGE...
"""

import logging
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from deeplab import flags, runs, visualize
from deeplab.errors import DataError, UsageError
from deeplab.flags import FLAGS
from deeplab.model.inference import make_predictor
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")


def main(argv: list[str]) -> None:
    """Images -> masks/NAME.png (palettised class indices) and overlays/NAME.png."""
    flags.require("model_dir", "output_dir")
    images = [Path(argument) for argument in argv[1:]]
    if not images:
        raise UsageError("name at least one image")
    names = [image.stem for image in images]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name}: two images of this name would be written to one file; segment them apart")
    model, config, _ = runs.load_model(flags.path("model_dir"), FLAGS.checkpoint, flags.output_stride())
    masks, overlays = flags.path("output_dir") / "masks", flags.path("output_dir") / "overlays"
    masks.mkdir(parents=True, exist_ok=True)
    overlays.mkdir(parents=True, exist_ok=True)

    predict = make_predictor(model, flags.inference())

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
    def segment(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.argmax(predict(batch), -1), tf.uint8)

    progress = Progress("segmenting", len(images), "images")
    for number, path in enumerate(images, 1):
        image = read_image(path)
        mask = segment(image[np.newaxis])[0].numpy()
        visualize.save(visualize.colour_mask(mask), masks / f"{path.stem}.png")
        visualize.save(visualize.overlay(image, mask), overlays / f"{path.stem}.png")
        progress.clear()
        found = ", ".join(f"{config.class_names[index]} {share:.1%}" for index, share in _shares(mask))
        logger.info("%s: %s", path, found)
        progress.update(number)
    progress.close()


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
