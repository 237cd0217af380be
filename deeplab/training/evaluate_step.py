"""The compiled evaluation step: one batch of whole images on every replica."""

from collections.abc import Callable, Iterator

import tensorflow as tf

from deeplab.training.all_reduce import sum_over_replicas
from deeplab.training.losses import Loss
from deeplab.training.metrics import confidence_counts, confusion_matrix
from deeplab.training.totals import Batch, EvaluationTotals, of_one_replica


def make_evaluate_step(
    strategy: tf.distribute.Strategy,
    predict: Callable[[tf.Tensor], tf.Tensor],
    loss: Loss,
    deterministic: bool = False,
) -> Callable[[Iterator], tuple[EvaluationTotals, tf.Tensor, Batch]]:
    """A compiled function: distributed iterator -> (totals of its next batch, predictions, that batch).

    `predict` maps images to logits or log-probabilities of the classes (`inference.Predictor`). Predictions, per
    replica: class indices, uint8 [batch of the replica, height, width].
    """

    def replica_step(batch: Batch) -> tuple[EvaluationTotals, tf.Tensor]:
        logits = predict(batch["image"])
        predictions = tf.argmax(logits, -1)
        sums = loss.sums(logits, batch["label"])
        totals = EvaluationTotals(
            sums={name: tf.cast(value, tf.float64) for name, value in sums.items()},
            confusion=confusion_matrix(batch["label"], predictions, loss.num_classes, deterministic),
            confidences=confidence_counts(batch["label"], logits, predictions, deterministic),
            num_images=tf.reduce_sum(batch["is_example"]),
        )
        return sum_over_replicas(totals), tf.cast(predictions, tf.uint8)

    @tf.function(autograph=False)  # as in `step`
    def evaluate_step(iterator: Iterator) -> tuple[EvaluationTotals, tf.Tensor, Batch]:
        batch = next(iterator)
        totals, predictions = strategy.run(replica_step, args=(batch,))
        return of_one_replica(strategy, totals), predictions, batch

    return evaluate_step
