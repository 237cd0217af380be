"""The devices that a program runs on, as a `tf.distribute.Strategy`."""

import logging
import os
import signal

import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from deeplab import cpu_kernels
from deeplab.distribute import gpus
from deeplab.distribute.cluster import Cluster, find_cluster
from deeplab.distribute.roll_call import wait_for_all
from deeplab.distribute.settings import DeviceSettings, StrategySettings
from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")


def make_strategy(
    devices: DeviceSettings,
    name: str = "mirrored",
    jit_compile: bool = False,
    connect_minutes: float = StrategySettings.connect_minutes,
) -> tf.distribute.Strategy:
    """One replica per GPU, or per logical CPU device without a GPU or if `num_gpus` is 0; on all workers.

    Call it before TensorFlow runs its first operation, since it may split the CPU and start a server.

    Args:
        devices: how many GPUs to use on each worker, or how many logical devices to split each CPU into.
        name: a choice of `StrategySettings`.
        jit_compile: whether XLA will compile the step; on one GPU, `auto` is then `one_device`.
        connect_minutes: how long it may take the other workers to come.

    Raises:
        UsageError: more GPUs than there are, GPUs together with CPU replicas, or no cluster for multi_worker.
        DeepLabError: a worker does not come in time.
    """
    num_gpus = devices.num_gpus
    num_cpu_replicas = devices.num_cpu_replicas
    cluster = find_cluster() if name in ("auto", "multi_worker") else None
    if name == "multi_worker" and cluster is None:
        raise UsageError("--strategy=multi_worker: neither TF_CONFIG nor srun names more than one worker")
    if name == "one_device" and (num_cpu_replicas > 1 or (num_gpus or 0) > 1):
        raise UsageError("--strategy=one_device: for one GPU or one CPU replica")
    num_gpus = _set_devices(num_gpus, num_cpu_replicas, most=1 if name == "one_device" else None, cluster=cluster)
    kind, number = ("GPU", num_gpus) if num_gpus else ("CPU", num_cpu_replicas)
    replicas = f"{number} {kind} replica{'s' * (number != 1)}"
    if cluster is not None:
        if kind == "CPU" and number > 1:
            _take_all_logical_cpus(number)
        if cluster.index == 0:
            logger.info("%d workers of %s each: waiting for all of %s", len(cluster.workers), replicas, cluster.workers)
        return _connect(cluster, kind, connect_minutes)
    if num_gpus:
        number = gpus.count_used(num_gpus, is_asked_for=devices.num_gpus is not None)
        replicas = f"{number} GPU replica{'s' * (number != 1)}"
    logger.info(replicas)
    log_kernels()
    if name == "one_device" or (name == "auto" and jit_compile and kind == "GPU" and number == 1):
        return tf.distribute.OneDeviceStrategy(f"{kind}:0")
    return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(number)])


def _connect(cluster: Cluster, kind: str, minutes: float) -> tf.distribute.Strategy:
    """The strategy of all workers, once they have come; raises DeepLabError if one does not.

    TensorFlow puts a handler of its own, which ends nothing, in the place of Python's for SIGTERM. A SIGTERM that
    arrives meanwhile waits until Python's is back.
    """
    wait_for_all(cluster, minutes)
    os.environ["TF_CONFIG"] = cluster.to_tf_config()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=_communication(kind))
    finally:
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def log_kernels() -> None:
    """Logs which kernels compute on the CPU, unless a GPU does: as information only where that is not the usual."""
    if not tf.config.get_visible_devices("GPU"):
        words, is_usual = cpu_kernels.kernels()
        logger.log(logging.DEBUG if is_usual else logging.INFO, "%s", words)


def _communication(kind: str) -> tf.distribute.experimental.CommunicationOptions:
    """How workers sum. By default TensorFlow sums over gRPC even between GPUs."""
    choices = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.experimental.CommunicationOptions(
        implementation=choices.NCCL if kind == "GPU" else choices.RING
    )


def _set_devices(num_gpus: int | None, num_cpu_replicas: int, most: int | None, cluster: Cluster | None) -> int:
    """Makes the requested devices visible, by default at most this many GPUs; returns the number of GPUs."""
    present = tf.config.list_physical_devices("GPU")
    if cluster is not None and num_gpus != 0:
        present = gpus.share_of_task(present, cluster)

    # Without a number: all GPUs, or the CPU, with a word about why there is none.
    if num_gpus is None:
        num_gpus = len(present[:most]) if num_cpu_replicas == 1 else 0
        if not present and num_cpu_replicas == 1 and (reason := gpus.reason_without()):
            logger.warning("USING THE CPU: %s", reason)
    if num_gpus > len(present):
        reason = None if present else gpus.reason_without()
        raise UsageError(
            f"--num_gpus={num_gpus}: TensorFlow sees {len(present)} GPU{'s' * (len(present) != 1)} here; use fewer, "
            f"or 0 for the CPU ({reason or 'is tensorflow[and-cuda] installed?'})"
        )
    if num_gpus and num_cpu_replicas > 1:
        raise UsageError(f"--num_cpu_replicas={num_cpu_replicas}: only with --num_gpus=0")

    # Memory is taken as it is needed: other programs may use the GPU.
    tf.config.set_visible_devices(present[:num_gpus], "GPU")
    for gpu in present[:num_gpus]:
        gpus.check(gpu)
        tf.config.experimental.set_memory_growth(gpu, True)
    if num_gpus:
        # TensorFlow reads it when it starts to use the GPUs. Their kernels then do not wait for decoding on the host.
        os.environ.setdefault("TF_GPU_THREAD_MODE", "gpu_private")
    if num_cpu_replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_cpu_replicas)
    return num_gpus


def _take_all_logical_cpus(number: int) -> None:
    """Makes MultiWorkerMirroredStrategy, which uses only the first CPU device of a worker, use all of them.

    It overrides a private name, only to try several replicas on each of several workers without GPUs.
    """
    CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker_device: (
        tuple(f"{worker_device}/device:CPU:{index}" for index in range(number)),
        "CPU",
    )


def check_strategy(
    strategy: tf.distribute.Strategy, global_batch_size: int, accumulate_steps: int, jit_compile: bool
) -> None:
    """Raises UsageError for flags of train.py that do not fit the replicas."""
    check_batch_size("global_batch_size", global_batch_size, strategy.num_replicas_in_sync, accumulate_steps)
    if jit_compile and "GPU" not in strategy.extended.worker_devices[0]:
        raise UsageError("--jit_compile: only on GPUs; XLA cannot compile this step for the CPU")
    if jit_compile and not isinstance(strategy, tf.distribute.OneDeviceStrategy):
        raise UsageError(
            "--jit_compile: only on one GPU; TensorFlow cannot compile the step of mirrored replicas; use --num_gpus=1 "
            "with --strategy=auto or one_device, or leave it out"
        )


def check_batch_size(flag: str, batch_size: int, num_replicas: int, accumulate_steps: int = 1) -> None:
    """Raises UsageError with the nearest sizes unless the batch divides evenly into replicas and micro-batches."""
    parts = num_replicas * accumulate_steps
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = " or ".join(str(size) for size in (below, below + parts) if size)
        micro = f" of {accumulate_steps} micro-batches each" if accumulate_steps > 1 else ""
        raise UsageError(f"--{flag}={batch_size}: does not divide among {num_replicas} replicas{micro}; use {nearest}")
