"""From pixels to what a backbone's weights expect."""

import keras
import tensorflow as tf

from deeplab.model.conventions import FAMILIES, KERAS


@keras.saving.register_keras_serializable(package="deeplab")
class Preprocess(keras.layers.Layer):
    """RGB in [0, 255], uint8 or float -> the input of the backbone's ImageNet weights, in the compute dtype.

    Args:
        backbone: its name.
        family: whose conventions apply.
        size_multiple: images are extended to a multiple of this, at the bottom and right and by zeros after
            preprocessing; 0: they are not.
        size_rest: they are extended by this many pixels more.
    """

    def __init__(
        self, backbone: str, family: str = KERAS, size_multiple: int = 0, size_rest: int = 0, **settings: object
    ) -> None:
        super().__init__(autocast=False, **settings)
        self._arguments = {
            "backbone": backbone,
            "family": family,
            "size_multiple": size_multiple,
            "size_rest": size_rest,
        }
        self._preprocess_input = FAMILIES[family].backbones[backbone].preprocess_input

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return super().get_config() | self._arguments

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """[batch, height, width, 3] -> the same shape, or larger if images are extended."""
        inputs = self._preprocess_input(tf.cast(images, tf.float32))
        if multiple := self._arguments["size_multiple"]:
            sizes = tf.shape(inputs)[1:3]
            missing = (self._arguments["size_rest"] - sizes) % multiple
            inputs = tf.pad(inputs, [(0, 0), (0, missing[0]), (0, missing[1]), (0, 0)])
        return tf.cast(inputs, self.compute_dtype)
