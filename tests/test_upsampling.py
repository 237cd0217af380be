"""Features are centered where the upsampling takes them to be, and their logits are put there."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from all_backbones import NAMES, _open_gates, _randomize
from conftest import skip_without_kernels

from deeplab.model import backbone
from deeplab.model.backbone import atrous_backbone
from deeplab.model.head import AlignedUpsampling, Grid


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
