"""Reads the bodies of requests, and limits how many threads slow senders can occupy.

The thread that answers a request also reads its body, if the body is longer than `connections.SMALL_BODY_BYTES` or
chunked. The thread reads when the application asks for more. All waits together may take TIMEOUT_SECONDS, plus one
second per SLOWEST_BYTES_PER_SECOND bytes received. At most SLOW_THREADS threads of a process read from senders that
are slower than FAST_BYTES_PER_SECOND.
"""

from __future__ import annotations

import select
import socket
import threading
import time

from gunicorn.http.errors import NoMoreData  # type: ignore[import-untyped]
from gunicorn.http.unreader import Unreader  # type: ignore[import-untyped]
from werkzeug.exceptions import RequestTimeout

TIMEOUT_SECONDS = 20.0
SLOWEST_BYTES_PER_SECOND = 1_000.0
FAST_BYTES_PER_SECOND = 100_000.0
AT_ONCE_SECONDS = 0.5
"""Nobody counts as slow before this."""
SLOW_THREADS = 16
"""Of a process's 64, of which long polls may hold 40 (`service.MAX_WAITING`)."""
READ_BYTES, MOST_READ_BYTES = 1 << 16, 1 << 20


class PacedReader(Unreader):  # type: ignore[misc]
    """Reads from a socket that does not block, as long as bytes come fast enough; `slow` are the places for those to
    wait. While `may_wait` is false there is only what was given to `unread`.

    Raises:
        RequestTimeout: the body took too long; 408.
        NoMoreData: there is no more, and none may be waited for.
    """

    def __init__(self, sock: socket.socket, slow: threading.Semaphore) -> None:
        super().__init__()
        self.sock, self.slow = sock, slow
        self.may_wait = False
        self.waited, self.received = 0.0, 0

    def begin(self) -> None:
        """From now on a thread reads a body, and may wait for it."""
        self.may_wait, self.waited, self.received = True, 0.0, 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        if not self.may_wait:
            raise NoMoreData
        while True:
            self._wait()
            try:
                data: bytes = self.sock.recv(min(max(size_hint or 0, READ_BYTES), MOST_READ_BYTES))
            except BlockingIOError:
                continue
            self.received += len(data)
            return data

    def _wait(self) -> None:
        began = time.monotonic()
        if not self._readable(AT_ONCE_SECONDS + self.received / FAST_BYTES_PER_SECOND - self.waited):
            if not self.slow.acquire(blocking=False):
                raise RequestTimeout("The request did not come in time: too many others are slow as well.")
            try:
                if not self._readable(TIMEOUT_SECONDS + self.received / SLOWEST_BYTES_PER_SECOND - self.waited):
                    raise RequestTimeout("The request did not come in time: its bytes come too slowly.")
            finally:
                self.slow.release()
        self.waited += time.monotonic() - began

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()  # select() knows no descriptors above 1023
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(max(seconds, 0.0) * 1000))
