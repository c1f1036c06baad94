"""One connection of the server: what comes in pieces, what does not go out at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http.errors import InvalidHeader, LimitRequestHeaders  # type: ignore[import-untyped]

from api.connections import SMALL_BODY_BYTES, UNREAD_SECONDS, Answer, Connection

Ends = tuple[socket.socket, Connection]
CONFIG = Config()


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A client's socket, and the server's connection to it."""
    client, server = socket.socketpair()
    with client, server:
        yield client, Connection(server, ("127.0.0.1", 1), threading.BoundedSemaphore(1))


def come(ends: Ends, data: bytes) -> bool:
    """Whether there is a request after this came."""
    client, connection = ends
    client.sendall(data)
    assert connection.receive()
    return connection.is_asked(CONFIG)


def test_a_request_is_asked_when_its_head_and_small_body_are_there(ends: Ends) -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
    assert [come(ends, head[n : n + 1]) for n in range(len(head))] == [False] * len(head)
    assert [come(ends, byte) for byte in (b"a", b"b", b"c")] == [False, False, True]
    assert ends[1].request.body.read() == b"abc"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\n" % (SMALL_BODY_BYTES + 1),
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nExpect: 100-continue\r\n",
    ],
)
def test_a_body_that_is_long_or_has_to_be_asked_for_is_left_to_the_thread(ends: Ends, head: bytes) -> None:
    assert come(ends, b"POST / HTTP/1.1\r\n" + head + b"\r\n")
    assert not ends[1].body_is_read()


def test_what_comes_behind_a_request_is_the_next_one(ends: Ends) -> None:
    _, connection = ends
    assert come(ends, b"POST /1 HTTP/1.1\r\nContent-Length: 1\r\n\r\naGET /2 HTTP/1.1\r\n\r\n")
    assert connection.body_is_read()  # what the application left of it is left out
    connection.next_request(idle_seconds=2)
    assert connection.is_asked(CONFIG)
    assert connection.request.uri == "/2"


def test_a_head_without_end_is_refused_and_so_is_one_that_cannot_end(ends: Ends) -> None:
    with pytest.raises(InvalidHeader):
        come(ends, b"GET / HTTP/1.1\r\nX: 1\nY")
    ends[1].came.clear()
    with pytest.raises(LimitRequestHeaders):  # noqa: PT012
        for _ in range(3):
            come(ends, b"x" * 40_000)


def test_a_client_that_does_not_read_is_not_waited_for_and_left_in_time(ends: Ends) -> None:
    client, connection = ends
    answer: Any = Answer(None, {})
    connection.answer = answer
    connection.sendall(bytes(10_000_000))
    assert not connection.flush()
    connection.expect_reading()
    assert UNREAD_SECONDS - 5 < connection.deadline - time.monotonic() <= UNREAD_SECONDS
    taken = len(client.recv(1 << 20))
    while not connection.flush():
        taken += len(client.recv(1 << 20))
    assert (connection.out, connection.sent) == (b"", 10_000_000)
    assert taken <= 10_000_000


def test_a_client_that_takes_a_byte_now_and_then_gains_no_time(ends: Ends) -> None:
    _, connection = ends
    now = time.monotonic()
    connection.sending_since, connection.sent, connection.sent_at = now - UNREAD_SECONDS - 10, 9_000, now
    connection.expect_reading()
    assert connection.deadline < now
    connection.sent = 100_000_000
    connection.expect_reading()
    assert connection.deadline == now + UNREAD_SECONDS


def test_a_client_that_goes_is_noticed(ends: Ends) -> None:
    client, connection = ends
    client.close()
    assert not connection.receive()
    connection.sendall(b"x")
    with pytest.raises(OSError, match="Broken pipe"):
        connection.flush()
