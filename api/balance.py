"""Shares the connections evenly among the processes of the API.

All of them accept from one socket, and whoever wakes first would take all that wait there. Clients keep their
connections, so one process would then answer all of them on one core while the others have none.
"""

from __future__ import annotations

import mmap
from typing import Any

AWAY = 1 << 62
"""Of a process that accepts nothing."""
YIELD_SECONDS = 0.005
"""How long a process with more connections than another one leaves the next to it."""


class Load:
    """How many connections a process has, in memory that others read. Only that process writes it."""

    def __init__(self, counts: memoryview, number: int) -> None:
        self.counts, self.number = counts, number

    def set(self, connections: int) -> None:
        """Say how many are open; AWAY: no more are accepted."""
        self.counts[self.number] = connections

    def is_higher(self) -> bool:
        """Whether it is higher than that of another process."""
        counts = self.counts.tolist()
        return bool(counts[self.number] > min(counts))


class Balance:
    """The loads of so many processes, in memory that they share. Make it before the fork."""

    def __init__(self, processes: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * processes)).cast("q")
        self._free = set(range(processes))
        for number in self._free:
            self._counts[number] = AWAY

    def enter(self, _arbiter: Any, worker: Any) -> None:
        """Counts a worker of gunicorn that is about to be forked (`pre_fork`)."""
        if self._free:  # while gunicorn replaces workers, there are more of them
            worker.load = Load(self._counts, self._free.pop())

    def leave(self, _arbiter: Any, worker: Any) -> None:
        """Counts one no longer that has ended, in whatever way (`child_exit`)."""
        if worker.load.counts is self._counts:
            worker.load.set(AWAY)
            self._free.add(worker.load.number)


def alone() -> Load:
    """The load of a process that shares with nobody."""
    return Load(memoryview(bytearray(8)).cast("q"), 0)
