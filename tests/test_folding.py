"""Networks with folded batch normalisation against the networks themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy

from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.folding import FoldedNetwork
from deeplab.model.inference import Predictor
from deeplab.model.settings import ModelConfig

CONFIGS = {
    "resnet50": ModelConfig(("a", "b"), backbone="resnet50"),
    "mobilenet_v2 at stride 8": ModelConfig(("a", "b"), backbone="mobilenet_v2", output_stride=8),
    "mobilenet_v3_large, separable": ModelConfig(("a", "b"), backbone="mobilenet_v3_large", separable_aspp=True),
    "efficientnet_v2_b0 with decoder": ModelConfig(("a", "b"), backbone="efficientnet_v2_b0", decoder=True),
}


def _as_after_training(model, seed):
    """Statistics that keep the size of the features, so that rounding is not amplified from layer to layer."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        name = variable.path.rpartition("/")[2]
        if name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.8, 1.25, variable.shape))
        elif name in ("moving_mean", "beta"):
            variable.assign(rng.normal(0, 0.1, variable.shape))


def _norms(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _norms(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equals_the_network_up_to_rounding(config):
    """No batch normalisation is left, and the weights are those of the last time they were read."""
    model = build_deeplabv3(config)
    images = np.random.default_rng(0).integers(0, 256, (1, 65, 97, 3)).astype(np.float32)
    folded = FoldedNetwork(model)
    assert list(_norms(model)) and not list(_norms(folded.network))
    for seed in (1, 2):
        _as_after_training(model, seed)
        expected = model(images, training=False).numpy()
        before = folded.network(images, training=False).numpy()
        assert np.abs(before - expected).max() > 1e-2 * np.abs(expected).max()
        folded.read_weights()
        found = folded.network(images, training=False).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_a_bias_before_it_and_a_convolution_with_two_readers():
    """The bias is part of the offset; what others read as well stays as it is."""
    images = keras.Input((None, None, 3))
    shared = keras.layers.Conv2D(4, 3, name="shared")(images)
    normalized = keras.layers.BatchNormalization(name="stays")(shared)
    outputs = keras.layers.Conv2D(4, 1, name="with_bias")(keras.layers.Add()([shared, normalized]))
    outputs = keras.layers.BatchNormalization(name="goes")(outputs)
    model = keras.Model(images, outputs)
    rng = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    folded = FoldedNetwork(model)
    assert [norm.name for norm in _norms(folded.network)] == ["stays"]
    pixels = rng.normal(size=(1, 9, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(folded.network(pixels), model(pixels), rtol=1e-5)


def test_each_replica_has_the_folded_weights():
    strategy = make_strategy(2)
    with strategy.scope():
        model = build_deeplabv3(ModelConfig(("a", "b"), backbone="mobilenet_v2"))
        folded = FoldedNetwork(model)
    _as_after_training(model, 4)
    folded.read_weights()
    for variable in folded.network.variables:
        first, second = strategy.experimental_local_results(variable.value)
        assert first.device != second.device
        np.testing.assert_array_equal(first, second)
    images = np.random.default_rng(5).integers(0, 256, (1, 40, 40, 3)).astype(np.float32)
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(folded.network(images), expected, atol=2e-5 * np.abs(expected).max())


def test_half_precisions_are_not_folded():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_deeplabv3(ModelConfig(("a", "b"), backbone="mobilenet_v2"))
        assert Predictor(model).network is model
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_original_is_left_as_it_was():
    model = build_deeplabv3(ModelConfig(("a", "b"), backbone="mobilenet_v2"))
    names = [(variable.path, variable.shape) for variable in model.weights]
    weights = model.get_weights()
    FoldedNetwork(model)
    FoldedNetwork(model)
    assert [(variable.path, variable.shape) for variable in model.weights] == names
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    with tf.GradientTape() as tape:
        outputs = model(tf.ones([1, 33, 33, 3]), training=True)
    assert all(gradient is not None for gradient in tape.gradient(outputs, model.trainable_variables))
