"""The write-ahead log of SQLite: one write to the disk makes the commits of many transactions last.

With `synchronous = FULL` SQLite waits for the disk within a commit, while it holds the lock for which all writers wait.
With NORMAL a commit only appends to the log and gives the lock back. Whoever committed then waits for the disk here,
together with all others, and says that something is stored only after that. Others may read it before. A power cut
before takes back the end of the log, which nobody was told of.

If the disk fails, a transaction may or may not be stored, and its owner gets Unavailable.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from services.errors import Unavailable

_fdatasync = getattr(os, "fdatasync", os.fsync)


class WriteAheadLog:
    """A log, for all threads of a process."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._turn = threading.Condition()
        self._began = self._ended = 0
        """How many writes to the disk have begun and ended."""
        self._error: OSError | None = None
        """What went wrong in the one that ended last."""
        self._broken: OSError | None = None
        """How the disk has failed: it may have lost any part of the log, whatever it says of later parts."""
        self._file: int | None = None
        """Kept open: Linux tells of a failure each descriptor that was open then, once."""

    def __del__(self) -> None:
        self._close()

    def check(self) -> None:
        """Raises Unavailable after a failure of the disk, until the process is started again: then SQLite reads from
        the disk how far the log goes."""
        if self._broken is not None:
            raise Unavailable(
                f"The disk that the database lies on has failed ({self._broken.strerror}); look at the disk, then "
                "start the service again."
            ) from self._broken

    def sync(self) -> None:
        """Wait until all that was committed before is on the disk.

        Raises:
            Unavailable: the disk has failed (see `check`), or the log cannot be opened now.
        """
        with self._turn:
            mine = self._began + 1  # what is being written now may have begun before the commit
            while self._ended < mine:
                if self._ended == self._began:
                    self._write()
                else:
                    self._turn.wait()
            error = self._error
        self.check()
        if error is not None:
            raise Unavailable(f"The database's log cannot be stored now ({error.strerror}); try again soon.") from error

    def _write(self) -> None:
        self._began += 1
        self._turn.release()
        error: OSError | None = OSError(errno.EINTR, os.strerror(errno.EINTR))  # if this thread is interrupted
        try:
            error = self._stored()
        finally:
            self._turn.acquire()
            self._ended += 1
            self._error = error
            self._turn.notify_all()

    def _stored(self) -> OSError | None:
        """What went wrong."""
        try:
            file = self._open()
        except FileNotFoundError:
            return None  # the last connection has moved it into the database, written that to the disk, and deleted it
        except OSError as error:
            return error
        try:
            _fdatasync(file)
        except OSError as error:
            self._broken = error
            return error
        return None

    def _open(self) -> int:
        found = self._path.stat()
        if self._file is None or not os.path.samestat(found, os.fstat(self._file)):
            self._close()  # SQLite has no locks on this file that would be dropped
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._file

    def _close(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            self._file = None
            with suppress(OSError):
                os.close(file)


_logs: WeakValueDictionary[str, WriteAheadLog] = WeakValueDictionary()
_opening = threading.Lock()


def of(database: str) -> WriteAheadLog:
    """The log of the database in this file, whose path has no links: one for all engines of the process."""
    with _opening:
        if (found := _logs.get(database)) is None:
            found = _logs[database] = WriteAheadLog(f"{database}-wal")
    return found


def _forget() -> None:
    """A child has none of the threads that may hold a lock here."""
    global _opening
    _opening = threading.Lock()
    _logs.clear()


os.register_at_fork(after_in_child=_forget)
