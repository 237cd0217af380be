"""DeepLab v3 (arXiv 1706.05587, section 3.3) and v3+ (arXiv 1802.02611): backbone, head and bilinear upsampling."""

import logging
from collections.abc import Iterator

import keras
import tensorflow as tf

from deeplab.errors import UsageError
from deeplab.model.backbone import atrous_backbone, fetch_imagenet
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.dropout import GlobalDropout
from deeplab.model.head import LOW_LEVEL_STRIDE, AlignedUpsampling, ConvBlock, Grid, aspp, decoder
from deeplab.model.preprocessing import Preprocess
from deeplab.model.published.transfer import leaves
from deeplab.model.recomputation import RecomputedNetwork
from deeplab.model.settings import BATCH_NORM_MOMENTUM, IMAGENET, NO_WEIGHTS, InitSettings, ModelConfig

logger = logging.getLogger("deeplab")

AUXILIARY_DROPOUT = 0.1
"""That of mmsegmentation's and of torchvision's FCNHead."""


def build_deeplabv3(
    config: ModelConfig,
    backbone_weights: str | None = None,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    auxiliary_head: bool = False,
) -> keras.Model:
    """The network. Input: RGB [batch, height, width, 3] in [0, 255], uint8 or float, of any size.

    Output: float32 logits [batch, height, width, num_classes] at the input's size; with an auxiliary head, a list of
    these and the head's logits. Under a mixed dtype policy the logits and their upsampling stay float32.

    Args:
        config: what to build.
        backbone_weights: as for `atrous_backbone`.
        batch_norm_momentum: momentum of all batch normalization; it matters only in training.
        auxiliary_head: add a small FCN on the features of the last stage but one, which only training needs (arXiv
            1612.01105, section 4, in the form of mmsegmentation's FCNHead: 3x3 to 256, dropout 0.1, 1x1).

    Raises:
        DataError: as `atrous_backbone`.
        UsageError: as `atrous_backbone` and `aspp_dilations`.
    """
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    head = config.head_conventions
    extends = head.size_rest is not None
    preprocess = Preprocess(
        config.backbone,
        config.backbone_family,
        size_multiple=config.output_stride if extends else 0,
        size_rest=head.size_rest or 0,
        name="preprocess",
    )
    backbone = atrous_backbone(
        config.backbone,
        config.output_stride,
        backbone_weights,
        config.multi_grid,
        batch_norm_momentum,
        config.backbone_family,
    )
    features, auxiliary, low_level = backbone(preprocess(images))

    # The head; dropout acts on the last features, or before the refinement.
    block = ConvBlock(batch_norm_momentum, config.batch_norm_epsilon, head.norm_in_separable)
    features = aspp(features, aspp_dilations(config), block, config.separable_aspp)
    if head.has_refinement:
        features = GlobalDropout(config.dropout_rate, name="head_dropout")(features)
        features = block(features, 3, name="refinement", separable=config.separable_aspp)
    stride = config.output_stride
    if config.decoder:
        upsampling = _upsampling(config, stride, LOW_LEVEL_STRIDE, "decoder_upsampled")
        features = decoder(features, low_level, upsampling, block, head.decoder_blocks, config.separable_decoder)
        stride = LOW_LEVEL_STRIDE
    if not head.has_refinement:
        features = GlobalDropout(config.dropout_rate, name="head_dropout")(features)
    logits = _classify(features, images, config, stride)
    if not auxiliary_head:
        return keras.Model(images, logits, name="deeplabv3")

    conventions = config.backbone_conventions
    auxiliary = block(auxiliary, 3, name="auxiliary", filters=conventions.auxiliary_filters)
    auxiliary = GlobalDropout(min(config.dropout_rate, AUXILIARY_DROPOUT), name="auxiliary_head_dropout")(auxiliary)
    stride = min(config.output_stride, conventions.auxiliary_stride)
    auxiliary = _classify(auxiliary, images, config, stride, "auxiliary_")
    return keras.Model(images, [logits, auxiliary], name="deeplabv3_and_auxiliary")


def fetch_weights(config: ModelConfig, init: InitSettings, has_weights: bool) -> None:
    """Fetches what `build_to_train` will read; see `backbone.fetch_imagenet`."""
    if init.backbone_weights == IMAGENET and not has_weights:
        fetch_imagenet(config.backbone)


def build_to_train(
    config: ModelConfig,
    init: InitSettings,
    *,
    has_weights: bool,
    auxiliary_head: bool,
    frozen_backbone: bool = False,
    recompute: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """The network, and the model to train: the network itself, or the network with an auxiliary head.

    With `has_weights` no weights are fetched, since a checkpoint is restored later. A frozen backbone keeps its
    weights and its statistics. With `recompute` the model to train takes less memory. Raises as `build_deeplabv3`.
    """
    weights = None if has_weights or init.backbone_weights == NO_WEIGHTS else init.backbone_weights
    training_model = build_deeplabv3(config, weights, init.batch_norm_momentum, auxiliary_head)
    if init.freeze_batch_norm:
        freeze_batch_norm(training_model)
    elif not init.sync_batch_norm:
        unsynchronize_batch_norm(training_model)
    if frozen_backbone:
        backbone_of(training_model).trainable = False
    model = without_auxiliary_head(training_model)
    if recompute:
        training_model = RecomputedNetwork(training_model.input, training_model.output, name=training_model.name)
    return model, training_model


def without_auxiliary_head(model: keras.Model) -> keras.Model:
    """The network with only the first output: the same layers, as `build_deeplabv3` builds it for inference."""
    return keras.Model(model.input, model.outputs[0], name="deeplabv3") if len(model.outputs) > 1 else model


def _classify(features: tf.Tensor, images: tf.Tensor, config: ModelConfig, stride: int, prefix: str = "") -> tf.Tensor:
    """Features at `stride` -> float32 logits at the size of the images."""
    logits = AtrousConv2D(config.num_classes, 1, dtype="float32", name=f"{prefix}logits")(features)
    return _upsampling(config, stride, 1, f"{prefix}upsampled_logits", dtype="float32")(logits, images)


def _upsampling(
    config: ModelConfig, stride: int, target_stride: int, name: str, dtype: str | None = None
) -> AlignedUpsampling:
    """From features at one stride to those at another, or to pixels."""
    first_center = config.backbone_conventions.first_center
    source = Grid(stride, first_center(stride))
    target = Grid(target_stride, first_center(target_stride))
    return AlignedUpsampling(source, target, config.head_conventions.alignment, name=name, dtype=dtype)


def aspp_dilations(config: ModelConfig) -> list[int]:
    """The dilation of each 3x3 branch at the config's output stride; UsageError for one that is not a whole number."""
    dilations = []
    for rate in config.atrous_rates:
        dilation, rest = divmod(rate * 16, config.output_stride)
        if rest:
            raise UsageError(f"atrous rate {rate}: odd, but output stride 32 halves the rates; use even rates")
        dilations.append(dilation)
    return dilations


def freeze_batch_norm(model: keras.Model) -> None:
    """Makes batch normalization use its moving statistics in training and keep its scale and shift (section 4.1)."""
    for layer in _batch_norm_layers(model):
        layer.trainable = False


def backbone_of(model: keras.Model) -> keras.Model:
    """The backbone in a network of `build_deeplabv3`."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def unsynchronize_batch_norm(model: keras.Model) -> None:
    """Makes batch normalization use each replica's own statistics in training."""
    for layer in _batch_norm_layers(model):
        layer.synchronized = False
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if num_replicas > 1:
        logger.info(
            "batch normalization: each of %d replicas uses its own statistics; the moving ones are averaged",
            num_replicas,
        )


def _batch_norm_layers(model: keras.Model) -> Iterator[keras.Layer]:
    return (layer for layer in leaves(model) if isinstance(layer, keras.layers.BatchNormalization))
