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


class Place:
    """The part of the shared memory in which a process says how many connections it has. Only that process writes."""

    def __init__(self, counts: memoryview, number: int) -> None:
        self.counts, self.number = counts, number

    def set(self, connections: int) -> None:
        """Say how many are open; AWAY: no more are accepted."""
        self.counts[self.number] = connections

    def is_ahead(self) -> bool:
        """Whether another process has fewer."""
        counts = self.counts.tolist()
        return bool(counts[self.number] > min(counts))


class Balance:
    """Places for so many processes, in memory that they share. Make it before the fork."""

    def __init__(self, processes: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * processes)).cast("q")
        self._free = set(range(processes))
        for number in self._free:
            self._counts[number] = AWAY

    def enter(self, _arbiter: Any, worker: Any) -> None:
        """Gives a place to a worker of gunicorn that is about to be forked (`pre_fork`)."""
        if self._free:  # there are more workers than places while gunicorn replaces them
            worker.place = Place(self._counts, self._free.pop())

    def leave(self, _arbiter: Any, worker: Any) -> None:
        """Takes it back from one that has ended, in whatever way (`child_exit`)."""
        if worker.place.counts is self._counts:
            worker.place.set(AWAY)
            self._free.add(worker.place.number)


def alone() -> Place:
    """The place of a process that shares with nobody."""
    return Place(memoryview(bytearray(8)).cast("q"), 0)
