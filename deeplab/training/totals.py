"""Totals of training steps and of evaluation batches, and their sums over replicas."""

from typing import NamedTuple, TypeVar

import tensorflow as tf

Batch = dict[str, tf.Tensor]
Sums = dict[str, tf.Tensor]
"""The sums of `Loss.sums`, by name."""

Nested = TypeVar("Nested")


class StepTotals(NamedTuple):
    """Sums over training steps, each of a global batch; float32 scalars unless said otherwise.

    Attributes:
        steps: number of steps.
        losses: `loss` and its parts, and `auxiliary`, the loss of a model's second output; by name.
        gradient_norm: norm of the whole gradient before clipping.
        weight_norm: norm of all trainable variables after the last step, counted once for each update.
        confusion: int64 [classes, classes], of the predictions in training.
        non_finite: number of steps whose loss or gradient was not finite.
        skipped: number of updates that loss scaling (float16) skipped because a gradient overflowed; their losses and
            norms are not added up. This is not a failure.
        data_wait_seconds: time between the end of a step and the arrival of the next batch; NaN if it is not measured.
    """

    steps: tf.Tensor
    losses: dict[str, tf.Tensor]
    gradient_norm: tf.Tensor
    weight_norm: tf.Tensor
    confusion: tf.Tensor
    non_finite: tf.Tensor
    skipped: tf.Tensor
    data_wait_seconds: tf.Tensor


class EvaluationTotals(NamedTuple):
    """Sums over evaluation batches.

    Attributes:
        sums: the loss's sums, float64.
        confusion: int64 [classes, classes].
        confidences: as of `metrics.confidence_counts`.
        num_images: int64, without fillers.
    """

    sums: Sums
    confusion: tf.Tensor
    confidences: tf.Tensor
    num_images: tf.Tensor


def add(first: Nested, second: Nested) -> Nested:
    """The sums of two structures of tensors of the same form."""
    return tf.nest.map_structure(tf.add, first, second)


def of_one_replica(strategy: tf.distribute.Strategy, totals: Nested) -> Nested:
    """The totals of this process's first replica; those of all replicas are the same."""
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], totals)
