"""The whole network: its head and decoder, parameters, sizes, preprocessing and batch normalization."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_backbones import _randomize, resnet_biases
from conftest import make_strategy

from deeplab.errors import UsageError
from deeplab.model.deeplabv3 import (
    aspp_dilations,
    build_deeplabv3,
    build_to_train,
    freeze_batch_norm,
    without_auxiliary_head,
)
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.run.checkpoints import restore_model


def test_preprocessing_is_bgr_minus_imagenet_mean():
    model = build_deeplabv3(ModelConfig(("a", "b")))
    pixel = np.array([[[[200, 100, 50]]]], np.uint8)
    result = model.get_layer("preprocess")(pixel)[0, 0, 0]
    np.testing.assert_allclose(result, [50 - 103.939, 100 - 116.779, 200 - 123.68], rtol=1e-6)


def test_parameters_add_up():
    """By hand: ResNet-50 without its top 23,587,712 (Keras) less biases; ASPP, projection and classifier by shape."""
    model = build_deeplabv3(ModelConfig(tuple(f"c{index}" for index in range(21))))
    batch_norm = 4 * 256
    aspp = (2048 * 256 + batch_norm) + 3 * (9 * 2048 * 256 + batch_norm) + (2048 * 256 + batch_norm)
    head = (5 * 256 * 256 + batch_norm) + (256 * 21 + 21)
    assert model.count_params() == 23_587_712 - resnet_biases(3, 4, 6, 3) + aspp + head


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_any_size_goes_in_and_comes_out(output_stride):
    model = build_deeplabv3(ModelConfig(("a", "b", "c"), backbone="mobilenet_v2", output_stride=output_stride))
    rates = [model.get_layer(f"aspp_3x3_{n}_conv").dilation_rate[0] for n in (1, 2, 3)]
    assert rates == [rate * 16 // output_stride for rate in (6, 12, 18)]
    for height, width in ((97, 65), (33, 130)):
        logits = model(np.zeros((2, height, width, 3), np.uint8))
        assert logits.shape == (2, height, width, 3) and logits.dtype == tf.float32


def test_the_decoders_parameters_by_hand():
    """arXiv 1802.02611, section 4.1: 48 channels of low-level features, two 3x3 of 256; each with four of BatchNorm."""
    networks = {
        name: build_deeplabv3(ModelConfig(("a", "b", "c"), backbone="resnet50", **choices))
        for name, choices in {
            "v3": {},
            "v3+": {"decoder": True},
            "separable": {"decoder": True, "separable_decoder": True},
            "aspp": {"separable_aspp": True},
        }.items()
    }
    counts = {name: model.count_params() for name, model in networks.items()}
    low_level = 256 * 48 + 4 * 48
    assert counts["v3+"] - counts["v3"] == low_level + 9 * (256 + 48) * 256 + 9 * 256 * 256 + 2 * 4 * 256
    depthwise = sum((9 + 4) * channels + channels * 256 for channels in (256 + 48, 256))
    assert counts["separable"] - counts["v3"] == low_level + depthwise + 2 * 4 * 256
    assert counts["v3"] - counts["aspp"] == 3 * (9 * 2048 * 256 - (9 + 4) * 2048 - 2048 * 256)
    with pytest.raises(UsageError, match="--separable_decoder: needs --decoder"):
        ModelConfig(separable_decoder=True)


def test_an_auxiliary_head_leaves_the_network_as_it_is(tmp_path):
    """The first output, the parameters and the checkpoint of the main network are the same with and without it."""
    config = ModelConfig(("a", "b"), backbone="mobilenet_v2")
    training_model = build_deeplabv3(config, auxiliary_head=True)
    _randomize(training_model)
    model, plain = without_auxiliary_head(training_model), build_deeplabv3(config)
    added = training_model.count_params() - plain.count_params()
    assert added == 9 * 96 * 256 + 4 * 256 + 256 * 2 + 2  # 3x3 on MobileNetV2's 96 channels, norm, classifier
    assert [v.path for v in model.weights] == [v.path for v in plain.weights]
    checkpoint = tf.train.Checkpoint(model=model, training_model=training_model)
    restore_model(plain, checkpoint.save(str(tmp_path / "ckpt")))
    images = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 3)).astype(np.uint8)
    logits, auxiliary = training_model(images, training=False)
    assert auxiliary.shape == logits.shape == (1, 50, 70, 2)
    assert np.abs(logits - auxiliary).max() > 1e-3
    for network in (model, plain):
        np.testing.assert_allclose(network(images, training=False), logits, rtol=1e-5, atol=1e-5)


def test_every_batch_normalization_is_synchronized():
    model = build_deeplabv3(ModelConfig(("a", "b"), backbone="mobilenet_v2"))
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(layers) == 52 + 6  # MobileNetV2's, and the head's
    assert all(layer.synchronized for layer in layers)


def test_synchronisation_can_be_left_out(caplog):
    caplog.set_level("INFO", "deeplab")
    config, init = ModelConfig(("a", "b"), backbone="mobilenet_v2"), InitSettings("none", sync_batch_norm=False)
    for num_replicas in (1, 2):
        with make_strategy(num_replicas).scope():
            _, model = build_to_train(config, init, has_weights=False, auxiliary_head=False)
        layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
        assert not any(layer.synchronized for layer in layers)
        assert ("each of 2 replicas uses its own statistics" in caplog.text) == (num_replicas == 2)


@pytest.mark.parametrize(("output_stride", "dilations"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_atrous_rates_follow_the_output_stride(output_stride, dilations):
    assert aspp_dilations(ModelConfig(("a",), output_stride=output_stride)) == dilations


def test_odd_rates_at_stride_32_are_rejected():
    with pytest.raises(UsageError, match="atrous rate 3: odd, but output stride 32 halves the rates; use even rates"):
        aspp_dilations(ModelConfig(("a",), output_stride=32, atrous_rates=(2, 3)))


def test_config_survives_json():
    config = ModelConfig(("a", "b"), multi_grid=(1, 2, 4))
    assert ModelConfig.from_json(config.to_json()) == config


def test_frozen_batch_normalization_is_the_same_in_training():
    model = build_deeplabv3(ModelConfig(("a", "b"), backbone="mobilenet_v2", dropout_rate=0.0))
    freeze_batch_norm(model)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    before = [weight.copy() for weight in model.get_weights()]
    np.testing.assert_allclose(model(images, training=True), model(images, training=False), atol=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert not [v.path for v in model.trainable_variables if v.path.endswith(("gamma", "beta"))]
    assert len(model.trainable_variables) == len([v for v in model.variables if v.path.endswith(("kernel", "bias"))])
