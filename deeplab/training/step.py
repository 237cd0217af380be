"""The compiled call of the training loop: some number of steps, each of one global batch, on every replica."""

from collections.abc import Callable, Iterator

import tensorflow as tf

from deeplab.training.accumulation import make_accumulated_update
from deeplab.training.losses import Loss
from deeplab.training.replica_step import ReplicaStep
from deeplab.training.settings import StepSettings
from deeplab.training.state import TrainState
from deeplab.training.totals import Batch, StepTotals, add, of_one_replica


def make_train_step(
    strategy: tf.distribute.Strategy,
    state: TrainState,
    loss: Loss,
    settings: StepSettings = StepSettings(),
    *,
    weight_decay: float = 0.0,
    finish: Callable[[Batch], Batch] = lambda batch: batch,
    deterministic: bool = False,
) -> Callable[[Iterator, tf.Tensor], StepTotals]:
    """A compiled function (distributed iterator, number of steps) -> totals over those steps.

    With `accumulate_steps` above 1, a step takes less memory and makes the same update, except that batch normalization
    sees one micro-batch at a time. If the gradient of the loss depends on the logits of all images (Dice, hard-pixel
    mining), such a step takes a second forward pass. `jit_compile` compiles the replica's step with XLA. For the other
    arguments see `ReplicaStep`.

    The totals' `data_wait_seconds` is NaN on GPUs, and with `deterministic`.
    """
    step = ReplicaStep(
        state,
        loss,
        weight_decay=weight_decay,
        clip_norm=settings.clip_norm,
        deterministic=deterministic or settings.jit_compile,  # XLA, and determinism on GPUs, have no bincount
        finish=finish,
    )
    variables = state.training_model.trainable_variables
    update = _make_update(strategy, step, settings, variables)

    # With determinism, TensorFlow refuses a clock; on a GPU, the host would have to wait for the device.
    has_clock = not deterministic and not tf.config.list_logical_devices("GPU")

    # `train_step` needs AutoGraph for its own loop only. In the functions that it calls, AutoGraph would read and
    # rewrite all that they call, the network's layers included, which takes as long as tracing them.
    @tf.autograph.experimental.do_not_convert
    def one_more(totals: StepTotals, iterator: Iterator) -> StepTotals:
        # The totals depend on the updates of the steps before, so the clock is read after these.
        done_at = _time_after(totals) if has_clock else 0.0
        batch = next(iterator)
        ready_at = _time_after(done_at, batch) if has_clock else 0.0
        of_step = of_one_replica(strategy, update(batch))
        waited = tf.cast(ready_at - done_at, tf.float32) if has_clock else tf.constant(float("nan"))
        return add(totals, of_step._replace(data_wait_seconds=waited))

    @tf.autograph.experimental.do_not_convert
    def with_weight_norm(totals: StepTotals) -> StepTotals:
        # One norm per call, times the number of updates, by which the log divides.
        weights = [variable.value for variable in variables]
        norm = (totals.steps - totals.skipped) * tf.linalg.global_norm(weights)
        return totals._replace(weight_norm=norm)

    @tf.function
    def train_step(iterator: Iterator, num_steps: tf.Tensor) -> StepTotals:
        totals = step.no_totals()
        for _ in tf.range(num_steps):
            totals = one_more(totals, iterator)
        return with_weight_norm(totals)

    return train_step


def _make_update(
    strategy: tf.distribute.Strategy, step: ReplicaStep, settings: StepSettings, variables: list
) -> Callable[[Batch], StepTotals]:
    """A function: distributed batch -> totals of each replica; in micro-batches if the settings ask for several."""

    def with_xla_if_wanted(function: Callable) -> Callable:
        return tf.function(function, jit_compile=True, autograph=False) if settings.jit_compile else function

    if settings.accumulate_steps > 1:
        return make_accumulated_update(strategy, step, variables, settings.accumulate_steps, with_xla_if_wanted)

    @with_xla_if_wanted
    def whole_step(batch: Batch) -> StepTotals:
        state_before = step.read_state()
        return step.update(step.part_of_whole(batch), state_before)

    return lambda batch: strategy.run(whole_step, args=(batch,))


def _time_after(*values: object) -> tf.Tensor:
    """The time (seconds, float64 scalar) when all of these values have been computed, on whichever device."""
    with tf.device("CPU:0"), tf.control_dependencies(tf.nest.flatten(values, expand_composites=True)):
        return tf.timestamp()
