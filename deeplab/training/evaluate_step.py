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

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 [batch, height, width, 3] -> float32 scores [batch, height, width, classes]."""

    def in_parts(
        self, images: tf.Tensor, to_results: Callable[..., tuple[tf.Tensor, Any]], *others: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """What `to_results` makes of the scores, and of other tensors, of parts of the images: pixels, and sums."""


def make_evaluate_step(
    strategy: tf.distribute.Strategy, predict: Predict, loss: Loss, deterministic: bool = False
) -> Callable[[Iterator], tuple[EvaluationTotals, tf.Tensor, Batch]]:
    """A compiled function: distributed iterator -> (totals of its next batch, predictions, that batch).

    Predictions, per replica: class indices, uint8 [batch of the replica, height, width].
    """

    def count(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tuple]:
        """The predictions of a part of the images, and its part of the totals."""
        predictions = tf.argmax(logits, -1)
        sums = {name: tf.cast(value, tf.float64) for name, value in loss.sums(logits, labels).items()}
        confusion = confusion_matrix(labels, predictions, loss.num_classes, deterministic)
        confidences = confidence_counts(labels, logits, predictions, deterministic)
        return tf.cast(predictions, tf.uint8), (sums, confusion, confidences)

    def replica_step(batch: Batch) -> tuple[EvaluationTotals, tf.Tensor]:
        images = batch["image"]
        labels = batch["label"]
        # Part by part where images are cut into windows, unless the loss must see a whole image.
        predictions, counted = (
            predict.in_parts(images, count, labels) if loss.is_by_pixel else count(predict(images), labels)
        )
        sums, confusion, confidences = counted
        num_images = tf.reduce_sum(batch["is_example"])
        totals = EvaluationTotals(sums=sums, confusion=confusion, confidences=confidences, num_images=num_images)
        return sum_over_replicas(totals), predictions

    @tf.function(autograph=False)  # as in `step`
    def evaluate_step(iterator: Iterator) -> tuple[EvaluationTotals, tf.Tensor, Batch]:
        batch = next(iterator)
        totals, predictions = strategy.run(replica_step, args=(batch,))
        return of_one_replica(strategy, totals), predictions, batch

    return evaluate_step
