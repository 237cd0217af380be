"""Progress of long work: one line that is redrawn on a terminal, plain lines elsewhere."""

import sys
import time
from typing import ClassVar, TextIO


def duration(seconds: float) -> str:
    """'42s', '3m07s' or '5h02m'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


class Progress:
    """Shows `done`/`total` with rate and ETA on stderr.

    On a terminal the line is redrawn at most ten times per second. Elsewhere (a batch job's file) a plain line is
    written at most every `every_seconds`, and at the end.
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
        stream: TextIO | None = None,
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._initial = self._done = initial
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval = 0.1 if self._terminal else every_seconds
        self._start = self._last_shown = time.monotonic()
        self._width = 0

    def update(self, done: int, note: str = "") -> None:
        """Records that `done` units in total are done, and shows it if the display is due."""
        self._done = done
        now = time.monotonic()
        if now - self._last_shown >= self._interval or (self._terminal and done == self._total):
            self._last_shown = now
            self._show(note)

    def _show(self, note: str) -> None:
        if not self.is_shown:
            return
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._initial) / elapsed
        eta = f", ETA {duration((self._total - self._done) / rate)}" if rate > 0 else ""
        line = f"{self._label}: {self._done:,}/{self._total:,} {self._unit} ({rate:,.1f}/s{eta})"
        line += f" {note}" if note else ""
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Clears the line on a terminal, so that other output can replace it."""
        if self._terminal and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def close(self) -> None:
        """Ends with a plain line that shows how much was done in how much time."""
        self.clear()
        elapsed = time.monotonic() - self._start
        unit = self._unit.removesuffix("s") if self._done == 1 else self._unit
        self._stream.write(f"{self._label}: {self._done:,} {unit} in {duration(elapsed)}\n")
        self._stream.flush()
