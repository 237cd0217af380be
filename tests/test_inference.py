"""Averaging over scales, mirrored images and windows, against NumPy references of one pass for each view."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab.model.deeplabv3 import build_deeplabv3
from deeplab.model.inference import MIN_SIDE, Predictor
from deeplab.model.settings import Inference, ModelConfig

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.fixture(scope="module")
def model(tiny_backbone):
    keras.utils.set_random_seed(1)
    network = build_deeplabv3(ModelConfig(("a", "b", "c"), backbone="tiny"))
    logits = network.get_layer("logits")
    logits.kernel.assign(30 * logits.kernel)  # so that random weights predict more than one class
    return network


def _resize(array, height, width):
    """Bilinear with half-pixel centres and repeated edges, float64, one axis at a time."""
    for axis, size in ((0, height), (1, width)):
        length = array.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        below = np.floor(position).astype(int)
        share = (position - below).reshape([-1 if each == axis else 1 for each in range(3)])
        above = np.minimum(below + 1, length - 1)
        array = (1 - share) * np.take(array, below, axis) + share * np.take(array, above, axis)
    return array


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@functools.cache
def _one_pass(model):
    """The logits of one image or window, a float64 array, extended with black if it is small; traced once."""
    any_size = tf.TensorSpec([1, None, None, 3], tf.float32)
    passed = tf.function(lambda images: model(images, training=False), input_signature=[any_size])

    def logits(image):
        height, width, _ = image.shape
        extended = np.pad(image, [(0, max(0, MIN_SIDE - height)), (0, max(0, MIN_SIDE - width)), (0, 0)])
        return passed(extended[np.newaxis].astype(np.float32))[0, :height, :width].numpy().astype(np.float64)

    return logits


def _reference(model, image, scales, flip):
    """Mean probabilities of one image, [height, width, classes]: one pass of the network per view."""
    height, width, _ = image.shape
    total, count = 0.0, 0
    for mirrored in (False, True)[: 1 + flip]:
        view = image[:, ::-1] if mirrored else image
        for scale in scales:
            scaled = _resize(view.astype(np.float64), round(scale * height), round(scale * width))
            probabilities = _softmax(_resize(_one_pass(model)(scaled), height, width))
            total = total + (probabilities[:, ::-1] if mirrored else probabilities)
            count += 1
    return total / count


def _probabilities(model, images, inference):
    predict = tf.function(Predictor(model, inference))
    return tf.nn.softmax(predict(tf.constant(images))).numpy()


@pytest.mark.parametrize(
    ("scales", "flip"), [((1.0,), True), ((0.75,), False), (PAPER_SCALES, True)], ids=["flip", "scale", "all"]
)
def test_scales_and_flip_equal_single_passes(model, scales, flip):
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 92, 3)).astype(np.uint8)
    found = _probabilities(model, images, Inference(scales, flip))
    for image, result in zip(images, found, strict=True):
        np.testing.assert_allclose(result, _reference(model, image, scales, flip), atol=1e-5)


def test_scales_and_flip_equal_single_passes_on_a_real_image(model, voc_sample):
    with Image.open(voc_sample / "JPEGImages" / "2007_000032.jpg") as picture:
        image = np.array(picture)
    found = _probabilities(model, image[np.newaxis], Inference(PAPER_SCALES, flip=True))
    np.testing.assert_allclose(found[0], _reference(model, image, PAPER_SCALES, True), atol=1e-5)


def test_one_window_is_the_whole_image(model):
    images = np.random.default_rng(1).integers(0, 256, (1, 50, 70, 3)).astype(np.uint8)
    whole = Predictor(model)(images)
    np.testing.assert_array_equal(Predictor(model, Inference(window_size=70))(images), whole)


@pytest.mark.parametrize(("window_size", "overlap"), [(48, 1 / 3), (64, 0.0), (40, 0.75)])
def test_windows_equal_single_passes(model, window_size, overlap):
    """Every pixel is covered, neighbours overlap as required, and each pixel's mean is over its windows."""
    image = np.random.default_rng(2).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    total, count = np.zeros((100, 130, 3)), np.zeros((100, 130, 1))
    sides = []
    for length in image.shape[:2]:
        windows = 1
        while windows * window_size - (windows - 1) * int(np.floor(overlap * window_size)) < length:
            windows += 1
        starts = np.round(np.linspace(0, length - window_size, windows)).astype(int)
        assert starts[-1] + window_size == length
        assert (np.diff(starts) <= window_size * (1 - overlap) + 1).all()
        sides.append(starts)
    for top in sides[0]:
        for left in sides[1]:
            here = np.s_[top : top + window_size, left : left + window_size]
            total[here] += _softmax(_one_pass(model)(image[here]))
            count[here] += 1
    found = _probabilities(model, image[np.newaxis], Inference(window_size=window_size, window_overlap=overlap))
    assert len(sides[0]) * len(sides[1]) > 4
    np.testing.assert_allclose(found[0], total / count, atol=1e-5)


def test_windows_of_scaled_images(model):
    """At scale 0.5 the image is one window, so windows change nothing."""
    images = np.random.default_rng(3).integers(0, 256, (1, 80, 80, 3)).astype(np.uint8)
    with_windows = _probabilities(model, images, Inference((0.5,), window_size=48))
    np.testing.assert_allclose(with_windows, _probabilities(model, images, Inference((0.5,))), atol=1e-6)
