"""SQLite's driver: the newest library that there is for this machine.

`pysqlite3` contains SQLite 3.53, which has a safe WAL; Python's own library is as old as the system. A process must use
one of them alone: each would take the other's locks away (https://sqlite.org/howtocorrupt.html, 2.2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3 as driver
else:
    try:
        from pysqlite3 import dbapi2 as driver
    except ImportError:  # a processor or system that it has no wheel for
        import sqlite3 as driver

__all__ = ["driver"]

# https://sqlite.org/wal.html: before 3.51.3 two connections that checkpoint at once can corrupt a WAL database.
WAL_IS_SAFE = driver.sqlite_version_info >= (3, 51, 3)
