"""The process behind a program's file descriptor 2: passes lines from stdin to stderr, except TensorFlow's notes.

`deeplab.program.quiet` starts it by path, without site packages, so it may import only the standard library.
"""

import contextlib
import os
import re
from pathlib import Path

MARK = b"\0deeplab: drained?\0"
"""Not passed on, but answered with one byte on stdout once all output before it has been written."""

_NOTES = re.compile(rb"I\d{4} |\d{4}-\d\d-\d\d \S+ I |WARNING: All log messages before absl::InitializeLog")
_NO_DRIVER = re.compile(rb"E\d{4} .*failed call to cuInit")
_OF_ITERATORS = re.compile(
    rb"W\d{4} .*Input of GeneratorDatasetOp::Dataset will not be optimized"  # tf.distribute's own
    rb"|E\d{4} .*oneDNN supports DT_\w+ only on platforms with AVX-512. Falling back"  # tf.transpose's, and others'
)
"""Logged whenever an iterator over a distributed data set is created; both are harmless."""

_OF_PROBES = re.compile(
    rb"W\d{4} .*(Current CPU implementations do not yet support dilation rates"
    rb"|could not create a primitive descriptor for the convolution forward)"
)
"""Logged when `model.convolution` and `distribute.numerics` try which kernels there are; both get an error as well."""

_OF_CONVERTERS = re.compile(
    rb"W\d{4} .*tf_tfl_flatbuffer_helpers\.cc:\d+\] Ignored "
    rb"|W\d{4} .*flatbuffer_export\.cc:\d+\] Skipping runtime version metadata"
    rb"|fully_quantize: \d"
    rb"|INFO: Created TensorFlow Lite XNNPACK delegate"
)
"""Written for each file of TensorFlow Lite that is converted or opened."""

_OF_POOLS = re.compile(
    rb"\S+resource_tracker\.py:\d+: UserWarning: resource_tracker: There appear to be \d+ leaked semaphore"
    rb"|  warnings\.warn\('resource_tracker: There appear to be"
)
"""Written by Python's helper as it tidies up after a pool of processes that a signal has ended."""

_LONGEST_LINE = 2**16  # bytes; longer lines are passed on in pieces


def main() -> None:
    """Filters until every process that holds the other end of stdin has exited or closed it."""
    pending = b""
    while chunk := os.read(0, _LONGEST_LINE):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            _pass_on(line, b"\n")
        if len(pending) > _LONGEST_LINE:
            _write(2, pending)
            pending = b""
    _pass_on(pending, b"")


def _pass_on(line: bytes, end: bytes) -> None:
    text, mark, _ = line.partition(MARK)
    if (text or not mark) and not is_note(text):
        _write(2, text if mark else text + end)
    if mark:
        _write(1, b".")


def is_note(line: bytes) -> bool:
    """Whether a line on stderr is of no interest to a user."""
    if _NO_DRIVER.match(line):
        return not _has_nvidia_device()
    return any(notes.match(line) for notes in (_NOTES, _OF_ITERATORS, _OF_PROBES, _OF_CONVERTERS, _OF_POOLS))


def _has_nvidia_device() -> bool:
    """Looks at the PCI bus, on Linux: a failed driver is worth a line only if there is a GPU."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text(encoding="ascii").strip() == "0x10de" for vendor in vendors)


def _write(descriptor: int, text: bytes) -> None:
    """Ignores a closed reader and a full disk: the program's own writes must not fail because of them."""
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(descriptor, text) :]


if __name__ == "__main__":
    main()
