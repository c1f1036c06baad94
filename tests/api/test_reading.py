"""Clients that take their time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from gunicorn.http.errors import NoMoreData  # type: ignore[import-untyped]
from werkzeug.exceptions import RequestTimeout

from api import reading
from api.reading import PacedReader

Pair = tuple[socket.socket, PacedReader]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """A client's socket, and the server's reader of it, which is impatient and takes one slow client at a time."""
    monkeypatch.setattr(reading, "AT_ONCE_SECONDS", 0.02)
    monkeypatch.setattr(reading, "TIMEOUT_SECONDS", 0.3)
    client, server = socket.socketpair()
    with client, server:
        server.setblocking(False)
        reader = PacedReader(server, threading.BoundedSemaphore(1))
        reader.begin()
        yield client, reader


def test_what_comes_is_read(pair: Pair) -> None:
    client, reader = pair
    client.sendall(b"GET / HTTP/1.1")
    assert reader.chunk() == b"GET / HTTP/1.1"
    client.close()
    assert reader.chunk() == b""


def test_a_body_that_does_not_come_is_told(pair: Pair) -> None:
    _, reader = pair
    with pytest.raises(RequestTimeout, match="its bytes come too slowly"):
        reader.chunk()


def test_the_loop_never_waits(pair: Pair) -> None:
    client, reader = pair
    client.sendall(b"GET")
    reader.may_wait = False
    reader.unread(b"what is there")
    assert reader.read() == b"what is there"
    with pytest.raises(NoMoreData):
        reader.read()


def test_a_byte_now_and_then_gains_no_time(pair: Pair) -> None:
    client, reader = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            client.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        with pytest.raises(RequestTimeout):  # noqa: PT012  (a hundred bytes a second, read one by one)
            for _ in range(1000):
                reader.chunk()
    finally:
        stop.set()
        dripping.join()
    assert 10 < reader.received < 200


def test_time_is_counted_by_request_and_a_fast_one_gains_it(pair: Pair) -> None:
    client, reader = pair
    reader.waited = 0.29
    reader.begin()
    assert reader.waited == 0
    reader.received, reader.waited = 10_000_000, 50.0  # 200 kB/s so far: not slow at all
    with reader.slow:
        later = threading.Timer(0.1, client.sendall, [b"more"])
        later.start()
        assert reader.chunk() == b"more"
        later.join()


def test_when_too_many_are_slow_the_next_one_is_let_go_at_once(pair: Pair) -> None:
    _, reader = pair
    with reader.slow, pytest.raises(RequestTimeout, match="too many others are slow"):
        reader.chunk()
    reader.slow.acquire(blocking=False)
    reader.slow.release()  # it was given back
