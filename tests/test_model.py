"""The network: atrous backbones against Keras's own, the head, preprocessing, upsampling."""

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy, skip_without_kernels

from deeplab.errors import DataError, UsageError
from deeplab.model import backbone
from deeplab.model.backbone import atrous_backbone
from deeplab.model.convolution import AtrousConv2D
from deeplab.model.deeplabv3 import (
    aspp_dilations,
    build_deeplabv3,
    build_to_train,
    fetch_weights,
    freeze_batch_norm,
    without_auxiliary_head,
)
from deeplab.model.dropout import GlobalDropout
from deeplab.model.head import AlignedUpsampling, Grid
from deeplab.model.normalization import BatchNormalization
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.run.checkpoints import restore_model


def _randomize(model, seed=0):
    """Sets weights, including batch-normalisation statistics, that make every layer's effect visible."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(0, 1, variable.shape) / max(1, np.prod(variable.shape[:-1])) ** 0.5
        positive = variable.path.endswith(("gamma", "moving_variance"))
        variable.assign(1 + 0.2 * np.abs(value) if positive else value)


def _open_gates(model):
    """Makes squeeze-and-excitation independent of the mean over the image."""
    for layer in model.layers:
        if layer.name.endswith(("_se_expand", "_squeeze_excite_conv_1")):
            layer.kernel.assign(tf.zeros(layer.kernel.shape))


NAMES = [name for name in backbone.BACKBONES if name not in ("resnet101", "resnet152")]


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


def resnet_biases(*blocks):
    """The biases of Keras's ResNets: three in a block, and one in the shortcut of the first of a stage."""
    return 64 + sum(number * 6 * width + 4 * width for number, width in zip(blocks, (64, 128, 256, 512), strict=True))


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


@functools.cache
def _constant_network(name, output_stride):
    model = atrous_backbone(name, output_stride, None)
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(tf.fill(variable.shape, 1e-3) if "kernel" in variable.path else tf.zeros(variable.shape))
            if variable.path.endswith(("gamma", "moving_variance")):
                variable.assign(tf.ones(variable.shape))
    _open_gates(model)
    return model


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "efficientnet_v2_s"])  # B0 has the same strides
@pytest.mark.parametrize(
    ("output_stride", "which", "stride", "size", "num_images"),
    [(8, 0, 8, 544, 1), (16, 0, 16, 545, 1), (32, 1, 16, 544, 1), (16, 2, 4, 128, 64), (16, 2, 4, 129, 64)],
)
def test_features_are_centered_where_the_upsampling_takes_them_to_be(
    name, output_stride, which, stride, size, num_images, axis
):
    """With constant kernels, a feature's gradient with respect to the pixels is symmetric around its centre.

    The images are noise, so that no maximum of the pooling is a tie; over small fields, the maxima of many images are
    needed to cancel. Fields are at most 491 pixels wide, those at stride 4 at most 63; across the axis a
    width does over which the maxima cancel.
    """
    whole = _constant_network(name, output_stride)
    model = keras.Model(whole.input, whole.outputs[which])
    shape = [min(size, 160)] * 2
    shape[axis] = size
    row, column = (length // 2 // stride for length in shape)
    images = tf.Variable(np.random.default_rng(0).random((num_images, *shape, 3)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        feature = tf.reduce_sum(tf.math.log(model(images, training=False)[:, row, column]))
    felt = tape.gradient(feature, images).numpy().astype(np.float64)
    along = felt.sum((0, 2 - axis, 3))
    center = stride * (size // 2 // stride) + backbone.BACKBONES[name].first_center(stride)
    assert np.average(np.arange(size), weights=along) == pytest.approx(center, abs=0.5)


def test_upsampling_is_tensorflows_resize_between_the_centers():
    """Values and gradients; at the edges the outermost logits repeat."""
    logits = tf.random.stateless_normal([2, 4, 6, 3], [0, 1])
    output_gradients = tf.random.stateless_normal([2, 50, 90, 3], [0, 2])

    def plain(logits):
        logits = tf.pad(logits, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        dense = tf.raw_ops.ResizeBilinear(images=logits, size=[5 * 16 + 1, 7 * 16 + 1], align_corners=True)
        return dense[:, 16 - 5 : 16 - 5 + 50, 16 - 5 : 16 - 5 + 90]

    layer = AlignedUpsampling(Grid(16, 5), name="upsampling")
    results = []
    for form in (plain, lambda logits: layer(logits, tf.zeros([2, 50, 90, 3]))):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            dense = form(logits)
        results.append((dense, tape.gradient(dense, logits, output_gradients=output_gradients)))
    for expected, result in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("first_center", [0, 3])
def test_upsampling_puts_each_logit_on_its_center(first_center):
    """Against NumPy's linear interpolation between the centres 4 i + first_centre, the edge repeated outside."""
    small = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    upsampling = AlignedUpsampling(Grid(4, first_center), name="up")
    result = upsampling(small[np.newaxis, :, :, np.newaxis], np.zeros((1, 11, 7, 3), np.uint8))[0, :, :, 0]
    rows = np.stack([np.interp(np.arange(11), 4 * np.arange(3) + first_center, column) for column in small.T], 1)
    expected = np.stack([np.interp(np.arange(7), 4 * np.arange(2) + first_center, row) for row in rows])
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-5)])
def test_features_are_upsampled_to_the_grid_of_others(dtype, tolerance):
    """MobileNetV2's: stride 16 from pixel 15 on, to stride 4 from pixel 3 on; in bfloat16 the weights are exact."""
    skip_without_kernels(dtype)
    small = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    upsampling = AlignedUpsampling(Grid(16, 15), Grid(4, 3), name="up", dtype=dtype)
    result = upsampling(small[np.newaxis, :, :, np.newaxis], np.zeros((1, 11, 7, 5), np.float32))
    rows = np.stack([np.interp(4 * np.arange(11) + 3, 16 * np.arange(3) + 15, column) for column in small.T], 1)
    expected = np.stack([np.interp(4 * np.arange(7) + 3, 16 * np.arange(2) + 15, row) for row in rows])
    np.testing.assert_allclose(tf.cast(result[0, :, :, 0], tf.float32), expected, rtol=tolerance, atol=tolerance)


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


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_a_pixels_logits_do_not_depend_on_the_size_of_the_image(name):
    """Only the backbone under the upsampling (ASPP sees the whole image); pixels far from the seam are equal."""
    network = atrous_backbone(name, 16, None)
    _randomize(network)
    upsampling = AlignedUpsampling(Grid(16, backbone.BACKBONES[name].first_center(16)), name="up")
    image = np.random.default_rng(0).normal(size=(1, 420, 420, 3)).astype(np.float32)
    large, small = (
        upsampling(network(part, training=False)[0], part).numpy() for part in (image, image[:, :397, :389])
    )
    near = np.s_[:, :32, :32]
    np.testing.assert_allclose(small[near], large[near], rtol=1e-3, atol=1e-3 * np.abs(large).max())


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


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_do_not_fit_are_rejected(weights_file, tmp_path):
    name, _, path = weights_file
    other = "mobilenet_v2" if name == "resnet50" else "resnet50"
    first = {"mobilenet_v2": "conv1/kernel for Conv1", "resnet50": "conv1_conv/kernel for conv1_conv"}[other]
    with pytest.raises(DataError, match=f"no tensor {first}, which has the shape"):
        atrous_backbone(other, 16, path)
    with pytest.raises(DataError, match="backbone_weights=nowhere"):
        atrous_backbone(name, 16, "nowhere")


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
