"""Workers wait for each other before TensorFlow connects them, and say who is missing; on loopback, in threads."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deeplab.distribute.cluster import Cluster
from deeplab.distribute.roll_call import wait_for_all
from deeplab.errors import DeepLabError, Interrupted
from deeplab.program import signals

SHORT = 1 / 60
"""A limit of one second, in minutes."""


@pytest.fixture
def workers():
    """The addresses of three workers, at free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    addresses = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return addresses


def _port(address):
    return int(address.split(":")[1])


def _ends(workers, present, minutes):
    """How the wait ends for the workers that are present: None, or the error's text."""

    def end(number):
        try:
            return wait_for_all(Cluster(workers, number), minutes)
        except DeepLabError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(end, present))


def _missing(*addresses):
    return (
        f"TF_CONFIG: waited 1s for workers that do not answer: {', '.join(addresses)}; start them, "
        "check that their ports can be reached, or raise --connect_minutes"
    )


def test_all_start_once_the_last_has_come(workers):
    with ThreadPoolExecutor() as pool:
        first = [pool.submit(wait_for_all, Cluster(workers, number), 1) for number in (2, 0)]
        time.sleep(0.5)
        assert not any(each.done() for each in first)
        assert _ends(workers, [1], 1) == [None]
        assert [each.result(timeout=10) for each in first] == [None, None]


def test_every_worker_names_those_that_have_not_come(workers):
    assert _ends(workers, [0, 2], SHORT) == [_missing(workers[1])] * 2
    assert _ends(workers, [0], SHORT) == [_missing(*workers[1:])]
    assert _ends(workers, [1, 2], SHORT) == [_missing(workers[0])] * 2


def test_a_worker_that_has_left_again_is_missing(workers):
    with ThreadPoolExecutor() as pool:
        chief = pool.submit(_ends, workers, [0], 2 * SHORT)
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", _port(workers[0]))) as connection:
            connection.sendall(b"1")
            assert json.loads(connection.makefile().readline()) == [[workers[2]], False]
        assert f"do not answer: {workers[1]}; start" in _ends(workers, [2], 1)[0]
        assert f"do not answer: {workers[1]}; start" in chief.result()[0]


def test_another_program_at_the_chiefs_port_is_not_taken_for_it(workers):
    with socket.create_server(("127.0.0.1", _port(workers[0]))) as server:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert _ends(workers, [1], SHORT) == [_missing(workers[0])]


def test_a_scanner_of_ports_is_not_taken_for_a_worker(workers):
    def scan():
        with socket.create_connection(("127.0.0.1", _port(workers[0]))) as connection:
            connection.sendall(b"GET / HTTP/1.1")
            time.sleep(1)

    threading.Timer(0.3, scan).start()
    assert _ends(workers, [0], SHORT) == [_missing(*workers[1:])]


@pytest.mark.parametrize("number", [0, 1])
def test_a_port_in_use_is_named(workers, number):
    with socket.create_server(("127.0.0.1", _port(workers[number]))):
        (end,) = _ends(workers, [number], SHORT)
    assert end == (
        f"TF_CONFIG: port {_port(workers[number])} of this worker ({workers[number]}, number {number}) cannot be used: "
        "Address already in use; end the program that uses it, or take another port"
    )


@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_ends_the_wait(workers, number, monkeypatch):
    monkeypatch.setattr(signals, "signals_seen", [])
    handlers = {each: signal.getsignal(each) for each in signals.STOP_SIGNALS}
    signals.handle_stop_signals(signals.interrupt)
    start = time.monotonic()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        with pytest.raises(Interrupted, match="SIGTERM: stopped with nothing to save"):
            wait_for_all(Cluster(workers, number), 1)
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert time.monotonic() - start < 5
