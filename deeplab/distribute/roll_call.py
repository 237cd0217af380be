"""Waits until all workers have come, before TensorFlow connects them.

TensorFlow 2.21 waits for them in C++ without a limit, holds Python's lock meanwhile, so that no handler and no thread
of Python's runs, and has its own handler of SIGTERM, which does nothing. Only SIGKILL would end a worker whose chief
does not come. Here the others connect to the chief at the port that TensorFlow will use, and stay connected until the
chief has seen all of them, or stops waiting. Once a second it sends a line of JSON: who is missing, and whether it is
the last.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

from deeplab.distribute.cluster import Cluster
from deeplab.errors import DeepLabError
from deeplab.progress import duration, shown

_PAUSE = 0.2
"""Seconds between two looks at who is there; a signal is handled at once."""

_SILENCE = 5.0
"""Seconds after which a chief that has sent nothing is taken for lost."""


def wait_for_all(cluster: Cluster, minutes: float) -> None:
    """Returns once every worker of the cluster has called this function.

    Raises:
        DeepLabError: this worker's port is in use, or a worker has not come within this many minutes.
    """
    start = time.monotonic()
    deadline = start + 60 * minutes
    with _listening(cluster) as server, shown("waiting for the other workers"):
        missing = _call(cluster, server, deadline) if cluster.index == 0 else _answer(cluster, deadline)
    if missing:
        raise DeepLabError(
            f"{cluster.origin}: waited {duration(time.monotonic() - start)} for workers that do not answer: "
            f"{', '.join(missing)}; start them, check that their ports can be reached, or raise --connect_minutes"
        )


@contextlib.contextmanager
def _listening(cluster: Cluster) -> Iterator[socket.socket]:
    """A socket at this worker's port, at all addresses of this host, as TensorFlow's server will use it."""
    address = cluster.workers[cluster.index]
    _, port = _host_and_port(address)
    try:
        server = socket.create_server(("", port), backlog=len(cluster.workers))
    except OSError as error:
        raise DeepLabError(
            f"{cluster.origin}: port {port} of this worker ({address}, number {cluster.index}) cannot be used: "
            f"{os.strerror(error.errno or 0)}; end the program that uses it, or take another port"
        ) from error
    with server:
        yield server


def _call(cluster: Cluster, server: socket.socket, deadline: float) -> list[str]:
    """The chief's part; returns the addresses of the workers that are missing at the deadline."""
    server.settimeout(_PAUSE)
    present: dict[int, socket.socket] = {}
    told_at = 0.0
    with contextlib.ExitStack() as connections:
        while True:
            # Who has come, and who has left again.
            with contextlib.suppress(TimeoutError):
                connection = connections.enter_context(server.accept()[0])
                present[_read_number(connection)] = connection
            present = {number: each for number, each in present.items() if number and _is_open(each)}
            missing = [address for number, address in enumerate(cluster.workers) if number and number not in present]

            # All are told at once when the wait is over, so that they start, or end, together.
            now = time.monotonic()
            is_over = not missing or now > deadline
            if is_over or now - told_at >= 1:
                told_at = now
                for connection in present.values():
                    with contextlib.suppress(OSError):  # it has just left
                        connection.sendall(json.dumps([missing, is_over]).encode() + b"\n")
            if is_over:
                return missing


def _read_number(connection: socket.socket) -> int:
    """The number with which a worker introduces itself; 0, the chief's own, for what is no worker."""
    connection.settimeout(1.0)
    try:
        return int(connection.recv(16))
    except (OSError, ValueError):
        return 0
    finally:
        connection.setblocking(False)


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side is still there: it sends nothing more, so there is nothing to receive but the end."""
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _answer(cluster: Cluster, deadline: float) -> list[str]:
    """The other workers' part; returns who is missing when the chief stops waiting, or at the deadline without one."""
    chief = cluster.workers[0]
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError, TypeError, ValueError),  # not there yet, lost, or another program at its port
            socket.create_connection(_host_and_port(chief), timeout=1.0) as connection,
        ):
            connection.sendall(b"%d" % cluster.index)
            connection.settimeout(_SILENCE)
            for line in connection.makefile("rb"):
                missing, is_over = json.loads(line)
                if is_over:
                    return missing
        time.sleep(_PAUSE)
    return [chief]


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
