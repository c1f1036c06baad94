"""A thread that transfers files between an attempt and the object store, one after the other.

Meanwhile the attempt continues to renew its lease, even if the network hangs.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Courier:
    """Runs errands in the order they are given; `fd` is readable when one has ended."""

    def __init__(self) -> None:
        self._errands: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self.fd, self._bell = os.pipe()
        for end in (self.fd, self._bell):
            os.set_blocking(end, False)
        # A daemon: a worker that ends does not wait for a network that does not answer.
        threading.Thread(target=self._run, name="courier", daemon=True).start()

    def send(self, errand: Callable[[], T]) -> Future[T]:
        """What will come of the errand."""
        future: Future[T] = Future()
        self._errands.put((future, errand))
        return future

    def collect(self) -> bool:
        """Whether an errand has ended since this was asked last."""
        with suppress(BlockingIOError):
            return bool(os.read(self.fd, 4096))
        return False

    def wait(self, seconds: float) -> None:
        """Wait for the end of an errand, up to so many seconds."""
        select.select([self.fd], [], [], seconds)

    def close(self) -> None:
        """No more errands will come. What is under way goes on without its attempt."""
        self._errands.put(None)

    def _run(self) -> None:
        while (order := self._errands.get()) is not None:
            future, errand = order
            try:
                future.set_result(errand())
            except Exception as error:  # noqa: BLE001  it is raised again, or logged, where the result is used
                future.set_exception(error)
            with suppress(BlockingIOError):  # full of news already
                os.write(self._bell, b"!")
        os.close(self.fd)  # here: closed by another, its number could be a new file's when it is written to
        os.close(self._bell)
