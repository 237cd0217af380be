"""Keras applications made atrous: strides beyond the output stride become dilation; names and weights are kept."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras

from deeplab.errors import DataError, UsageError
from deeplab.files import locked
from deeplab.model.conventions import BACKBONES, FAMILIES, KERAS, Backbone
from deeplab.model.convolution import AtrousConv2D, AtrousDepthwiseConv2D
from deeplab.model.dropout import GlobalDropout
from deeplab.model.initial_values import are_drawn
from deeplab.model.normalization import BatchNormalization
from deeplab.model.published.files import is_of_keras, read_tensors
from deeplab.model.published.keras_file import read_keras
from deeplab.model.published.names import KERAS_NAMES, torch_backbone
from deeplab.model.published.transfer import transfer
from deeplab.model.settings import BATCH_NORM_MOMENTUM, IMAGENET, NO_MULTI_GRID, NO_WEIGHTS

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
    family: str = KERAS,
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
        weights: "imagenet" (Keras downloads and verifies them), None (random), or a path to weights of this
            architecture: a file of Keras if `family` is Keras, else one of PyTorch or .safetensors.
        multi_grid: factors for the dilation of the last stage's three units (section 3.1); ResNets only.
        batch_norm_momentum: momentum of all batch normalization.
        family: a key of `FAMILIES`, whose conventions apply.

    Raises:
        UsageError: multi-grid on a backbone without it, or weights of another family.
        DataError: the weights cannot be fetched or read, or do not fit.
    """
    backbone = FAMILIES[family].backbones[name]
    if backbone.unit_pattern is None and multi_grid != NO_MULTI_GRID:
        raise UsageError(f"--multi_grid={','.join(map(str, multi_grid))}: {name} has no multi-grid units; leave it out")
    if weights is not None and (family == KERAS) != (family_of_weights(weights) == KERAS):
        raise UsageError(f"--backbone_weights={weights}: not for a network with the conventions of {family}")
    base = _build_base(backbone, name, weights)
    if backbone.last_layer is not None:
        base = keras.Model(base.input, base.get_layer(backbone.last_layer).output, name=base.name)
    plan = _plan(base, backbone, output_stride, multi_grid)
    folded = _biases_to_fold(base)

    def convert(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config() | plan[layer.name]
        if isinstance(layer, keras.layers.BatchNormalization):
            config |= {"synchronized": True, "momentum": batch_norm_momentum}
            config |= {} if backbone.epsilon is None else {"epsilon": backbone.epsilon}
        if layer.name in folded:
            config |= {"use_bias": False}
        kind = _OWN_KINDS.get(type(layer), type(layer))
        return kind.from_config(config)

    atrous = keras.models.clone_model(base, clone_function=convert)
    if weights is not None or are_drawn():
        _copy_weights(base, atrous, folded)
    if weights is not None and family != KERAS:
        transfer(atrous, read_tensors(Path(weights)), torch_backbone(name), f"--backbone_weights={weights}")
    inner = [atrous.get_layer(layer).output for layer in (backbone.auxiliary_layer, backbone.low_level_layer)]
    return keras.Model(atrous.input, [atrous.output, *inner], name=atrous.name)


def family_of_weights(weights: str) -> str:
    """The family whose conventions a value of --backbone_weights has been trained with; DataError for no such file."""
    if weights in (IMAGENET, NO_WEIGHTS):
        return KERAS
    try:
        return KERAS if is_of_keras(Path(weights)) else "torchvision"
    except OSError as error:
        raise DataError(
            f"--backbone_weights={weights}: {error.strerror or error}; give the path of a weights file, or none for "
            "random weights"
        ) from error


def fetch_imagenet(name: str) -> None:
    """Puts the weights into Keras's cache, unless they are there; other processes with the same cache wait meanwhile.

    Keras itself downloads into place, so that two processes damage each other's file. Not for a strategy's scope: with
    several workers a variable is created by all of them at the same time, so that a worker that waits stops the others.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if not os.access(home, os.W_OK):
        home = Path("/tmp/.keras")  # as Keras does
    with locked(home / "models", waits=True):
        _build_base(BACKBONES[name], name, IMAGENET)


def _build_base(backbone: Backbone, name: str, weights: str | None) -> keras.Model:
    """The application, with ImageNet's weights or those of a file of Keras; others are left to the caller."""
    if weights is None and not are_drawn():
        return _without_weights(backbone)
    if weights != IMAGENET:
        base = backbone.build(include_top=False, weights=None)
        if weights is not None and is_of_keras(Path(weights)):
            transfer(base, read_keras(Path(weights), base), KERAS_NAMES, f"--backbone_weights={weights}")
        return base
    try:
        return backbone.build(include_top=False, weights=IMAGENET)
    except Exception as error:  # a failed download raises a plain Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"--backbone_weights={weights}: no weights of {name} without its top there ({reason}); "
            "give the path of a weights file, or none for random weights"
        ) from error


def _without_weights(backbone: Backbone) -> keras.Model:
    """The application as a plan of layers, whose weights have a shape but no values.

    Keras keeps a list for each thread of what is to get values later; the list of this one ends with it.
    """
    policy = keras.config.dtype_policy()

    def build() -> keras.Model:
        keras.config.set_dtype_policy(policy)
        with keras.StatelessScope(initialize_variables=False):
            return backbone.build(include_top=False, weights=None)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(build).result()


def _copy_weights(base: keras.Model, atrous: keras.Model, folded: dict[str, str]) -> None:
    """Gives the layers those of the application; biases in `folded` go into the moving mean of the named layers."""
    for layer in base.layers:
        if layer.weights:
            weights_of_layer = layer.get_weights()
            atrous.get_layer(layer.name).set_weights(weights_of_layer[: 1 if layer.name in folded else None])
    for convolution, normalization in folded.items():
        atrous.get_layer(normalization).moving_mean.assign_sub(base.get_layer(convolution).bias)


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
    base: keras.Model, backbone: Backbone, output_stride: int, multi_grid: tuple[int, ...]
) -> dict[str, dict[str, object]]:
    """The changes to each layer's config, by layer name."""
    changes: dict[str, dict[str, object]] = {}
    nominal: dict[str, int] = {}  # stride of each layer's output in the classification network
    for layer in base.operations:
        # The stride of its output in the classification network, from those of its inputs.
        sources = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(layer.input)]
        before = max((nominal.get(source, 1) for source in sources), default=1)
        stride = backbone.strides.get(layer.name, max(getattr(layer, "strides", (1, 1))))
        nominal[layer.name] = before * stride
        changes[layer.name] = {}
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            continue

        # Beyond `output_stride` nothing is strided; kernels are dilated instead, as if it were.
        stride_in = min(before, output_stride)
        stride_out = min(nominal[layer.name], output_stride)
        is_strided = stride_out > stride_in
        dilation = before // stride_in
        if backbone.dilates_strided and not is_strided:
            dilation = nominal[layer.name] // stride_out
        if backbone.unit_pattern and (unit := re.fullmatch(backbone.unit_pattern, layer.name)):
            dilation *= multi_grid[int(unit.group(1)) - 1]

        strides = (stride_out // stride_in,) * 2
        if strides != layer.strides:
            changes[layer.name]["strides"] = strides
        if max(layer.kernel_size) == 1:
            continue
        changes[layer.name]["dilation_rate"] = (dilation, dilation)
        if strides != layer.strides or (is_strided and backbone.pads_evenly):
            # "same" keeps the output centered and as large as the input; the stride's own padding is removed.
            changes[layer.name]["padding"] = "same"
            if isinstance(base.get_layer(sources[0]), keras.layers.ZeroPadding2D):
                changes[sources[0]] = {"padding": 0}
        if is_strided and backbone.pads_evenly:
            changes[layer.name]["pads_evenly"] = True
    return changes
