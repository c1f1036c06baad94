"""Group commit: short transactions of several threads that wait for the disk once.

SQLite has one writer at a time, and each commit waits for the disk several times. So clients that create jobs at the
same time would wait for each other's disk writes. Here the transactions of threads that come while another one commits
become parts of one transaction. Each part runs alone, within a savepoint, and sees the parts before it. The last one
commits for all, and no part returns before that. PostgreSQL does this by itself, with a transaction for each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from services import db, faults, metrics
from services.errors import Unavailable

OPEN_SECONDS = 0.05
"""A transaction that has been open for so long is committed, even if more threads wait: so do other processes."""


class GroupCommit:
    """The transactions of one process that share commits. Every thread uses the same object."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shares = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()
        """Held by the part that runs, and by the one that commits."""
        self._counting = threading.Lock()
        self._waiting = 0
        """How many threads wait for their turn: each will take it."""
        self._open: _Transaction | None = None
        self._failure: Unavailable | None = None
        """Why the last transaction could not begin."""

    @contextmanager
    def session_scope(self) -> Iterator[Session]:
        """As `db.session_scope`, for work that takes a few milliseconds: other threads wait for it.

        Raises:
            Unavailable: as `db.session_scope`; also if the commit fails that this part shares with others.
        """
        if not self._shares:
            with db.session_scope(self._engine) as session:
                yield session
            return
        with db.open_scope(), db.translated_errors():
            transaction = self._take_turn()
            try:
                with transaction.part() as session:
                    yield session
                    faults.point("transaction.written")
            finally:
                self._pass_turn(transaction)
            transaction.wait()
            metrics.committed(session)
            faults.point("transaction.committed")

    def _take_turn(self) -> _Transaction:
        came = time.monotonic()
        with self._counting:
            self._waiting += 1
        self._turn.acquire()
        with self._counting:
            self._waiting -= 1
        try:
            if self._open is None:
                self._open = self._begin(came)
        except BaseException:
            self._turn.release()
            raise
        return self._open

    def _begin(self, came: float) -> _Transaction:
        """A new transaction, for a thread that has waited since `came`. Whoever waited here for as long as one may wait
        for the database does not wait again: the one before has found it locked."""
        left = came + db.BUSY_SECONDS - time.monotonic()
        if left < 0 and self._failure is not None:
            raise Unavailable(str(self._failure)) from self._failure
        try:
            with db.translated_errors():
                made = _Transaction(self._engine, max(left, 0.0))
        except Unavailable as error:
            self._failure = error
            raise
        self._failure = None
        return made

    def _pass_turn(self, transaction: _Transaction) -> None:
        try:
            if not self._waiting or transaction.is_due():
                self._open = None
                transaction.commit()
        finally:
            self._turn.release()


class _Transaction:
    """One transaction of the database, with its parts."""

    def __init__(self, engine: Engine, wait_seconds: float) -> None:
        self._transaction = db.begin(engine, wait_seconds=wait_seconds)
        self._connection = self._transaction.connection
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._is_committed = False
        self._error: Exception | None = None

    @contextmanager
    def part(self) -> Iterator[Session]:
        """A session that takes back what it did if it ends in an error, and nothing else."""
        mode: Literal["create_savepoint"] = "create_savepoint"
        try:
            with (
                Session(self._connection, expire_on_commit=False, join_transaction_mode=mode) as session,
                session.begin(),
            ):
                yield session
        except OperationalError as error:
            if not self._is_lost():
                raise
            # The error here is that the savepoint is gone; the one before it says why.
            before = error.__context__
            self._error = before if isinstance(before, OperationalError) else error
            raise self._error from None

    def is_due(self) -> bool:
        """Whether it is to be committed although more threads wait."""
        return self._is_lost() or time.monotonic() > self._began + OPEN_SECONDS

    def _is_lost(self) -> bool:
        """Whether SQLite has rolled it back by itself, as it does when the disk is full. All parts have failed then."""
        return not db.driver_of(self._connection).in_transaction

    def commit(self) -> None:
        """Commit all parts. Every `wait` then returns, or raises Unavailable.

        Raises:
            Unavailable: the database cannot commit.
        """
        try:
            with db.translated_errors(), self._connection, self._transaction:
                if self._is_lost():
                    raise self._error or Unavailable("The database has rolled back this write; try again soon.")
            self._is_committed = True
        except Exception as error:
            self._error = error
            raise Unavailable(str(error)) from error
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait for the commit.

        Raises:
            Unavailable: it failed.
        """
        self._ended.wait()
        if not self._is_committed:
            raise Unavailable(str(self._error)) from self._error
