"""The written formats against the model."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab.commands.export.lite import QUANTIZED, TFLITE
from deeplab.commands.export.onnx import ONNX
from deeplab.commands.export.saved_model import Segmenter
from deeplab.errors import DeepLabError

logger = logging.getLogger("deeplab")

MIN_EQUAL_PIXELS = 0.999

Segment = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [1, height, width, 3] -> class indices [1, height, width]."""


def compare(segmenter: Segmenter, export_dir: Path, images: list[np.ndarray]) -> None:
    """Logs, for each format in the folder, the share of pixels with the same class as from the model.

    `images` are uint8 RGB [height, width, 3]; without any, the formats are only opened.

    Raises:
        DeepLabError: the share is below 99.9 % in a float format.
    """
    expected = [segmenter.segment(image[np.newaxis])["classes"].numpy() for image in images]
    for name, segment in _written(export_dir).items():
        equal = [segment(image[np.newaxis]) == classes for image, classes in zip(images, expected, strict=True)]
        if not equal:
            continue
        share = float(np.mean(np.concatenate([pixels.ravel() for pixels in equal])))
        logger.info("%s: %.4f %% of the pixels of %d images match the model's", name, 100 * share, len(images))
        if share < MIN_EQUAL_PIXELS and name not in QUANTIZED:
            raise DeepLabError(f"{name}: only {share:.2%} of the pixels match the model's; nothing was exported")


def _written(export_dir: Path) -> dict[str, Segment]:
    """Each format in the folder, with a function that segments with it."""
    images = tf.saved_model.load(str(export_dir)).signatures["images"]
    found: dict[str, Segment] = {"saved_model.pb": lambda image: images(images=tf.constant(image))["classes"].numpy()}
    if (export_dir / ONNX).exists():
        found[ONNX] = _onnx(export_dir / ONNX)
    for name in (TFLITE, *QUANTIZED):
        if (export_dir / name).exists():
            found[name] = _tflite(export_dir / name)
    return found


def _onnx(path: Path) -> Segment:
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: session.run(["classes"], {"images": image})[0]


def _tflite(path: Path) -> Segment:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - an extra

    interpreter = Interpreter(str(path))
    return functools.partial(_run_tflite, interpreter)


def _run_tflite(interpreter: Any, image: np.ndarray) -> np.ndarray:  # noqa: ANN401
    return interpreter.get_signature_runner()(images=image)["classes"]
