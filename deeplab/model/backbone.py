"""Keras applications made atrous: strides beyond the output stride become dilation; names and weights are kept."""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from deeplab.errors import DataError, UsageError
from deeplab.files import locked
from deeplab.model.convolution import AtrousConv2D, AtrousDepthwiseConv2D
from deeplab.model.dropout import GlobalDropout
from deeplab.model.normalization import BatchNormalization

OUTPUT_STRIDES = (8, 16, 32)
BATCH_NORM_MOMENTUM = 0.99
"""Keras's default: the share of the moving statistics that is kept at each step."""
NO_MULTI_GRID = (1, 1, 1)


@dataclass(frozen=True)
class Backbone:
    """A Keras application with its own input preprocessing.

    `preprocess_input` takes RGB in [0, 255]. `unit_pattern` matches the names of the last stage's spatial convolutions
    and captures the number of the residual unit, which selects its multi-grid factor; None where multi-grid is not
    defined. `auxiliary_layer` is the last layer at a nominal stride of 16; an auxiliary head reads its features.
    `low_level_layer` is the one at stride 4 that a decoder reads.
    `first_center` maps an output stride to the pixel (in each dimension) on which the receptive field of feature 0 is
    centered; the field of feature i is centerd `output_stride * i` pixels further.
    """

    build: Callable[..., keras.Model]
    preprocess_input: Callable[[tf.Tensor], tf.Tensor]
    unit_pattern: str | None
    auxiliary_layer: str
    low_level_layer: str
    first_center: Callable[[int], int]


_resnet = functools.partial(
    Backbone,
    preprocess_input=keras.applications.resnet.preprocess_input,
    unit_pattern=r"conv5_block(\d)_2_conv",
    low_level_layer="conv2_block3_out",  # before the stage that reaches stride 8 (arXiv 1802.02611, section 4.1)
    first_center=lambda output_stride: 0,  # strided kernels are padded on both sides
)
_mobile = functools.partial(
    Backbone,
    unit_pattern=None,
    first_center=lambda output_stride: output_stride - 1,  # padded one more at bottom and right: 1 + 2 + 4 + ...
)
_from_minus_one_to_one = functools.partial(keras.applications.imagenet_utils.preprocess_input, mode="tf")
BACKBONES = {
    "resnet50": _resnet(keras.applications.ResNet50, auxiliary_layer="conv4_block6_out"),
    "resnet101": _resnet(keras.applications.ResNet101, auxiliary_layer="conv4_block23_out"),
    "resnet152": _resnet(keras.applications.ResNet152, auxiliary_layer="conv4_block36_out"),
    "mobilenet_v2": _mobile(
        keras.applications.MobileNetV2,
        preprocess_input=_from_minus_one_to_one,
        auxiliary_layer="block_12_add",
        low_level_layer="block_2_depthwise_relu",  # tensorflow/models, research/deeplab/core/feature_extractor.py
    ),
    "mobilenet_v3_large": _mobile(
        functools.partial(keras.applications.MobileNetV3Large, include_preprocessing=False),
        preprocess_input=_from_minus_one_to_one,
        auxiliary_layer="expanded_conv_11_add",
        low_level_layer="expanded_conv_2_add",
    ),
    "efficientnet_v2_b0": _mobile(
        functools.partial(keras.applications.EfficientNetV2B0, include_preprocessing=False),
        preprocess_input=functools.partial(keras.applications.imagenet_utils.preprocess_input, mode="torch"),
        auxiliary_layer="block5e_add",
        low_level_layer="block2b_add",
    ),
    "efficientnet_v2_s": _mobile(
        functools.partial(keras.applications.EfficientNetV2S, include_preprocessing=False),
        preprocess_input=lambda images: images / 128.0 - 1.0,
        auxiliary_layer="block5i_add",
        low_level_layer="block2d_add",
    ),
}


_OWN_KINDS: dict[type[keras.Layer], type[keras.Layer]] = {
    keras.layers.Conv2D: AtrousConv2D,
    keras.layers.DepthwiseConv2D: AtrousDepthwiseConv2D,
    keras.layers.BatchNormalization: BatchNormalization,
    keras.layers.Dropout: GlobalDropout,
}


def atrous_backbone(
    name: str,
    output_stride: int,
    weights: str | None,
    multi_grid: tuple[int, ...] = NO_MULTI_GRID,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
) -> keras.Model:
    """The named Keras application without its top, at `output_stride` (8, 16 or 32), for inputs of any size.

    A convolution that would exceed the output stride gets stride 1, and every spatial kernel that read the coarser
    grid reads the finer one with holes (arXiv 1706.05587, figure 3). Squeeze-and-excitation (MobileNetV3,
    EfficientNetV2) averages over the finer grid. All batch normalization is synchronized over replicas, and dropout
    does not depend on their number. A convolution before it has no bias, which it would subtract again: that of the
    application is folded into the moving mean. Input: float [batch, height, width, 3] as the application's own
    preprocessing returns it. Outputs: the last features, float [batch, height / output_stride, width /
    output_stride, channels] (ResNets round up, the others may be one short), the features of `auxiliary_layer`, at
    stride 16 or at the output stride if that is smaller, and those of `low_level_layer` at stride 4.

    Args:
        name: a key of `BACKBONES`.
        output_stride: 8, 16 or 32.
        weights: "imagenet" (Keras downloads and verifies them), None (random), or a path to a Keras weights file
            of this application without its top.
        multi_grid: factors for the dilation of the last stage's three units (section 3.1); ResNets only.
        batch_norm_momentum: momentum of all batch normalization.

    Raises:
        UsageError: multi-grid on a backbone without it.
        DataError: the weights cannot be fetched or read, or do not fit.
    """
    backbone = BACKBONES[name]
    if backbone.unit_pattern is None and multi_grid != NO_MULTI_GRID:
        raise UsageError(f"--multi_grid={','.join(map(str, multi_grid))}: {name} has no multi-grid units; leave it out")
    base = _build_base(backbone, name, weights)
    plan = _plan(base, output_stride, backbone.unit_pattern, multi_grid)
    folded = _biases_to_fold(base)

    def convert(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config() | plan[layer.name]
        if isinstance(layer, keras.layers.BatchNormalization):
            config |= {"synchronized": True, "momentum": batch_norm_momentum}
        if layer.name in folded:
            config |= {"use_bias": False}
        kind = _OWN_KINDS.get(type(layer), type(layer))
        return kind.from_config(config)

    atrous = keras.models.clone_model(base, clone_function=convert)
    for layer in base.layers:
        if layer.weights:
            weights_of_layer = layer.get_weights()
            atrous.get_layer(layer.name).set_weights(weights_of_layer[: 1 if layer.name in folded else None])
    for convolution, normalization in folded.items():
        atrous.get_layer(normalization).moving_mean.assign_sub(base.get_layer(convolution).bias)
    inner = [atrous.get_layer(layer).output for layer in (backbone.auxiliary_layer, backbone.low_level_layer)]
    return keras.Model(atrous.input, [atrous.output, *inner], name=atrous.name)


def fetch_imagenet(name: str) -> None:
    """Puts the weights into Keras's cache, unless they are there; other processes with the same cache wait meanwhile.

    Keras itself downloads into place, so that two processes damage each other's file. Not for a strategy's scope: with
    several workers a variable is created by all of them at the same time, so that a worker that waits stops the others.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if not os.access(home, os.W_OK):
        home = Path("/tmp/.keras")  # as Keras does
    with locked(home / "models", waits=True):
        _build_base(BACKBONES[name], name, "imagenet")


def _build_base(backbone: Backbone, name: str, weights: str | None) -> keras.Model:
    try:
        return backbone.build(include_top=False, weights=weights)
    except Exception as error:  # a failed download raises a plain Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"--backbone_weights={weights}: no weights of {name} without its top there ({reason}); "
            "give the path of a weights file, or none for random weights"
        ) from error


def _biases_to_fold(base: keras.Model) -> dict[str, str]:
    """Convolutions with a bias that only a batch normalization reads: names of both."""
    pairs = {}
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            source = layer.input._keras_history.operation
            if getattr(source, "use_bias", False) and len(source._outbound_nodes) == 1:
                pairs[source.name] = layer.name
    return pairs


def _plan(
    base: keras.Model, output_stride: int, unit_pattern: str | None, multi_grid: tuple[int, ...]
) -> dict[str, dict[str, object]]:
    """The changes to each layer's config, by layer name."""
    changes: dict[str, dict[str, object]] = {}
    nominal: dict[str, int] = {}  # stride of each layer's output in the classification network
    for layer in base.operations:
        # The stride of its output in the classification network, from those of its inputs.
        sources = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(layer.input)]
        before = max((nominal.get(source, 1) for source in sources), default=1)
        nominal[layer.name] = before * max(getattr(layer, "strides", (1, 1)))
        changes[layer.name] = {}
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            continue

        # Beyond `output_stride` nothing is strided; kernels are dilated instead, as if it were.
        stride_in = min(before, output_stride)
        stride_out = min(nominal[layer.name], output_stride)
        dilation = before // stride_in
        if unit_pattern and (unit := re.fullmatch(unit_pattern, layer.name)):
            dilation *= multi_grid[int(unit.group(1)) - 1]

        if stride_out // stride_in != max(layer.strides):
            changes[layer.name]["strides"] = (1, 1)
            if max(layer.kernel_size) > 1:
                # "same" keeps the output centered and as large as the input; the stride's own padding is removed.
                changes[layer.name]["padding"] = "same"
                if isinstance(base.get_layer(sources[0]), keras.layers.ZeroPadding2D):
                    changes[sources[0]] = {"padding": 0}
        if max(layer.kernel_size) > 1:
            changes[layer.name]["dilation_rate"] = (dilation, dilation)
    return changes
