"""The process behind a program's file descriptor 2: passes lines from stdin on to stderr, except TensorFlow's notes.

`deeplab.program.quiet` starts it by path, without site packages, so it may import only the standard library.
"""

import contextlib
import os
import re
from pathlib import Path

MARK = b"\0deeplab: drained?\0"
"""In place of a line: not passed on, but answered by one byte on stdout once all lines before it are written."""

_NOTES = re.compile(rb"I\d{4} |\d{4}-\d\d-\d\d \S+ I |WARNING: All log messages before absl::InitializeLog")
_NO_DRIVER = re.compile(rb"E\d{4} .*failed call to cuInit")
_OF_ITERATORS = re.compile(
    rb"W\d{4} .*Input of GeneratorDatasetOp::Dataset will not be optimized"  # tf.distribute's own
    rb"|E\d{4} .*oneDNN supports DT_UINT8 only on platforms with AVX-512. Falling back"  # of tf.transpose, everywhere
)
"""Logged whenever an iterator over a distributed data set is made; TensorFlow's own kernels are as good."""

_LONGEST_LINE = 2**16  # bytes; what is longer is passed on in pieces


def main() -> None:
    """Filters until every process that holds the other end of stdin has ended or closed it."""
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
    """Whether a line on stderr means nothing to a user."""
    if _NO_DRIVER.match(line):
        return not _has_nvidia_device()
    return bool(_NOTES.match(line) or _OF_ITERATORS.match(line))


def _has_nvidia_device() -> bool:
    """By the PCI bus, on Linux: a GPU whose driver does not work is worth a line, none is not."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(vendor.read_text(encoding="ascii").strip() == "0x10de" for vendor in vendors)


def _write(descriptor: int, text: bytes) -> None:
    """Goes on if nobody reads any more or the disk is full: the program's own writes must not fail because of it."""
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(descriptor, text) :]


if __name__ == "__main__":
    main()
