"""A webhook's receiver for tests: a real HTTP server on a port of 127.0.0.1 that remembers what it was sent."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: bytes = b"", **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


class Receiver:
    """Answers with `replies` in turn, the last one for good."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Request] = []
        self.replies: list[Reply] = [status(204)]
        self.news = threading.Condition()
        self.ending = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver.news:
                    receiver.received.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                    reply = receiver.replies.pop(0) if len(receiver.replies) > 1 else receiver.replies[0]
                    receiver.news.notify_all()
                with suppress(OSError):  # the other side may have had enough
                    reply(self)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def until(self, count: int, seconds: float = 20.0) -> list[Request]:
        """The requests, once there are so many."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.received) >= count, seconds), self.received
            return list(self.received)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """A reply that never comes."""
        self.ending.wait()

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A reply whose head never ends: a byte now and then."""
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        while not self.ending.wait(0.05):
            handler.wfile.write(b"x")

    def flood(self, handler: BaseHTTPRequestHandler) -> None:
        """A reply whose body never ends."""
        handler.send_response(200)
        handler.end_headers()
        while not self.ending.is_set():
            handler.wfile.write(b"x" * 65536)

    def close(self) -> None:
        self.ending.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(tls)
    try:
        yield receiver
    finally:
        receiver.close()
