"""The program as a library, without flags: build a network, load a run or an export, segment arrays."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from deeplab.data.source.images import read_image
from deeplab.distribute.gpus import enable_memory_growth, untimed_algorithms
from deeplab.errors import DataError, UsageError
from deeplab.json_fields import read_json
from deeplab.labels import ColoredNames
from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import Predictor, segmentation
from deeplab.model.settings import Inference, ModelConfig
from deeplab.run.run_folder import load_model

DESCRIPTION = "deeplab.json"
"""The description in an exported folder: class names, palette, inputs and outputs."""

ONE_PASS = Inference()

__all__ = ["Inference", "Model", "ModelConfig", "build_deeplabv3", "load", "read_image"]


def make_segmenter(predictor: Predictor, with_probabilities: bool) -> tf.types.experimental.GenericFunction:
    """A compiled function: uint8 RGB [1, height, width, 3] -> `classes` and `probabilities`, as in `Model`.

    It takes one image, so that an image's classes do not depend on a batch.
    """

    # Without AutoGraph, which would read and rewrite all functions that this one calls, and no condition needs it.
    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, "images")], autograph=False)
    def segment(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return segmentation(predictor(images)) if with_probabilities else {"classes": predictor.classes(images)}

    return segment


def make_band_segmenter(predictor: Predictor) -> tf.types.experimental.GenericFunction:
    """A compiled function: uint8 RGB [1, height, width, 3], index and number of bands -> classes of that band."""
    scalar = tf.TensorSpec([], tf.int32)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8), scalar, scalar], autograph=False)
    def segment(images: tf.Tensor, index: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"classes": predictor.classes(images, share=(index, number))}

    return segment


class Model:
    """A trained network that segments images of any size.

    Attributes:
        class_names: by index.
        window_size: in pixels, of the windows that larger images are cut into; 0 if images are segmented whole.
        input_size: height and width of all images; None for any, as for all runs.
        keras_model: the network of a run, as `build_deeplabv3` builds it; None for an export, which has none.
    """

    def __init__(
        self,
        only_classes: tf.types.experimental.GenericFunction,
        with_probabilities: tf.types.experimental.GenericFunction,
        class_names: tuple[str, ...],
        keras_model: keras.Model | None = None,
        input_size: tuple[int, int] | None = None,
        of_band: tf.types.experimental.GenericFunction | None = None,
        window_size: int = 0,
    ) -> None:
        """The functions are as `make_segmenter` and `make_band_segmenter` make them."""
        self._only_classes = only_classes
        self._with_probabilities = with_probabilities
        self._of_band = of_band
        self.class_names = class_names
        self.window_size = window_size
        self.keras_model = keras_model
        self.input_size = input_size

    @classmethod
    def from_keras(
        cls, keras_model: keras.Model, class_names: tuple[str, ...], inference: Inference = ONE_PASS
    ) -> "Model":
        """The model of a network that `build_deeplabv3` built or that Keras loaded."""
        predictor = Predictor(keras_model, inference)
        return cls(
            make_segmenter(predictor, with_probabilities=False),
            make_segmenter(predictor, with_probabilities=True),
            class_names,
            keras_model,
            of_band=make_band_segmenter(predictor),
            window_size=inference.window_size,
        )

    @classmethod
    def from_run(
        cls,
        model_dir: str | Path,
        checkpoint: str | None = None,
        output_stride: int | None = None,
        inference: Inference = ONE_PASS,
    ) -> "Model":
        """The model of a run of train.py. For arguments see `Inference`; raises as `run.run_folder.load_model`."""
        enable_memory_growth()
        network, config, _ = load_model(Path(model_dir), checkpoint, output_stride)
        return cls.from_keras(network, config.colored_names, inference)

    @classmethod
    def from_export(cls, export_dir: str | Path) -> "Model":
        """The SavedModel that `deeplab.export` wrote; DataError without one."""
        path = Path(export_dir) / DESCRIPTION
        enable_memory_growth()
        try:
            description = read_json(path)
            class_names = ColoredNames(description["class_names"], description.get("class_colors", ()))
            if not class_names or not all(isinstance(name, str) for name in class_names):
                raise ValueError("class_names")
            signature = tf.saved_model.load(str(export_dir)).signatures["images"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the folder of an export: {error}") from error
        _, height, width, _ = signature.structured_input_signature[1]["images"].shape
        return cls(signature, signature, class_names, input_size=(height, width) if height else None)

    def segment(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [height, width, 3] (or a batch of them) -> class indices, uint8 [height, width] (or a batch)."""
        return self._run(self._only_classes, image)["classes"]

    def segment_band(self, image: np.ndarray, index: int, number: int) -> np.ndarray:
        """The rows of `segment(image)` in one of `number` bands, from above downwards: uint8 [rows, width].

        They are known as soon as the windows in that band are, so that several devices can share an image. The image
        must be larger than a window. Bands are cut between windows: they may differ in size, and be empty.
        """
        assert self._of_band is not None and max(image.shape[:2]) > self.window_size > 0
        with untimed_algorithms():
            return self._of_band(tf.constant(image[np.newaxis]), index, number)["classes"].numpy()[0]

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [height, width, 3] (or a batch of them) -> float32 [height, width, classes] (or a batch)."""
        return self._run(self._with_probabilities, image)["probabilities"]

    def classes_and_probabilities(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The results of `segment` and of `probabilities`, from one pass."""
        results = self._run(self._with_probabilities, image)
        return results["classes"], results["probabilities"]

    def _run(self, segment: tf.types.experimental.GenericFunction, image: np.ndarray) -> dict[str, np.ndarray]:
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3 or not image.size:
            raise DataError(f"an image of {image.dtype} {list(image.shape)}: uint8 RGB [height, width, 3] is needed")
        batch = image if image.ndim == 4 else image[np.newaxis]
        if self.input_size and batch.shape[:3] != (1, *self.input_size):
            height, width = self.input_size
            raise DataError(
                f"images {list(image.shape)}: this export takes one image of [{height}, {width}, 3] at a time"
            )
        with untimed_algorithms():
            results = [segment(images=tf.constant(alone[np.newaxis])) for alone in batch]
        arrays = {name: np.concatenate([each[name] for each in results]) for name in results[0]}
        return arrays if image.ndim == 4 else {name: array[0] for name, array in arrays.items()}


def load(
    folder: str | Path,
    checkpoint: str | None = None,
    output_stride: int | None = None,
    inference: Inference = ONE_PASS,
) -> Model:
    """The model of a run's folder, by default with its best checkpoint, or of an exported one.

    An export is a program that this runs: load exports only from people you trust.

    Raises:
        DataError: neither a run nor an export, and as `run.run_folder.load_model`.
        UsageError: an export, and other arguments than the folder: its weights, stride and single pass are fixed.
    """
    if not (Path(folder) / DESCRIPTION).exists():
        return Model.from_run(folder, checkpoint, output_stride, inference)
    if (checkpoint, output_stride, inference) != (None, None, ONE_PASS):
        raise UsageError(
            f"{folder}: an export takes no checkpoint, output_stride, scales, flip or window_size; "
            "name the folder of the run that it was made from"
        )
    return Model.from_export(folder)
