"""Writes a trained model as a SavedModel that needs only TensorFlow; on request also as ONNX and TensorFlow Lite."""

import importlib
import logging
from pathlib import Path

from deeplab.commands.export.comparison import compare
from deeplab.commands.export.lite import TFLITE, TFLITE_INT8, write_tflite, write_tflite_int8
from deeplab.commands.export.onnx import ONNX, write_onnx
from deeplab.commands.export.saved_model import Segmenter, write_saved_model
from deeplab.commands.settings import CALIBRATION_IMAGES, KERAS_MODEL, ExportSettings, Interface
from deeplab.data.input.stored import sample_images
from deeplab.data.shards.settings import SplitSettings
from deeplab.data.shards.split import Split
from deeplab.data.source.images import read_image
from deeplab.distribute.devices import log_kernels
from deeplab.distribute.gpus import enable_memory_growth
from deeplab.errors import UsageError
from deeplab.files import atomic_folder
from deeplab.progress import shown
from deeplab.run import run_folder
from deeplab.run.settings import LoadSettings
from deeplab.settings import Options, require

logger = logging.getLogger("deeplab")


def main(options: Options, arguments: list[str]) -> None:
    """Checkpoint -> folder with the SavedModel, `deeplab.json` and, on request, the other formats, all compared."""
    wanted = options[ExportSettings]
    model_dir = require("model_dir", wanted.model_dir)
    export_dir = require("export_dir", wanted.export_dir)

    # What is missing is said before the work begins.
    if export_dir.exists():
        raise UsageError(f"--export_dir={export_dir}: exists already; choose another folder")
    _require_extras(wanted)
    interface = options[Interface]
    _refuse_ignored(wanted, interface)
    calibration = _calibration_split(options[SplitSettings], wanted.split) if wanted.tflite_int8 else None
    images = [interface.fitted(read_image(Path(argument))) for argument in arguments]

    enable_memory_growth()
    log_kernels()
    output_stride = options[LoadSettings].output_stride
    model, config, checkpoint = run_folder.load_model(model_dir, wanted.checkpoint, output_stride)
    segmenter = Segmenter(model, interface)

    # A folder that is incomplete, or differs from the model, is never left behind.
    with atomic_folder(export_dir) as folder:
        with shown("writing the SavedModel"):
            write_saved_model(segmenter, config, checkpoint, folder)
        if wanted.keras:
            with shown(f"writing {KERAS_MODEL}"):
                model.save(folder / KERAS_MODEL)
        if wanted.onnx:
            with shown(f"writing {ONNX}"):
                write_onnx(segmenter, folder / ONNX)
        if wanted.tflite:
            with shown(f"writing {TFLITE}"):
                write_tflite(segmenter, folder)
        if calibration:
            _write_calibrated(segmenter, folder, calibration)
        with shown("comparing the formats with the model"):
            compare(segmenter, folder, images)
    logger.info("%s -> %s", checkpoint, export_dir)


def _require_extras(wanted: ExportSettings) -> None:
    modules = []
    if wanted.onnx:
        modules += ["tf2onnx", "onnxruntime"]
    if wanted.tflite or wanted.tflite_int8:
        modules += ["ai_edge_litert.interpreter"]
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"{module} is not installed: pip install '.[export]'") from error


def _refuse_ignored(wanted: ExportSettings, interface: Interface) -> None:
    """Raises UsageError for a flag about formats that are not written."""
    about = {} if wanted.onnx else dict.fromkeys(("channels_first", "onnx_opset"), "--onnx")
    if not (wanted.onnx or wanted.tflite or wanted.tflite_int8):
        about |= dict.fromkeys(("outputs", "input_type"), "--onnx, --tflite or --tflite_int8")
    for name, formats in about.items():
        if getattr(interface, name) != getattr(Interface(), name):
            raise UsageError(f"--{name} needs {formats}")


def _calibration_split(source: SplitSettings, name: str) -> Split:
    if not source.tfrecord_dir:
        raise UsageError("--tflite_int8: needs --tfrecord_dir, the folder of the shards that the model was trained on")
    split = Split.read(source.tfrecord_dir, name)
    if source.verify:
        split.verify()
    return split


def _write_calibrated(segmenter: Segmenter, folder: Path, calibration: Split) -> None:
    fitted = segmenter.interface.fitted
    images = [fitted(image) for _, image in sample_images(calibration, CALIBRATION_IMAGES)]
    logger.info("%s: %d images of %s give the ranges", TFLITE_INT8, len(images), calibration.name)
    with shown(f"writing {TFLITE_INT8}"):
        write_tflite_int8(segmenter, folder, images)
