"""The write-ahead log of SQLite: one write to the disk makes the commits of many transactions last.

With `synchronous = FULL` SQLite waits for the disk within a commit, while it holds the lock for which all writers wait.
With NORMAL a commit only appends to the log and gives the lock back. Whoever committed then waits for the disk here,
together with all others, and says that something is stored only after that. A power cut before takes back the end of
the log, which nobody was told of.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from services.errors import Unavailable

_written = getattr(os, "fdatasync", os.fsync)


class WriteAheadLog:
    """The log of the database in `file`, for all threads of a process."""

    def __init__(self, file: Path) -> None:
        self._path = f"{file}-wal"
        self._turn = threading.Condition()
        self._began = self._ended = 0
        """How many writes to the disk have begun and ended."""
        self._failure: OSError | None = None

    def sync(self) -> None:
        """Wait until all that was committed before is on the disk.

        Raises:
            Unavailable: the disk has failed. It may have lost any part of the log, whatever it says of later parts. So
                nothing is stored until the service is started again, when SQLite reads the log from the disk.
        """
        with self._turn:
            mine = self._began + 1  # what is being written now may have begun before the commit
            while self._ended < mine:
                if self._ended == self._began:
                    self._began += 1
                    self._write()
                else:
                    self._turn.wait()
            if self._failure is not None:
                raise Unavailable(
                    f"The disk that the database lies on has failed ({self._failure.strerror}); look at the disk, then "
                    "start the service again."
                ) from self._failure

    def _write(self) -> None:
        self._turn.release()
        try:
            error = self._failure or _sync(self._path)
        finally:
            self._turn.acquire()
            self._ended += 1
            self._turn.notify_all()
        self._failure = error


def _sync(path: str) -> OSError | None:
    # SQLite has no locks on this file that closing it would drop. It may be another file after each checkpoint.
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # the last connection has moved it into the database and deleted it
    try:
        _written(file)
    except OSError as error:
        return error
    finally:
        os.close(file)
    return None
