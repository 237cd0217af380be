"""Atrous backbones against Keras's own: features, dilation, preprocessing and where weights come from."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_backbones import NAMES, _open_gates, _randomize, resnet_biases

from deeplab.errors import DataError, UsageError
from deeplab.model import backbone
from deeplab.model.backbone import atrous_backbone
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.deeplabv3 import fetch_weights
from deeplab.model.dropout import GlobalDropout
from deeplab.model.normalization import BatchNormalization
from deeplab.model.settings import InitSettings, ModelConfig


@pytest.fixture(scope="module", params=NAMES)
def weights_file(request, tmp_path_factory):
    """(backbone, its Keras application with random weights, the file of these weights)."""
    base = backbone.BACKBONES[request.param].build(include_top=False, weights=None)
    _randomize(base)
    path = tmp_path_factory.mktemp("weights") / "base.weights.h5"
    base.save_weights(path)
    return request.param, base, str(path)


def test_at_stride_32_it_is_the_keras_application(weights_file, monkeypatch):
    """Bit for bit with Keras's forms of convolution and batch normalisation, and up to rounding with our own.

    Up to rounding as well where biases are folded into it.
    """
    name, base, path = weights_file
    images = np.random.default_rng(1).normal(0, 50, (1, 96, 64, 3)).astype(np.float32)
    expected = base(images).numpy()
    result = atrous_backbone(name, 32, path)(images)[0]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    monkeypatch.setattr(BatchNormalization, "call", keras.layers.BatchNormalization.call)
    monkeypatch.setattr(AtrousConv2D, "convolution_op", keras.layers.Conv2D.convolution_op)
    tolerance = 1e-5 * np.abs(expected).max() if name == "resnet50" else 0
    np.testing.assert_allclose(atrous_backbone(name, 32, path)(images)[0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "conv4_blocks", "parameters"), [("resnet101", 23, 42_658_176), ("resnet152", 36, 58_370_944)]
)
def test_deeper_resnets_are_made_atrous_by_the_same_function(name, conv4_blocks, parameters):
    """Parameters: Keras's table of applications, less the classifier of 2048 x 1000 + 1000 and the folded biases."""
    model = atrous_backbone(name, 8, None)
    conv3_blocks = {"resnet101": 4, "resnet152": 8}[name]
    assert model.count_params() == parameters - resnet_biases(3, conv3_blocks, conv4_blocks, 3)
    for block in range(1, conv4_blocks + 1):
        assert model.get_layer(f"conv4_block{block}_2_conv").dilation_rate[0] == 2
    assert [model.get_layer(f"conv5_block{n}_2_conv").dilation_rate[0] for n in (1, 2, 3)] == [4, 4, 4]
    assert [shape[-1] for shape in model.output_shape] == [2048, 1024, 256]


@pytest.mark.parametrize("name", NAMES)
def test_dense_features_hold_the_strided_ones(name, tmp_path):
    """arXiv 1706.05587, figure 3: sampling the atrous features on the stride-32 grid gives the strided network's.

    The strided kernels of the mobile networks are padded one more at the bottom and right than at the top and left, the
    atrous ones equally: their grid starts one further. Squeeze-and-excitation averages over another grid.
    """
    base = backbone.BACKBONES[name].build(include_top=False, weights=None)
    _randomize(base)
    _open_gates(base)
    base.save_weights(tmp_path / "base.weights.h5")
    images = np.random.default_rng(1).normal(0, 2, (1, 128, 128, 3)).astype(np.float32)
    strided = base(images).numpy()
    scale = np.abs(strided).max()
    for output_stride in (8, 16):
        dense = atrous_backbone(name, output_stride, str(tmp_path / "base.weights.h5"))(images)[0].numpy()
        assert dense.shape[1:3] == (128 // output_stride, 128 // output_stride)
        step = 32 // output_stride
        first = 0 if name == "resnet50" else step - 1
        np.testing.assert_allclose(dense[:, first::step, first::step] / scale, strided / scale, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "application", "parameters", "auxiliary", "low_level"),
    [
        ("mobilenet_v3_large", keras.applications.MobileNetV3Large, 5_507_432 - 960 * 1280 - 1280, 112, 24),
        ("efficientnet_v2_b0", keras.applications.EfficientNetV2B0, 7_200_312, 112, 32),
        ("efficientnet_v2_s", keras.applications.EfficientNetV2S, 21_612_360, 160, 48),
    ],
)
def test_newer_backbones_are_kerass_with_their_own_preprocessing(name, application, parameters, auxiliary, low_level):
    """Parameters: of the whole networks, less the classifier of 1280 x 1000 + 1000. Keras's begin with the pixels."""
    model = atrous_backbone(name, 16, None)
    assert model.count_params() == parameters - 1280 * 1000 - 1000
    assert [shape[-1] for shape in model.output_shape[1:]] == [auxiliary, low_level]
    whole = application(include_top=False, weights=None)
    scaled = keras.Model(whole.input, whole.get_layer("conv" if "mobile" in name else "stem_conv").input)
    pixels = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1).repeat(3, -1)
    result = backbone.BACKBONES[name].preprocess_input(tf.constant(pixels))
    np.testing.assert_allclose(result, scaled(pixels), rtol=1e-5, atol=1e-5)


def test_dropout_of_whole_images_is_all_or_nothing():
    """Stochastic depth of EfficientNetV2: one draw for each image, and the kept ones are scaled by 1 / 0.75."""
    features = np.random.default_rng(0).uniform(1, 2, (400, 2, 3, 5)).astype(np.float32)
    keras.utils.set_random_seed(0)
    dropped = GlobalDropout(0.25, noise_shape=(None, 1, 1, 1))(features, training=True).numpy()
    kept = dropped.any((1, 2, 3))
    assert 240 < kept.sum() < 360  # 300 expected, with a standard deviation of 9
    np.testing.assert_allclose(dropped, features / 0.75 * kept[:, np.newaxis, np.newaxis, np.newaxis], rtol=1e-6)


def test_multi_grid_sets_the_rates_of_conv5():
    model = atrous_backbone("resnet50", 16, None, (1, 2, 4))
    rates = [model.get_layer(f"conv5_block{unit}_2_conv").dilation_rate[0] for unit in (1, 2, 3)]
    assert rates == [2, 4, 8]
    assert model.get_layer("conv4_block1_2_conv").dilation_rate == (1, 1)
    with pytest.raises(UsageError, match="no multi-grid"):
        atrous_backbone("mobilenet_v2", 16, None, (1, 2, 4))


class Application:
    """A Keras application whose weights are fetched as Keras does: straight into place, unless they are there."""

    def __init__(self, path):
        self.path, self.num_fetched = path, 0

    def __call__(self, include_top, weights):
        assert weights == "imagenet"
        if not self.path.exists():
            self.num_fetched += 1
            with self.path.open("w") as file:
                file.write("first half, ")
                time.sleep(0.2)
                file.write("second half")
        assert self.path.read_text() == "first half, second half"


def test_one_process_fetches_imagenets_weights_and_the_others_wait(tmp_path, monkeypatch):
    """Threads stand in for processes: the lock is one of open files."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    application = Application(tmp_path / "weights.h5")
    monkeypatch.setitem(backbone.BACKBONES, "resnet50", replace(backbone.BACKBONES["resnet50"], build=application))
    config = ModelConfig(("a", "b"))
    with ThreadPoolExecutor(4) as pool:
        for fetched in [pool.submit(fetch_weights, config, InitSettings(), False) for _ in range(4)]:
            fetched.result()
    assert application.num_fetched == 1


@pytest.mark.parametrize(("weights", "has_weights"), [("none", False), ("some.weights.h5", False), ("imagenet", True)])
def test_nothing_is_fetched_without_need(tmp_path, monkeypatch, weights, has_weights):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    fetch_weights(ModelConfig(("a", "b")), InitSettings(backbone_weights=weights), has_weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_do_not_fit_are_rejected(weights_file, tmp_path):
    name, _, path = weights_file
    other = "mobilenet_v2" if name == "resnet50" else "resnet50"
    first = {"mobilenet_v2": "conv1/kernel for Conv1", "resnet50": "conv1_conv/kernel for conv1_conv"}[other]
    with pytest.raises(DataError, match=f"no tensor {first}, which has the shape"):
        atrous_backbone(other, 16, path)
    with pytest.raises(DataError, match="backbone_weights=nowhere"):
        atrous_backbone(name, 16, "nowhere")
