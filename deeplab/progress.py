"""Progress of long work: one line that is redrawn on a terminal, plain lines elsewhere."""

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import ClassVar, TextIO

FIRST_SIGN = 10.0
"""Seconds until the first line about work that has shown nothing yet."""

LONGEST_SILENCE = 30.0
"""The longest time in seconds between two lines, however long a single unit takes."""


def duration(seconds: float) -> str:
    """'42s', '3m07s' or '5h02m'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


class Progress:
    """Shows `done`/`total` on stderr, with rate and ETA from the end of the first unit on, which often takes longer.

    On a terminal the line is redrawn at most ten times per second. Elsewhere (a batch job's file) a plain line is
    written at most every `every_seconds`, and at the end. A thread writes a line if nothing else does for
    `LONGEST_SILENCE` seconds; it ends with the object.

    Args:
        label: what is done, as in "reading".
        total: number of units; 0 for work that has none.
        unit: name of the units, in the plural.
        initial: units that were done before.
        every_seconds: see above; `math.inf` leaves it to the thread.
        first: what happens before the first unit is done, if that may take long.
        stream: stderr by default.
    """

    is_shown: ClassVar[bool] = True
    """False in all but one of the processes that train together."""

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        initial: int = 0,
        every_seconds: float = 15.0,
        first: str = "",
        stream: TextIO | None = None,
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = initial
        self._note = ""
        self._first = first
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval = 0.1 if self._terminal else every_seconds
        self._start = self._last_shown = self._done_at = time.monotonic()
        self._rated_from: tuple[int, float] | None = None  # units done and time at the end of the first unit
        self._width = 0
        self._lock = threading.RLock()
        self._ended = threading.Event()
        threading.Thread(target=_watch, args=(weakref.ref(self), self._ended), daemon=True).start()

    def update(self, done: int, note: str = "") -> None:
        """Records that `done` units in total are done, and shows it if the display is due."""
        with self._lock:
            now = time.monotonic()
            self._done = done
            self._done_at = now
            self._note = note
            self._rated_from = self._rated_from or (done, now)
            if now - self._last_shown >= self._interval or (self._terminal and done == self._total):
                self._show(now)

    def show_if_silent(self) -> None:
        """Shows the line if nothing has been shown for too long."""
        with self._lock:
            now = time.monotonic()
            is_first = self._rated_from is None and self._last_shown == self._start
            limit = 1.0 if self._terminal else FIRST_SIGN if is_first else LONGEST_SILENCE
            if now - self._last_shown >= limit and not self._ended.is_set():
                self._show(now)

    def _show(self, now: float) -> None:
        self._last_shown = now
        if not self.is_shown:
            return
        line = f"{self._label}: {self._done:,}/{self._total:,} {self._unit} ({self._rate(now)})"
        if not self._total:
            line = f"{self._label}: {duration(now - self._start)} so far"
        if self._rated_from is None and self._first:
            line += f" {self._first}"
        if self._note:
            line += f" {self._note}"
        if self._terminal:
            line = line[: self._columns()]
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _columns(self) -> int | None:
        """How much of a line fits into the terminal, since a wrapped line cannot be redrawn; None if it is unknown."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return None
        return columns - 1 if columns else None

    def _rate(self, now: float) -> str:
        """Rate and ETA since the end of the first unit; before the second, the time so far."""
        done_then, then = self._rated_from or (self._done, now)
        units = self._done - done_then
        if not units:
            return duration(now - self._start)
        seconds = max(self._done_at - then, 1e-9) / units
        rate = f"{seconds:.1f} s each" if seconds > 1 else f"{1 / seconds:,.1f}/s"
        return f"{rate}, ETA {duration((self._total - self._done) * seconds)}"

    def clear(self) -> None:
        """Clears the line on a terminal, so that other output can replace it."""
        with self._lock:
            self._last_shown = time.monotonic()
            if self._terminal and self._width:
                self._stream.write("\r" + " " * self._width + "\r")
                self._stream.flush()
                self._width = 0

    def end(self) -> None:
        """Clears the line; nothing is shown from now on."""
        with self._lock:
            self.clear()
            self._ended.set()

    def close(self) -> None:
        """Ends with a plain line that shows how much was done in how much time."""
        self.end()
        elapsed = time.monotonic() - self._start
        unit = self._unit.removesuffix("s") if self._done == 1 else self._unit
        self._stream.write(f"{self._label}: {self._done:,} {unit} in {duration(elapsed)}\n")
        self._stream.flush()


def _watch(progress: "weakref.ref[Progress]", ended: threading.Event) -> None:
    """Makes a `Progress` check the time once a second, until it has ended or nothing refers to it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
    while not ended.wait(1.0):
        watched = progress()
        if watched is None:
            return
        watched.show_if_silent()
        del watched


@contextlib.contextmanager
def shown(label: str) -> Iterator[None]:
    """A context that writes a line every half minute, for work whose length is not known."""
    progress = Progress(label, 0, "")
    try:
        yield
    finally:
        progress.end()
