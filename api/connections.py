"""A client's connection: the bytes that came, the request they make, and the answer on its way out.

Either the worker's loop has a connection or one thread that makes its answer, never both. No method waits for the
client, but reading the body of a request that is not small (`reading.PacedReader`).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]

from api import reading
from api.reading import PacedReader
from api.refusals import MOST_HEAD_BYTES
from api.shares import neighbours

SMALL_BODY_BYTES = 1 << 16
"""Of a body up to this the loop waits for all bytes before a thread sees the request."""
OUT_BYTES = 1 << 18
"""So much of an answer is made before the client has taken what there is; one piece more at most."""
KERNEL_BYTES = 1 << 17
"""What may wait in the kernel besides: of bytes that the client has no room for."""
UNREAD_SECONDS = 60.0
"""A client that takes nothing for so long is left."""


class State(Enum):
    HEAD = auto()
    """Waits for a request, or for the rest of one."""
    WORKING = auto()
    """Waits for a thread, or has one."""
    SENDING = auto()
    """Waits until the client takes more of its answer."""
    HELD = auto()
    """Waits until there is more of its answer: a stream."""
    LEAVING = auto()
    """Is closed for writing, and until the client closes as well: what it still sends would reset the answer."""


@dataclass
class Answer:
    """What the application says: gunicorn's response, and the parts of its body that are still to come."""

    response: Any
    environ: dict[str, Any]
    parts: Iterator[bytes] | None = None
    close: Callable[[], None] = lambda: None
    is_stream: bool = False
    """An empty part then means that there is nothing to send now."""
    began: float = field(default_factory=time.monotonic)

    @property
    def took(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self.began)


class Connection:
    """One of them. It passes for a socket where gunicorn's Response writes."""

    def __init__(self, sock: socket.socket, client: Any, slow: threading.Semaphore) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)
        self.sock, self.client, self.server = sock, client, sock.getsockname()
        self.who = neighbours(client[0]) if isinstance(client, tuple) else ""
        self.reader = PacedReader(sock, slow)
        self.state = State.HEAD
        self.deadline = time.monotonic() + reading.TIMEOUT_SECONDS
        self.came, self.out = bytearray(), bytearray()
        self.counted = 0
        """Of `out`, what the worker counts as waiting for the client."""
        self.left_bytes = 0
        """What came after the last answer, or during a stream."""
        self.has_news = False
        """More of its answer came up before it was put aside."""
        self._begin()

    def _begin(self) -> None:
        self.request: Any = None
        self.missing = 0
        """How many bytes of a small body are still to come."""
        self.answer: Answer | None = None
        self.sent, self.sent_at = 0, time.monotonic()
        self.sending_since: float | None = None

    # What comes

    def receive(self) -> bool:
        """Take what is there; whether the client may send more."""
        try:
            data = self.sock.recv(MOST_HEAD_BYTES)
        except BlockingIOError:
            return True
        if self.request is None:
            if not self.came:  # the first byte of a request: from here on its time counts
                self.deadline = time.monotonic() + reading.TIMEOUT_SECONDS
            self.came += data
        else:
            self._append(data)
        return bool(data)

    def drop_received(self) -> bool:
        """Take what is there and leave it out; whether the client may send more."""
        try:
            data = self.sock.recv(MOST_HEAD_BYTES)
        except BlockingIOError:
            return True
        self.left_bytes += len(data)
        return bool(data)

    def is_asked(self, cfg: Any) -> bool:
        """Whether there is a request to be answered: its head, and its body where that is small.

        Raises gunicorn's ParseException where it is none.
        """
        if self.request is None and self._head_is_whole():
            self.reader.may_wait = False
            self.reader.unread(bytes(self.came))
            self.came.clear()
            self.request = Request(cfg, self.reader, self.client)
            self.missing = self._small_body() - self._buffered()
            self.deadline += len(self.reader.buf.getvalue()) / reading.SLOWEST_BYTES_PER_SECOND
        return self.request is not None and self.missing <= 0

    def _head_is_whole(self) -> bool:
        """Or so wrong that no more need come."""
        if b"\r\n\r\n" in self.came or self.came.count(b"\n") != self.came.count(b"\r\n"):
            return True
        if len(self.came) > MOST_HEAD_BYTES:
            raise LimitRequestHeaders("the head is too long")
        return False

    def _small_body(self) -> int:
        if self.request._expected_100_continue:  # the client waits for a word, which the thread says
            return 0
        length = int(getattr(self.request.body.reader, "length", 0) or 0)
        return length if length <= SMALL_BODY_BYTES else 0  # in chunks: nobody knows

    def _buffered(self) -> int:
        with self.reader.buf.getbuffer() as view:
            return int(view.nbytes)

    def _append(self, data: bytes) -> None:
        self.reader.buf.seek(0, 2)
        self.reader.buf.write(data)
        self.missing -= len(data)
        self.deadline += len(data) / reading.SLOWEST_BYTES_PER_SECOND

    def body_is_read(self) -> bool:
        """Whether the next request begins with the next byte, once what is here of the body was left out."""
        body = self.request.body
        if body.failed:
            return False
        if hasattr(body.reader, "length"):
            if body.reader.length <= self._buffered():
                while body.read(reading.READ_BYTES):
                    pass
            return bool(body.reader.length == 0)
        return bool(body.reader.parser is None)

    # What goes

    def sendall(self, data: bytes) -> None:
        """gunicorn's Response writes here; `flush` sends it."""
        self.out += data

    def send(self, data: bytes) -> None:
        """gunicorn sends `100 Continue` so, which must go at once."""
        self.sendall(data)
        self.flush()
        self.sent, self.sending_since = 0, None

    def flush(self) -> bool:
        """Send what the client takes now; whether that is all there is. Raises OSError when it is gone."""
        self.sending_since = self.sending_since or time.monotonic()
        while self.out:
            try:
                with memoryview(self.out) as view:
                    sent = self.sock.send(view)
            except BlockingIOError:
                break
            del self.out[:sent]
            self.sent += sent
            self.sent_at = time.monotonic()
        return not self.out

    def expect_reading(self) -> None:
        """Until when the client has to take more: it is left when nothing goes for a while, and when it is too slow on
        the whole, or one that takes a byte a minute would stay for ever."""
        began = self.sending_since or time.monotonic()
        on_the_whole = began + UNREAD_SECONDS + self.sent / reading.SLOWEST_BYTES_PER_SECOND
        self.deadline = min(self.sent_at + UNREAD_SECONDS, on_the_whole)

    def next_request(self, idle_seconds: float) -> None:
        """The answer is out: what came behind its request belongs to the next one."""
        self.came += self.reader.take_buffered()
        self._begin()
        self.state = State.HEAD
        self.deadline = time.monotonic() + (reading.TIMEOUT_SECONDS if self.came else idle_seconds)

    def close(self) -> None:
        self.sock.close()
