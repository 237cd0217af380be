"""The head's parts: ASPP, the decoder of DeepLab v3+, and upsampling that keeps features on their pixels."""

from dataclasses import asdict, dataclass
from typing import Any

import keras
import tensorflow as tf

from deeplab.model.convolution import AtrousConv2D, AtrousDepthwiseConv2D
from deeplab.model.normalization import BatchNormalization

FILTERS = 256
LOW_LEVEL_FILTERS = 48  # arXiv 1802.02611, table 1
LOW_LEVEL_STRIDE = 4


@keras.saving.register_keras_serializable(package="deeplab")
class BroadcastLike(keras.layers.Layer):
    """Repeats a [batch, 1, 1, channels] tensor over another one's height and width."""

    def call(self, pooled: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """-> [batch, height of features, width of features, channels]."""
        shape = tf.shape(features)
        return tf.broadcast_to(pooled, [shape[0], shape[1], shape[2], pooled.shape[-1]])


@dataclass(frozen=True)
class Grid:
    """The pixels, in each dimension, on which features are centered: feature i on pixel `stride * i + first_center`."""

    stride: int = 1
    first_center: int = 0


@keras.saving.register_keras_serializable(package="deeplab")
class AlignedUpsampling(keras.layers.Layer):
    """Bilinear upsampling of features to a finer grid.

    By default each feature is placed on its central pixel. Outside the outermost centers the edge repeats. The position
    of a feature therefore does not depend on the size of the image. If the features were stretched to the image
    instead, a network trained on crops would be off by up to half an output stride on whole images. Published weights
    were trained with features that are stretched; see `conventions.Head.alignment`. Logits are upsampled in float32:
    set `dtype`.
    """

    def __init__(self, source: Grid, target: Grid = Grid(), alignment: str = "centers", **settings: object) -> None:
        super().__init__(**settings)
        # In places of the target, whose own grid is then the default one.
        self._source = Grid(
            source.stride // target.stride, (source.first_center - target.first_center) // target.stride
        )
        self._alignment = alignment

    def get_config(self) -> dict[str, object]:
        """For `from_config`."""
        return super().get_config() | {"source": asdict(self._source), "alignment": self._alignment}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AlignedUpsampling":
        """The inverse of `get_config`."""
        return cls(**(config | {"source": Grid(**config["source"])}))

    def call(self, features: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """-> [batch, height of like, width of like, channels of features]; `like` lies on the target grid."""
        height, width = tf.unstack(tf.shape(like)[1:3])
        batch, rows, columns, _ = tf.unstack(tf.shape(features))
        channels = features.shape[-1]
        # Matrix products, one dimension at a time: the gradient of TensorFlow's resize uses one thread on CPUs.
        wide = tf.matmul(self._weights(columns, width), features)
        dense = tf.matmul(self._weights(rows, height), tf.reshape(wide, [batch, rows, width * channels]))
        return tf.reshape(dense, [batch, height, width, channels])

    def _weights(self, num_features: tf.Tensor, num_places: tf.Tensor) -> tf.Tensor:
        """[places, features]: the weight of each feature in each place of the target grid."""
        # Positions are whole numbers of a unit: an export in 8 bits would round floats by the largest position.
        targets, features = (tf.cast(tf.range(number), tf.int64) for number in (num_places, num_features))
        places, unit = self._places(targets, tf.cast(num_features, tf.int64), tf.cast(num_places, tf.int64))
        centers = unit * features
        places = tf.minimum(tf.maximum(places, 0), centers[-1])
        away = places[:, tf.newaxis] - centers
        near = tf.maximum(unit - tf.maximum(away, -away), 0)
        return tf.cast(tf.cast(near, tf.float32) / tf.cast(unit, tf.float32), self.compute_dtype)

    def _places(
        self, targets: tf.Tensor, num_features: tf.Tensor, num_places: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | int]:
        """Places of the target grid among the features, [places], and the distance of two features; whole numbers."""
        stride = self._source.stride
        if self._alignment == "half_pixel":
            return (2 * targets + 1) * num_features - num_places, 2 * num_places
        if self._alignment == "corners":
            return targets * (num_features - 1), stride * num_features - 1
        return targets - self._source.first_center, stride


@dataclass(frozen=True)
class ConvBlock:
    """Convolution without bias, batch normalization and ReLU, with the given batch normalization.

    A separable one is a depthwise and a 1x1 convolution, each with its own batch normalization and ReLU (arXiv
    1802.02611, section 3.1, as in `split_separable_conv2d` of tensorflow/models, research/deeplab/core/utils.py), or,
    without `norm_in_separable`, with those of the 1x1 convolution alone.
    """

    momentum: float
    epsilon: float
    norm_in_separable: bool = True

    def __call__(
        self,
        features: tf.Tensor,
        kernel_size: int,
        dilation_rate: int = 1,
        *,
        name: str,
        filters: int = FILTERS,
        separable: bool = False,
    ) -> tf.Tensor:
        """-> [batch, height, width, filters]; the layers' names start with `name`."""
        if separable:
            depthwise = AtrousDepthwiseConv2D(
                kernel_size,
                padding="same",
                dilation_rate=dilation_rate,
                use_bias=False,
                # Keras counts all channels as inputs of each filter, which has only one.
                depthwise_initializer=keras.initializers.TruncatedNormal(stddev=(1 / kernel_size)),
                name=f"{name}_depthwise",
            )
            features = depthwise(features)
            if self.norm_in_separable:
                features = self._normalized(features, f"{name}_depthwise")
            kernel_size = dilation_rate = 1

        # The convolution itself; after a depthwise one, 1x1.
        convolution = AtrousConv2D(
            filters,
            kernel_size,
            padding="same",
            dilation_rate=dilation_rate,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )
        return self._normalized(convolution(features), name)

    def _normalized(self, features: tf.Tensor, name: str) -> tf.Tensor:
        norm = BatchNormalization(momentum=self.momentum, epsilon=self.epsilon, synchronized=True, name=f"{name}_bn")
        return keras.layers.ReLU(name=f"{name}_relu")(norm(features))


def aspp(features: tf.Tensor, dilations: list[int], block: ConvBlock, separable: bool) -> tf.Tensor:
    """1x1, one 3x3 per dilation and image pooling in parallel; then 1x1 over all of them."""
    branches = [block(features, 1, name="aspp_1x1")]
    branches += [
        block(features, 3, dilation, name=f"aspp_3x3_{number}", separable=separable)
        for number, dilation in enumerate(dilations, 1)
    ]
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pool")(features)
    pooled = block(pooled, 1, name="aspp_pooled")
    branches.append(BroadcastLike(name="aspp_broadcast")(pooled, features))
    return block(keras.layers.Concatenate(name="aspp_concat")(branches), 1, name="aspp_project")


def decoder(
    features: tf.Tensor,
    low_level: tf.Tensor,
    upsampling: AlignedUpsampling,
    block: ConvBlock,
    num_blocks: int,
    separable: bool,
) -> tf.Tensor:
    """ASPP's features, upsampled onto the grid of low-level ones, and these -> features on it (section 3.1)."""
    low_level = block(low_level, 1, name="decoder_low_level", filters=LOW_LEVEL_FILTERS)
    features = upsampling(features, low_level)
    features = keras.layers.Concatenate(name="decoder_concat")([features, low_level])
    for number in range(1, num_blocks + 1):
        features = block(features, 3, name=f"decoder_3x3_{number}", separable=separable)
    return features
