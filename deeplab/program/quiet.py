"""Keeps TensorFlow's notes out of a program's stderr without losing any other output.

TensorFlow 2.21 reads its log level only after its libraries have loaded, and its C++ code writes directly to file
descriptor 2. Importing this module, which `deeplab.program.start` does before it imports TensorFlow, therefore puts a
small process (`stderr_filter`) behind that descriptor for the rest of the program's life. It passes on all lines except
notes, and outlives the program, so that the last output of a program that aborts or is killed still appears. Python's
`sys.stderr` is the original one, unfiltered. From here on a signal ends the program with one line, until
`program.start` sets other handlers.

Nothing is filtered with TF_CPP_MIN_LOG_LEVEL=0 in the environment, or in process 1 of a container, which the filter
would not outlive. If TensorFlow has already been imported, this is not one of our programs, and nothing is changed.
"""

import importlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from deeplab.program import signals
from deeplab.program.stderr_filter import MARK

_SIGNALS_OF_GROUPS = {*signals.STOP_SIGNALS, signal.SIGHUP, signal.SIGQUIT}
"""Sent by terminals and schedulers to all processes at once; the filter must survive them."""

_filter: subprocess.Popen | None = None


def drain(timeout: float = 2.0) -> None:
    """Waits until everything written to file descriptor 2 has been passed on, for at most `timeout` seconds."""
    if _filter is None or _filter.stdout is None:
        return
    _, writable, _ = select.select([], [2], [], timeout)
    if writable:
        os.write(2, MARK + b"\n")
        if select.select([_filter.stdout], [], [], timeout)[0]:
            os.read(_filter.stdout.fileno(), 1)


def _start_filter() -> subprocess.Popen | None:
    """Puts the filter behind file descriptor 2 and `sys.stderr` past it; None if the process cannot be started."""
    stderr = os.dup(2)
    read_end, write_end = os.pipe()
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("stderr_filter.py"))]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_GROUPS)  # the filter inherits this for good
    try:
        process = subprocess.Popen(command, stdin=read_end, stdout=subprocess.PIPE, bufsize=0)
    except OSError:
        os.close(stderr)
        os.close(write_end)
        return None
    finally:
        os.close(read_end)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.dup2(write_end, 2)
    os.close(write_end)
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: PTH123, SIM115
        stderr, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
    )
    return process


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
if "tensorflow" not in sys.modules:
    signals.handle_stop_signals(signals.leave)
    with signals.blocked():  # so that its threads never take a signal that the main thread blocks
        importlib.import_module("numpy")
    has_own_stderr = not signals.is_worker_process()  # a worker's file descriptor 2 is its parent's
    if has_own_stderr and os.environ["TF_CPP_MIN_LOG_LEVEL"] != "0" and sys.stderr is not None and os.getpid() != 1:
        _filter = _start_filter()
