"""Keeps TensorFlow's noise from the log. Programs import this first, which imports TensorFlow and Keras.

Warnings and errors pass, but for three that mean nothing. A signal meanwhile ends the program with one line.
"""

import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deeplab.errors import STOP_SIGNALS, Interrupted

_NOTES = re.compile(r"I\d{4} |\d{4}-\d\d-\d\d \S+ I |WARNING: All log messages before absl::InitializeLog")
_NO_DRIVER = re.compile(r"E\d{4} .*failed call to cuInit")
_OF_ITERATORS = re.compile(
    r"W\d{4} .*Input of GeneratorDatasetOp::Dataset will not be optimized"  # tf.distribute's own
    r"|E\d{4} .*oneDNN supports DT_UINT8 only on platforms with AVX-512. Falling back"  # of tf.transpose, everywhere
)
"""Said when an iterator over a distributed data set is made; TensorFlow's own kernels are as good."""


@contextmanager
def without_noise() -> Iterator[int]:
    """Catches what goes to stderr, also from C++, and passes it on at the end, but for noise; gives the real stderr."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield stderr
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            sys.stderr.writelines(line for line in caught if not _is_noise(line))


def _import_tensorflow() -> None:
    """TensorFlow 2.21 asks its log level only after its libraries are loaded, so their notes are caught on the way."""
    with without_noise() as stderr:

        def leave(number: int, frame: FrameType | None) -> None:
            reason = f"{signal.Signals(number).name}: stopped while starting; the same command starts again"
            os.write(stderr, f"{Path(sys.argv[0]).name}: {reason}\n".encode())
            os._exit(Interrupted.exit_status)

        handlers = {number: signal.signal(number, leave) for number in STOP_SIGNALS}
        import keras  # noqa: F401, PLC0415
        import tensorflow as tf  # noqa: PLC0415

        tf.config.list_physical_devices()  # tells here what it has to say of drivers
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_noise(line: str) -> bool:
    if _NO_DRIVER.match(line):
        return not _has_nvidia_device()
    return bool(_NOTES.match(line) or _OF_ITERATORS.match(line))


def _has_nvidia_device() -> bool:
    """By the PCI bus, on Linux: a GPU whose driver does not work is worth a line, none is not."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text(encoding="ascii").strip() == "0x10de" for vendor in vendors)


if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") != "0":
    _import_tensorflow()
