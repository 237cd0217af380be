"""The SavedModel: the network with all that it needs, and a description of it."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from deeplab.api import DESCRIPTION
from deeplab.commands.export.encoded import decode
from deeplab.commands.export.interface import image_spec, outputs_of
from deeplab.commands.settings import ANY_SIZE, Interface
from deeplab.files import write_text
from deeplab.labels import VOID_LABEL, palette
from deeplab.model.convolution import for_other_runtimes
from deeplab.model.inference import Predictor, segment_one_by_one, segmentation
from deeplab.model.settings import ModelConfig

_FILES = tf.TensorSpec([None], tf.string, "image_bytes")
_SEVERAL_SIZES = "images of several sizes in one request; send each size by itself; height, width and channels are"


class Segmenter(tf.Module):
    """The network with pre- and postprocessing: takes uint8 or encoded images, returns classes and probabilities."""

    def __init__(self, model: keras.Model, interface: Interface = ANY_SIZE) -> None:
        super().__init__()
        self._predictor = Predictor(model)
        self.interface = interface
        self.weights = [variable.value for variable in self._predictor.network.variables]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")], autograph=False)
    def segment(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 RGB [batch, height, width, 3] -> `classes` and `probabilities`, as in `Model`."""
        return segment_one_by_one(self._predictor, images)

    def for_runtimes(self, channels_first: bool = False) -> tf.types.experimental.GenericFunction:
        """Images -> the interface's outputs; one operation for each convolution, and no loop.

        Converters read it; TensorFlow itself cannot run it on all devices.
        """

        @tf.function
        def segment(images: tf.Tensor) -> dict[str, tf.Tensor]:
            if channels_first:
                images = tf.transpose(images, [0, 2, 3, 1])
            with for_other_runtimes():
                scores = self._predictor(images)
            results = outputs_of(self.interface, scores)
            if channels_first:
                return {
                    name: tf.transpose(each, [0, 3, 1, 2]) if each.shape.rank == 4 else each
                    for name, each in results.items()
                }
            return results

        return segment

    @tf.function
    def segment_one(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `segment`, for one image [1, height, width, 3]."""
        return segmentation(self._predictor(images))

    @tf.function(input_signature=[_FILES])
    def segment_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Files [batch] as `decode` takes them, whose images have one size -> as `segment`."""
        return self.segment(decode_all(image_bytes))


def decode_all(files: tf.Tensor) -> tf.Tensor:
    """Files [batch], at least one -> uint8 RGB [batch, height, width, 3].

    Raises, when the graph runs:
        tf.errors.InvalidArgumentError: no file, images of several sizes, and as `decode`.
    """
    tf.debugging.Assert(tf.size(files) > 0, ["no image in this request"])
    images = tf.TensorArray(tf.uint8, tf.size(files), element_shape=[None, None, 3], infer_shape=False)
    size = tf.zeros([3], tf.int32)
    for index in tf.range(tf.size(files)):
        image = decode(files[index])
        if index == 0:
            size = tf.shape(image)
        is_alike = tf.reduce_all(tf.shape(image) == size)
        tf.debugging.Assert(is_alike, [_SEVERAL_SIZES, size, tf.shape(image)])
        images = images.write(index, image)
    return images.stack()


def write_saved_model(segmenter: Segmenter, config: ModelConfig, checkpoint: str, export_dir: Path) -> None:
    """Writes the SavedModel and, next to it, `deeplab.json`: class names, colors, palette, inputs and outputs.

    Signatures: `serving_default` takes `image_bytes` (string [batch]), `images` takes `images` (uint8). Both return
    `classes` (uint8 [batch, height, width]) and `probabilities` (float32 [batch, height, width, classes]). With a fixed
    size both take `images`, one at a time: compilers read the default one, and cannot read files.
    """
    interface = segmenter.interface
    signatures = {"serving_default": segmenter.segment_bytes, "images": segmenter.segment}
    if interface.size:
        one = segmenter.segment_one.get_concrete_function(image_spec(interface))
        signatures = {"serving_default": one, "images": one}
    tf.saved_model.save(segmenter, str(export_dir), signatures)
    description = {
        "class_names": config.class_names,
        "class_colors": config.class_colors,
        "palette": palette()[: config.num_classes].tolist(),
        "void": VOID_LABEL,
        "input_size": interface.size,
        "preprocessing": "none: uint8 RGB of input_size, or of any size, as decoded; the graph does what "
        "the backbone expects. Encoded images are turned upright by their EXIF orientation.",
        "outputs": {"classes": "index into class_names and palette", "probabilities": "by pixel and class"},
        "checkpoint": checkpoint,
        "model": config.to_json(),
    }
    write_text(export_dir / DESCRIPTION, json.dumps(description, indent=1) + "\n")
