"""The effect of a signal on a program: while TensorFlow is being imported, before training, and while it trains."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deeplab.errors import Interrupted
from deeplab.files import delete_unfinished
from deeplab.program.generated import delete_generated_code

logger = logging.getLogger("deeplab")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Sent by schedulers and people to stop a program; Slurm's --signal is usually set to SIGUSR1."""

PATIENCE = 4.0
"""Seconds within which a program that has nothing to save ends after a signal."""

_LAST_FILE = 0.05
"""Seconds within which the main thread, which cannot be stopped, has written the file of code that it is writing."""

signals_seen: list[int] = []
"""Signals that arrived. A library's callback may swallow their exception, but not this."""

is_ending = threading.Event()
"""Set once the thread that watches ends the program: what the main thread meets from then on is of no interest."""

something_to_save = threading.Event()
"""Set once the training loop has made a step: from then on it ends the program itself, after a save."""


def program_name() -> str:
    """The file that was started, or the package if it was one: `train.py`, `app`."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


def handle_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Sets the handler for all `STOP_SIGNALS`."""
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """A context that keeps signals waiting; threads that start in it never take one."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def watch() -> None:
    """From now on a thread ends the program `PATIENCE` seconds after a signal, unless there is something to save.

    A handler runs only when the main thread returns to Python's own code, which may take it minutes: it may be waiting
    for another worker, or optimizing the step.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    with blocked():
        threading.Thread(target=_leave_after_signal, args=(read_end,), daemon=True).start()


def _leave_after_signal(read_end: int) -> None:
    number = 0
    while number not in STOP_SIGNALS:
        (number,) = os.read(read_end, 1)
    time.sleep(PATIENCE)
    if not something_to_save.is_set():
        is_ending.set()
        for child in multiprocessing.active_children():
            child.kill()  # it would wait for more work forever
        _end(number, "stopped")


def is_worker_process() -> bool:
    """Whether this is a process of a pool; while it still imports its modules, it knows its name, not its parent."""
    return multiprocessing.current_process().name != "MainProcess"


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """The handler while libraries load: ends the process immediately with one line and status 75.

    An exception would end in a traceback, or be swallowed by an import that tries alternatives.
    """
    _end(number, "stopped while starting")


def _end(number: int, what: str) -> NoReturn:
    if not is_worker_process():  # which leaves the line to its parent
        reason = f"{signal.Signals(number).name}: {what}; run the same command again"
        os.write(sys.stderr.fileno() if sys.stderr else 2, f"{program_name()}: {reason}\n".encode())
    delete_unfinished()
    delete_generated_code()
    time.sleep(_LAST_FILE)
    delete_generated_code()
    os._exit(Interrupted.exit_status)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """The handler from then on, until the training loop sets its own, which lets it finish its step.

    Raises:
        Interrupted: always.
    """
    handle_stop_signals(signal.SIG_DFL)  # a second signal ends the program immediately
    signals_seen.append(number)
    raise Interrupted(f"{signal.Signals(number).name}: stopped with nothing to save; run the same command again")


class StopRequest:
    """A request to stop training after the current step, made by a signal to any of the workers.

    Args:
        any_worker: whether a flag is set in any worker; all of them call it at the same point.
        are_several: whether several processes train together.

    Attributes:
        is_agreed: whether the workers have agreed to stop; all know it from the same step on.
    """

    def __init__(self, any_worker: Callable[[bool], bool], are_several: bool) -> None:
        self._any_worker = any_worker
        self._are_several = are_several
        self._is_evaluating = False
        self.is_agreed = False

    @property
    def reason(self) -> str:
        """The signal's name, or that it was sent to another worker."""
        return signal.Signals(signals_seen[0]).name if signals_seen else "a signal to another worker"

    def listen(self) -> None:
        """Handles signals from now on; one that arrived before, and whose exception was lost, counts."""
        handle_stop_signals(self._on_signal)

    def note_something_to_save(self) -> None:
        """From now on there is something to save, so `watch` lets the loop end however long its step takes."""
        something_to_save.set()

    def agree(self) -> None:
        """Notes whether any worker received a signal. All must call it at the same point."""
        self.is_agreed = self.is_agreed or self._any_worker(bool(signals_seen))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """A context in which a signal to a process that trains alone raises Interrupted at once.

        Several workers finish their evaluation, since the others would wait for the one that leaves.
        """
        self._is_evaluating = True
        try:
            yield
        finally:
            self._is_evaluating = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Records the signal; a second signal of the same kind ends the program immediately."""
        signals_seen.append(number)
        signal.signal(number, signal.SIG_DFL)
        if self._is_evaluating and not self._are_several:
            raise Interrupted(self.reason)
        logger.warning("%s: stopping after this step", self.reason)
