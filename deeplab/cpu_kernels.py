"""The kernels of TensorFlow that fit this processor, chosen before TensorFlow is imported.

TensorFlow's wheel for x86 uses oneDNN's operations by itself only on processors with instructions for 8-bit or bfloat16
products (`IsMKLEnabled` in tensorflow/core/util/port.cc). Without them convolutions are slower (docs/measurements.md,
processors), so `import deeplab` turns them on for all others, too. Not on a machine with a GPU: with oneDNN's
operations on, TensorFlow's remapper leaves batch normalization and ReLU apart on GPUs as well
(findings/remapper_pairs_gradients_wrongly.sh).
"""

import functools
import os
import platform
import sys
from pathlib import Path

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
"""TensorFlow reads this environment variable once, when its libraries are loaded. The user's own value is kept."""

_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/dev/nvidiactl")
_TENSORFLOWS_OWN = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}
_SMALLER_LIMITS = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
"""Values of oneDNN's own ONEDNN_MAX_CPU_ISA that leave no AVX-512."""


def instruction_sets() -> frozenset[str]:
    """Names of this processor's instruction sets, as Linux gives them; empty elsewhere and where it gives none."""
    return _flags_in(_CPU_INFO)


@functools.cache
def _flags_in(path: Path) -> frozenset[str]:
    """Those of the first processor; the file has as many as there are cores, so it is read once."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            flags = next((line.partition(":")[2] for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(flags.split())


def choose_kernels() -> None:
    """Turns oneDNN's operations on where that is faster; without effect once TensorFlow is imported."""
    if "tensorflow" not in sys.modules and _is_x86() and not _offers_gpu():
        os.environ.setdefault(SWITCH, "1")


def has_avx512() -> bool:
    """Whether oneDNN's kernels may use AVX-512 here."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return "avx512bw" in instruction_sets() and limit.upper() not in _SMALLER_LIMITS


def kernels() -> tuple[str, bool]:
    """What was chosen and why, in a line, and whether it is what TensorFlow itself would have done."""
    asked_for = os.environ.get(SWITCH)
    widest = "AVX-512" if has_avx512() else "AVX2" if "avx2" in instruction_sets() else "neither AVX2 nor AVX-512"
    if not _is_x86():
        return f"TensorFlow's own choice of kernels for {platform.machine()}", True
    is_usual = bool(_TENSORFLOWS_OWN & instruction_sets())
    if asked_for is None:
        reason = "this machine has a GPU" if _offers_gpu() else "it was imported before deeplab"
        hint = "" if is_usual else f"; {SWITCH}=1 is faster without a GPU"
        return f"TensorFlow's own choice of kernels, as {reason}{hint}", is_usual
    if asked_for != "1":
        return f"oneDNN's kernels as {SWITCH}={asked_for} says; without them convolutions are slower", False
    return f"oneDNN's kernels, with {widest}; {SWITCH}=0 turns them off", is_usual


def _offers_gpu() -> bool:
    """Whether an NVIDIA driver is loaded and its GPUs are not hidden from this process."""
    return _NVIDIA_DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
