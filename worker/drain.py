"""A flag that `select` can wait for, such as the one that a worker is shutting down: Celery's main process and its pool
children share it."""

from __future__ import annotations

import os
import select


class Drain:
    """Lowered until `raise_flag`, then raised for good, in this process and all its forks.

    It is a pipe that nobody reads: once a byte is in it, every holder of the other end sees it readable, and can wait
    for that beside other things. Writing to it is safe in a signal handler.
    """

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()

    def raise_flag(self) -> None:
        os.write(self._writer, b"!")

    def __bool__(self) -> bool:
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Whether it is raised, waiting for that up to so many seconds."""
        return bool(select.select([self.fd], [], [], seconds)[0])

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._writer)
