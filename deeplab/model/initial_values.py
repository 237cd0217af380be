"""Where a checkpoint's weights replace the initial ones, these need not be drawn."""

import contextlib
import threading
from collections.abc import Iterator


class _Drawing(threading.local):
    """Of each thread: a network that another one builds meanwhile is random."""

    is_on: bool = True


_drawing = _Drawing()


@contextlib.contextmanager
def not_drawn() -> Iterator[None]:
    """A context in which the kernels of new networks are zeros, which takes a fraction of the time of drawing them.

    The layers keep their initializers, so that a copy that Keras makes of such a network is random.
    """
    before = _drawing.is_on
    _drawing.is_on = False
    try:
        yield
    finally:
        _drawing.is_on = before


def are_drawn() -> bool:
    """Whether the kernels of new networks are drawn."""
    return _drawing.is_on
