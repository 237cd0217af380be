"""Sums over the replicas; call them in replica context."""

import keras
import tensorflow as tf

from deeplab.training.totals import Nested


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


def sum_gradients(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """The gradients summed over all replicas: as one vector, or as they are if there is only one replica.

    TensorFlow would pack them into a vector for the all-reduce anyway, and its norm is one kernel.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    return [context.all_reduce("SUM", tf.concat([tf.reshape(each, [-1]) for each in gradients], 0))]


def by_variable(gradients: list[tf.Tensor], variables: list[keras.Variable]) -> list[tf.Tensor]:
    """The result of `sum_gradients` with one tensor for each variable."""
    if tf.distribute.get_replica_context().num_replicas_in_sync == 1:
        return gradients
    pieces = tf.split(gradients[0], [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(piece, variable.shape) for piece, variable in zip(pieces, variables, strict=True)]
