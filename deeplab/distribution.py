"""Which devices a program runs on, as a `tf.distribute.Strategy`; and how it computes: precision and seeds."""

import logging

import keras
import tensorflow as tf

from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def make_strategy(num_gpus: int | None, num_cpu_replicas: int = 1) -> tf.distribute.MirroredStrategy:
    """One replica per GPU, or per logical CPU device when there is no GPU or `num_gpus` is 0.

    Must come before TensorFlow runs its first operation, since it may split the CPU.

    Args:
        num_gpus: how many GPUs to use; None for all there are.
        num_cpu_replicas: into how many logical devices the CPU is split, to try replicas without GPUs.

    Raises:
        UsageError: more GPUs than there are, or GPUs and CPU replicas together.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if num_gpus is None:
        num_gpus = len(gpus) if num_cpu_replicas == 1 else 0
    if num_gpus > len(gpus):
        raise UsageError(
            f"--num_gpus={num_gpus}: TensorFlow sees {len(gpus)} GPU{'s' * (len(gpus) != 1)} here; "
            "name fewer, or 0 for the CPU (is tensorflow[and-cuda] installed?)"
        )
    if num_gpus and num_cpu_replicas > 1:
        raise UsageError(f"--num_cpu_replicas={num_cpu_replicas}: only with --num_gpus=0")
    tf.config.set_visible_devices(gpus[:num_gpus], "GPU")
    for gpu in gpus[:num_gpus]:
        tf.config.experimental.set_memory_growth(gpu, True)
    if num_cpu_replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_cpu_replicas)
    kind, number = ("GPU", num_gpus) if num_gpus else ("CPU", num_cpu_replicas)
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(number)])
    logger.info("%d %s replica%s", number, kind, "s" * (number != 1))
    return strategy


def set_numerics(precision: str, seed: int, deterministic: bool) -> None:
    """Sets Keras's dtype policy, all seeds, and, if `deterministic`, TensorFlow's deterministic kernels."""
    keras.config.set_dtype_policy(PRECISIONS[precision])
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def check_batch_size(flag: str, batch_size: int, num_replicas: int) -> None:
    """Raises UsageError with the nearest sizes unless the batch divides evenly among the replicas."""
    if batch_size % num_replicas:
        below = batch_size // num_replicas * num_replicas
        nearest = " or ".join(str(size) for size in (below, below + num_replicas) if size)
        raise UsageError(f"--{flag}={batch_size}: does not divide among {num_replicas} replicas; use {nearest}")
