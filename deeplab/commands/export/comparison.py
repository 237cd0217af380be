"""The written formats against the model."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab.commands.export.lite import QUANTIZED, TFLITE
from deeplab.commands.export.onnx import ONNX
from deeplab.commands.export.saved_model import Segmenter
from deeplab.commands.settings import Interface
from deeplab.errors import DeepLabError

logger = logging.getLogger("deeplab")

MIN_EQUAL_PIXELS = 0.999

Segment = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [1, height, width, 3] -> class indices [1, height, width]."""


def compare(segmenter: Segmenter, export_dir: Path, images: list[np.ndarray]) -> None:
    """Logs, for each format in the folder, the share of pixels with the same class as from the model.

    `images` are uint8 RGB [height, width, 3], of the interface's size; without any, the formats are only opened.

    Raises:
        DeepLabError: the share is below 99.9 % in a float format.
    """
    expected = [segmenter.segment(image[np.newaxis])["classes"].numpy() for image in images]
    for name, segment in _written(export_dir, segmenter.interface).items():
        equal = [segment(image[np.newaxis]) == classes for image, classes in zip(images, expected, strict=True)]
        if not equal:
            continue
        share = float(np.mean(np.concatenate([pixels.ravel() for pixels in equal])))
        logger.info("%s: %.4f %% of the pixels of %d images match the model's", name, 100 * share, len(images))
        if share < MIN_EQUAL_PIXELS and name not in QUANTIZED:
            raise DeepLabError(f"{name}: only {share:.2%} of the pixels match the model's; nothing was exported")


def _written(export_dir: Path, interface: Interface) -> dict[str, Segment]:
    """Each format in the folder, with a function that segments with it."""
    images = tf.saved_model.load(str(export_dir)).signatures["images"]
    found: dict[str, Segment] = {"saved_model.pb": lambda image: images(images=tf.constant(image))["classes"].numpy()}
    if (export_dir / ONNX).exists():
        found[ONNX] = _onnx(export_dir / ONNX, interface)
    for name in (TFLITE, *QUANTIZED):
        if (export_dir / name).exists():
            found[name] = _tflite(export_dir / name, interface)
    return found


def _onnx(path: Path, interface: Interface) -> Segment:
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def segment(image: np.ndarray) -> np.ndarray:
        given = image.transpose(0, 3, 1, 2) if interface.channels_first else image
        output = session.run(None, {"images": given.astype(interface.input_type)})[0]
        return _classes(output, 1 if interface.channels_first else -1)

    return segment


def _tflite(path: Path, interface: Interface) -> Segment:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - an extra

    interpreter = Interpreter(str(path))

    def segment(image: np.ndarray) -> np.ndarray:
        outputs = interpreter.get_signature_runner()(images=image.astype(interface.input_type))
        return _classes(outputs[interface.outputs.split(",")[0]], -1)

    return segment


def _classes(output: np.ndarray, axis: int) -> np.ndarray:
    """Class indices, or scores with the classes along `axis` -> class indices [1, height, width]."""
    return output if output.ndim == 3 else output.argmax(axis)
