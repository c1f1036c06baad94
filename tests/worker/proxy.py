"""A connection that can be cut halfway: like a firewall that forgot it, it takes what is sent and forwards nothing."""

from __future__ import annotations

import selectors
import socket
import threading


class Proxy:
    """Listens on a free port of the loopback and forwards to another one, until it is told to swallow."""

    def __init__(self, target: int) -> None:
        self._target = ("127.0.0.1", target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallows = False
        self._waker, self._woken = socket.socketpair()
        self._others: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        for one in (self._listener, self._woken):
            self._selector.register(one, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._waker.close()
        self._thread.join()
        for one in (self._listener, self._woken, *self._others):
            one.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._others:
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(self._target)
        self._others |= {near: far, far: near}
        for one in (near, far):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        try:
            data = one.recv(1 << 16)
            if data and not self.swallows:
                self._others[one].sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (one, self._others[one]):
                self._selector.unregister(end)
                del self._others[end]
                end.close()
