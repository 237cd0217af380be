"""Windows one after the other, against NumPy's sums over the whole image; the network is a formula."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab.model.inference import classes_of
from deeplab.model.windows import Windows

SIZES = (  # height, width, windows' size, overlap, windows at a time
    (10, 13, 6, 1 / 3, 1),
    (10, 13, 6, 0.0, 2),
    (50, 30, 8, 0.75, 3),
    (5, 40, 9, 0.5, 4),
    (40, 5, 9, 0.9, 1),
)


def _scores(windows):
    """Scores that depend on the pixel and on the window that it is in."""
    red, green, blue = tf.unstack(0.02 * tf.cast(windows, tf.float32), axis=-1)
    return tf.stack([red, green + tf.reduce_mean(blue, (1, 2), keepdims=True), blue], -1)


def _starts(length, size, overlap):
    window = min(size, length)
    stride = max(round(size * (1 - overlap)), 1)
    return np.round(np.linspace(0, length - window, max(-(-(length - window) // stride), 0) + 1)).astype(int)


def _mean(images, size, overlap):
    """The mean probabilities, from sums and counts of the whole image in float64."""
    total = np.zeros(images.shape)
    count = np.zeros(images.shape)
    for top in _starts(images.shape[1], size, overlap):
        for left in _starts(images.shape[2], size, overlap):
            window = np.s_[:, top : top + size, left : left + size]
            total[window] += tf.nn.softmax(_scores(tf.constant(images[window])))
            count[window] += 1
    return total / count


@functools.cache
def _images(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width", "size", "overlap", "batch"), SIZES)
def test_streamed_windows_have_the_means_of_whole_images(height, width, size, overlap, batch):
    images = _images(height, width)
    windows = Windows(size, overlap, batch, 3)
    places = np.arange(images[..., 0].size).reshape(images.shape[:3])

    def with_sums(scores, places):
        products = tf.cast(places, tf.float64) * tf.cast(scores[..., 1], tf.float64)
        number = tf.size(places)
        return scores, {
            "pixels": number,
            "parts": tf.cast(number > 0, tf.int32),
            "products": tf.reduce_sum(products),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def both(images):
        classes, _ = windows.of_mean(_scores, images, lambda scores: (classes_of(scores), ()))
        return classes, *windows.of_mean(_scores, images, with_sums, tf.constant(places))

    classes, scores, sums = both(images)
    np.testing.assert_allclose(np.exp(scores), _mean(images, size, overlap), atol=1e-6)
    np.testing.assert_array_equal(classes, np.argmax(scores, -1))
    assert sums["pixels"] == places.size
    assert sums["parts"] == np.prod([len(_starts(side, size, overlap)) for side in (height, width)])
    assert float(sums["products"]) == pytest.approx((places * scores.numpy()[..., 1].astype(float)).sum(), rel=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_network_sees_each_window_once_and_at_most_a_batch_at_a_time(batch):
    """Rows of five windows: with four at a time the fifth is alone."""
    seen = []

    def note(windows):
        seen.append(windows[:, 0, 0, 0])
        return np.zeros((*windows.shape[:3], 3), np.float32)

    def predict(windows):
        return tf.ensure_shape(tf.numpy_function(note, [windows], tf.float32), [None, None, None, 3])

    image = np.zeros((1, 6, 10, 3), np.uint8)
    image[0, ..., 0] = np.arange(60).reshape(6, 10)
    tf.function(lambda images: Windows(2, 0.0, batch, 3).of_mean(predict, images, lambda scores: (scores, ())))(image)
    np.testing.assert_array_equal(np.concatenate(seen), image[0, ::2, ::2, 0].ravel())
    assert [len(each) for each in seen] == {1: [1] * 15, 4: [4, 1] * 3}[batch]


@pytest.mark.parametrize(("height", "width", "size", "overlap", "batch"), SIZES)
def test_bands_of_an_image_are_those_of_the_whole(height, width, size, overlap, batch):
    """Bit for bit; also if there are more of them than rows of windows."""
    windows = Windows(size, overlap, batch, 3)
    places = tf.constant(np.arange(2 * height * width).reshape(2, height, width))

    def results(scores, places):
        return {"scores": scores, "places": places}, tf.size(places)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)] + 2 * [tf.TensorSpec([], tf.int32)])
    def band(images, index, number):
        return windows.of_mean(_scores, images, results, places, share=(index, number))

    images = _images(height, width)
    whole, _ = windows.of_mean(_scores, tf.constant(images), results, places)
    for number in (1, 2, 3, 20):
        bands = [band(images, index, number) for index in range(number)]
        for name, expected in whole.items():
            np.testing.assert_array_equal(np.concatenate([pixels[name] for pixels, _ in bands], 1), expected)
        assert sum(int(size) for _, size in bands) == places.numpy().size
