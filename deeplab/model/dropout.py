"""Dropout that does not depend on the number of replicas."""

import keras
import tensorflow as tf

_FLOATS_PER_COUNT = 4  # yielded by one count of the Philox generator
_PHILOX = 1


@keras.saving.register_keras_serializable(package="deeplab")
class GlobalDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` whose mask is drawn for the global batch; each replica takes the rows of its examples.

    Keras's own layer draws the same mask on every replica. The seed and the draw's number are Keras state, which is
    saved in checkpoints, so a run sees the same masks even if it resumes with another number of replicas.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[batch, ...] -> the same shape and dtype."""
        if not training or not self.rate:
            return inputs
        *outer, channels = self.noise_shape or inputs.shape
        actual = tf.unstack(tf.shape(inputs, tf.int64))
        sizes = [actual[axis] if size is None else size for axis, size in enumerate(outer)]
        whole_counts = -(-channels // _FLOATS_PER_COUNT) * _FLOATS_PER_COUNT
        shape = tf.convert_to_tensor([*sizes, whole_counts], tf.int64)
        uniform = _rows_of_replica(shape, self.seed_generator.next())[..., :channels]
        is_kept = tf.cast(uniform >= self.rate, inputs.dtype)
        # Not tf.where with a scalar 0, at which TensorFlow's layout optimizer gives up on the whole graph on GPUs
        # (tests/test_gpu_graphs.py; findings/layout_optimizer_gives_up_on_where.sh).
        return inputs / tf.cast(1.0 - self.rate, inputs.dtype) * is_kept


def _rows_of_replica(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """float32 in [0, 1) of this shape: the replica's part of a single draw for all replicas.

    Philox is counter-based: a replica's draw begins where the draws of the replicas before it end.
    """
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    first = tf.cast(replica, tf.int64) * (tf.reduce_prod(shape) // _FLOATS_PER_COUNT)
    counter += tf.cast(tf.stack([first, 0]), tf.uint64)
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=key, counter=counter, alg=_PHILOX)
