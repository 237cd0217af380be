"""One replica's step, and the compiled functions that run it on every replica."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import tensorflow as tf

from deeplab.settings import setting
from deeplab.training.losses import Loss
from deeplab.training.metrics import confusion_matrix
from deeplab.training.optimizer import is_kernel, skip_gradient_all_reduce
from deeplab.training.state import TrainState

Batch = dict[str, tf.Tensor]
Totals = dict[str, tf.Tensor]
Nested = TypeVar("Nested")

MIN_LOSS_SCALE = 1.0
"""A value that is not finite at a smaller loss scale is not a float16 overflow."""


@dataclass(frozen=True)
class StepSettings:
    """Training step."""

    accumulate_steps: int = setting(
        1, "Split each batch into this many micro-batches, run one after another; saves memory.", lower=1
    )
    clip_norm: float = setting(0.0, "Largest norm of the whole gradient of the global batch; 0: no limit.", lower=0.0)
    jit_compile: bool = setting(False, "Compile the step with XLA; only on one GPU.")


class ReplicaStep:
    """One replica's part of a training step; its methods run in replica context.

    The loss is a ratio of sums over the global batch. Its derivatives with respect to those sums are the same on every
    replica. Each replica uses them as output gradients and differentiates its own images' part of the sums, so the
    gradients of all replicas and micro-batches add up to the gradient of the global batch's loss.

    Args:
        state: model and optimizer.
        loss: evaluated over the global batch.
        settings: only `clip_norm` is used here.
        weight_decay: factor of the kernels' L2, which is added to the objective but not to the logged loss.
        deterministic: as for `confusion_matrix`.
        finish: the last preprocessing of a batch before the model, applied to each image independently.
    """

    def __init__(
        self,
        state: TrainState,
        loss: Loss,
        settings: StepSettings,
        weight_decay: float,
        deterministic: bool,
        finish: Callable[[Batch], Batch],
    ) -> None:
        self._model, self._optimizer, self._loss = state.training_model, state.optimizer, loss
        self._weight_decay, self._clip_norm, self._deterministic = weight_decay, settings.clip_norm, deterministic
        self._finish = finish
        self._output_weights = (1.0, loss.settings.auxiliary_weight)[: len(self._model.outputs)]
        self._scaled = isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer)
        skip_gradient_all_reduce(self._optimizer)
        # Moving statistics, and dropout's random state.
        self._state = [variable.value for variable in self._model.non_trainable_variables]
        self._own_statistics = _own_statistics(self._model)

    def read_state(self) -> list[tf.Tensor]:
        """The state that a forward pass changes."""
        return [tf.identity(variable) for variable in self._state]

    def write_state(self, values: list[tf.Tensor]) -> None:
        """Undoes the changes of forward passes since `read_state`."""
        for variable, value in zip(self._state, values, strict=True):
            variable.assign(value)

    def zeros(self) -> dict[str, Any]:
        """The result of `gradients` for no images, without the gradients."""
        num_classes = self._loss.num_classes
        void = tf.fill([1, 1, 1], self._loss.ignore_label)
        return {
            "sums": [self._loss.sums(tf.zeros([1, 1, 1, num_classes]), void) for _ in self._output_weights],
            "confusion": tf.zeros([num_classes, num_classes], tf.int64),
        }

    def sums(self, batch: Batch) -> list[dict[str, tf.Tensor]]:
        """The loss's sums over these images, one dict per output; only those that `Loss.gradient` needs are exact."""
        batch = self._finish(batch)
        labels = batch["label"]
        if self._loss.gradient_needs_logits:
            outputs = keras.tree.flatten(self._model(batch["image"], training=True))
        else:
            outputs = [tf.zeros([*tf.unstack(tf.shape(labels)), self._loss.num_classes])] * len(self._output_weights)
        return [self._loss.sums(logits, labels) for logits in outputs]

    def gradients(self, batch: Batch, global_sums: list[dict[str, tf.Tensor]] | None = None) -> dict[str, Any]:
        """These images' part of the loss's gradient, with the sums and the confusion matrix of all replicas' images.

        `global_sums`: the loss's sums over the global batch, if it has more images than the replicas process in this
        call. The sums and the confusion matrix in the result are then of this replica's images.
        """
        batch = self._finish(batch)
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(self._model(batch["image"], training=True))
            sums = [self._loss.sums(logits, batch["label"]) for logits in outputs]
        predictions = tf.argmax(outputs[0], -1)
        confusion = confusion_matrix(
            batch["label"], predictions, self._loss.num_classes, self._loss.ignore_label, self._deterministic
        )
        found = {"sums": sums, "confusion": confusion}
        if global_sums is None:
            found = sum_over_replicas(found)
            global_sums = found["sums"]
        output_gradients = []
        for weight, output_sums in zip(self._output_weights, global_sums, strict=True):
            slope = self._loss.gradient(output_sums).items()
            output_gradients.append({name: self._loss_scaled(weight * value) for name, value in slope})
        gradients = tape.gradient(
            sums,
            self._model.trainable_variables,
            output_gradients=output_gradients,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return {"gradients": gradients, **found}

    def update(self, found: dict[str, Any], state_before: list[tf.Tensor]) -> Totals:
        """Updates the weights; returns totals of the global batch.

        `found`: this replica's part of the gradient, and the sums and the confusion matrix of the global batch.

        An update that overflows in float16 is skipped, and the changes of its forward passes are undone.
        """
        context, variables = tf.distribute.get_replica_context(), self._model.trainable_variables
        num_replicas = context.num_replicas_in_sync
        gradients = self._with_weight_decay(found["gradients"], 1.0 / num_replicas)
        if num_replicas > 1:
            # As one vector: TensorFlow would pack them for the all-reduce anyway, and the norm is one kernel.
            gradients = [context.all_reduce("SUM", tf.concat([tf.reshape(part, [-1]) for part in gradients], 0))]
        norm = tf.linalg.global_norm(gradients)
        if self._clip_norm and num_replicas > 1:
            # Unlike GPUs may add in another order: the norm that clips is the same on all, or their weights drift.
            norm = context.all_reduce("MEAN", norm)
        if self._clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._loss_scaled(self._clip_norm), norm)
        if num_replicas > 1:
            parts = tf.split(gradients[0], [variable.shape.num_elements() for variable in variables])
            gradients = [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]
        # The norm is not finite if any value is not, on any replica. It takes half the time of checking each value.
        not_finite = ~tf.math.is_finite(norm)
        skipped = tf.constant(False)
        if self._scaled:
            skipped = not_finite & (self._optimizer.dynamic_scale >= MIN_LOSS_SCALE)
        self._optimizer.apply(gradients, variables)
        self._average_statistics()
        if self._scaled:
            for variable, before in zip(self._state, state_before, strict=True):
                variable.assign(tf.where(skipped, before, variable))
        return self._totals(found, norm, not_finite, skipped)

    def _average_statistics(self) -> None:
        """Makes the moving statistics that replicas took on their own the same on all."""
        context = tf.distribute.get_replica_context()
        if not self._own_statistics or context.num_replicas_in_sync == 1:
            return
        means = context.all_reduce("MEAN", [tf.identity(variable) for variable in self._own_statistics])
        for variable, mean in zip(self._own_statistics, means, strict=True):
            variable.assign(mean)

    def zero_totals(self) -> Totals:
        """The result of `update` for no steps: all 0."""
        no = tf.constant(False)
        return tf.nest.map_structure(tf.zeros_like, self._totals(self.zeros(), tf.zeros([]), no, no))

    def _totals(self, found: dict[str, Any], norm: tf.Tensor, not_finite: tf.Tensor, skipped: tf.Tensor) -> Totals:
        """A global batch's losses, norm and confusion matrix, and whether it failed or its update was skipped."""
        parts = [self._loss.parts(sums) for sums in found["sums"]]
        values = dict(parts[0])
        for auxiliary_parts in parts[1:]:
            values["auxiliary"] = auxiliary_parts["loss"]
        values["gradient_norm"] = norm / self._loss_scaled(tf.constant(1.0))
        failed = ~skipped & (not_finite | ~tf.math.is_finite(parts[0]["loss"]))
        return {
            # The loss of a skipped batch may not be finite, so it is not added up.
            **{name: tf.where(skipped, 0.0, value) for name, value in values.items()},
            "confusion": found["confusion"],
            "non_finite": tf.cast(failed, tf.float32),
            "skipped": tf.cast(skipped, tf.float32),
        }

    def _loss_scaled(self, value: tf.Tensor) -> tf.Tensor:
        return self._optimizer.scale_loss(value) if self._scaled else value

    def _with_weight_decay(self, gradients: list[tf.Tensor], share: float) -> list[tf.Tensor]:
        """The gradients of one replica, with its share of the weight decay's."""
        if not self._weight_decay:
            return gradients
        decay = self._loss_scaled(self._weight_decay * share)
        pairs = zip(gradients, self._model.trainable_variables, strict=True)
        return [g + decay * variable.value if is_kernel(variable) else g for g, variable in pairs]


def make_train_step(
    strategy: tf.distribute.Strategy,
    state: TrainState,
    loss: Loss,
    settings: StepSettings = StepSettings(),
    weight_decay: float = 0.0,
    finish: Callable[[Batch], Batch] = lambda batch: batch,
    deterministic: bool = False,
) -> Callable[[Iterator, tf.Tensor], Totals]:
    """A compiled function (distributed iterator, number of steps) -> totals over those steps.

    Totals: `steps`; the sums over steps of `loss` and its parts, each over a global batch, and of `auxiliary`, the loss
    of a model's second output; `confusion` (int64 [classes, classes]) of the training predictions; `non_finite`, the
    number of steps whose loss or gradient was not finite; `skipped`, the number of updates that loss scaling (float16)
    skipped because a gradient overflowed, which is not a failure. Summed like the loss: `gradient_norm`, of the whole
    gradient before clipping; `weight_norm`, of all trainable variables after the last step; `data_wait_seconds`, on
    CPUs unless `deterministic`: the time between the end of a step and the arrival of the next batch.

    With `accumulate_steps` each replica splits its part of a batch into this many micro-batches, run one after another.
    This takes less memory and gives the same update, except that batch normalisation sees one micro-batch at a time.
    Where the loss is not linear in its sums (Dice, hard-pixel mining), it needs another forward pass. `jit_compile`
    compiles the replica's step with XLA. For the other arguments see `ReplicaStep`.
    """
    exact_counts = deterministic or settings.jit_compile  # XLA has no bincount either
    step = ReplicaStep(state, loss, settings, weight_decay, exact_counts, finish)
    variables = state.training_model.trainable_variables
    update = _make_update(strategy, step, settings, variables)
    # With determinism, TensorFlow refuses a clock; on a GPU, the host would have to wait for the device.
    has_clock = not deterministic and not tf.config.list_logical_devices("GPU")

    @tf.function
    def train_step(iterator: Iterator, num_steps: tf.Tensor) -> Totals:
        totals = {"steps": tf.zeros([]), **step.zero_totals()}
        if has_clock:
            totals["data_wait_seconds"] = tf.zeros([])
        for _ in tf.range(num_steps):
            # TensorFlow returns from a step when its updates are done, so the clock is read after them.
            done_at = _time_after(totals) if has_clock else 0.0
            batch = next(iterator)
            ready_at = _time_after(done_at, batch) if has_clock else 0.0
            step_totals = {"steps": tf.constant(1.0), **_of_one_replica(strategy, update(batch))}
            if has_clock:
                step_totals["data_wait_seconds"] = tf.cast(ready_at - done_at, tf.float32)
            totals = _add(totals, step_totals)
        # Counted as if it were the same after each step: one norm per call is enough to monitor.
        weights = [variable.value for variable in variables]
        totals["weight_norm"] = (totals["steps"] - totals["skipped"]) * tf.linalg.global_norm(weights)
        return totals

    return train_step


def _make_update(
    strategy: tf.distribute.Strategy, step: ReplicaStep, settings: StepSettings, variables: list[keras.Variable]
) -> Callable[[Batch], Totals]:
    """A function: distributed batch -> totals of each replica; in micro-batches if the settings ask for several."""

    def compiled(function: Callable) -> Callable:
        return tf.function(function, jit_compile=True) if settings.jit_compile else function

    def whole_step(batch: Batch) -> Totals:
        state_before = step.read_state()
        return step.update(step.gradients(batch), state_before)

    whole = compiled(whole_step)
    if settings.accumulate_steps == 1:
        return lambda batch: strategy.run(whole, args=(batch,))

    with strategy.scope():
        own_gradients = _accumulators(variables)
    add_sums = compiled(lambda batch, sums: _add(sums, step.sums(batch)))

    @compiled
    def start() -> tuple[dict[str, Any], list[tf.Tensor]]:
        for own in own_gradients:
            own.assign(tf.zeros(own.shape))
        return step.zeros(), step.read_state()

    @compiled
    def add_gradients(batch: Batch, sums: list[dict[str, tf.Tensor]], found: dict[str, Any]) -> dict[str, Any]:
        more = step.gradients(batch, sums)
        for own, gradient in zip(own_gradients, more.pop("gradients"), strict=True):
            own.assign_add(gradient)
        return _add(found, more)

    @compiled
    def update_from_parts(found: dict[str, Any], state_before: list[tf.Tensor]) -> Totals:
        gradients = [tf.identity(own) for own in own_gradients]
        return step.update({"gradients": gradients, **sum_over_replicas(found)}, state_before)

    def micro_batch(batch: Batch, index: tf.Tensor) -> Batch:
        shapes = {name: [settings.accumulate_steps, -1, *value.shape[1:]] for name, value in batch.items()}
        return {name: tf.reshape(value, shapes[name])[index] for name, value in batch.items()}

    def update(batch: Batch) -> Totals:
        found, state_before = strategy.run(start)
        sums = found["sums"]
        for index in tf.range(settings.accumulate_steps):
            sums = strategy.run(lambda b, i, s: add_sums(micro_batch(b, i), s), args=(batch, index, sums))
        sums = strategy.run(
            lambda s: tf.distribute.get_replica_context().all_reduce("SUM", _on_device(s)), args=(sums,)
        )
        strategy.run(step.write_state, args=(state_before,))
        for index in tf.range(settings.accumulate_steps):
            found = strategy.run(
                lambda b, i, s, f: add_gradients(micro_batch(b, i), s, f), args=(batch, index, sums, found)
            )
        return strategy.run(update_from_parts, args=(found, state_before))

    return update


def _accumulators(variables: list[keras.Variable]) -> list[tf.Variable]:
    """For each variable one of its shape, with a value of its own on each replica.

    Tensors that a loop carries would all be kept on the first device.
    """
    own = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.SUM}
    return [tf.Variable(tf.zeros(variable.shape), trainable=False, **own) for variable in variables]


def make_evaluate_step(
    strategy: tf.distribute.Strategy,
    predict: Callable[[tf.Tensor], tf.Tensor],
    loss: Loss,
    deterministic: bool = False,
) -> Callable[[Iterator], tuple[Totals, tf.Tensor, Batch]]:
    """A compiled function: distributed iterator -> (totals of its next batch, predictions, that batch).

    `predict` maps images to logits or log-probabilities of the classes (`inference.Predictor`). Totals: the loss's
    sums in float64, `confusion` (int64 [classes, classes]) and `num_images` (int64, without fillers). Predictions, per
    replica: class indices, uint8 [batch of the replica, height, width].
    """

    def replica_step(batch: Batch) -> tuple[Totals, tf.Tensor]:
        logits = predict(batch["image"])
        predictions = tf.argmax(logits, -1)
        totals = {name: tf.cast(value, tf.float64) for name, value in loss.sums(logits, batch["label"]).items()}
        totals["confusion"] = confusion_matrix(
            batch["label"], predictions, loss.num_classes, loss.ignore_label, deterministic
        )
        totals["num_images"] = tf.reduce_sum(batch["is_example"])
        return sum_over_replicas(totals), tf.cast(predictions, tf.uint8)

    @tf.function
    def evaluate_step(iterator: Iterator) -> tuple[Totals, tf.Tensor, Batch]:
        batch = next(iterator)
        totals, predictions = strategy.run(replica_step, args=(batch,))
        return _of_one_replica(strategy, totals), predictions, batch

    return evaluate_step


def _of_one_replica(strategy: tf.distribute.Strategy, totals: Totals) -> Totals:
    """The totals of this process's first replica; those of all replicas are the same."""
    return {name: strategy.experimental_local_results(value)[0] for name, value in totals.items()}


def _own_statistics(model: keras.Model) -> list[tf.Variable]:
    """The moving statistics of batch normalisation that is not synchronised over replicas."""
    variables: list[tf.Variable] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            variables += _own_statistics(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized:
            variables += [layer.moving_mean.value, layer.moving_variance.value]
    return variables


def sum_over_replicas(values: Nested) -> Nested:
    """The sums of a structure of tensors over all replicas, by one all-reduce; integers up to 2**53 are exact."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    flat = tf.nest.flatten(values)
    packed = tf.concat([tf.reshape(tf.cast(value, tf.float64), [-1]) for value in flat], 0)
    parts = tf.split(context.all_reduce("SUM", packed), [value.shape.num_elements() for value in flat])
    sums = [tf.reshape(tf.cast(part, value.dtype), value.shape) for part, value in zip(parts, flat, strict=True)]
    return tf.nest.pack_sequence_as(values, sums)


def _time_after(*values: object) -> tf.Tensor:
    """The time (seconds, float64 scalar) when all of these values have been computed, on whichever device."""
    with tf.device("CPU:0"), tf.control_dependencies(tf.nest.flatten(values, expand_composites=True)):
        return tf.timestamp()


def _on_device(values: Nested) -> Nested:
    """The same values, on a device, as all_reduce requires; the results of a loop over `strategy.run` are on none."""
    return tf.nest.map_structure(tf.identity, values)


def _add(first: Nested, second: Nested) -> Nested:
    """The sums of two tensor structures of the same form."""
    return tf.nest.map_structure(tf.add, first, second)
