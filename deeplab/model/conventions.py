"""What networks of the same architecture do otherwise: this project's conventions, and those of published weights.

A network is built from one `Backbone` and one `Head`; `FAMILIES` has those of each source of weights. They were read
in torchvision 0.29.1 (its models and models/segmentation), segmentation-models-pytorch 0.6.0 (decoders/deeplabv3 and
encoders) and tensorflow/models (research/deeplab and research/slim/nets/mobilenet).
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclass(frozen=True)
class Backbone:
    """A Keras application with its own input preprocessing, and what is changed in it.

    Attributes:
        build: makes the application.
        preprocess_input: takes RGB in [0, 255].
        unit_pattern: matches the names of the last stage's spatial convolutions and captures the number of the residual
            unit, which selects its multi-grid factor; None where multi-grid is not defined.
        auxiliary_layer: its features are those that an auxiliary head reads.
        low_level_layer: the one at stride 4 that a decoder reads.
        first_center: maps an output stride to the pixel (in each dimension) on which the receptive field of feature 0
            is centered; the field of feature i is centered `output_stride * i` pixels further.
        auxiliary_stride: the stride of `auxiliary_layer` in the classification network.
        auxiliary_filters: of an auxiliary head.
        last_layer: its output is the network's features; None: the application's own last layer.
        epsilon: added to the variance in batch normalization; None: the application's own.
        strides: those of layers that have another stride than in the application.
        pads_evenly: strided kernels are padded as much at the top and left as at the bottom and right.
        dilates_strided: a kernel that loses its stride is dilated as those after it, not as those before it.
    """

    build: "Callable[..., keras.Model]"
    preprocess_input: "Callable[[tf.Tensor], tf.Tensor]"
    unit_pattern: str | None
    auxiliary_layer: str
    low_level_layer: str
    first_center: Callable[[int], int]
    auxiliary_stride: int = 16
    auxiliary_filters: int = 256
    last_layer: str | None = None
    epsilon: float | None = None
    strides: Mapping[str, int] = field(default_factory=dict)
    pads_evenly: bool = False
    dilates_strided: bool = False


@dataclass(frozen=True)
class Head:
    """What follows the backbone.

    Attributes:
        alignment: where upsampling places features: "centers", each on its central pixel; "half_pixel", stretched over
            the image, whose corners are the corners of pixels; "corners", stretched between the centers of the
            outermost pixels of a grid that is finer by a whole number.
        has_refinement: ASPP's projection and its dropout are followed by one more 3x3 convolution.
        norm_in_separable: depthwise convolutions have batch normalization and ReLU of their own.
        decoder_blocks: 3x3 convolutions in the decoder.
        size_rest: images are extended at the bottom and right to a multiple of the output stride plus this, by zeros
            after preprocessing; None: images of any size are taken as they are.
    """

    alignment: str = "centers"
    has_refinement: bool = False
    norm_in_separable: bool = True
    decoder_blocks: int = 2
    size_rest: int | None = None


@dataclass(frozen=True)
class Family:
    """The conventions of one source of weights: of its backbones, by their names here, and of its DeepLab."""

    backbones: Mapping[str, Backbone]
    head: Head = Head()


def _application(name: str, **settings: object) -> "Callable[..., keras.Model]":
    """What builds a Keras application."""
    return lambda **arguments: getattr(_applications(), name)(**settings, **arguments)


def _preprocessing(mode: str) -> "Callable[[tf.Tensor], tf.Tensor]":
    """Keras's preprocessing of one of its kinds."""
    return lambda images: _applications().imagenet_utils.preprocess_input(images, mode=mode)


def _applications() -> Any:  # noqa: ANN401  a module
    """Imported only when it is needed: flags are checked against these names before TensorFlow is there."""
    return importlib.import_module("keras").applications


_resnet = functools.partial(
    Backbone,
    preprocess_input=_preprocessing("caffe"),
    unit_pattern=r"conv5_block(\d)_2_conv",
    low_level_layer="conv2_block3_out",  # before the stage that reaches stride 8 (arXiv 1802.02611, section 4.1)
    first_center=lambda output_stride: 0,  # strided kernels are padded on both sides
)
_mobile = functools.partial(
    Backbone,
    unit_pattern=None,
    first_center=lambda output_stride: output_stride - 1,  # padded one more at bottom and right: 1 + 2 + 4 + ...
)
_from_minus_one_to_one = _preprocessing("tf")
_by_mean_and_deviation = _preprocessing("torch")
BACKBONES = {
    "resnet50": _resnet(_application("ResNet50"), auxiliary_layer="conv4_block6_out"),
    "resnet101": _resnet(_application("ResNet101"), auxiliary_layer="conv4_block23_out"),
    "resnet152": _resnet(_application("ResNet152"), auxiliary_layer="conv4_block36_out"),
    "mobilenet_v2": _mobile(
        _application("MobileNetV2"),
        preprocess_input=_from_minus_one_to_one,
        auxiliary_layer="block_12_add",
        low_level_layer="block_2_depthwise_relu",  # tensorflow/models, research/deeplab/core/feature_extractor.py
    ),
    "mobilenet_v3_large": _mobile(
        _application("MobileNetV3Large", include_preprocessing=False),
        preprocess_input=_from_minus_one_to_one,
        auxiliary_layer="expanded_conv_11_add",
        low_level_layer="expanded_conv_2_add",
    ),
    "efficientnet_v2_b0": _mobile(
        _application("EfficientNetV2B0", include_preprocessing=False),
        preprocess_input=_by_mean_and_deviation,
        auxiliary_layer="block5e_add",
        low_level_layer="block2b_add",
    ),
    "efficientnet_v2_s": _mobile(
        _application("EfficientNetV2S", include_preprocessing=False),
        preprocess_input=lambda images: images / 128.0 - 1.0,
        auxiliary_layer="block5i_add",
        low_level_layer="block2d_add",
    ),
}
"""Of networks that are trained from scratch or from Keras's weights."""

_RESNETS = ("resnet50", "resnet101", "resnet152")
_STRIDED_3X3 = {f"conv{stage}_block1_{number}_conv": number for stage in (3, 4, 5) for number in (1, 2)}
"""Of a stage's first block: 1 in the 1x1 convolution, 2 in the 3x3 one after it."""


def _of_torch(name: str, epsilon: float) -> Backbone:
    """A backbone with the padding and the preprocessing of PyTorch's model collections."""
    return replace(
        BACKBONES[name],
        preprocess_input=_by_mean_and_deviation,
        first_center=lambda output_stride: 0,
        epsilon=epsilon,
        pads_evenly=True,
    )


_TORCH_RESNETS = {name: replace(_of_torch(name, 1e-5), strides=_STRIDED_3X3) for name in _RESNETS}

KERAS = "keras"
FAMILIES = {
    KERAS: Family(BACKBONES),
    "torchvision": Family(
        {
            **_TORCH_RESNETS,
            "mobilenet_v2": _of_torch("mobilenet_v2", 1e-5),
            "mobilenet_v3_large": replace(
                _of_torch("mobilenet_v3_large", 1e-3),
                dilates_strided=True,
                auxiliary_layer="expanded_conv_3_project_bn",
                auxiliary_stride=8,
                auxiliary_filters=10,
            ),
            "efficientnet_v2_s": _of_torch("efficientnet_v2_s", 1e-3),
        },
        Head(alignment="half_pixel", has_refinement=True),
    ),
    "smp": Family(
        {name: replace(each, dilates_strided=True) for name, each in _TORCH_RESNETS.items()},
        # It refuses images whose sides are no multiples of the output stride.
        Head(alignment="corners", has_refinement=True, norm_in_separable=False, decoder_blocks=1, size_rest=0),
    ),
    "research_deeplab": Family(
        {
            "mobilenet_v2": replace(
                BACKBONES["mobilenet_v2"],
                last_layer="block_16_project_BN",
                # TensorFlow's "same", which at these sizes is even.
                first_center=lambda output_stride: 0,
                pads_evenly=True,
            )
        },
        # Its crops, and the canvas that it predicts on, are such: 513 = 16 * 32 + 1.
        Head(size_rest=1),
    ),
}
"""By the names that `ModelConfig` records."""
