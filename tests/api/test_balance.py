"""The processes of the API share the connections of clients evenly, and none waits for one that does not work."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from api import balance
from api.balance import AWAY, Balance
from api.pace import LOOK_SECONDS
from api.server import WORKERS
from tests.serving import Server, serving

ASK = b"GET /v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as started:
        yield started


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def connect(server: Server, stack: ExitStack) -> socket.socket:
    """A connection that was answered once, and stays."""
    connection = stack.enter_context(socket.create_connection(server.address, 60))
    connection.sendall(ASK)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    return connection


def open_in(server: Server) -> dict[int, int]:
    """How many connections each process has."""
    port, found = server.address[1], {}
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):  # gone
            kept = [each for each in child.net_connections() if each.status == "ESTABLISHED"]
            found[child.pid] = sum(each.laddr.port == port for each in kept)
    return found


def until_all_accept(server: Server) -> None:
    """Wait until each process has accepted a connection."""
    for _ in range(600):
        with ExitStack() as stack:
            for _ in range(WORKERS):
                connect(server, stack)
            if [*open_in(server).values()] == [1] * WORKERS:
                return
        time.sleep(0.1)
    raise AssertionError("one process accepts nothing")


def test_connections_that_stay_are_shared_evenly(server: Server, stack: ExitStack) -> None:
    until_all_accept(server)
    for _ in range(8 * WORKERS):
        connect(server, stack)
    shared = [*open_in(server).values()]
    assert max(shared) - min(shared) <= 4  # even, but where a process was late on a busy machine


def test_nobody_waits_for_a_process_that_hangs(server: Server, stack: ExitStack) -> None:
    """Nor for the next look of the one that works."""
    until_all_accept(server)
    frozen, *_ = open_in(server)
    os.kill(frozen, signal.SIGSTOP)
    try:
        took = []
        for _ in range(20):
            began = time.monotonic()
            connect(server, stack)
            took.append(time.monotonic() - began)
        assert statistics.median(took) < LOOK_SECONDS / 2
        assert open_in(server)[frozen] == 0
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_the_next_process_takes_over_from_one_that_was_killed(server: Server, stack: ExitStack) -> None:
    until_all_accept(server)
    killed, *_ = open_in(server)
    os.kill(killed, signal.SIGKILL)
    while len(others := open_in(server)) < WORKERS or killed in others:
        connect(server, stack)
        time.sleep(0.1)
    until = time.monotonic() + 60
    while min(open_in(server).values()) == 0:
        assert time.monotonic() < until
        connect(server, stack)


def test_a_process_yields_to_those_that_have_fewer_and_accept() -> None:
    workers = [SimpleNamespace(load=balance.alone()) for _ in range(4)]
    shared = Balance(3)
    assert not workers[0].load.is_higher()
    for worker in workers[:3]:
        shared.enter(None, worker)
    first, second, third = (worker.load for worker in workers[:3])
    first.set(2)
    assert not first.is_higher()  # the others are not there yet
    second.set(2)
    assert not first.is_higher()
    third.set(1)
    assert first.is_higher()
    assert not third.is_higher()
    third.set(AWAY)
    assert not first.is_higher()
    shared.enter(None, workers[3])  # gunicorn starts the next one before it ends one
    assert not workers[3].load.is_higher()
    shared.leave(None, workers[3])
    shared.leave(None, workers[1])
    shared.enter(None, workers[3])
    workers[3].load.set(0)
    assert first.is_higher()
    another = Balance(3)
    another.leave(None, workers[0])
    assert another._free == {0, 1, 2}
