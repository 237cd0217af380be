"""A step in micro-batches: the replica's part of a batch in several passes, with the same update."""

from collections.abc import Callable

import keras
import tensorflow as tf

from deeplab.training.all_reduce import sum_over_replicas
from deeplab.training.replica_step import Counts, Part, ReplicaStep
from deeplab.training.totals import Batch, Nested, StepTotals, Sums, add


def make_accumulated_update(
    strategy: tf.distribute.Strategy,
    step: ReplicaStep,
    variables: list[keras.Variable],
    num_micro_batches: int,
    compiled: Callable[[Callable], Callable],
) -> Callable[[Batch], StepTotals]:
    """A function: distributed batch -> totals of each replica, whose batch is split into micro-batches.

    Two passes over the micro-batches: the loss's sums of the global batch first, for its gradient is that of a ratio of
    sums; then the gradients. `compiled` is applied to each function that runs in a replica.
    """
    with strategy.scope():
        own_gradients = _accumulators(variables)

    @compiled
    def start() -> tuple[Counts, list[tf.Tensor]]:
        for own in own_gradients:
            own.assign(tf.zeros(own.shape))
        return step.no_counts(), step.read_state()

    @compiled
    def add_sums(batch: Batch, sums: list[Sums]) -> list[Sums]:
        return add(sums, step.sums(batch))

    @compiled
    def add_gradients(batch: Batch, global_sums: list[Sums], counts: Counts) -> Counts:
        part = step.part_of_micro_batch(batch, global_sums)
        for own, gradient in zip(own_gradients, part.gradients, strict=True):
            own.assign_add(gradient)
        return add(counts, part.counts)

    @compiled
    def finish(counts: Counts, state_before: list[tf.Tensor]) -> StepTotals:
        gradients = [tf.identity(own) for own in own_gradients]
        return step.update(Part(gradients, sum_over_replicas(counts)), state_before)

    def micro_batch(batch: Batch, index: tf.Tensor) -> Batch:
        shapes = {name: [num_micro_batches, -1, *value.shape[1:]] for name, value in batch.items()}
        return {name: tf.reshape(value, shapes[name])[index] for name, value in batch.items()}

    def for_each_micro_batch(add_to: Callable[[tf.Tensor, Nested], Nested], totals: Nested) -> Nested:
        _, totals = tf.while_loop(
            lambda index, totals: index < num_micro_batches,
            lambda index, totals: (index + 1, add_to(index, totals)),
            (0, totals),
        )
        return totals

    def update(batch: Batch) -> StepTotals:
        counts, state_before = strategy.run(start)

        # The sums of the global batch; their forward passes leave no trace in the statistics.
        sums = for_each_micro_batch(
            lambda index, sums: strategy.run(lambda b, i, s: add_sums(micro_batch(b, i), s), args=(batch, index, sums)),
            counts.sums,
        )
        sums = strategy.run(
            lambda s: tf.distribute.get_replica_context().all_reduce("SUM", _on_device(s)), args=(sums,)
        )
        strategy.run(step.restore_state, args=(state_before,))

        # The gradients, micro-batch by micro-batch.
        counts = for_each_micro_batch(
            lambda index, counts: strategy.run(
                lambda b, i, s, c: add_gradients(micro_batch(b, i), s, c), args=(batch, index, sums, counts)
            ),
            counts,
        )
        return strategy.run(finish, args=(counts, state_before))

    return update


def _accumulators(variables: list[keras.Variable]) -> list[tf.Variable]:
    """For each variable a new one of the same shape, which has its own value on each replica.

    Tensors that a loop carries would all be kept on the first device.
    """
    own = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.SUM}
    return [tf.Variable(tf.zeros(variable.shape), trainable=False, **own) for variable in variables]


def _on_device(values: Nested) -> Nested:
    """The same values, on a device, as all_reduce requires; results of a loop over `strategy.run` have no device."""
    return tf.nest.map_structure(tf.identity, values)
