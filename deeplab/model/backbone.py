"""Keras applications made atrous: strides beyond the output stride become dilation, names and weights stay."""

import functools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from deeplab.errors import DataError, UsageError
from deeplab.model.normalization import BatchNormalization

logger = logging.getLogger("deeplab")

OUTPUT_STRIDES = (8, 16, 32)
BATCH_NORM_MOMENTUM = 0.99
"""Keras's default; each step, moving statistics keep this share of what they were."""


@dataclass(frozen=True)
class Backbone:
    """A Keras application with its own input preprocessing.

    `preprocess_input` takes RGB in [0, 255]. `unit_pattern` finds, in the names of the spatial convolutions of the
    last stage, the number of the residual unit that multi-grid goes by; None where multi-grid is not defined.
    `auxiliary_layer` is the last one at a nominal stride of 16, whose features an auxiliary head reads.
    `first_centre` gives, for an output stride, the pixel (in each dimension) that the receptive field of feature 0 is
    centred on; that of feature i is `output_stride * i` further.
    """

    build: Callable[..., keras.Model]
    preprocess_input: Callable[[tf.Tensor], tf.Tensor]
    unit_pattern: str | None
    auxiliary_layer: str
    first_centre: Callable[[int], int]


_resnet = functools.partial(
    Backbone,
    preprocess_input=keras.applications.resnet.preprocess_input,
    unit_pattern=r"conv5_block(\d)_2_conv",
    first_centre=lambda output_stride: 0,  # strided kernels are padded on both sides
)
BACKBONES = {
    "resnet50": _resnet(keras.applications.ResNet50, auxiliary_layer="conv4_block6_out"),
    "resnet101": _resnet(keras.applications.ResNet101, auxiliary_layer="conv4_block23_out"),
    "resnet152": _resnet(keras.applications.ResNet152, auxiliary_layer="conv4_block36_out"),
    "mobilenet_v2": Backbone(
        keras.applications.MobileNetV2,
        preprocess_input=keras.applications.mobilenet_v2.preprocess_input,
        unit_pattern=None,
        auxiliary_layer="block_12_add",
        first_centre=lambda output_stride: output_stride - 1,  # ... at bottom and right alone: 1 + 2 + 4 + ...
    ),
}


class AtrousConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose dilated convolution is one `tf.nn.conv2d` where the device has its gradient.

    Keras calls `tf.nn.convolution`, which on CPU turns a dilated convolution into SpaceToBatch, convolution and
    BatchToSpace: the same values, but several times slower (BUILD-NOTES.md).
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Follows `keras.layers.Conv2D.convolution_op` for NHWC."""
        if max(self.dilation_rate) == 1 or not direct_dilation_works(inputs.dtype):
            return super().convolution_op(inputs, kernel)
        if tf.config.list_logical_devices("GPU") or self.padding != "same":
            return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
        return _dilated_conv2d(inputs, tf.convert_to_tensor(kernel), self.dilation_rate)


def _dilated_conv2d(inputs: tf.Tensor, kernel: tf.Tensor, rates: tuple[int, int]) -> tf.Tensor:
    """`tf.nn.conv2d` of odd kernels at stride 1 with "same" padding, for CPUs: its kernel gradient is one of products.

    oneDNN's own takes three to five times as long where most taps fall on padding, as ASPP's do (BUILD-NOTES.md).
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
    """For each tap the product of the inputs that it read with the gradients of what it added to."""
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
    """Whether a dilated `tf.nn.conv2d` has its gradient here: on GPUs, and on CPUs through oneDNN.

    Found out by trying it: TensorFlow has no public question for it, and `TF_ENABLE_ONEDNN_OPTS=0` takes it away.
    """
    with tf.init_scope():
        image, kernel = tf.ones([1, 4, 4, 1], dtype), tf.ones([3, 3, 1, 1], dtype)
        settings = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, 2, 2, 1]}
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=image, **settings)
            tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=tf.shape(kernel), out_backprop=image, **settings)
        except tf.errors.OpError:
            logger.warning("no gradient of dilated convolutions in %s here: taking Keras's slower form", dtype.name)
            return False
    return True


def atrous_backbone(
    name: str,
    output_stride: int,
    weights: str | None,
    multi_grid: tuple[int, ...] = (1, 1, 1),
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
) -> keras.Model:
    """The named Keras application without its top, at `output_stride` (8, 16 or 32), for inputs of any size.

    A convolution that would take the features beyond the output stride keeps stride 1, and every spatial kernel
    that read the coarser grid reads the finer one with holes (arXiv 1706.05587, figure 3). All batch normalisation
    is synchronised over replicas. Input: float [batch, height, width, 3] as the application's own preprocessing
    makes it. Outputs: the last features, float [batch, height / output_stride, width / output_stride, channels]
    (ResNets round up, MobileNetV2 may be one short), and those of `auxiliary_layer`, at stride 16, or at the output
    stride where that is less.

    Args:
        name: a key of `BACKBONES`.
        output_stride: 8, 16 or 32.
        weights: "imagenet" (Keras downloads and verifies them), None (random), or a path to a Keras weights file
            of this application without its top.
        multi_grid: factors for the dilation of the last stage's three units (section 3.1); ResNets only.
        batch_norm_momentum: of all batch normalisation.

    Raises:
        UsageError: multi-grid on a backbone without it.
        DataError: the weights cannot be fetched, read or do not fit.
    """
    backbone = BACKBONES[name]
    if backbone.unit_pattern is None and multi_grid != (1, 1, 1):
        raise UsageError(f"--multi_grid={','.join(map(str, multi_grid))}: {name} has no multi-grid units; leave it out")
    base = _build_base(backbone, name, weights)
    plan = _plan(base, output_stride, backbone.unit_pattern, multi_grid)

    def convert(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config() | plan[layer.name]
        kind = type(layer)
        if kind is keras.layers.Conv2D:
            kind = AtrousConv2D
        elif kind is keras.layers.BatchNormalization:
            kind = BatchNormalization
            config |= {"synchronized": True, "momentum": batch_norm_momentum}
        return kind.from_config(config)

    atrous = keras.models.clone_model(base, clone_function=convert)
    for layer in base.layers:
        if layer.weights:
            atrous.get_layer(layer.name).set_weights(layer.get_weights())
    outputs = [atrous.output, atrous.get_layer(backbone.auxiliary_layer).output]
    return keras.Model(atrous.input, outputs, name=atrous.name)


def _build_base(backbone: Backbone, name: str, weights: str | None) -> keras.Model:
    try:
        return backbone.build(include_top=False, weights=weights)
    except Exception as error:  # a failed download raises just that
        reason = str(error).splitlines()[0]
        raise DataError(
            f"--backbone_weights={weights}: no weights of {name} without its top there ({reason}); "
            "give the path of a file of them, or none for random ones"
        ) from error


def _plan(
    base: keras.Model, output_stride: int, unit_pattern: str | None, multi_grid: tuple[int, ...]
) -> dict[str, dict[str, object]]:
    """What changes in each layer's config, by layer name."""
    changes: dict[str, dict[str, object]] = {}
    nominal: dict[str, int] = {}  # stride of each layer's output in the classification network
    for layer in base.layers:
        sources = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(layer.input)]
        before = max((nominal.get(source, 1) for source in sources), default=1)
        nominal[layer.name] = before * max(getattr(layer, "strides", (1, 1)))
        changes[layer.name] = {}
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            continue
        stride_in, stride_out = min(before, output_stride), min(nominal[layer.name], output_stride)
        dilation = before // stride_in
        if unit_pattern and (unit := re.fullmatch(unit_pattern, layer.name)):
            dilation *= multi_grid[int(unit.group(1)) - 1]
        if stride_out // stride_in != max(layer.strides):
            changes[layer.name]["strides"] = (1, 1)
            if max(layer.kernel_size) > 1:
                # Centred on its pixel, and as large as its input: the padding that went with the stride goes too.
                changes[layer.name]["padding"] = "same"
                changes[sources[0]] = {"padding": 0}
        if max(layer.kernel_size) > 1:
            changes[layer.name]["dilation_rate"] = (dilation, dilation)
    return changes
