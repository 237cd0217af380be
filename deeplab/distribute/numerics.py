"""How a program computes: precision, seeds, and whether the same run gives the same bits."""

import logging
import os
import time

import keras
import tensorflow as tf
from tensorflow.python.eager import context

from deeplab.distribute.settings import POLICIES, PrecisionSettings, SeedSettings
from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")

PERSISTENT_BATCH_NORM = "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT"
"""TensorFlow reads this environment variable when it first runs a batch normalization."""

SLOWER_BY = 1.1
"""A half precision that takes longer than float32 by this factor is worth a warning: it has no other use on CPUs."""


def set_precision(settings: PrecisionSettings) -> None:
    """Sets Keras's dtype policy, and for half precisions cuDNN's kernels of batch normalization that read NHWC.

    Without those, TensorFlow transposes to NCHW and back around each batch normalization on a GPU. The caveat is
    cuDNN's: an input with a range too large for their scaled integer sums gives values that are not finite, which ends
    a run with an error. `TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT=0` in the environment keeps the slower kernels.
    Call it before the first operation on a GPU, and after the strategy is made. On CPUs it warns if the precision is
    slower than float32 here, which depends on the processor.

    Raises:
        UsageError: there are no kernels for it.
    """
    keras.config.set_dtype_policy(POLICIES[settings.precision])
    if settings.precision == "float32":
        return
    os.environ.setdefault(PERSISTENT_BATCH_NORM, "1")
    if not tf.config.get_visible_devices("GPU"):
        _warn_if_slow(settings.precision)


def _warn_if_slow(precision: str) -> None:
    """Compares matrix products in this half precision and in float32 on this processor, in a tenth of a second.

    Raises:
        UsageError: TensorFlow has no convolution in it here.
    """
    dtype = tf.as_dtype(precision)
    try:
        tf.nn.conv2d(tf.ones([1, 4, 4, 1], dtype), tf.ones([3, 3, 1, 1], dtype), 1, "SAME")
    except tf.errors.OpError as error:
        raise UsageError(
            f"--precision={precision}: TensorFlow has no kernels for it on this processor; use float32"
        ) from error
    slower = _seconds_of_product(dtype) / _seconds_of_product(tf.float32)
    if slower > SLOWER_BY:
        logger.warning(
            "--precision=%s: on this processor a matrix product takes %.1f times as long as in float32; "
            "--precision=float32 is faster",
            precision,
            slower,
        )


def _seconds_of_product(dtype: tf.DType) -> float:
    """The shortest of three products of two matrices."""
    matrix = tf.ones([256, 256], dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        tf.matmul(matrix, matrix).numpy()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def set_seed(settings: SeedSettings) -> None:
    """Sets all seeds and, if requested, TensorFlow's deterministic kernels and a fixed order of its sums."""
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
        _keep_order_of_sums()


def _keep_order_of_sums() -> None:
    """Turns off the graph optimizer that, to save memory, adds tensors in the order in which they become ready.

    See docs/design.md, deterministic sums. It sets a private field, since `set_experimental_options` has no key for it;
    the call without options only makes functions drop their cached options.
    """
    config = context.context()._config or tf.compat.v1.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.memory_optimization = rewriting.NO_MEM_OPT
    context.context()._config = config
    tf.config.optimizer.set_experimental_options({})
