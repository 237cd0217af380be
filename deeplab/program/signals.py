"""The effect of a signal on a program before training, including while TensorFlow is being imported."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deeplab.errors import Interrupted

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Sent by schedulers and people to stop a program; Slurm's --signal is usually set to SIGUSR1."""

signals_seen: list[int] = []
"""Signals that arrived before the training loop. A library's callback may swallow their exception, but not this."""


def program_name() -> str:
    """The file that was started, or the package if it was one: `train.py`, `app`."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


def handle_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Sets the handler for all `STOP_SIGNALS`."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """The handler while libraries load: ends the process immediately with one line and status 75.

    An exception would end in a traceback, or be swallowed by an import that tries alternatives.
    """
    if multiprocessing.parent_process() is None:  # a worker process leaves the line to its parent
        reason = f"{signal.Signals(number).name}: stopped while starting; run the same command again"
        os.write(sys.stderr.fileno() if sys.stderr else 2, f"{program_name()}: {reason}\n".encode())
    os._exit(Interrupted.exit_status)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """The handler from then on, until the training loop sets its own, which lets it finish its step.

    Raises:
        Interrupted: always.
    """
    handle_stop_signals(signal.SIG_DFL)  # a second signal ends the program immediately
    signals_seen.append(number)
    raise Interrupted(f"{signal.Signals(number).name}: stopped with nothing to save; run the same command again")
