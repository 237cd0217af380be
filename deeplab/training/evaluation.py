"""Scores a data set: sums over all its batches, then the ratios, once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from deeplab.progress import Progress
from deeplab.quiet import without_noise
from deeplab.training.losses import Loss
from deeplab.training.metrics import Scores, scores
from deeplab.training.step import make_evaluate_function


@dataclass(frozen=True)
class Evaluation:
    """Loss and scores over a whole split, and the confusion matrix (int64 [classes, classes]) they come from."""

    losses: dict[str, float]
    scores: Scores
    confusion: np.ndarray
    num_images: int


def make_evaluation(
    strategy: tf.distribute.Strategy,
    predict: Callable[[tf.Tensor], tf.Tensor],
    loss: Loss,
    make_batches: Callable[[tf.distribute.InputContext], tf.data.Dataset],
    num_batches: int,
    deterministic: bool = False,
) -> Callable[..., Evaluation]:
    """A function () -> `Evaluation` that scores a data set with the weights of the moment.

    Args:
        strategy: whose replicas share each batch.
        predict: images -> logits or log-probabilities [batch, height, width, classes].
        loss: evaluated over the whole data set.
        make_batches: gives a worker's part of the data set, as `pipeline.evaluation_batches` makes it.
        num_batches: number of global batches.
        deterministic: as `confusion_matrix` takes it.

    The function is of no more use once an evaluation was broken off. It takes, if wanted, `on_predictions`: a callable
    that gets, a batch at a time, an iterator over the class indices (uint8 [height, width], padding included) of its
    images, in the order of the data set.
    """
    evaluate_batch = make_evaluate_function(strategy, predict, loss, deterministic)
    # One iterator for all evaluations: in TensorFlow 2.21, to drop it can take as long as it lived, up to a minute
    # (BUILD-NOTES.md).
    with without_noise():
        batches = iter(strategy.distribute_datasets_from_function(lambda context: make_batches(context).repeat()))

    def evaluate(on_predictions: Callable[[Iterator[np.ndarray]], None] | None = None) -> Evaluation:
        progress = Progress("evaluating", num_batches, "batches")
        totals: dict[str, tf.Tensor] = {}
        for number in range(1, num_batches + 1):
            batch_totals, predictions = evaluate_batch(next(batches))
            totals = {name: value + totals[name] if totals else value for name, value in batch_totals.items()}
            if on_predictions is not None:
                on_predictions(
                    image for replica in strategy.experimental_local_results(predictions) for image in replica.numpy()
                )
            progress.update(number)
        progress.clear()
        confusion, num_images = totals.pop("confusion").numpy(), int(totals.pop("num_images"))
        losses = {name: float(value) for name, value in loss.parts(totals).items()}
        return Evaluation(losses, scores(confusion), confusion, num_images)

    return evaluate
