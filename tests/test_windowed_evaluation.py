"""Totals of an evaluation in windows, added up part by part, against NumPy in float64 over whole images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_strategy

from deeplab.model import views
from deeplab.model.inference import Predictor
from deeplab.model.settings import Inference
from deeplab.training.calibration import NUM_FINE
from deeplab.training.evaluate_step import make_evaluate_step
from deeplab.training.losses import Loss
from deeplab.training.settings import LossSettings

K = 3
SIZE = (100, 130)
WINDOW = 48
WEIGHTS = (1.0, 2.0, 0.5)
BY_PIXEL = LossSettings("cross_entropy_dice", label_smoothing=0.1, focal_gamma=1.5)
HARD = LossSettings("cross_entropy_dice", label_smoothing=0.1, focal_gamma=1.5, hard_pixel_fraction=0.3)
WINDOWED = Inference(window_size=WINDOW, window_batch=2)
VIEWS = Inference((0.5, 1.0), flip=True, window_size=WINDOW)


def _network():
    """Scores of a pixel that also depend on the window; sums and products only, as in `_logits`."""
    images = keras.Input((None, None, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True)(scaled)
    return keras.Model(images, keras.layers.Add()([scaled, mean]))


def _logits(window):
    scaled = window / 64
    return scaled + scaled.mean((0, 1))


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _probabilities(image):
    """The mean over the windows of an image, float64 [height, width, K]."""
    total = np.zeros((*SIZE, K))
    count = np.zeros((*SIZE, 1))
    starts = [np.round(np.linspace(0, side - WINDOW, -(-(side - WINDOW) // 32) + 1)).astype(int) for side in SIZE]
    for top in starts[0]:
        for left in starts[1]:
            here = np.s_[top : top + WINDOW, left : left + WINDOW]
            total[here] += _softmax(_logits(image[here].astype(float)))
            count[here] += 1
    return total / count


def _sums(probabilities, labels, settings):
    """The sums of the loss over some images, pixel by pixel."""
    cross_entropy, weight = 0.0, 0.0
    for each, truth in zip(probabilities, labels, strict=True):
        valid = truth != 255
        own = each[valid][np.arange(valid.sum()), truth[valid]]
        smooth = -0.9 * np.log(own) - 0.1 * np.log(each[valid]).mean(-1)
        weights = np.array(WEIGHTS)[truth[valid]]
        losses = weights * smooth * (1 - own) ** 1.5
        if len(losses):
            kept = losses >= np.sort(losses)[-int(np.ceil(settings.hard_pixel_fraction * len(losses)))]
            cross_entropy += losses[kept].sum()
            weight += weights[kept].sum()
    return {
        "cross_entropy": cross_entropy,
        "weight": weight,
        "intersection": [probabilities[labels == c][:, c].sum() for c in range(K)],
        "probability": probabilities[labels != 255].sum(0),
        "pixels": [(labels == c).sum() for c in range(K)],
    }


@pytest.fixture(scope="module")
def examples():
    """Four images, one of them a filler, and what is to be expected of them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, *SIZE, 3), np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (4, *SIZE))
    labels[0, :40] = 255  # windows without a label
    labels[3] = 255
    batch = {"image": images, "label": labels, "name": np.array([*"abc", ""]), "is_example": np.array([1, 1, 1, 0])}
    return batch, np.stack([_probabilities(image) for image in images])


def _evaluate(batch, num_replicas, settings, inference, deterministic=False):
    """Totals of one step, and the predictions of all replicas."""
    strategy = make_strategy(num_replicas)
    with strategy.scope():
        predict = Predictor(_network(), inference)
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(4 // num_replicas).repeat()
    batches = iter(strategy.distribute_datasets_from_function(lambda context: dataset))
    step = make_evaluate_step(strategy, predict, Loss(K, settings, WEIGHTS), deterministic)
    totals, predictions, _ = step(batches)
    return totals, np.concatenate([each.numpy() for each in strategy.experimental_local_results(predictions)])


@pytest.mark.parametrize(
    ("num_replicas", "settings", "inference", "deterministic"),
    [
        (1, BY_PIXEL, WINDOWED, False),
        (1, HARD, WINDOWED, False),
        (2, HARD, WINDOWED, True),
        (2, BY_PIXEL, WINDOWED, False),
        (2, BY_PIXEL, WINDOWED, True),
        (1, BY_PIXEL, VIEWS, False),
        (1, HARD, VIEWS, False),
    ],
)
def test_totals_are_those_of_whole_images(examples, num_replicas, settings, inference, deterministic, monkeypatch):
    monkeypatch.setattr(views, "BAND", 1000)
    batch, probabilities = examples
    labels = batch["label"]
    if inference == VIEWS:  # which tests/test_views.py compares with those of whole images
        probabilities = np.exp(Predictor(_network(), VIEWS)(tf.constant(batch["image"])), dtype=float)
    totals, predictions = _evaluate(batch, num_replicas, settings, inference, deterministic)

    # Classes, and their matrix.
    classes = probabilities.argmax(-1)
    np.testing.assert_array_equal(predictions, classes)
    valid = labels != 255
    confusion = np.zeros((K, K), int)
    np.add.at(confusion, (labels[valid], classes[valid]), 1)
    np.testing.assert_array_equal(totals.confusion, confusion)
    assert totals.num_images == 3

    # Confidences: rounding moves single pixels to the next bin.
    is_right = (classes == labels)[valid].astype(int)
    confidences = np.zeros((2, NUM_FINE), int)
    np.add.at(confidences, (is_right, (probabilities.max(-1)[valid] * NUM_FINE).astype(int)), 1)
    np.testing.assert_array_equal(totals.confidences.numpy().sum(1), confidences.sum(1))
    np.testing.assert_allclose(totals.confidences.numpy().cumsum(1), confidences.cumsum(1), atol=3)

    # The loss; hard pixels are found, and added up in float32, over the whole image.
    expected = _sums(probabilities, labels, settings)
    assert totals.sums.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(totals.sums[name], value, rtol=1e-6 if settings == BY_PIXEL else 1e-5, err_msg=name)


def test_one_window_is_evaluated_as_the_whole_image(examples):
    """The same bits."""
    batch, _ = examples
    whole, classes = _evaluate(batch, 1, BY_PIXEL, Inference())
    windowed, again = _evaluate(batch, 1, BY_PIXEL, Inference(window_size=130))
    np.testing.assert_array_equal(again, classes)
    tf.nest.map_structure(np.testing.assert_array_equal, windowed, whole)
