"""Losses against float64 NumPy and finite differences."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab.training.losses import Loss
from deeplab.training.settings import LOSSES, LossSettings

K = 4
VOID = 255


def reference(name, logits, labels, class_weights=None, label_smoothing=0.0, focal_gamma=0.0, hard_pixel_fraction=1.0):
    """float64 NumPy, pixel by pixel for cross-entropy and by sets for Dice."""
    logits = np.asarray(logits, np.float64).reshape(len(logits), -1, K)
    labels = np.asarray(labels).reshape(len(labels), -1)
    class_weights = class_weights or [1.0] * K
    cross_entropy = weight = 0.0
    probabilities = []
    for image, image_labels in zip(logits, labels, strict=True):
        pixels = []
        for row, label in zip(image, image_labels, strict=True):
            exponentials = np.exp(row - row.max())
            probabilities.append(exponentials / exponentials.sum())
            if label != VOID:
                target = np.full(K, label_smoothing / K)
                target[label] += 1 - label_smoothing
                focus = (1 - probabilities[-1][label]) ** focal_gamma
                pixels.append(
                    (-class_weights[label] * focus * target @ np.log(probabilities[-1]), class_weights[label])
                )
        pixels.sort(reverse=True)
        for pixel_loss, pixel_weight in pixels[: math.ceil(hard_pixel_fraction * len(pixels))]:
            cross_entropy += pixel_loss
            weight += pixel_weight
    probabilities, labels = np.array(probabilities), labels.reshape(-1)
    dices = []
    for c in range(K):
        if (labels == c).any():
            overlap = probabilities[labels == c, c].sum()
            total = probabilities[labels != VOID, c].sum() + (labels == c).sum()
            dices.append(1 - 2 * overlap / total)
    value = 0.0
    if name != "dice":
        value += cross_entropy / weight if weight else 0.0
    if name != "cross_entropy":
        value += np.mean(dices) if dices else 0.0
    return value


@pytest.fixture
def batch():
    """Logits [2, 5, 6, K] and labels with void and without class 3."""
    rng = np.random.default_rng(1)
    return rng.normal(0, 2, (2, 5, 6, K)).astype(np.float32), rng.choice([0, 1, 2, VOID], (2, 5, 6)).astype(np.uint8)


WEIGHTS = (0.5, 2.0, 1.0, 3.0)
KINDS = [
    (name, {"label_smoothing": smoothing, "focal_gamma": gamma, "hard_pixel_fraction": fraction})
    for name, smoothing, gamma, fraction in itertools.product(
        ("cross_entropy", "cross_entropy_dice"), (0.0, 0.1), (0.0, 0.5, 2.0), (1.0, 0.25)
    )
] + [("dice", {})]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_value_equals_float64_reference(batch, name, options, weights):
    loss = Loss(K, LossSettings(name, **options), weights)
    parts = loss.parts(loss.sums(*map(tf.constant, batch)))
    assert tuple(parts) == (("loss", "cross_entropy", "dice") if name == "cross_entropy_dice" else ("loss",))
    assert float(parts["loss"]) == pytest.approx(reference(name, *batch, weights, **options), rel=2e-6)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_gradient_equals_finite_differences_and_is_zero_at_void(batch, name, options):
    logits, labels = batch
    loss = Loss(K, LossSettings(name, **options), WEIGHTS)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss.parts(loss.sums(variable, tf.constant(labels)))["loss"]
    gradient = tape.gradient(value, variable).numpy()
    assert (gradient[labels == VOID] == 0).all()
    step = 1e-5
    for index in [(0, 0, 0, 0), (0, 2, 3, 1), (1, 4, 5, 2), (1, 1, 1, 3)]:
        above, below = logits.astype(np.float64), logits.astype(np.float64)
        above[index] += step
        below[index] -= step
        above, below = (reference(name, values, labels, WEIGHTS, **options) for values in (above, below))
        expected = (above - below) / (2 * step)
        assert gradient[index] == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_sums_of_parts_are_the_sums_of_the_whole(batch, name, options):
    logits, labels = batch
    loss = Loss(K, LossSettings(name, **options), WEIGHTS)
    first, second = (loss.sums(tf.constant(logits[i : i + 1]), tf.constant(labels[i : i + 1])) for i in range(2))
    together = {key: first[key] + second[key] for key in first}
    assert float(loss.parts(together)["loss"]) == pytest.approx(reference(name, *batch, WEIGHTS, **options), rel=2e-6)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_only_void_gives_zero_and_finite_gradients(batch, name, options):
    loss = Loss(K, LossSettings(name, **options), WEIGHTS)
    variable = tf.Variable(batch[0])
    with tf.GradientTape() as tape:
        value = loss.parts(loss.sums(variable, tf.fill([2, 5, 6], VOID)))["loss"]
    assert float(value) == 0
    np.testing.assert_array_equal(tape.gradient(value, variable), np.zeros_like(batch[0]))


def test_a_perfect_prediction_costs_nothing():
    labels = np.arange(K).reshape(1, 2, 2)
    logits = 100 * np.eye(K, dtype=np.float32)[labels]
    for name in LOSSES:
        loss = Loss(K, LossSettings(name))
        assert float(loss.parts(loss.sums(tf.constant(logits), tf.constant(labels)))["loss"]) < 1e-6


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_where_the_prediction_is_certain(gamma):
    logits = tf.Variable(np.float32([[[200.0, 0, 0, 0]]]))
    with tf.GradientTape() as tape:
        loss = Loss(K, LossSettings(focal_gamma=gamma))
        value = loss.parts(loss.sums(logits, tf.constant([[0]])))["loss"]
    assert np.isfinite(tape.gradient(value, logits).numpy()).all()


def test_hard_pixels_by_hand():
    """The loss of a pixel is log(1 + e) if wrong and log(1 + 1/e) if right; of five valid pixels, two count."""
    logits = np.float32([[[1, 0], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]]])
    labels = np.array([[0, 0, 0, 0, 1, VOID]])
    loss = Loss(2, LossSettings(hard_pixel_fraction=0.4))
    sums = loss.sums(tf.constant(logits), tf.constant(labels))
    assert float(sums["weight"]) == 2
    assert float(loss.parts(sums)["loss"]) == pytest.approx(np.log(1 + np.e))
