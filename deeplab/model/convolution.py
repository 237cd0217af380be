"""Convolution whose grid does not depend on the image's size, in the form that is fastest on the device."""

import contextlib
import functools
from collections.abc import Iterator

import keras
import tensorflow as tf

from deeplab.model import cpu_convolution
from deeplab.model.initial_values import are_drawn

_FULL_PRECISION = (tf.float32, tf.float64)

_LARGE_DILATION = 6
"""ASPP's smallest at stride 16; those of backbones are smaller. SpaceToBatch computes mostly padding from here on."""


class _EvenStridePadding(keras.layers.Layer):
    """A convolution that, at a stride of 2, pads images of odd size as "same" pads those of even size.

    TensorFlow's own "same" adds a row and a column at the top and left of odd ones only, which moves their features by
    a pixel (docs/design.md, which kernels are dilated). With `pads_evenly` there is one at the top and left of all.
    """

    padding: str

    def __init__(self, *args: object, pads_evenly: bool = False, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._pads_evenly = pads_evenly
        self._added = [(0, 0), (0, 0)]  # rows above and below, columns to the left and right
        if self.padding == "same" and max(self.strides) > 1:
            added = [max(kernel - stride, 0) for kernel, stride in zip(self.kernel_size, self.strides, strict=True)]
            self._added = [(number // 2, number - number // 2) for number in added]
            if pads_evenly:
                self._added = [(kernel // 2, kernel // 2) for kernel in self.kernel_size]
            self.padding = "valid"

    def add_weight(self, *args: object, **settings: object) -> keras.Variable:
        """As the layer's own; nothing is drawn where other values replace these."""
        if not are_drawn():
            settings["initializer"] = "zeros"
        return super().add_weight(*args, **settings)

    def get_config(self) -> dict[str, object]:
        """As the layer's own, with the padding that was asked for."""
        asked = {"padding": "same"} if any(map(any, self._added)) else {}
        return super().get_config() | asked | ({"pads_evenly": True} if self._pads_evenly else {})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As the layer's own, for NHWC."""
        return super().call(self._padded(inputs))

    def _padded(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.pad(inputs, [(0, 0), *self._added, (0, 0)]) if any(map(any, self._added)) else inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """As the layer's own, for NHWC."""
        batch, *sizes, channels = input_shape
        padded = [size and size + sum(added) for size, added in zip(sizes, self._added, strict=True)]
        return super().compute_output_shape((batch, *padded, channels))


@keras.saving.register_keras_serializable(package="deeplab")
class AtrousDepthwiseConv2D(_EvenStridePadding, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with one filter per channel, whose grid does not depend on the image's size."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As the layer's own, for NHWC; the dilations of ASPP tap by tap on CPUs."""
        if _of_others and max(self.dilation_rate) > 1:
            # TensorFlow's own kernels cannot dilate it; Keras splits the image into many instead.
            settings = {"strides": [1, *self.strides, 1], "padding": self.padding.upper()}
            outputs = tf.raw_ops.DepthwiseConv2dNative(
                input=inputs, filter=self.kernel, dilations=[1, *self.dilation_rate, 1], **settings
            )
            return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs
        if min(self.dilation_rate) < _LARGE_DILATION or _takes_operations():
            return super().call(inputs)
        outputs = cpu_convolution.atrous_depthwise_conv2d(inputs, self.kernel, self.dilation_rate)
        return tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs


@keras.saving.register_keras_serializable(package="deeplab")
class AtrousConv2D(_EvenStridePadding, keras.layers.Conv2D):
    """`keras.layers.Conv2D` in the form that is fastest on the device; its grid does not depend on the image's size.

    Keras calls `tf.nn.convolution`, which on CPUs turns a dilated convolution into SpaceToBatch, convolution and
    BatchToSpace: the same values, but many times slower where features are small (docs/measurements.md).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """As the layer's own, for NHWC; Keras takes four operations to add the bias."""
        outputs = self.convolution_op(self._padded(inputs), self.kernel)
        return self.activation(tf.nn.bias_add(outputs, self.bias) if self.use_bias else outputs)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Follows `keras.layers.Conv2D.convolution_op` for NHWC."""
        is_dilated = max(self.dilation_rate) > 1
        is_product = max(self.kernel_size) == max(self.strides) == 1
        in_full = inputs.dtype in _FULL_PRECISION
        if not is_dilated and not (is_product and in_full):
            return super().convolution_op(inputs, kernel)
        if _takes_operations() or (is_dilated and self.padding != "same"):
            return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
        if is_product:
            return cpu_convolution.pointwise_conv2d(inputs, kernel)
        if in_full:
            return cpu_convolution.atrous_conv2d(inputs, kernel, self.dilation_rate)
        if _has_direct_gradients(inputs.dtype):
            return cpu_convolution.direct_conv2d(inputs, kernel, self.dilation_rate)
        # Sums of half precisions would be rounded at each tap, and the processor has no instructions for them.
        in_float32 = tf.cast(inputs, tf.float32), tf.cast(kernel, tf.float32)
        return tf.cast(cpu_convolution.atrous_conv2d(*in_float32, self.dilation_rate), inputs.dtype)


_of_others = False
"""Whether what is traced now is for another runtime."""


@contextlib.contextmanager
def for_other_runtimes() -> Iterator[None]:
    """A context in which each convolution is traced as one operation on every device, as other runtimes expect."""
    global _of_others  # noqa: PLW0603
    _of_others = True
    try:
        yield
    finally:
        _of_others = False


def _takes_operations() -> bool:
    """Whether TensorFlow's own convolutions are to be used: for GPUs, and for other runtimes."""
    return _of_others or bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def _has_direct_gradients(dtype: tf.DType) -> bool:
    """Whether this processor has the kernels that `cpu_convolution.direct_conv2d` needs in a half precision.

    Determined by trying it: TensorFlow has no public query, and the answer depends on oneDNN and on instructions.
    """
    with tf.init_scope():
        image = tf.ones([1, 4, 4, 1], dtype)
        kernel = tf.ones([3, 3, 1, 1], dtype)
        settings = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, 2, 2, 1]}
        try:
            tf.raw_ops.Conv2D(input=image, filter=kernel, **settings)
            tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=image, **settings)
        except tf.errors.OpError:
            return False
    return True
