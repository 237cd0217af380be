"""Work in threads: results in the order of the items, in bounded memory."""

import collections
import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """The function's result for each item, in order, while threads are at work on the next ones.

    An exception of the function is raised in the place of its result; then, as after an exception of the caller's, no
    further item is begun.
    """
    pool = _pool(num_threads)
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Background:
    """Work in threads whose results nobody waits for, until the end of the context.

    An exception of the work is raised by a later `submit`, or at the end. If the caller's own work fails, what has not
    begun is left undone.

    Args:
        num_threads: how many work at a time; `submit` waits while twice as many pieces of work are not done.
    """

    def __init__(self, num_threads: int) -> None:
        self._pool = _pool(num_threads)
        self._most = 2 * num_threads
        self._waiting: collections.deque[Future[None]] = collections.deque()

    def submit(self, function: Callable[..., None], *arguments: object) -> None:
        """Begins a piece of work when there is a thread for it."""
        if len(self._waiting) == self._most:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._waiting and kind is None:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, initializer=_leave_signals_to_the_main_thread)


def _leave_signals_to_the_main_thread() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class Budget:
    """An amount that threads share, such as of memory: a thread waits until there is room for what it asks.

    Args:
        total: what all may hold together. One that asks for more is let in once nobody else holds anything.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """A context that holds an amount."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self._total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
