"""The confusion matrix and the scores computed from it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab.data.source import voc
from deeplab.training import metrics


def test_scores_of_a_hand_worked_example():
    # Truth: five pixels of class 0, three of 1, none of 2 and 3. One pixel of class 1 is predicted as 2.
    matrix = np.array([[4, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    result = metrics.scores(matrix)
    assert result.per_class_iou == (4 / 5, 2 / 4, 0.0, None)
    assert result.mean_iou == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    assert result.mean_accuracy == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert result.pixel_accuracy == 6 / 8
    assert metrics.scores(np.zeros((2, 2))) == metrics.Scores(*[None] * 5, *[(None, None)] * 4)


@pytest.mark.parametrize("deterministic", [False, True])
def test_matrix_counts_truth_by_prediction_without_void(deterministic):
    labels = np.array([[0, 1, 255], [2, 2, 255]], np.uint8)
    predictions = np.array([[0, 2, 1], [2, 1, 0]])
    matrix = metrics.confusion_matrix(tf.constant(labels), tf.constant(predictions), 3, deterministic=deterministic)
    assert matrix.dtype == tf.int64
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 1], [0, 1, 1]])


def test_matrix_and_iou_on_real_masks_equal_independent_ones(voc_sample):
    """Against sets of pixels in NumPy and against `keras.metrics.MeanIoU`."""
    rng = np.random.default_rng(0)
    total, again = np.zeros((21, 21), np.int64), np.zeros((21, 21), np.int64)
    keras_metric = keras.metrics.MeanIoU(21, ignore_class=255)
    truths, guesses = [], []
    for pair in voc.pairs(voc_sample, "trainval"):
        with Image.open(pair.mask) as mask:
            labels = np.array(mask)
        predictions = np.where(rng.random(labels.shape) < 0.7, labels % 255, rng.integers(0, 21, labels.shape))
        total += metrics.confusion_matrix(tf.constant(labels), tf.constant(predictions), 21).numpy()
        again += metrics.confusion_matrix(tf.constant(labels), tf.constant(predictions), 21, deterministic=True).numpy()
        keras_metric.update_state(labels, predictions)
        truths.append(labels.ravel())
        guesses.append(predictions.ravel())
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    valid = truth != 255
    assert total.sum() == valid.sum()
    np.testing.assert_array_equal(again, total)
    result = metrics.scores(total)
    for index in range(21):
        hits = np.sum(valid & (truth == index) & (guess == index))
        union = np.sum(valid & ((truth == index) | (guess == index)))
        assert result.per_class_iou[index] == hits / union
    assert result.mean_iou == pytest.approx(np.mean(result.per_class_iou))
    assert result.mean_iou == pytest.approx(float(keras_metric.result()), rel=1e-6)


@pytest.mark.parametrize("background", ["background", "Background", "_background_"])
def test_the_foreground_is_all_but_a_background(background):
    """Class 0 of CamVid is sky, of Cityscapes road: there is no foreground."""
    matrix = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 2]])
    names = (background, "car", "tree")
    assert metrics.scores(matrix, names).foreground_mean_iou == pytest.approx((4 / 5 + 1) / 2)
    assert "mean IoU of the foreground   90.00 %" in metrics.table(names, metrics.scores(matrix, names))
    for others in (("sky", "car", "tree"), ("road", background, "tree"), ()):
        assert metrics.scores(matrix, others).foreground_mean_iou is None


def test_table_shows_absent_classes_as_such():
    text = metrics.table(("sky", "car", "tree"), metrics.scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])))
    rows = dict(line.rsplit("  ", 1) for line in text.splitlines() if "%" in line or "absent" in line)
    assert {name.strip(): value.strip() for name, value in rows.items()} == {
        "sky": "75.00 %",
        "car": "80.00 %",
        "tree": "absent",
        "mean IoU": "77.50 %",
        "frequency-weighted IoU": "77.50 %",
        "mean accuracy": "87.50 %",
        "pixel accuracy": "87.50 %",
    }
