"""Batch normalization by the fused kernels, synchronized over replicas by one all-reduce in each direction."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deeplab import cpu_kernels
from deeplab.model.recomputation import drawn_once


@keras.saving.register_keras_serializable(package="deeplab")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, with scale and offset.

    All forms use `FusedBatchNormV3`, which reads bfloat16 and float16 directly and keeps its statistics in float32:

    - in inference, and in training on a single replica: one kernel;
    - in training on several replicas: local statistics, then the output from the statistics of all replicas. All
      replicas must have inputs of the same shape. Without `synchronized`, each replica uses its own statistics, and
      the training step averages the moving ones;
    - frozen layers in training: one kernel each way. The fused kernel's own gradient with given statistics is not
      deterministic on GPUs, so it is not used.
    """

    def call(self, inputs: tf.Tensor, training: bool = False, mask: tf.Tensor | None = None) -> tf.Tensor:
        """-> the shape and dtype of `inputs`."""
        if not training:
            return _affine(inputs, self.gamma, self.beta, self.moving_mean, self.moving_variance, self.epsilon)
        if not self.trainable:
            return _frozen(inputs, self.gamma, self.beta, self.moving_mean, self.moving_variance, self.epsilon)
        if self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            outputs, mean, variance = _synchronized(inputs, self.gamma, self.beta, self.epsilon)
        else:
            outputs, mean, variance, *_ = _local(inputs, self.gamma, self.beta, self.epsilon)
            variance = _without_bessel(variance, inputs)
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs


def _affine(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + offset in one kernel, in float32; dtype of the result: x's."""
    if not cpu_kernels.has_avx512() and not tf.config.list_logical_devices("GPU"):
        x = _kept_apart(x)
    outputs, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=epsilon, is_training=False
    )
    return outputs


@tf.custom_gradient
def _kept_apart(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """`x`, in a form that keeps TensorFlow from fusing what reads it with the convolution before it.

    oneDNN has no fast kernel for a convolution with given statistics without AVX-512 (docs/design.md, processors).
    Snapshot passes the tensor on and copies nothing; it has no gradient of its own.
    """
    return tf.raw_ops.Snapshot(input=x), lambda by_outputs: by_outputs


def _local(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, ...]:
    """Outputs, mean and variance (of N - 1) of this replica, and three tensors for the gradient kernel."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon, is_training=True
    )


def _without_bessel(variance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Undoes the kernel's Bessel correction, which Keras does not apply; 0 for a single value, where cuDNN has NaN."""
    count = _count(x)
    factor = (count - 1.0) / count
    if tf.is_tensor(count):
        return tf.math.multiply_no_nan(variance, factor)
    return variance * factor if factor else tf.zeros_like(variance)


def _frozen(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """`_affine` with a gradient with respect to `x` only."""
    scale, offset, mean, variance = map(tf.convert_to_tensor, (scale, offset, mean, variance))

    @tf.custom_gradient
    def normalize(x: tf.Tensor) -> tuple:
        def gradient(output_gradients: tf.Tensor) -> tf.Tensor:
            zeros = tf.zeros_like(mean)
            return _affine(output_gradients, scale, zeros, zeros, variance, epsilon)

        return _affine(x, scale, offset, mean, variance, epsilon), gradient

    return normalize(x)


def _synchronized(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Outputs, mean and variance (of N) over all replicas, which have as many values each.

    One all-reduce here, one in the gradient. The gradient kernel is given what its forward kernel returned, so it sees
    only local statistics. Vectors then correct its results: with z normalized by the statistics of all replicas, the
    kernel's own normalized values are (z + shift) / ratio.
    """
    context = tf.distribute.get_replica_context()
    gamma, beta = map(tf.convert_to_tensor, (gamma, beta))

    def draw() -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor, tf.Tensor]:
        _, own_mean, own_variance, *reserved = _local(x, gamma, beta, epsilon)
        own_variance = _without_bessel(own_variance, x)
        return own_mean, own_variance, reserved, *_over_replicas(context, own_mean, own_variance)

    # Outside of the function with its own gradient: statistics as its results would get gradients of zeros.
    own_mean, own_variance, reserved, mean, variance = drawn_once(draw)

    @tf.custom_gradient
    def normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple:
        def gradient(output_gradients: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            inverse = tf.math.rsqrt(variance + epsilon)
            ratio = tf.sqrt(own_variance + epsilon) * inverse
            shift = (mean - own_mean) * inverse
            by_x, by_own_scale, by_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                # Without Snapshot, which copies nothing, TensorFlow's remapper fuses the gradient of a ReLU into this
                # kernel on GPUs in float16, as if its reserve space were that of the kernel with the ReLU: wrong
                # (tests/test_gpu_graphs.py; findings/remapper_pairs_gradients_wrongly.sh).
                y_backprop=tf.raw_ops.Snapshot(input=output_gradients),
                x=x,
                scale=gamma * ratio,  # over its own deviation: gamma over that of all replicas
                reserve_space_1=reserved[0],
                reserve_space_2=reserved[1],
                reserve_space_3=reserved[2],
                epsilon=epsilon,
                is_training=True,
            )
            by_gamma = ratio * by_own_scale - shift * by_beta
            # The kernel subtracted this replica's means of slopes and of slopes * z; those of all replicas are needed.
            own_slope = by_own_scale / ratio
            subtracted = tf.stack([by_beta + shift * own_slope, own_slope])
            due = context.all_reduce("SUM", tf.stack([by_beta, by_gamma])) * (1.0 / context.num_replicas_in_sync)
            offset, scale = tf.unstack(gamma * inverse * (1.0 / _count(x)) * (subtracted - due))
            return by_x + _affine(x, scale, offset, mean, variance, epsilon), by_gamma, by_beta

        return _affine(x, gamma, beta, mean, variance, epsilon), gradient

    return normalize(x, gamma, beta), mean, variance


def _count(x: tf.Tensor) -> float | tf.Tensor:
    """The number of values per channel; a plain number if the shape is known, which saves operations."""
    return x.shape[:-1].num_elements() or tf.cast(tf.size(x) // x.shape[-1], tf.float32)


def _over_replicas(
    context: tf.distribute.ReplicaContext, mean: tf.Tensor, variance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean and variance over all replicas, from each replica's.

    Each replica adds its own to zeros, so that all see those of all. The difference of a mean of squares and a squared
    mean, which sums over replicas would suffice for, loses digits where the mean is large compared with the deviation.
    """
    replica = int(tf.get_static_value(context.replica_id_in_sync_group))
    is_own = np.eye(context.num_replicas_in_sync, dtype=np.float32)[replica, :, np.newaxis, np.newaxis]
    of_all = context.all_reduce("SUM", is_own * tf.stack([mean, variance]))
    means, variances = tf.unstack(of_all, axis=1)
    global_mean = tf.reduce_mean(means, 0)
    return global_mean, tf.reduce_mean(variances + tf.math.squared_difference(means, global_mean), 0)
