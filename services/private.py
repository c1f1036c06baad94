"""Files that no other user of the machine may read: the database, the broker's data, logs, data sets and models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

OTHERS = 0o077
"""The rights of the group and of all others."""


def folder(path: Path) -> None:
    """Make a folder, and those above it, that only this user may enter. One that is there stays as somebody made it."""
    for one in (*reversed(path.parents), path):
        one.mkdir(mode=0o700, exist_ok=True)


def database(path: Path) -> None:
    """Let only this user read a SQLite database, before it is made or from now on. SQLite gives the files beside it the
    same rights; those that were there are tightened as well. What cannot be done here, SQLite says better.

    The file is never opened here: a process that closes one loses all of SQLite's locks on it, those of its other
    connections too (https://sqlite.org/howtocorrupt.html, 2.2). So an empty file is made elsewhere and linked.
    """
    if not path.exists():
        with suppress(OSError), tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
            made = Path(folder, path.name)
            made.touch(mode=0o600)
            path.hardlink_to(made)  # not when another has made it meanwhile
    tighten(path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal"))


def tighten(paths: Iterable[Path]) -> None:
    """Take from the group and all others what rights they have; those of another user, or none, are left alone."""
    for path in paths:
        with suppress(OSError):
            if (mode := path.stat().st_mode) & OTHERS:
                path.chmod(mode & 0o777 & ~OTHERS)
