"""A limit on the memory that all uploads together use while they are read, over all processes with one data folder.

A small upload may expand to a gigabyte, and several at once are each within their own limit. So the memory is divided
into PARTS, each with a file. Reading an upload locks as many files as its arrays need. The kernel releases the locks of
a process that dies, so no part is ever lost and nothing needs to be cleaned up.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from services.errors import Busy

PARTS = 64
WAIT_SECONDS = 10.0
"""An upload that was received already waits so long: sending it again would cost more."""
LOOK_SECONDS = 0.05


class Room:
    """`total_bytes` for all uploads that are being read. Making it touches nothing."""

    def __init__(self, folder: Path, total_bytes: int) -> None:
        self.folder, self.total_bytes = folder, total_bytes

    @contextmanager
    def taken(self, wanted_bytes: int, *, wait_seconds: float | None = None) -> Iterator[None]:
        """Room for so many bytes, for the block. What is larger than all of it waits until it is alone.

        Raises:
            Busy: others took it all, and did not give it back in time.
        """
        parts = min(max(math.ceil(wanted_bytes * PARTS / self.total_bytes), 1), PARTS)
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + (WAIT_SECONDS if wait_seconds is None else wait_seconds)
        with ExitStack() as held:
            while not self._take(parts, held):
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"Other uploads are being read, and this one expands to {wanted_bytes:,} bytes. Together they "
                        f"may take {self.total_bytes:,} bytes of memory: try again in a few seconds."
                    )
                time.sleep(LOOK_SECONDS)
            yield

    def _take(self, parts: int, held: ExitStack) -> bool:
        """Lock so many parts, or none. One at a time looks, or two could each hold half of what both need."""
        with ExitStack() as looking:
            self._locked("looking", looking, wait=True)
            with ExitStack() as found:
                count = 0
                for number in range(PARTS):
                    count += self._locked(f"part-{number:02}", found, wait=False)
                    if count == parts:
                        held.enter_context(found.pop_all())
                        return True
        return False

    def _locked(self, name: str, until: ExitStack, *, wait: bool) -> bool:
        """Whether the file is locked now, until the stack is closed. A lock belongs to one opening of its file:
        threads exclude each other as processes do."""
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        until.callback(os.close, descriptor)
        return True
