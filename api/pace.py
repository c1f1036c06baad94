"""Keeps slow clients from holding the server's threads: a gunicorn worker that minds how long it waits for bytes.

gunicorn reads requests with threads and without a limit of time, so that as many clients as there are threads, sending
a byte a minute, keep everybody else out. Here a request is waited for PATIENCE_SECONDS in all, and longer only while
its bytes come at SLOWEST_BYTES_PER_SECOND; and whoever sends below FAST_BYTES_PER_SECOND is waited for by SLOW_THREADS
of a process's threads and no more. A client that takes nothing of its answer is left after UNREAD_SECONDS.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import Any

from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.http import get_parser  # type: ignore[import-untyped]
from gunicorn.http.errors import NoMoreData  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker  # type: ignore[import-untyped]
from werkzeug.exceptions import RequestTimeout

PATIENCE_SECONDS = 20.0
SLOWEST_BYTES_PER_SECOND = 1_000.0
FAST_BYTES_PER_SECOND = 100_000.0
AT_ONCE_SECONDS = 0.5
"""Nobody counts as slow before this."""
UNREAD_SECONDS = 60
LINGER_SECONDS = 1.0
"""How long an answer that ends a connection is given to be read, before what is still sent resets it."""
SLOW_THREADS = 16
"""Of a process's 64, of which long polls may hold 40 (`service.MAX_WAITING`)."""


class PacedReader(SocketUnreader):  # type: ignore[misc]
    """Reads requests from a socket as long as their bytes come fast enough; `slow` are the places for those to wait.

    Raises:
        NoMoreData: the head of a request took too long; the connection is closed without a word.
        RequestTimeout: its body did; 408.
    """

    def __init__(self, sock: socket.socket, slow: threading.Semaphore) -> None:
        super().__init__(sock)
        self.slow = slow
        self.begin()

    def begin(self) -> None:
        """A new request may come."""
        self.waited, self.received = 0.0, 0
        self.in_body = self.gave_up = False

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.sock.gettimeout() is None:  # with one, gunicorn reads off what an application left, and minds the time
            self._wait()
        data: bytes = super().chunk(size_hint)
        self.received += len(data)
        return data

    def _wait(self) -> None:
        began = time.monotonic()
        if not self._readable(AT_ONCE_SECONDS + self.received / FAST_BYTES_PER_SECOND - self.waited):
            if not self.slow.acquire(blocking=False):
                raise self._too_slow("too many others are slow as well")
            try:
                if not self._readable(PATIENCE_SECONDS + self.received / SLOWEST_BYTES_PER_SECOND - self.waited):
                    raise self._too_slow("its bytes come too slowly")
            finally:
                self.slow.release()
        self.waited += time.monotonic() - began

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()  # select() knows no descriptors above 1023
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(max(seconds, 0.0) * 1000))

    def _too_slow(self, why: str) -> Exception:
        self.gave_up = True
        return RequestTimeout(f"The request did not come in time: {why}.") if self.in_body else NoMoreData()


def _close(conn: TConn) -> None:
    """Close the connection, here: gunicorn does it in its main loop, and lingers there for seconds with a client that
    does not close as well, while all others wait."""
    if conn.parser.unreader.gave_up:
        util.close(conn.sock)
    else:
        util.close_graceful(conn.sock, LINGER_SECONDS)
    conn.close = lambda graceful=False: None


class PacedWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, whose connections are read by PacedReader."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slow = threading.BoundedSemaphore(SLOW_THREADS)

    def handle(self, conn: TConn) -> Any:
        if not conn.initialized and not conn.data_ready and not conn.wait_for_data(AT_ONCE_SECONDS):
            return _DEFER  # nothing yet: it waits without a thread
        if conn.parser is None:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", UNREAD_SECONDS, 0))
            conn.parser = get_parser(conn.cfg, conn.sock, conn.client)
            conn.parser.unreader = PacedReader(conn.sock, self.slow)
        conn.parser.unreader.begin()
        keep = super().handle(conn)
        if keep is False:
            _close(conn)
        return keep

    def handle_request(self, req: Any, conn: TConn) -> Any:
        conn.parser.unreader.in_body = True
        return super().handle_request(req, conn)
