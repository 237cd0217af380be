"""One replica's step, and the compiled functions that run it on every replica."""

from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from deeplab.training.losses import Loss
from deeplab.training.metrics import confusion_matrix
from deeplab.training.schedules import is_kernel

Totals = dict[str, tf.Tensor]


def make_train_function(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: Loss,
    weight_decay: float = 0.0,
    auxiliary_weight: float = 0.0,
    deterministic: bool = False,
) -> Callable[[Iterator, tf.Tensor], Totals]:
    """A compiled function (distributed iterator, number of steps) -> totals over those steps.

    Totals: `steps`; the sums over steps of `loss` and its parts, each that of a global batch; `confusion` (int64
    [classes, classes]) of the predictions that the steps were trained on; `non_finite`, the number of steps whose
    loss or gradient was not finite; `skipped`, the number whose update loss scaling (float16) left out because a
    gradient overflowed, which is no failure. `weight_decay` adds L2 of the kernels to what is minimised, not to `loss`;
    so does `auxiliary_weight` times the loss of a model's second output, whose sum over steps is then `auxiliary`.
    `deterministic` is that of `confusion_matrix`.
    """
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    kernels = [variable for variable in model.trainable_variables if is_kernel(variable)]

    def replica_step(batch: dict[str, tf.Tensor]) -> Totals:
        context = tf.distribute.get_replica_context()
        num_replicas = context.num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits, *auxiliary_logits = keras.tree.flatten(model(batch["image"], training=True))
            parts = loss.parts(context.all_reduce("SUM", loss.sums(logits, batch["label"])))
            objective = parts["loss"]
            for each in auxiliary_logits:
                sums = context.all_reduce("SUM", loss.sums(each, batch["label"]))
                parts["auxiliary"] = loss.parts(sums)["loss"]
                objective += auxiliary_weight * parts["auxiliary"]
            if weight_decay:
                objective += weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
            # Every replica holds the global loss, and the optimizer sums their gradients: each gives 1/n of it.
            objective = optimizer.scale_loss(objective / num_replicas)
        gradients = tape.gradient(objective, model.trainable_variables)
        finite, skipped = tf.math.is_finite(objective), tf.constant(False)
        if scaled:
            # Keras's scaler looks at replica 0 alone: summed first, all see the overflow of any.
            gradients = [gradient / num_replicas for gradient in context.all_reduce("SUM", gradients)]
            skipped = ~tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        else:
            finite &= tf.math.is_finite(tf.linalg.global_norm(gradients))
        optimizer.apply(gradients, model.trainable_variables)
        predictions = tf.argmax(logits, -1, tf.int32)
        return {
            "steps": tf.constant(1.0 / num_replicas),
            **{name: value / num_replicas for name, value in parts.items()},
            "confusion": confusion_matrix(
                batch["label"], predictions, loss.num_classes, loss.ignore_label, deterministic
            ),
            "non_finite": tf.cast(~finite, tf.float32) / num_replicas,
            "skipped": tf.cast(skipped, tf.float32) / num_replicas,
        }

    auxiliary_names = ("auxiliary",) if len(model.outputs) > 1 else ()
    names = ("steps", *loss.part_names, *auxiliary_names, "non_finite", "skipped")

    @tf.function
    def train(iterator: Iterator, num_steps: tf.Tensor) -> Totals:
        totals = {name: tf.zeros([]) for name in names}
        totals["confusion"] = tf.zeros([loss.num_classes, loss.num_classes], tf.int64)
        for _ in tf.range(num_steps):
            step_totals = _sum_over_replicas(strategy, strategy.run(replica_step, args=(next(iterator),)))
            totals = {name: totals[name] + step_totals[name] for name in totals}
        return totals

    return train


def make_evaluate_function(
    strategy: tf.distribute.Strategy,
    predict: Callable[[tf.Tensor], tf.Tensor],
    loss: Loss,
    deterministic: bool = False,
) -> Callable[[dict], tuple[Totals, tf.Tensor]]:
    """A compiled function: distributed batch -> (totals of the batch, predictions of each replica).

    `predict` takes images and gives logits, or log-probabilities, of their classes (`inference.make_predictor`).
    Totals: the loss's sums in float64, `confusion` (int64 [classes, classes]) and `num_images` (int64, fillers not
    counted). Predictions: class indices, uint8 [batch of the replica, height, width].
    """

    def replica_step(batch: dict[str, tf.Tensor]) -> tuple[Totals, tf.Tensor]:
        logits = predict(batch["image"])
        predictions = tf.argmax(logits, -1, tf.int32)
        totals = {name: tf.cast(value, tf.float64) for name, value in loss.sums(logits, batch["label"]).items()}
        totals["confusion"] = confusion_matrix(
            batch["label"], predictions, loss.num_classes, loss.ignore_label, deterministic
        )
        totals["num_images"] = tf.reduce_sum(batch["is_example"])
        return totals, tf.cast(predictions, tf.uint8)

    @tf.function
    def evaluate(batch: dict) -> tuple[Totals, tf.Tensor]:
        totals, predictions = strategy.run(replica_step, args=(batch,))
        return _sum_over_replicas(strategy, totals), predictions

    return evaluate


def _sum_over_replicas(strategy: tf.distribute.Strategy, values: Totals) -> Totals:
    return {name: strategy.reduce("SUM", value, axis=None) for name, value in values.items()}
