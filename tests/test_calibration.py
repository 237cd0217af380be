"""The expected calibration error, against a count in NumPy from the probabilities themselves."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab.training.calibration import NUM_BINS, Calibration
from deeplab.training.metrics import confidence_counts


def _expected(labels, logits):
    """As in arXiv 1706.04599, section 2: exact confidences, 16 bins."""
    powers = np.exp(logits.astype(float) - logits.max(-1, keepdims=True))
    probabilities = (powers / powers.sum(-1, keepdims=True))[labels != 255]
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels[labels != 255]
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    parts = [(bins == index) for index in range(NUM_BINS) if (bins == index).any()]
    return sum(abs(right[part].mean() - confidence[part].mean()) * part.mean() for part in parts), len(parts)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_error_is_that_of_the_probabilities(deterministic):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 40, 50, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 40, 50))
    labels[rng.random(labels.shape) < 0.1] = 255
    counts = confidence_counts(labels, tf.constant(logits), tf.argmax(logits, -1), deterministic).numpy()
    assert counts.sum() == (labels != 255).sum()
    assert counts[1].sum() == ((logits.argmax(-1) == labels) & (labels != 255)).sum()
    result = Calibration.of(counts)
    error, num_bins = _expected(labels, logits)
    assert error > 0.3
    assert result.expected_error == pytest.approx(error, abs=0.001)  # bins of 1/512 stand for the probabilities
    assert len(result.curve) == num_bins
    assert sum(pixels for *_, pixels in result.curve) == counts.sum()


def test_a_network_that_knows_how_sure_it_is_has_no_error():
    """All pixels at 3/4, of which three in four are right; 0.75 is the lower end of a bin of 1/512."""
    logits = np.log([[[[0.75, 0.25]] * 8]]).astype(np.float32)
    labels = np.array([[[0, 0, 0, 0, 0, 0, 1, 1]]])
    result = Calibration.of(confidence_counts(labels, tf.constant(logits), tf.argmax(logits, -1)).numpy())
    assert result.expected_error == pytest.approx(0, abs=0.001)
    ((confidence, right, pixels),) = result.curve
    assert (confidence, right, pixels) == (pytest.approx(0.75, abs=0.001), 0.75, 8)


def test_without_labels_there_is_no_error():
    counts = confidence_counts(np.full((1, 2, 2), 255), tf.zeros([1, 2, 2, 3]), np.zeros((1, 2, 2), np.int64)).numpy()
    assert Calibration.of(counts) == Calibration(None, ())
