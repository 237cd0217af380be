"""The confusion matrix, counted inside the compiled step, and the scores computed from it once at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab.errors import escaped
from deeplab.labels import VOID_LABEL, has_background
from deeplab.training.calibration import NUM_FINE, SIDE, Calibration

_PIXELS_AT_ONCE = 2**20
"""On the host, where each takes some 30 bytes while it is counted."""


def confusion_matrix(
    labels: tf.Tensor, predictions: tf.Tensor, num_classes: int, deterministic: bool = False
) -> tf.Tensor:
    """int64 [num_classes, num_classes]; entry (t, p) counts the pixels of true class t predicted as p.

    labels and predictions: integers [batch, ...] of one shape, fewer than 2**31 pixels. Void is not counted. On GPUs
    `DenseBincount` fails if deterministic kernels are enabled; `deterministic` then counts with products of one-hot
    rows, which are exact in float32 for images below 2**24 pixels, but slower.
    """
    batch_size = tf.shape(labels)[0]
    # Not int32: on GPUs its arithmetic is done by the host.
    labels, predictions = (tf.reshape(tf.cast(x, tf.int64), [batch_size, -1]) for x in (labels, predictions))
    valid = tf.not_equal(labels, VOID_LABEL)
    if deterministic:
        truth = tf.one_hot(tf.where(valid, labels, -1), num_classes)
        counts = tf.matmul(truth, tf.one_hot(predictions, num_classes), transpose_a=True)
        return tf.reduce_sum(tf.cast(counts, tf.int64), 0)
    num_bins = num_classes * num_classes + 1
    bins = tf.where(valid, labels * num_classes + predictions, num_bins - 1)
    # tf.math.bincount would look for the largest bin first.
    counts = tf.raw_ops.DenseBincount(input=tf.reshape(bins, [-1]), size=num_bins, weights=tf.zeros([0], tf.int32))
    return tf.reshape(tf.cast(counts, tf.int64)[:-1], [num_classes, num_classes])


def confidence_counts(
    labels: tf.Tensor, logits: tf.Tensor, predictions: tf.Tensor, deterministic: bool = False
) -> tf.Tensor:
    """int64 [2, 512]: wrong and right pixels by the probability of the predicted class, in bins of equal width.

    labels, predictions: integers [batch, ...]; logits: float32 [batch, ..., classes]. Void is not counted. The counts
    are those of a confusion matrix whose two indices are the digits of the bin's number, so that they are exact, and
    can be counted in the same ways (`deterministic`).
    """
    labels = tf.cast(labels, tf.int64)
    confidence = tf.exp(tf.reduce_max(logits, -1) - tf.reduce_logsumexp(logits, -1))
    fine = tf.clip_by_value(tf.cast(confidence * NUM_FINE, tf.int64), 0, NUM_FINE - 1)
    # Not `==`, whose result may be of any rank: shapes would be unknown from here on.
    number = tf.where(tf.equal(labels, tf.cast(predictions, tf.int64)), fine + NUM_FINE, fine)
    first = tf.where(tf.equal(labels, VOID_LABEL), tf.cast(VOID_LABEL, tf.int64), number // SIDE)
    return tf.reshape(confusion_matrix(first, number % SIDE, SIDE, deterministic), [2, NUM_FINE])


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix; all are fractions.

    A class that occurs in neither the labels nor the predictions has IoU and F1 None and is left out of the means. A
    class that does not occur in the labels has recall None and is left out of `mean_accuracy`; a class that is never
    predicted has precision None. Without any valid pixel, all scores are None.

    Attributes:
        mean_iou: over all classes; VOC's score.
        foreground_mean_iou: over all classes but class 0, if that is called background; else None.
        frequency_weighted_iou: each class's IoU weighted by its share of the labeled pixels.
        mean_accuracy: mean recall.
        pixel_accuracy: share of the labeled pixels that are predicted correctly.
        per_class_iou: one per class; likewise precision, recall, and F1, which is the Dice coefficient.
    """

    mean_iou: float | None
    foreground_mean_iou: float | None
    frequency_weighted_iou: float | None
    mean_accuracy: float | None
    pixel_accuracy: float | None
    per_class_iou: tuple[float | None, ...]
    per_class_precision: tuple[float | None, ...]
    per_class_recall: tuple[float | None, ...]
    per_class_f1: tuple[float | None, ...]

    def to_json(self, class_names: Sequence[str]) -> dict[str, object]:
        """As in `metrics.jsonl`; per-class scores are keyed by class name."""
        return {
            name: dict(zip(class_names, value, strict=True)) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Evaluation:
    """Losses and scores over a whole split, and the confusion matrix (int64 [classes, classes]) they come from.

    `calibration` has its expected error and the curve, where it was measured. `viewed` has what viewers of the
    predictions add to the record.
    """

    losses: dict[str, float]
    scores: Scores
    confusion: np.ndarray
    num_images: int
    calibration: Calibration | None = None
    viewed: dict[str, Any] = field(default_factory=dict)

    def to_json(self, class_names: Sequence[str]) -> dict[str, object]:
        """As in `metrics.jsonl`."""
        calibrated = {"expected_calibration_error": self.calibration.expected_error} if self.calibration else {}
        counted = {"num_images": self.num_images}
        return {**self.losses, **self.scores.to_json(class_names), **calibrated, **counted, **self.viewed}


def scores(matrix: np.ndarray, class_names: Sequence[str] = ()) -> Scores:
    """Scores of an integer confusion matrix [classes, classes], rows true; IoU as in the VOC devkit's VOCevalseg.m.

    `class_names`, by index, tell whether class 0 is a background.
    """
    matrix = np.asarray(matrix)
    correct = np.diag(matrix)
    truth = matrix.sum(1)
    predicted = matrix.sum(0)
    total = matrix.sum()
    iou = _ratios(correct, truth + predicted - correct)
    recall = _ratios(correct, truth)
    return Scores(
        mean_iou=_mean(iou),
        foreground_mean_iou=_mean(iou[1:]) if has_background(class_names) else None,
        frequency_weighted_iou=float(np.dot([value or 0.0 for value in iou], truth) / total) if total else None,
        mean_accuracy=_mean(recall),
        pixel_accuracy=float(correct.sum() / total) if total else None,
        per_class_iou=iou,
        per_class_precision=_ratios(correct, predicted),
        per_class_recall=recall,
        per_class_f1=_ratios(2 * correct, truth + predicted),
    )


def confusion_counts(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """As `confusion_matrix`, for NumPy masks on the host: int64 [num_classes, num_classes]."""
    counts = np.zeros(num_classes**2, np.int64)
    for start in range(0, truth.size, _PIXELS_AT_ONCE):
        some = slice(start, start + _PIXELS_AT_ONCE)
        labels = truth.reshape(-1)[some]
        valid = labels != VOID_LABEL
        bins = labels[valid].astype(np.int64) * num_classes + prediction.reshape(-1)[some][valid]
        counts += np.bincount(bins, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def table(class_names: Sequence[str], result: Scores) -> str:
    """Per-class IoU and the means in per cent, as text with one line per class."""
    names = [escaped(name) for name in class_names]
    foreground = "mean IoU of the foreground"
    width = max(len(name) for name in (*names, foreground))
    rows = [(name, iou) for name, iou in zip(names, result.per_class_iou, strict=True)]
    means = [
        ("mean IoU", result.mean_iou),
        *([(foreground, result.foreground_mean_iou)] if has_background(class_names) else []),
        ("frequency-weighted IoU", result.frequency_weighted_iou),
        ("mean accuracy", result.mean_accuracy),
        ("pixel accuracy", result.pixel_accuracy),
    ]
    lines = [
        f"{name:{width}}  {'   absent' if value is None else per_cent(value):>8}" for name, value in (*rows, *means)
    ]
    rule = "-" * (width + 9)
    return "\n".join([f"{'class':{width}}      IoU", rule, *lines[: len(rows)], rule, *lines[len(rows) :]])


def per_cent(fraction: float | None, digits: int = 2) -> str:
    """'12.34 %', or '-' for a score that does not exist."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def _ratios(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(n / d) if d else None for n, d in zip(numerators, denominators, strict=True))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
