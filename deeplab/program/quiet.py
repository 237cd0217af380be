"""Keeps TensorFlow's notes out of a program's stderr, and holds nothing back.

TensorFlow 2.21 asks for its log level only after its libraries have loaded, and C++ writes to file descriptor 2 behind
Python's back. So importing this module, which `deeplab.program.run` does before it imports TensorFlow, puts a small
process (`stderr_filter`) behind that descriptor for the rest of the program's life: it passes on all lines but notes,
and outlives the program, so that the last words of one that aborts or is killed come out. Python's own `sys.stderr`
is the real one, unfiltered. A signal from here on ends the program with one line, until `run` sets other handlers.

Nothing is filtered with TF_CPP_MIN_LOG_LEVEL=0 in the environment; nor in process 1 of a container, whose end the
filter would not outlive. Nothing at all happens where TensorFlow is imported already: that is no program of ours.
"""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from deeplab.program import signals
from deeplab.program.stderr_filter import MARK

_SIGNALS_OF_GROUPS = {*signals.STOP_SIGNALS, signal.SIGHUP, signal.SIGQUIT}
"""What terminals and schedulers send to all processes at once; the filter must outlive them."""

_filter: subprocess.Popen | None = None


def drain(timeout: float = 2.0) -> None:
    """Waits until what was written to file descriptor 2 has come out, at most for `timeout` seconds."""
    if _filter is None or _filter.stdout is None:
        return
    _, writable, _ = select.select([], [2], [], timeout)
    if writable:
        os.write(2, MARK + b"\n")
        if select.select([_filter.stdout], [], [], timeout)[0]:
            os.read(_filter.stdout.fileno(), 1)


def _start_filter() -> subprocess.Popen | None:
    """Puts the filter behind file descriptor 2, and `sys.stderr` beside it; None if there is no process to be had."""
    stderr = os.dup(2)
    read_end, write_end = os.pipe()
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("stderr_filter.py"))]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_GROUPS)  # inherited, and so blocked for good
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
    is_worker = multiprocessing.parent_process() is not None  # its file descriptor 2 is its parent's
    if not is_worker and os.environ["TF_CPP_MIN_LOG_LEVEL"] != "0" and sys.stderr is not None and os.getpid() != 1:
        _filter = _start_filter()
