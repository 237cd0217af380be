"""Views window by window, against whole images, `tf.image.resize` and NumPy's sums; the network is a formula."""

import numpy as np
import pytest
import tensorflow as tf
from test_windows import _images, _mean, _scores

from deeplab.model import views
from deeplab.model.inference import scaled_side
from deeplab.model.windows import Windows

CASES = (  # height, width, windows' size, overlap, scales
    (10, 13, 6, 1 / 3, (1.0,)),
    (10, 13, 6, 0.0, (0.5, 1.0, 1.75)),
    (50, 30, 8, 0.75, (0.3, 2.0)),
    (5, 40, 9, 0.5, (0.9, 1.3)),
    (40, 5, 60, 0.5, (0.1, 1.0, 1.6)),
)


def _expected(images, size, overlap, scales):
    """The mean probabilities of all views, mirrored or not."""
    total = np.zeros(images.shape)
    for scale in scales:
        for step in (1, -1):
            sides = [int(scaled_side(side, scale)) for side in images.shape[1:3]]
            scaled = tf.image.resize(tf.cast(images[:, :, ::step], tf.float32), sides).numpy()
            scores = np.log(_mean(scaled, size, overlap))
            total += tf.nn.softmax(tf.image.resize(scores, images.shape[1:3])).numpy()[:, :, ::step]
    return total / (2 * len(scales))


@pytest.mark.parametrize("band", [1, 100, 10_000])
@pytest.mark.parametrize(("height", "width", "size", "overlap", "scales"), CASES)
def test_streamed_views_have_the_means_of_whole_images(height, width, size, overlap, scales, band, monkeypatch):
    monkeypatch.setattr(views, "BAND", band)
    images = _images(height, width)
    windows = Windows(size, overlap, 2, 3)
    places = np.arange(images[..., 0].size).reshape(images.shape[:3])
    all_views = [(scale, is_mirrored) for is_mirrored in (False, True) for scale in scales]

    def with_sums(scores, places):
        return scores, tf.reduce_sum(places)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)] + 2 * [tf.TensorSpec([], tf.int32)])
    def mean(images, index, number):
        others = (tf.constant(places),)
        return views.of_mean_view(windows, _scores, images, all_views, with_sums, *others, share=(index, number))

    scores, total = mean(images, 0, 1)
    np.testing.assert_allclose(np.exp(scores), _expected(images, size, overlap, scales), atol=2e-6)
    assert total == places.sum()
    for number in (2, 3):
        bands = [mean(images, index, number) for index in range(number)]
        np.testing.assert_array_equal(np.concatenate([scores for scores, _ in bands], 1), scores)
        assert sum(int(total) for _, total in bands) == places.sum()
