"""Which DeepLab a file holds, by the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeplab.errors import DataError, UsageError
from deeplab.labels import VOID_LABEL
from deeplab.model.published.names import Names, research_deeplab, smp_deeplab, torchvision_deeplab
from deeplab.model.settings import ModelConfig

_DILATIONS = (12, 24, 36)
"""Of ASPP in torchvision and in segmentation-models-pytorch, at every output stride."""

_RESNETS = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
"""By the number of blocks in the last stage but one."""


@dataclass(frozen=True)
class Recognized:
    """A DeepLab of others.

    Attributes:
        title: what it is, for the log.
        config: its network, with numbered classes.
        names: where its file keeps the weights.
        has_auxiliary_head: whether the file has one.
        published_classes: whether 21 classes are VOC's, as in the files that its authors published.
    """

    title: str
    config: ModelConfig
    names: Names
    has_auxiliary_head: bool
    published_classes: bool


def recognize(tensors: Mapping[str, np.ndarray], output_stride: int | None, source: str) -> Recognized:
    """The network whose weights these are.

    Args:
        tensors: what the file holds, by its names.
        output_stride: of the network, which no file tells; None: the usual one of such networks.
        source: the file, for errors.

    Raises:
        DataError: none of the networks that are known, or a number of classes that no mask can hold.
        UsageError: rates that ASPP cannot have at this output stride.
    """
    if "classifier.4.weight" in tensors:
        return _of_torchvision(tensors, output_stride, source)
    if "segmentation_head.0.weight" in tensors and any(name.startswith("decoder.aspp.") for name in tensors):
        return _of_smp(tensors, output_stride, source)
    if "logits/semantic/weights" in tensors and "MobilenetV2/Conv/weights" in tensors:
        return _of_research(tensors, output_stride, source)
    raise DataError(
        f"{source}: {len(tensors)} tensors, the first is {min(tensors)}; they are of none of the networks that can be "
        "imported (docs/weights.md); weights of a backbone go to train.py --backbone_weights"
    )


def _of_torchvision(tensors: Mapping[str, np.ndarray], output_stride: int | None, source: str) -> Recognized:
    if "backbone.16.0.weight" in tensors:
        backbone = "mobilenet_v3_large"
        stride = output_stride or 16
    else:
        backbone = _resnet(tensors, "backbone", source)
        stride = output_stride or 8
    config = ModelConfig(
        _numbered(tensors, "classifier.4.weight", 0, source),
        backbone,
        stride,
        _rates(stride),
        dropout_rate=0.5,
        backbone_family="torchvision",
        head_family="torchvision",
    )
    has_auxiliary_head = "aux_classifier.4.weight" in tensors
    names = torchvision_deeplab(backbone)
    return Recognized("torchvision's DeepLab v3", config, names, has_auxiliary_head, published_classes=True)


def _of_smp(tensors: Mapping[str, np.ndarray], output_stride: int | None, source: str) -> Recognized:
    backbone = _resnet(tensors, "encoder", source)
    is_plus = "decoder.block1.0.weight" in tensors
    stride = output_stride or (16 if is_plus else 8)
    config = ModelConfig(
        _numbered(tensors, "segmentation_head.0.weight", 0, source),
        backbone,
        stride,
        _rates(stride),
        separable_aspp=is_plus,
        decoder=is_plus,
        separable_decoder=is_plus,
        dropout_rate=0.5,
        backbone_family="smp",
        head_family="smp",
    )
    title = f"segmentation-models-pytorch's DeepLabV3{'Plus' if is_plus else ''}"
    return Recognized(title, config, smp_deeplab(backbone, is_plus), False, published_classes=False)


def _of_research(tensors: Mapping[str, np.ndarray], output_stride: int | None, source: str) -> Recognized:
    if "aspp1/weights" in tensors or any(name.startswith("decoder/") for name in tensors):
        raise DataError(f"{source}: MobileNetV2 with atrous branches or a decoder, which no published checkpoint has")
    config = ModelConfig(
        _numbered(tensors, "logits/semantic/weights", 3, source),
        "mobilenet_v2",
        output_stride or 16,
        atrous_rates=(),
        backbone_family="research_deeplab",
        head_family="research_deeplab",
    )
    return Recognized("DeepLab v3 of research/deeplab", config, research_deeplab(), False, published_classes=True)


def _resnet(tensors: Mapping[str, np.ndarray], prefix: str, source: str) -> str:
    """Which ResNet it is, by its depth; DataError for another one."""
    blocks = {match.group(1) for name in tensors if (match := re.match(rf"{prefix}\.layer3\.(\d+)\.conv3\.", name))}
    if len(blocks) not in _RESNETS:
        raise DataError(f"{source}: its backbone is none of {', '.join(_RESNETS.values())} and MobileNetV3-Large")
    return _RESNETS[len(blocks)]


def _numbered(tensors: Mapping[str, np.ndarray], classifier: str, axis: int, source: str) -> tuple[str, ...]:
    """Names for the outputs of a classifier, a kernel with four axes; DataError for another one."""
    shape = tensors[classifier].shape
    if len(shape) != 4:
        raise DataError(f"{source}: {classifier} has the shape {shape}, and a classifier has four axes")
    number = shape[axis]
    if number == 1:
        raise DataError(
            f"{source}: one class, the default of segmentation-models-pytorch: a sigmoid tells it from the background; "
            "networks here choose between 2 classes or more"
        )
    if not 2 <= number <= VOID_LABEL:
        raise DataError(f"{source}: {number:,} classes; networks here have 2 to {VOID_LABEL}, which masks can hold")
    return tuple(f"class_{index}" for index in range(number))


def _rates(output_stride: int) -> tuple[int, ...]:
    """ASPP's rates as `ModelConfig` has them, at stride 16."""
    if output_stride > 16:
        raise UsageError(f"--output_stride={output_stride}: these networks have 8 or 16")
    return tuple(dilation * output_stride // 16 for dilation in _DILATIONS)
