"""TensorFlow Lite: in float32, with weights of 8 bits, and in 8-bit integers."""

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab.commands.export.interface import image_spec
from deeplab.commands.export.saved_model import Segmenter

TFLITE = "model.tflite"
TFLITE_DYNAMIC = "model_dynamic_range.tflite"
TFLITE_INT8 = "model_int8.tflite"
QUANTIZED = (TFLITE_DYNAMIC, TFLITE_INT8)


def write_tflite(segmenter: Segmenter, export_dir: Path) -> None:
    """Writes the network for TensorFlow Lite, one image at a time: in float32, and with 8-bit weights."""
    for name, optimizations in ((TFLITE, []), (TFLITE_DYNAMIC, [tf.lite.Optimize.DEFAULT])):
        converter = _converter(segmenter, segmenter.interface.input_type)
        converter.optimizations = optimizations
        (export_dir / name).write_bytes(converter.convert())


def write_tflite_int8(segmenter: Segmenter, export_dir: Path, images: list[np.ndarray]) -> None:
    """Writes the network for TensorFlow Lite with weights and activations of 8 bits.

    Convolutions and matrix products compute in integers; the positions of the upsampling, which follow from the size
    of the image, are whole numbers. The ranges of activations are those on `images`, each uint8 RGB [height, width, 3],
    of the interface's size.
    """
    # Pixels of uint8 are taken for quantized floats: a network that casts them is no network of integers to a compiler.
    converter = _converter(segmenter, "float32")
    converter.inference_input_type = tf.as_dtype(segmenter.interface.input_type)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({"images": image[np.newaxis].astype(np.float32)} for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*tf.lite.Interpreter is deprecated")  # the converter's own
        (export_dir / TFLITE_INT8).write_bytes(converter.convert())


def _converter(segmenter: Segmenter, input_type: str) -> tf.lite.TFLiteConverter:
    one_image = image_spec(segmenter.interface, batch=1, dtype=input_type)
    function = segmenter.for_runtimes().get_concrete_function(one_image)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], segmenter)
