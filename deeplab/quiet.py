"""Imports TensorFlow without the notes of its start; its warnings and errors pass. Programs import this first."""

import os
import re
import sys
import tempfile

_NOTES = re.compile(r"I\d{4} |\d{4}-\d\d-\d\d \S+ I |WARNING: All log messages before absl::InitializeLog")


def _import_tensorflow() -> None:
    """TensorFlow 2.21 asks its log level only after its libraries are loaded, so their notes are caught on the way."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as caught:
        os.dup2(caught.fileno(), 2)
        try:
            import tensorflow  # noqa: F401, PLC0415
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            sys.stderr.writelines(line for line in caught if not _NOTES.match(line))


if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") != "0":
    _import_tensorflow()
