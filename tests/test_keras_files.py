"""The network as a Keras model: saved, loaded and cloned."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab.model.deeplabv3 import build_deeplabv3, freeze_batch_norm, unsynchronize_batch_norm
from deeplab.model.inference import Predictor
from deeplab.model.settings import ModelConfig

NAMES = ("background", "thing", "other")
ONE_OF_EACH_FAMILY = ["resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_v2_b0"]
IMAGES = np.random.default_rng(0).integers(0, 256, (1, 45, 38, 3), np.uint8)

LOAD = """
import sys
import deeplab.api
import keras
import numpy as np
images = np.load(sys.argv[1])
np.save(sys.argv[3], keras.models.load_model(sys.argv[2])(images))
"""


def _trained(config, **settings):
    """A network whose statistics differ from layer to layer."""
    keras.utils.set_random_seed(1)
    model = build_deeplabv3(config, **settings)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.path.rpartition("/")[2] in ("moving_mean", "moving_variance", "gamma", "beta"):
            variable.assign(rng.uniform(0.8, 1.25, variable.shape))
    return model


def _leaves(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _settings(model):
    return [
        (type(layer), layer.name, layer.trainable, layer.dtype_policy.name, getattr(layer, "synchronized", None))
        for layer in _leaves(model)
    ]


@pytest.mark.parametrize("backbone", ONE_OF_EACH_FAMILY)
def test_a_network_is_built_again_from_its_config(backbone):
    model = build_deeplabv3(ModelConfig(NAMES, backbone, decoder=True, separable_aspp=True))
    again = keras.Model.from_config(model.get_config())
    assert _settings(again) == _settings(model)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("decoder", [False, True])
def test_a_loaded_network_gives_the_same_logits(tmp_path, ending, decoder):
    model = _trained(ModelConfig(NAMES, "mobilenet_v2", output_stride=8, decoder=decoder))
    if decoder:
        freeze_batch_norm(model)
    else:
        unsynchronize_batch_norm(model)
    model.save(tmp_path / f"model.{ending}")
    loaded = keras.models.load_model(tmp_path / f"model.{ending}")
    assert _settings(loaded) == _settings(model)
    expected = model(IMAGES).numpy()
    assert expected.std() > 0
    np.testing.assert_array_equal(loaded(IMAGES), expected)


def test_the_folded_network_and_the_one_to_train_are_saved_too(tmp_path):
    model = _trained(ModelConfig(NAMES, "mobilenet_v2"), auxiliary_head=True)
    folded = Predictor(keras.Model(model.input, model.outputs[0])).network
    for network in (model, folded):
        network.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for result, expected in zip(*map(keras.tree.flatten, (loaded(IMAGES), network(IMAGES))), strict=True):
            np.testing.assert_array_equal(result, expected)


def test_a_clone_computes_the_same():
    model = _trained(ModelConfig(NAMES, "mobilenet_v2", decoder=True, separable_decoder=True))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(IMAGES), model(IMAGES))
    assert not {id(variable) for variable in clone.variables} & {id(variable) for variable in model.variables}


def test_a_loaded_network_can_be_trained(tmp_path):
    """Normalisation in training is that of our layers; dropout, which Keras seeds anew, is left out."""
    model = _trained(ModelConfig(NAMES, "mobilenet_v2", dropout_rate=0.0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = tf.cast(np.tile(IMAGES, (2, 1, 1, 1)), tf.float32)
    np.testing.assert_array_equal(loaded(images, training=True), model(images, training=True))
    for variable, expected in zip(loaded.non_trainable_variables, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)


@pytest.mark.slow
def test_another_process_loads_it_with_one_import(tmp_path):
    model = _trained(ModelConfig(NAMES, "mobilenet_v2", decoder=True))
    np.save(tmp_path / "images.npy", IMAGES)
    for ending in ("keras", "h5"):
        model.save(tmp_path / f"model.{ending}")
        arguments = [tmp_path / "images.npy", tmp_path / f"model.{ending}", tmp_path / "logits.npy"]
        subprocess.run([sys.executable, "-c", LOAD, *arguments], check=True, timeout=300)
        np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model(IMAGES), rtol=1e-5, atol=1e-5)
