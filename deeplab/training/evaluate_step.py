"""The compiled evaluation step: one batch of whole images on every replica."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tensorflow as tf

from deeplab.training.all_reduce import sum_over_replicas
from deeplab.training.losses import Loss
from deeplab.training.metrics import confidence_counts, confusion_matrix
from deeplab.training.totals import Batch, EvaluationTotals, of_one_replica


class Predict(Protocol):
    """Scores of images: logits or log-probabilities of the classes (`inference.Predictor`)."""

    def in_parts(
        self, images: tf.Tensor, to_results: Callable[..., tuple[Any, Any]], *others: tf.Tensor
    ) -> tuple[Any, Any]:
        """What `to_results` makes of the scores, and of other tensors, of parts of the images: pixels, and sums."""


def make_evaluate_step(
    strategy: tf.distribute.Strategy, predict: Predict, loss: Loss, deterministic: bool = False
) -> Callable[[Iterator], tuple[EvaluationTotals, tf.Tensor, Batch]]:
    """A compiled function: distributed iterator -> (totals of its next batch, predictions, that batch).

    Predictions, per replica: class indices, uint8 [batch of the replica, height, width].
    """

    def count(logits: tf.Tensor, labels: tf.Tensor) -> tuple[dict, dict]:
        """The predictions of a part of the images, and its part of the totals."""
        predictions = tf.argmax(logits, -1)
        losses, sums = loss.of_part(logits, labels)
        pixels = {"predictions": tf.cast(predictions, tf.uint8)}
        if loss.is_by_pixel:
            sums |= loss.of_losses(losses, labels)
        else:
            pixels["losses"] = losses
        counted = {
            "sums": {name: tf.cast(value, tf.float64) for name, value in sums.items()},
            "confusion": confusion_matrix(labels, predictions, loss.num_classes, deterministic),
            "confidences": confidence_counts(labels, logits, predictions, deterministic),
        }
        return pixels, counted

    def replica_step(batch: Batch) -> tuple[EvaluationTotals, tf.Tensor]:
        images = batch["image"]
        labels = batch["label"]

        # Part by part, where images are cut into windows; then what must be known of all pixels of an image.
        pixels, counted = predict.in_parts(images, count, labels)
        if not loss.is_by_pixel:
            of_whole = loss.of_losses(pixels["losses"], labels)
            counted["sums"] |= {name: tf.cast(value, tf.float64) for name, value in of_whole.items()}
        num_images = tf.reduce_sum(batch["is_example"])
        totals = EvaluationTotals(**counted, num_images=num_images)
        return sum_over_replicas(totals), pixels["predictions"]

    @tf.function(autograph=False)  # as in `step`
    def evaluate_step(iterator: Iterator) -> tuple[EvaluationTotals, tf.Tensor, Batch]:
        batch = next(iterator)
        totals, predictions = strategy.run(replica_step, args=(batch,))
        return of_one_replica(strategy, totals), predictions, batch

    return evaluate_step
