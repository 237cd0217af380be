"""Problems with GPUs that TensorFlow hardly mentions: GPUs that it does not see, or that its wheel has no code for."""

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf

from deeplab.distribute.cluster import Cluster
from deeplab.errors import UsageError

logger = logging.getLogger("deeplab")

PCI_DEVICES = Path("/sys/bus/pci/devices")
DRIVER = Path("/dev/nvidiactl")
AUTOTUNE = "TF_CUDNN_USE_AUTOTUNE"

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""PCI vendor, and the start of the class of all display controllers: NVIDIA also makes audio devices and bridges."""


def enable_memory_growth() -> None:
    """Leaves memory of the GPUs to other programs: by default TensorFlow takes all of it at its start.

    Changes nothing if TensorFlow already uses the GPUs, as it may in a program that uses this package as a library.
    """
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except (RuntimeError, ValueError) as error:
        logger.info("memory of the GPUs: left as it is (%s)", error)


@contextlib.contextmanager
def untimed_algorithms() -> Iterator[None]:
    """A context in which cuDNN's heuristics choose the algorithms of kernels that run for the first time.

    Otherwise TensorFlow times all of them for each new size of an image, which takes longer than the images, and two
    processes may choose differently, so that their masks differ in ties. Kernels read the environment variable when
    they are built (tensorflow/core/util/use_cudnn.cc), so what runs first outside keeps its timing. A value of the
    user's is kept.
    """
    if AUTOTUNE in os.environ:
        yield
        return
    os.environ[AUTOTUNE] = "0"
    try:
        yield
    finally:
        del os.environ[AUTOTUNE]


def reason_without() -> str | None:
    """NVIDIA GPUs on the PCI bus, on Linux, and why TensorFlow sees none; None without one, or if they are hidden."""
    number = sum(_is_nvidia_gpu(device) for device in PCI_DEVICES.glob("*"))
    if not number or os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return None
    if not tf.sysconfig.get_build_info().get("is_cuda_build"):
        cause = "this TensorFlow is built without CUDA"
    elif not DRIVER.exists():
        cause = "no NVIDIA driver is loaded, or this container has no access to it (docker run --gpus=all)"
    elif importlib.util.find_spec("nvidia") is None:
        cause = "the CUDA libraries are not installed"
    else:
        cause = "the driver may be too old; TF_CPP_MIN_LOG_LEVEL=0 shows TensorFlow's reason"
    return (
        f"this machine has {number} NVIDIA GPU{'s' * (number > 1)} that TensorFlow does not see: {cause}; "
        "pip install 'tensorflow[and-cuda]' installs the CUDA libraries"
    )


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device.joinpath(name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
    except (OSError, ValueError):
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY)


def share_of_task(
    present: list[tf.config.PhysicalDevice], cluster: Cluster, environment: Mapping[str, str] = os.environ
) -> list[tf.config.PhysicalDevice]:
    """The GPUs of this task among those that it sees, where a scheduler started several tasks on this host.

    With `srun --ntasks-per-node=4 --gpus-per-node=4` each task sees all four GPUs; with `--gpus-per-task=1` only its
    own. NCCL refuses a GPU that two workers use.

    Raises:
        UsageError: fewer GPUs than tasks, or slices of a card.
    """
    tasks = cluster.tasks_on_host
    if tasks == 1 or not present:
        return present
    slices = [name for gpu in present if re.search(r"\bMIG\b", name := _name(gpu))]
    if slices:
        raise UsageError(
            f"{slices[0]}: a slice of a card, and {tasks} tasks on this host; NCCL does not join slices: "
            "start one task for each card, with MIG turned off"
        )
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    has_own = bool(environment.get("SLURM_GPUS_PER_TASK")) or "gpu" in environment.get("SLURM_TRES_PER_TASK", "")
    if has_own or (on_node.isdigit() and len(present) < int(on_node)):
        return present
    if len(present) < tasks:
        number = f"{len(present)} GPU{'s' * (len(present) != 1)}"
        raise UsageError(f"srun: {tasks} tasks on this host see {number}; give each task its own: --gpus-per-task=1")
    return present[cluster.local_index :: tasks]


def count_used(num_gpus: int, is_asked_for: bool) -> int:
    """How many of the visible GPUs TensorFlow uses: it silently leaves out small ones beside large ones.

    Starts TensorFlow, so it comes last, and not before a strategy for several workers. Raises UsageError if that many
    were asked for.
    """
    used = len(tf.config.list_logical_devices("GPU"))
    if used == num_gpus:
        return used
    words = (
        f"TensorFlow uses {used} of {num_gpus} GPUs: it leaves out those with fewer than 8 multiprocessors "
        "(TF_MIN_GPU_MULTIPROCESSOR_COUNT)"
    )
    if is_asked_for or not used:
        raise UsageError(f"--num_gpus={num_gpus}: {words}; choose with CUDA_VISIBLE_DEVICES")
    logger.warning("%s", words)
    return used


def _name(gpu: tf.config.PhysicalDevice) -> str:
    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)


def check(gpu: tf.config.PhysicalDevice) -> None:
    """Warns about a GPU for which TensorFlow's wheel has only portable code; UsageError if it has none at all.

    Code for sm_XY runs on GPUs of compute capability X.Z from Z = Y on. compute_XY adds portable code, which the driver
    compiles for any later GPU.
    """
    details = tf.config.experimental.get_device_details(gpu)
    built_for = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    parsed = [code for each in built_for if (code := re.fullmatch(r"(sm|compute)_(\d+)(\d)", each))]
    if "compute_capability" not in details or not parsed:
        return
    capability = major, minor = details["compute_capability"]
    codes = [(code[1], (int(code[2]), int(code[3]))) for code in parsed]
    if any(built[0] == major and built <= capability for _, built in codes):
        return
    description = (
        f"{_name(gpu)}: compute capability {major}.{minor}, and TensorFlow {tf.__version__} "
        f"is built for {', '.join(built_for)}"
    )
    if not any(kind == "compute" and built < capability for kind, built in codes):
        raise UsageError(
            f"{description}; it cannot use this GPU: choose others with CUDA_VISIBLE_DEVICES, or --num_gpus=0"
        )
    logger.warning(
        "%s: its kernels are compiled at the start, which may take half an hour or fail with CUDA_ERROR_INVALID_PTX; "
        "a TensorFlow that is built for this GPU does not need that",
        description,
    )
