"""Convolution whose grid does not depend on the image's size, dilated in the form that is fastest on the device."""

import functools
import logging
from collections.abc import Callable

import keras
import tensorflow as tf

logger = logging.getLogger("deeplab")


class _EvenStridePadding(keras.layers.Layer):
    """A convolution that, at a stride of 2, pads images of odd size as "same" pads those of even size.

    TensorFlow's own "same" adds a row and a column at the top and left of odd ones only, which moves their features by
    a pixel (docs/design.md, aligned upsampling).
    """

    padding: str

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._added = [(0, 0), (0, 0)]  # rows above and below, columns to the left and right
        if self.padding == "same" and max(self.strides) > 1:
            added = [max(kernel - stride, 0) for kernel, stride in zip(self.kernel_size, self.strides, strict=True)]
            self._added = [(number // 2, number - number // 2) for number in added]
            self.padding = "valid"

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As the layer's own, for NHWC."""
        if any(map(any, self._added)):
            inputs = tf.pad(inputs, [(0, 0), *self._added, (0, 0)])
        return super().call(inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """As the layer's own, for NHWC."""
        batch, *sizes, channels = input_shape
        padded = [size and size + sum(added) for size, added in zip(sizes, self._added, strict=True)]
        return super().compute_output_shape((batch, *padded, channels))


class AtrousDepthwiseConv2D(_EvenStridePadding, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose grid does not depend on the image's size."""


class AtrousConv2D(_EvenStridePadding, keras.layers.Conv2D):
    """`keras.layers.Conv2D` that runs a dilated convolution as one `tf.nn.conv2d` where the device has its gradient.

    Keras calls `tf.nn.convolution`, which on CPUs turns a dilated convolution into SpaceToBatch, convolution and
    BatchToSpace: the same values, but several times slower (docs/measurements.md). The grid does not depend on the
    image's size.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Follows `keras.layers.Conv2D.convolution_op` for NHWC."""
        if max(self.dilation_rate) == 1 or not direct_dilation_works(inputs.dtype):
            return super().convolution_op(inputs, kernel)
        if tf.config.list_logical_devices("GPU") or self.padding != "same":
            return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
        return _dilated_conv2d(inputs, tf.convert_to_tensor(kernel), self.dilation_rate)


def _dilated_conv2d(inputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """`tf.nn.conv2d` for odd kernels at stride 1 with "same" padding on CPUs; matrix products give the kernel gradient.

    oneDNN's kernel gradient takes three to five times as long where most taps fall on padding, as in ASPP
    (docs/measurements.md).
    """
    settings = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, *rates, 1]}

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, **settings
            )
            return by_inputs, _kernel_gradient(inputs, upstream, kernel.shape, rates)

        return tf.raw_ops.Conv2D(input=inputs, filter=kernel, **settings), gradients

    return convolve(inputs, kernel)


def _kernel_gradient(
    inputs: tf.Tensor, upstream: tf.Tensor, kernel_shape: tf.TensorShape, rates: tuple[int, int]
) -> tf.Tensor:
    """For each tap, the product of the inputs it read and the gradients of the outputs it contributed to."""
    kernel_height, kernel_width, channels, filters = kernel_shape
    height, width = tf.unstack(tf.shape(inputs)[1:3])
    taps = []
    for row in range(kernel_height):
        for column in range(kernel_width):
            down = (row - kernel_height // 2) * rates[0]
            right = (column - kernel_width // 2) * rates[1]
            rows, columns = tf.maximum(height - abs(down), 0), tf.maximum(width - abs(right), 0)
            read = _window(inputs, max(down, 0), max(right, 0), rows, columns)
            added_to = _window(upstream, max(-down, 0), max(-right, 0), rows, columns)
            taps.append(
                tf.matmul(tf.reshape(read, [-1, channels]), tf.reshape(added_to, [-1, filters]), transpose_a=True)
            )
    return tf.reshape(tf.stack(taps), kernel_shape)


def _window(features: tf.Tensor, top: int, left: int, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    return features[:, top : top + height, left : left + width]


@functools.cache
def direct_dilation_works(dtype: tf.DType = tf.float32) -> bool:
    """Whether a dilated `tf.nn.conv2d` has a gradient here: it does on GPUs, and on CPUs through oneDNN.

    Determined by trying it: TensorFlow has no public query for it, and `TF_ENABLE_ONEDNN_OPTS=0` removes it.
    """
    with tf.init_scope():
        image, kernel = tf.ones([1, 4, 4, 1], dtype), tf.ones([3, 3, 1, 1], dtype)
        settings = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, 2, 2, 1]}
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=image, **settings)
            tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=tf.shape(kernel), out_backprop=image, **settings)
        except tf.errors.OpError:
            logger.warning("dilated convolutions have no gradient in %s here; using Keras's slower form", dtype.name)
            return False
    return True
