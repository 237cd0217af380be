"""Writes a trained model as a SavedModel that needs only TensorFlow; on request also as ONNX and TensorFlow Lite.

python -m deeplab.export --model_dir=runs/voc --export_dir=exported
python -m deeplab.export --model_dir=runs/voc --export_dir=exported --onnx --tflite photo1.jpg photo2.jpg
python -m deeplab.export --model_dir=runs/voc --export_dir=exported --tflite_int8 --tfrecord_dir=data/voc_shards

Images on the command line are segmented with the written files and with the model; the share of equal pixels is logged.
"""

from deeplab.program.start import start_program

import functools
import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deeplab.api import DESCRIPTION, make_segmenter
from deeplab.data.input.stored import sample_images
from deeplab.data.shards.records import decode_image
from deeplab.data.shards.split import Split, SplitSettings
from deeplab.data.source.images import read_image
from deeplab.distribute.devices import log_kernels
from deeplab.distribute.gpus import enable_memory_growth
from deeplab.errors import DeepLabError, UsageError
from deeplab.files import write_text
from deeplab.labels import VOID_LABEL, palette
from deeplab.model.convolution import for_other_runtimes
from deeplab.model.deeplabv3 import ModelConfig
from deeplab.model.inference import Predictor, segmentation
from deeplab.progress import shown
from deeplab.run import run_folder
from deeplab.run.run_folder import LoadSettings
from deeplab.settings import Classes, Options, require, setting

logger = logging.getLogger("deeplab")

ONNX = "model.onnx"
TFLITE = "model.tflite"
TFLITE_DYNAMIC = "model_dynamic_range.tflite"
TFLITE_INT8 = "model_int8.tflite"
QUANTIZED = (TFLITE_DYNAMIC, TFLITE_INT8)
MIN_EQUAL_PIXELS = 0.999
CALIBRATION_IMAGES = 64
_ONNX_OPSET = 17
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")

Segment = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [1, height, width, 3] -> class indices [1, height, width]."""


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and in which formats."""

    model_dir: Path | None = setting(None, "Folder of the run whose model is exported.")
    checkpoint: str | None = setting(None, "Checkpoint to use. Default: the best of --model_dir.")
    export_dir: Path | None = setting(None, "Folder to write; it must not exist.")
    onnx: bool = setting(False, "Also write model.onnx.")
    tflite: bool = setting(False, "Also write model.tflite and model_dynamic_range.tflite.")
    tflite_int8: bool = setting(
        False, "Also write model_int8.tflite, whose network computes in 8-bit integers; needs --tfrecord_dir."
    )
    split: str = setting(
        "train", f"Split of --tfrecord_dir; {CALIBRATION_IMAGES} of its images give the ranges of --tflite_int8."
    )


SETTINGS: Classes = (ExportSettings, SplitSettings, LoadSettings)


class Segmenter(tf.Module):
    """The network with pre- and postprocessing: takes uint8 or encoded images, returns classes and probabilities."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._predictor = Predictor(model)
        self.weights = [variable.value for variable in self._predictor.network.variables]
        self.segment = make_segmenter(self._predictor)

    @tf.function(input_signature=[_IMAGES])
    def segment_batch(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `segment`, without a loop over the images and with one operation for each convolution."""
        with for_other_runtimes():
            return segmentation(self._predictor(images))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def segment_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """JPEG, PNG, BMP or GIF files [batch] that decode to one size -> as `segment`."""

        def decode(content: tf.Tensor) -> tf.Tensor:
            return tf.cond(
                tf.io.is_jpeg(content),
                lambda: decode_image(content),
                lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
            )

        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8))
        return self.segment(images)


def main(argv: list[str]) -> None:
    """Checkpoint -> folder with the SavedModel, `deeplab.json` and, on request, the other formats; then the check."""
    options = Options(SETTINGS)
    wanted = options[ExportSettings]
    model_dir = require("model_dir", wanted.model_dir)
    export_dir = require("export_dir", wanted.export_dir)
    if export_dir.exists():
        raise UsageError(f"--export_dir={export_dir}: exists already; choose another folder")
    lite = wanted.tflite or wanted.tflite_int8
    for module in ("tf2onnx", "onnxruntime") * wanted.onnx + ("ai_edge_litert.interpreter",) * lite:
        _extra(module)
    calibration = _calibration_split(options[SplitSettings], wanted.split) if wanted.tflite_int8 else None
    images = [read_image(Path(argument)) for argument in argv[1:]]
    enable_memory_growth()
    log_kernels()
    model, config, checkpoint = run_folder.load_model(model_dir, wanted.checkpoint, options[LoadSettings].output_stride)
    segmenter = Segmenter(model)
    partial = export_dir.with_name(f".{export_dir.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    with shown("writing the SavedModel"):
        write_saved_model(segmenter, config, checkpoint, partial)
    if wanted.onnx:
        with shown(f"writing {ONNX}"):
            write_onnx(segmenter, partial / ONNX)
    if wanted.tflite:
        with shown(f"writing {TFLITE}"):
            write_tflite(segmenter, partial)
    if calibration:
        images_of_split = [image for _, image in sample_images(calibration, CALIBRATION_IMAGES)]
        logger.info("%s: %d images of %s give the ranges", TFLITE_INT8, len(images_of_split), calibration.name)
        with shown(f"writing {TFLITE_INT8}"):
            write_tflite_int8(segmenter, partial, images_of_split)
    partial.rename(export_dir)
    logger.info("%s -> %s", checkpoint, export_dir)
    with shown("comparing the formats with the model"):
        check(segmenter, export_dir, images)


def write_saved_model(segmenter: Segmenter, config: ModelConfig, checkpoint: str, export_dir: Path) -> None:
    """Writes the SavedModel and, next to it, `deeplab.json`: class names, palette, inputs and outputs.

    Signatures: `serving_default` takes `image_bytes` (string [batch]), `images` takes `images` (uint8). Both return
    `classes` (uint8 [batch, height, width]) and `probabilities` (float32 [batch, height, width, classes]).
    """
    signatures = {"serving_default": segmenter.segment_bytes, "images": segmenter.segment}
    tf.saved_model.save(segmenter, str(export_dir), signatures)
    description = {
        "class_names": config.class_names,
        "palette": palette()[: config.num_classes].tolist(),
        "void": VOID_LABEL,
        "preprocessing": "none: uint8 RGB of any size, as decoded; the graph does what the backbone expects. "
        "An EXIF orientation is not applied.",
        "outputs": {"classes": "index into class_names and palette", "probabilities": "by pixel and class"},
        "checkpoint": checkpoint,
        "model": config.to_json(),
    }
    write_text(export_dir / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def write_onnx(segmenter: Segmenter, path: Path) -> None:
    """Writes the signature `images` as ONNX; raises UsageError without tf2onnx."""
    tf2onnx = _extra("tf2onnx")
    model, _ = tf2onnx.convert.from_function(segmenter.segment_batch, [_IMAGES], opset=_ONNX_OPSET)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    path.write_bytes(model.SerializeToString())


def _pad_explicitly(node: Any) -> None:  # noqa: ANN401
    """ONNX Runtime lacks "same" padding for dilated kernels: at stride 1, dilation x (size - 1) / 2 on each side."""
    settings = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in settings and "dilations" in settings and max(settings["dilations"].ints) > 1:
        sizes = zip(settings["dilations"].ints, settings["kernel_shape"].ints, strict=True)
        around = [dilation * (size - 1) // 2 for dilation, size in sizes]
        node.attribute.remove(settings["auto_pad"])
        node.attribute.add(name="pads", ints=around * 2, type=settings["dilations"].type)


def write_tflite(segmenter: Segmenter, export_dir: Path) -> None:
    """Writes the signature `images` for TensorFlow Lite, one image at a time: float32, and with 8-bit weights."""
    for name, optimizations in ((TFLITE, []), (TFLITE_DYNAMIC, [tf.lite.Optimize.DEFAULT])):
        converter = _lite_converter(segmenter)
        converter.optimizations = optimizations
        (export_dir / name).write_bytes(converter.convert())


def write_tflite_int8(segmenter: Segmenter, export_dir: Path, images: list[np.ndarray]) -> None:
    """Writes the signature `images` for TensorFlow Lite with weights and activations of 8 bits.

    Convolutions and matrix products compute in integers; the positions of the upsampling, which follow from the size
    of the image, are whole numbers. The ranges of activations are those on `images`, each uint8 RGB [height, width, 3].
    """
    converter = _lite_converter(segmenter)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({"images": image[np.newaxis]} for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*tf.lite.Interpreter is deprecated")  # the converter's own
        (export_dir / TFLITE_INT8).write_bytes(converter.convert())


def _lite_converter(segmenter: Segmenter) -> tf.lite.TFLiteConverter:
    one_image = tf.TensorSpec([1, None, None, 3], tf.uint8, "images")
    function = segmenter.segment_batch.get_concrete_function(one_image)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], segmenter)


def _calibration_split(source: SplitSettings, name: str) -> Split:
    if not source.tfrecord_dir:
        raise UsageError("--tflite_int8: needs --tfrecord_dir, the folder of the shards that the model was trained on")
    split = Split.read(source.tfrecord_dir, name)
    if source.verify:
        split.verify()
    return split


def check(segmenter: Segmenter, export_dir: Path, images: list[np.ndarray]) -> None:
    """Logs, for each format in the folder, the share of pixels with the same class as from the model.

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
            raise DeepLabError(f"{export_dir / name}: only {share:.2%} of the pixels match the model's")


def _written(export_dir: Path) -> dict[str, Segment]:
    """Each format in the folder, with a function that segments with it."""
    images = tf.saved_model.load(str(export_dir)).signatures["images"]
    found: dict[str, Segment] = {"saved_model.pb": lambda image: images(images=tf.constant(image))["classes"].numpy()}
    if (export_dir / ONNX).exists():
        session = _extra("onnxruntime").InferenceSession(str(export_dir / ONNX), providers=["CPUExecutionProvider"])
        found[ONNX] = lambda image: session.run(["classes"], {"images": image})[0]
    for name in (TFLITE, *QUANTIZED):
        if (export_dir / name).exists():
            interpreter = _extra("ai_edge_litert.interpreter").Interpreter(str(export_dir / name))
            found[name] = functools.partial(_run_tflite, interpreter)
    return found


def _run_tflite(interpreter: Any, image: np.ndarray) -> np.ndarray:  # noqa: ANN401
    return interpreter.get_signature_runner()(images=image)["classes"]


def _extra(module: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} is not installed: pip install '.[export]'") from error


def command() -> None:
    """The program as `deeplab-export` starts it."""
    start_program(main, SETTINGS, __doc__)
