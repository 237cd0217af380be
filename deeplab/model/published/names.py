"""The names that published files give to the layers of these networks, and how they lay out the variables of a layer.

Tensors are matched by name, never by their order: a .safetensors file has none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from deeplab.model.head import FILTERS

_DEPTHWISE = keras.layers.DepthwiseConv2D


@dataclass(frozen=True)
class Layout:
    """How a framework stores the variables of a layer.

    Attributes:
        names: a layer's variable here -> the end of the tensor's name.
        depthwise_kernel: the same for the kernel of a depthwise convolution.
        kernel_axes: the axes of a stored kernel in the order height, width, inputs, outputs.
        depthwise_axes: the same for depthwise kernels: height, width, channels, 1.
    """

    names: Mapping[str, str]
    depthwise_kernel: str
    kernel_axes: tuple[int, ...]
    depthwise_axes: tuple[int, ...]

    def name(self, module: str, layer: keras.Layer, variable: str) -> str:
        """The name of the tensor of a layer's variable, whose layer the file calls `module`."""
        is_depthwise = isinstance(layer, _DEPTHWISE) and variable == "kernel"
        return module + (self.depthwise_kernel if is_depthwise else self.names[variable])

    def axes(self, layer: keras.Layer, rank: int) -> tuple[int, ...]:
        """The order of a stored tensor's axes here."""
        if rank < 4:
            return tuple(range(rank))
        return self.depthwise_axes if isinstance(layer, _DEPTHWISE) else self.kernel_axes


_TORCH = Layout(
    names={
        "kernel": ".weight",
        "bias": ".bias",
        "gamma": ".weight",
        "beta": ".bias",
        "moving_mean": ".running_mean",
        "moving_variance": ".running_var",
    },
    depthwise_kernel=".weight",
    kernel_axes=(2, 3, 1, 0),
    depthwise_axes=(2, 3, 0, 1),
)
_SLIM = Layout(
    names={
        "kernel": "/weights",
        "bias": "/biases",
        "gamma": "/BatchNorm/gamma",
        "beta": "/BatchNorm/beta",
        "moving_mean": "/BatchNorm/moving_mean",
        "moving_variance": "/BatchNorm/moving_variance",
    },
    depthwise_kernel="/depthwise_weights",
    kernel_axes=(0, 1, 2, 3),
    depthwise_axes=(0, 1, 2, 3),
)
_KERAS = Layout(
    names={name: f"/{name}" for name in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")},
    depthwise_kernel="/kernel",
    kernel_axes=(0, 1, 2, 3),
    depthwise_axes=(0, 1, 2, 3),
)


@dataclass(frozen=True)
class Names:
    """Where a file keeps the weights of a network.

    Attributes:
        module: the name of a layer here -> the file's name of it; KeyError for a layer that the file does not have.
        layout: how it stores a layer's variables.
        left_out: a pattern of tensors that are not part of the network: counters, a classifier of images.
        adjusted: changes of a layer's kernel, which is already in the order of axes here.
    """

    module: Callable[[str], str]
    layout: Layout
    left_out: str
    adjusted: Mapping[str, Callable[[np.ndarray], np.ndarray]]


def keras_layer(layer: str) -> str:
    """A layer's name in the spelling that Keras 2 and 3 share: MobileNetV3's was Conv/BatchNorm, it is conv_bn."""
    return layer.lower().replace("/batchnorm", "_bn").replace("/", "_")


KERAS_NAMES = Names(keras_layer, _KERAS, "", {})
"""Of `keras_file.read_keras`."""


def _resnet(layer: str) -> str:
    if block := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer):
        stage, unit, number, kind = block.groups()
        place = f"{kind}{number}" if number != "0" else f"downsample.{int(kind == 'bn')}"
        return f"layer{int(stage) - 1}.{int(unit) - 1}.{place}"
    return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[layer]


def _mobilenet_v2(layer: str) -> str:
    if layer.startswith("expanded_conv_"):
        places = {"depthwise": "0.0", "depthwise_BN": "0.1", "project": "1", "project_BN": "2"}
        return f"features.1.conv.{places[layer.removeprefix('expanded_conv_')]}"
    if block := re.fullmatch(r"block_(\d+)_(\w+)", layer):
        places = {"expand": "0.0", "expand_BN": "0.1", "depthwise": "1.0", "depthwise_BN": "1.1"}
        places |= {"project": "2", "project_BN": "3"}
        return f"features.{int(block.group(1)) + 1}.conv.{places[block.group(2)]}"
    ends = {"Conv1": "0.0", "bn_Conv1": "0.1", "Conv_1": "18.0", "Conv_1_bn": "18.1"}
    return f"features.{ends[layer]}"


_WITH_SQUEEZE = (3, 4, 5, 10, 11, 12, 13, 14)
"""MobileNetV3-Large's blocks with squeeze-and-excitation, arXiv 1905.02244, table 1; the first is 0."""


def _mobilenet_v3(layer: str) -> str:
    if block := re.fullmatch(r"expanded_conv(?:_(\d+))?_(expand|depthwise|squeeze_excite|project)_?(\w*)", layer):
        number = int(block.group(1) or 0)
        parts = ["expand"] * (number > 0) + ["depthwise"] + ["squeeze_excite"] * (number in _WITH_SQUEEZE) + ["project"]
        inner = {"": "0", "bn": "1", "conv": "fc1", "conv_1": "fc2"}[block.group(3)]
        return f"features.{number + 1}.block.{parts.index(block.group(2))}.{inner}"
    return f"features.{ {'conv': '0.0', 'conv_bn': '0.1', 'conv_1': '16.0', 'conv_1_bn': '16.1'}[layer] }"


def _efficientnet_v2_s(layer: str) -> str:
    if block := re.fullmatch(r"block(\d)([a-z])_(\w+)", layer):
        stage, letter, part = block.groups()
        if stage == "1":  # no expansion
            places = {"project_conv": "0.0", "project_bn": "0.1"}
        elif stage in "23":  # expansion and 3x3 are one convolution
            places = {"expand_conv": "0.0", "expand_bn": "0.1", "project_conv": "1.0", "project_bn": "1.1"}
        else:
            places = {"expand_conv": "0.0", "expand_bn": "0.1", "dwconv2": "1.0", "bn": "1.1"}
            places |= {"se_reduce": "2.fc1", "se_expand": "2.fc2", "project_conv": "3.0", "project_bn": "3.1"}
        return f"features.{stage}.{ord(letter) - ord('a')}.block.{places[part]}"
    return f"features.{ {'stem_conv': '0.0', 'stem_bn': '0.1', 'top_conv': '7.0', 'top_bn': '7.1'}[layer] }"


_OF_TORCH: dict[str, Callable[[str], str]] = {
    "resnet50": _resnet,
    "resnet101": _resnet,
    "resnet152": _resnet,
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_large": _mobilenet_v3,
    "efficientnet_v2_s": _efficientnet_v2_s,
}
_COUNTERS = r".*\.num_batches_tracked"


def _block(name: str, convolution: str, norm: str) -> dict[str, str]:
    """The two layers of a `ConvBlock`."""
    return {f"{name}_conv": convolution, f"{name}_bn": norm}


def _separable_block(name: str, convolutions: str, norm: str) -> dict[str, str]:
    """The same for a separable one without batch normalization between its convolutions."""
    return {f"{name}_depthwise": f"{convolutions}.0", **_block(name, f"{convolutions}.1", norm)}


def _aspp(place: str, separable: bool) -> dict[str, str]:
    """The layers of ASPP in torchvision's form, which smp uses too."""
    layers = _block("aspp_1x1", f"{place}.convs.0.0", f"{place}.convs.0.1")
    for number in (1, 2, 3):
        branch = f"{place}.convs.{number}"
        block = _separable_block if separable else _block
        layers |= block(f"aspp_3x3_{number}", f"{branch}.0", f"{branch}.1")
    layers |= _block("aspp_pooled", f"{place}.convs.4.1", f"{place}.convs.4.2")
    return layers | _block("aspp_project", f"{place}.project.0", f"{place}.project.1")


_TORCHVISION_HEAD = {
    **_aspp("classifier.0", separable=False),
    **_block("refinement", "classifier.1", "classifier.2"),
    "logits": "classifier.4",
    **_block("auxiliary", "aux_classifier.0", "aux_classifier.1"),
    "auxiliary_logits": "aux_classifier.4",
}
_SMP_V3_HEAD = {
    **_aspp("decoder.aspp", separable=False),
    **_block("refinement", "decoder.conv", "decoder.bn"),
    "logits": "segmentation_head.0",
}
_SMP_V3_PLUS_HEAD = {
    **_aspp("decoder.aspp.0", separable=True),
    **_separable_block("refinement", "decoder.aspp.1", "decoder.aspp.2"),
    **_block("decoder_low_level", "decoder.block1.0", "decoder.block1.1"),
    **_separable_block("decoder_3x3_1", "decoder.block2.0", "decoder.block2.1"),
    "logits": "segmentation_head.0",
}


def torch_backbone(backbone: str) -> Names:
    """Of torchvision's classifiers, and of timm's ResNets, which have the same names."""
    return Names(_OF_TORCH[backbone], _TORCH, rf"{_COUNTERS}|fc\..*|classifier\..*", {})


def torchvision_deeplab(backbone: str) -> Names:
    """Of torchvision's DeepLab v3."""
    of_backbone = _OF_TORCH[backbone]

    def module(layer: str) -> str:
        if layer in _TORCHVISION_HEAD:
            return _TORCHVISION_HEAD[layer]
        return f"backbone.{of_backbone(layer).removeprefix('features.')}"

    return Names(module, _TORCH, _COUNTERS, {})


def smp_deeplab(backbone: str, decoder: bool) -> Names:
    """Of segmentation-models-pytorch's DeepLabV3, or DeepLabV3Plus with `decoder`."""
    head = _SMP_V3_PLUS_HEAD if decoder else _SMP_V3_HEAD
    of_backbone = _OF_TORCH[backbone]

    def module(layer: str) -> str:
        return head[layer] if layer in head else f"encoder.{of_backbone(layer)}"

    return Names(module, _TORCH, _COUNTERS, {})


def research_deeplab() -> Names:
    """Of the checkpoints of tensorflow/models, research/deeplab, on MobileNetV2."""
    head = {
        **_block("aspp_1x1", "aspp0", "aspp0"),
        **_block("aspp_pooled", "image_pooling", "image_pooling"),
        **_block("aspp_project", "concat_projection", "concat_projection"),
        "logits": "logits/semantic",
    }

    def module(layer: str) -> str:
        if layer in head:
            return head[layer]
        if layer in ("Conv1", "bn_Conv1"):
            return "MobilenetV2/Conv"
        block = re.fullmatch(r"(?:block_(\d+)|expanded_conv)_(expand|depthwise|project)(?:_BN)?", layer)
        if not block:
            raise KeyError(layer)
        number = f"_{block.group(1)}" if block.group(1) else ""
        return f"MobilenetV2/expanded_conv{number}/{block.group(2)}"

    # Its image pooling is the first of the branches that are projected, here it is the last.
    adjusted = {"aspp_project_conv": lambda kernel: np.roll(kernel, -FILTERS, axis=2)}
    return Names(module, _SLIM, r"global_step|.*/(Momentum|ExponentialMovingAverage|RMSProp(_1)?)", adjusted)
