"""One replica's part of a training step: its gradients, and the update, which is the same on all replicas."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from deeplab.labels import VOID_LABEL
from deeplab.training.all_reduce import by_variable, sum_gradients, sum_over_replicas
from deeplab.training.losses import Loss
from deeplab.training.metrics import confusion_matrix
from deeplab.training.optimizer import is_kernel, skip_gradient_all_reduce
from deeplab.training.state import TrainState
from deeplab.training.totals import Batch, StepTotals, Sums

MIN_LOSS_SCALE = 1.0
"""Below this loss scale a value that is not finite is no overflow of float16: the run fails."""


class Counts(NamedTuple):
    """The loss's sums over some images, one dict per output of the network, and their confusion matrix."""

    sums: list[Sums]
    confusion: tf.Tensor


class Part(NamedTuple):
    """One replica's part of the gradient of the global batch's loss.

    Attributes:
        gradients: by variable; to be summed over replicas and micro-batches.
        counts: of the global batch (`part_of_whole`), or of a micro-batch (`part_of_micro_batch`).
    """

    gradients: list[tf.Tensor]
    counts: Counts


class ReplicaStep:
    """One replica's part of a training step; its methods run in replica context.

    The loss is a ratio of sums over the global batch. Its derivatives with respect to those sums are the same on every
    replica. Each replica passes them as `output_gradients` and differentiates its own images' part of the sums, so the
    gradients of all replicas and micro-batches add up to the gradient of the global batch's loss.

    Args:
        state: model and optimizer.
        loss: evaluated over the global batch.
        weight_decay: factor of the L2 penalty on kernels, which is added to the objective but not to the logged loss.
        clip_norm: largest norm of the global batch's gradient; 0: no limit.
        deterministic: count pixels without bincount, which is not deterministic on GPUs.
        finish: the last preprocessing of a batch before the model, applied to each image independently.
    """

    def __init__(
        self,
        state: TrainState,
        loss: Loss,
        *,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
        deterministic: bool = False,
        finish: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        # What is trained.
        self._model = state.training_model
        self._optimizer = state.optimizer
        self._is_scaled = isinstance(state.optimizer, keras.optimizers.LossScaleOptimizer)
        skip_gradient_all_reduce(self._optimizer)

        # The objective.
        self._loss = loss
        self._output_weights = (1.0, loss.settings.auxiliary_weight)[: len(self._model.outputs)]
        self._weight_decay = weight_decay
        self._clip_norm = clip_norm

        # How batches are finished and counted.
        self._finish = finish
        self._deterministic = deterministic

        # What forward passes change: moving statistics, and dropout's random state.
        self._forward_state = [
            variable.value
            for variable in self._model.non_trainable_variables
            if variable.path.endswith(("moving_mean", "moving_variance", "seed_generator_state"))
        ]
        self._unsynchronized_statistics = _unsynchronized_statistics(self._model)

    def read_state(self) -> list[tf.Tensor]:
        """The state that a forward pass changes."""
        return [tf.identity(variable) for variable in self._forward_state]

    def restore_state(self, values: list[tf.Tensor]) -> None:
        """Undoes the changes of forward passes since `read_state`."""
        for variable, value in zip(self._forward_state, values, strict=True):
            variable.assign(value)

    def no_counts(self) -> Counts:
        """The counts of no images."""
        # A void pixel adds 0; it only gives the sums their names and shapes.
        num_classes = self._loss.num_classes
        one_void_pixel = tf.fill([1, 1, 1], VOID_LABEL)
        logits = tf.zeros([1, 1, 1, num_classes])
        sums = [self._loss.sums(logits, one_void_pixel) for _ in self._output_weights]
        return Counts(sums, tf.zeros([num_classes, num_classes], tf.int64))

    def sums(self, batch: Batch) -> list[Sums]:
        """The loss's sums over these images, one dict per output, as exact as `Loss.gradient` needs them."""
        batch = self._finish(batch)
        labels = batch["label"]
        if self._loss.gradient_needs_logits:
            outputs = keras.tree.flatten(self._model(batch["image"], training=True))
        else:  # zeros for logits: the gradient needs only sums that depend on the labels
            outputs = [tf.zeros([*tf.unstack(tf.shape(labels)), self._loss.num_classes])] * len(self._output_weights)
        return [self._loss.sums(logits, labels) for logits in outputs]

    def part_of_whole(self, batch: Batch) -> Part:
        """For replicas' batches that together are the global batch; the counts are the global batch's."""
        return self._part(batch, None)

    def part_of_micro_batch(self, batch: Batch, global_sums: list[Sums]) -> Part:
        """For one micro-batch; `global_sums` are the global batch's, the counts are this micro-batch's."""
        return self._part(batch, global_sums)

    def _part(self, batch: Batch, global_sums: list[Sums] | None) -> Part:
        batch = self._finish(batch)

        # Forward: the sums over these images, which the gradient goes through, and their predicted classes.
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(self._model(batch["image"], training=True))
            own_sums = [self._loss.sums(logits, batch["label"]) for logits in outputs]
        predictions = tf.argmax(outputs[0], -1)
        confusion = confusion_matrix(batch["label"], predictions, self._loss.num_classes, self._deterministic)
        counts = Counts(own_sums, confusion)

        # The loss is a ratio of the global batch's sums: they are needed before anything is differentiated.
        if global_sums is None:
            counts = sum_over_replicas(counts)
            global_sums = counts.sums

        # Backward, from the loss's derivatives with respect to the global sums.
        output_gradients = []
        for weight, output_sums in zip(self._output_weights, global_sums, strict=True):
            derivatives = self._loss.gradient(output_sums)
            output_gradients.append({name: self._loss_scaled(weight * value) for name, value in derivatives.items()})
        gradients = tape.gradient(
            own_sums,
            self._model.trainable_variables,
            output_gradients=output_gradients,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return Part(gradients, counts)

    def update(self, part: Part, state_before: list[tf.Tensor]) -> StepTotals:
        """Updates the weights; returns totals of the global batch, whose counts `part` must have.

        An update that overflows in float16 is skipped, and the changes of its forward passes are undone.
        """
        gradients, scaled_norm = self._global_gradients(part.gradients)
        norm = scaled_norm / self._loss_scaled(tf.constant(1.0))  # before the optimizer may change the scale

        # The norm is not finite if any value is not, on any replica. It takes half the time of checking each value.
        not_finite = ~tf.math.is_finite(norm)
        skipped = tf.constant(False)
        if self._is_scaled:
            skipped = not_finite & (self._optimizer.dynamic_scale >= MIN_LOSS_SCALE)

        # With loss scaling, Keras's optimizer checks the gradients itself and skips the update if any is not finite.
        self._optimizer.apply(gradients, self._model.trainable_variables)
        self._average_statistics()
        if self._is_scaled:
            for variable, before in zip(self._forward_state, state_before, strict=True):
                variable.assign(tf.where(skipped, before, variable))
        return self._totals(part.counts, norm, not_finite, skipped)

    def _global_gradients(self, gradients: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The gradients of the objective over the global batch, clipped, and their norm before; both loss-scaled."""
        context = tf.distribute.get_replica_context()
        num_replicas = context.num_replicas_in_sync
        summed = sum_gradients(self._with_weight_decay(gradients, 1.0 / num_replicas))
        norm = tf.linalg.global_norm(summed)

        # GPUs of different kinds may add in different orders: all must clip by the same norm, or their weights drift
        # apart.
        if self._clip_norm and num_replicas > 1:
            norm = context.all_reduce("MEAN", norm)
        if self._clip_norm:
            summed, _ = tf.clip_by_global_norm(summed, self._loss_scaled(self._clip_norm), norm)
        return by_variable(summed, self._model.trainable_variables), norm

    def _average_statistics(self) -> None:
        """Averages the unsynchronized moving statistics over the replicas."""
        context = tf.distribute.get_replica_context()
        if not self._unsynchronized_statistics or context.num_replicas_in_sync == 1:
            return
        means = context.all_reduce("MEAN", [tf.identity(variable) for variable in self._unsynchronized_statistics])
        for variable, mean in zip(self._unsynchronized_statistics, means, strict=True):
            variable.assign(mean)

    def no_totals(self) -> StepTotals:
        """The totals of no steps: all 0."""
        false = tf.constant(False)
        one_step = self._totals(self.no_counts(), norm=tf.zeros([]), not_finite=false, skipped=false)
        return tf.nest.map_structure(tf.zeros_like, one_step)

    def _totals(self, counts: Counts, norm: tf.Tensor, not_finite: tf.Tensor, skipped: tf.Tensor) -> StepTotals:
        """A global batch's losses, norm and confusion matrix, and whether it failed or its update was skipped."""
        parts = [self._loss.parts(sums) for sums in counts.sums]
        losses = dict(parts[0])
        for auxiliary_parts in parts[1:]:
            losses["auxiliary"] = auxiliary_parts["loss"]
        failed = ~skipped & (not_finite | ~tf.math.is_finite(losses["loss"]))
        return StepTotals(
            steps=tf.constant(1.0),
            # The loss and the norm of a skipped batch may not be finite, so they are not added up.
            losses={name: tf.where(skipped, 0.0, value) for name, value in losses.items()},
            gradient_norm=tf.where(skipped, 0.0, norm),
            weight_norm=tf.zeros([]),
            confusion=counts.confusion,
            non_finite=tf.cast(failed, tf.float32),
            skipped=tf.cast(skipped, tf.float32),
            data_wait_seconds=tf.zeros([]),
        )

    def _loss_scaled(self, value: tf.Tensor) -> tf.Tensor:
        return self._optimizer.scale_loss(value) if self._is_scaled else value

    def _with_weight_decay(self, gradients: list[tf.Tensor], share: float) -> list[tf.Tensor]:
        """The gradients of one replica, with its share of the weight decay."""
        if not self._weight_decay:
            return gradients
        decay = self._loss_scaled(self._weight_decay * share)
        pairs = zip(gradients, self._model.trainable_variables, strict=True)
        return [g + decay * variable.value if is_kernel(variable) else g for g, variable in pairs]


def _unsynchronized_statistics(model: keras.Model) -> list[tf.Variable]:
    """The moving statistics of batch normalization that is not synchronized over replicas."""
    variables: list[tf.Variable] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            variables += _unsynchronized_statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized:
            variables += [layer.moving_mean.value, layer.moving_variance.value]
    return variables
