"""The confusion matrix, counted inside the compiled step, and the scores that are read off it once at the end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf


def confusion_matrix(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    ignore_label: int = 255,
    deterministic: bool = False,
) -> tf.Tensor:
    """int64 [num_classes, num_classes]; entry (t, p) counts the pixels of true class t predicted as p.

    labels and predictions: integers [batch, ...] of one shape. Void is counted nowhere. On GPUs `tf.math.bincount`
    fails where deterministic kernels are asked for; `deterministic` then counts by products of one-hot rows, which
    are exact in float32 for images below 2**24 pixels, and slower.
    """
    batch_size = tf.shape(labels)[0]
    labels, predictions = (tf.cast(tf.reshape(x, [batch_size, -1]), tf.int32) for x in (labels, predictions))
    valid = tf.not_equal(labels, ignore_label)
    if deterministic:
        truth = tf.one_hot(tf.where(valid, labels, -1), num_classes)
        counts = tf.matmul(truth, tf.one_hot(predictions, num_classes), transpose_a=True)
        return tf.reduce_sum(tf.cast(counts, tf.int64), 0)
    num_bins = num_classes * num_classes + 1
    bins = tf.where(valid, labels * num_classes + predictions, num_bins - 1)
    counts = tf.math.bincount(tf.reshape(bins, [-1]), minlength=num_bins, maxlength=num_bins)
    return tf.cast(tf.reshape(counts[:-1], [num_classes, num_classes]), tf.int64)


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix; all are fractions.

    A class that occurs neither in the labels nor in the predictions has IoU None and is left out of `mean_iou`; one
    that does not occur in the labels is left out of `mean_accuracy`. Without a single valid pixel all are None.
    """

    mean_iou: float | None
    mean_accuracy: float | None
    pixel_accuracy: float | None
    per_class_iou: tuple[float | None, ...]

    def to_json(self, class_names: Sequence[str]) -> dict[str, object]:
        """As `metrics.jsonl` has them."""
        return {
            "mean_iou": self.mean_iou,
            "mean_accuracy": self.mean_accuracy,
            "pixel_accuracy": self.pixel_accuracy,
            "per_class_iou": dict(zip(class_names, self.per_class_iou, strict=True)),
        }


@dataclass(frozen=True)
class Evaluation:
    """Losses and scores over a whole split, and the confusion matrix (int64 [classes, classes]) they come from."""

    losses: dict[str, float]
    scores: Scores
    confusion: np.ndarray
    num_images: int

    def to_json(self, class_names: Sequence[str]) -> dict[str, object]:
        """As `metrics.jsonl` has it."""
        return {**self.losses, **self.scores.to_json(class_names), "num_images": self.num_images}


def scores(matrix: np.ndarray) -> Scores:
    """Scores of an integer confusion matrix [classes, classes], rows true: the VOC devkit's VOCevalseg.m."""
    matrix = np.asarray(matrix)
    correct, truth, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    union = truth + predicted - correct
    iou = [float(hits / area) if area else None for hits, area in zip(correct, union, strict=True)]
    accuracy = [float(hits / area) for hits, area in zip(correct, truth, strict=True) if area]
    return Scores(
        mean_iou=_mean([value for value in iou if value is not None]),
        mean_accuracy=_mean(accuracy),
        pixel_accuracy=float(correct.sum() / matrix.sum()) if matrix.sum() else None,
        per_class_iou=tuple(iou),
    )


def confusion_counts(truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """As `confusion_matrix`, of NumPy masks on the host: int64 [num_classes, num_classes]."""
    valid = truth != ignore_label
    bins = truth[valid].astype(np.int64) * num_classes + prediction[valid]
    return np.bincount(bins, minlength=num_classes**2).reshape(num_classes, num_classes)


def table(class_names: Sequence[str], result: Scores) -> str:
    """Per-class IoU and the means in per cent, as text of one line a class."""
    width = max(len(name) for name in (*class_names, "pixel accuracy"))
    rows = [(name, iou) for name, iou in zip(class_names, result.per_class_iou, strict=True)]
    means = [
        ("mean IoU", result.mean_iou),
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


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
