"""Batch normalisation, synchronised over replicas; it uses the fused kernel where the result is the same."""

import keras
import tensorflow as tf


class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, synchronised, over the last axis, with scale and offset.

    In training on a single replica, and in inference, it is one `FusedBatchNormV3`, which reads bfloat16 and float16
    directly and keeps its statistics in float32. Keras's form, a dozen operations in float32, gives the same up to
    rounding. It is used for several replicas, which must sum, and for frozen layers in training, since the fused
    kernel's gradient with given statistics is not deterministic on GPUs.
    """

    def call(self, inputs: tf.Tensor, training: bool = False, mask: tf.Tensor | None = None) -> tf.Tensor:
        """-> the shape and dtype of `inputs`."""
        several_replicas = tf.distribute.get_strategy().num_replicas_in_sync > 1
        if training and (several_replicas or not self.trainable):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[] if training else self.moving_mean,
            variance=[] if training else self.moving_variance,
            epsilon=self.epsilon,
            is_training=bool(training),
        )
        if training:
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            # Undoes the kernel's Bessel correction, which Keras does not apply. cuDNN gives NaN for a single value.
            variance = tf.where(count > 1.0, variance * (count - 1.0) / count, 0.0)
            for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs
