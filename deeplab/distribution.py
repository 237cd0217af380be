"""Which devices a program runs on, as a `tf.distribute.Strategy`; and how it computes: precision and seeds."""

import logging
import os
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from deeplab.cluster import find_cluster
from deeplab.errors import UsageError
from deeplab.progress import Progress

logger = logging.getLogger("deeplab")

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")


def make_strategy(name: str = "auto", num_gpus: int | None = None, num_cpu_replicas: int = 1) -> tf.distribute.Strategy:
    """One replica per GPU, or per logical CPU device when there is no GPU or `num_gpus` is 0; on all workers.

    Must come before TensorFlow runs its first operation, since it may split the CPU and start a server.

    Args:
        name: one of `STRATEGIES`; auto is multi_worker where the environment describes a cluster, else mirrored.
        num_gpus: how many GPUs to use, on each worker; None for all there are.
        num_cpu_replicas: into how many logical devices each CPU is split, to try replicas without GPUs.

    Raises:
        UsageError: more GPUs than there are, GPUs and CPU replicas together, no cluster for multi_worker.
    """
    cluster = find_cluster() if name in ("auto", "multi_worker") else None
    if name == "multi_worker" and cluster is None:
        raise UsageError("--strategy=multi_worker: neither TF_CONFIG nor srun names more than one worker")
    if name == "one_device" and (num_cpu_replicas > 1 or (num_gpus or 0) > 1):
        raise UsageError("--strategy=one_device: for one GPU or one CPU replica")
    num_gpus = _set_devices(1 if name == "one_device" and num_gpus is None else num_gpus, num_cpu_replicas)
    kind, number = ("GPU", num_gpus) if num_gpus else ("CPU", num_cpu_replicas)
    replicas = f"{number} {kind} replica{'s' * (number != 1)}"
    if cluster is not None:
        os.environ["TF_CONFIG"] = cluster.to_tf_config()
        if kind == "CPU" and number > 1:
            _take_all_logical_cpus(number)
        if cluster.index > 0:
            logger.setLevel(logging.WARNING)  # what the chief says holds for all
            Progress.is_shown = False
        logger.info("%d workers of %s each: waiting for all of %s", len(cluster.workers), replicas, cluster.workers)
        return tf.distribute.MultiWorkerMirroredStrategy()
    logger.info(replicas)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(f"{kind}:0")
    return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(number)])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what a run leaves: the first worker, or the only one."""
    return not is_multi_worker(strategy) or strategy.cluster_resolver.task_id == 0


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def make_any_worker(strategy: tf.distribute.Strategy) -> Callable[[bool], bool]:
    """A function: a flag of this process -> whether it is up in any; all of them must call it, and wait for it."""
    if not is_multi_worker(strategy):
        return lambda flag: flag

    @tf.function
    def count(flag: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(lambda value: value, args=(flag,)), axis=None)

    return lambda flag: float(count(tf.constant(float(flag)))) > 0


def _set_devices(num_gpus: int | None, num_cpu_replicas: int) -> int:
    """Makes the devices visible that are asked for; the number of GPUs."""
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
    return num_gpus


def _take_all_logical_cpus(number: int) -> None:
    """Lets MultiWorkerMirroredStrategy, which takes the first CPU device of a worker alone, take them all.

    By a private name, only to try several replicas on each of several workers without GPUs.
    """
    CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker_device: (
        tuple(f"{worker_device}/device:CPU:{index}" for index in range(number)),
        "CPU",
    )


def set_numerics(precision: str, seed: int, deterministic: bool) -> None:
    """Sets Keras's dtype policy, all seeds, and, if `deterministic`, TensorFlow's deterministic kernels."""
    keras.config.set_dtype_policy(PRECISIONS[precision])
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def check_batch_size(flag: str, batch_size: int, num_replicas: int, accumulate_steps: int = 1) -> None:
    """Raises UsageError with the nearest sizes unless the batch divides evenly among replicas and micro-batches."""
    parts = num_replicas * accumulate_steps
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = " or ".join(str(size) for size in (below, below + parts) if size)
        micro = f" of {accumulate_steps} micro-batches each" if accumulate_steps > 1 else ""
        raise UsageError(f"--{flag}={batch_size}: does not divide among {num_replicas} replicas{micro}; use {nearest}")
