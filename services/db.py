"""The database: engines, transactions, its clock and its schema. SQLite by default, PostgreSQL in production.

Make an engine after a fork, in the process that uses it: connections cannot be shared between processes. (An engine
that was carried over a fork all the same forgets its parent's connections.)
"""

from __future__ import annotations

import collections
import json
import os
import random
import secrets
import select
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    InvalidatePoolError,
    NotSupportedError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement

from services import faults, metrics, private, wal
from services.errors import SchemaMismatch, Unavailable
from services.orm import Worker
from services.sqlite import WAL_IS_SAFE
from services.sqlite import driver as sqlite3
from services.wal import WriteAheadLog

BUSY_SECONDS = 8.0
LOOKS_SECONDS = (0.0001, 0.0005)
"""Between two looks of a process that waits for SQLite's lock."""
TRUSTED_SECONDS = 1.0
STATEMENT_SECONDS = 30
"""On PostgreSQL no statement takes longer, and no transaction idles for longer: whoever does holds locks."""
REVISION = "0025"
"""The newest migration: the schema that this code works with. A test holds it equal to the head of migrations/."""

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"

_GONE = (
    "The database's file was deleted or moved while it was in use; put it back, or restore it from a backup, and start "
    "the service again."
)
_SQLITE_MESSAGES = {
    "SQLITE_FULL": "The disk that the database lies on is full; free space.",
    "SQLITE_READONLY_DBMOVED": _GONE,
    "SQLITE_IOERR_FSTAT": _GONE,
    "SQLITE_READONLY": "The database's file, or its folder, is read-only for the service; make it writable.",
    "SQLITE_CANTOPEN": "The database's file cannot be opened; see that it and its folder are there and writable.",
}
"""What to do about errors of SQLite, by how their names begin."""

_RESTING_SINCE = "loopline_resting_since"
_READ_ONLY = "loopline_read_only"
_WAIT_SECONDS = "loopline_wait_seconds"
_ONE_STATEMENT = "loopline_one_statement"
_FRESH = "loopline_fresh"
_FILE = "loopline_file"
_WAL = "loopline_wal"
_SYNCED_LATER = "loopline_synced_later"


class now(FunctionElement[float]):
    """The database's time in seconds since 1970, as an SQL expression; the time of every lease and delay."""

    name = "now_seconds"
    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite_now(_element: now, _compiler: Any, **_: Any) -> str:
    # unixepoch('subsec') came with 3.42; this has the same milliseconds.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(_element: now, _compiler: Any, **_: Any) -> str:
    # clock_timestamp() moves on within a transaction; now() would stand still while the transaction waits for a lock.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def engine(url: str | URL) -> Engine:
    """An engine for `sqlite:///file` or `postgresql://...`; connects when first used.

    SQLite gets foreign keys, an 8 s busy timeout, and transactions that say at their begin whether they write.
    """
    address = make_url(url)
    if address.drivername in {"postgres", "postgresql"}:
        address = address.set(drivername="postgresql+psycopg")
    made = _sqlite(address) if address.get_backend_name() == "sqlite" else _postgresql(address)
    os.register_at_fork(after_in_child=partial(_forget_connections, weakref.ref(made)))
    return made


def _forget_connections(reference: weakref.ref[Engine]) -> None:
    if (carried := reference()) is not None:
        carried.dispose(close=False)


_dumps = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _postgresql(address: URL) -> Engine:
    made = sa.create_engine(
        address,
        json_serializer=_dumps,
        pool_size=10,
        max_overflow=20,
        pool_timeout=BUSY_SECONDS,
        connect_args={
            "connect_timeout": 5,
            # A connection that died without a word is noticed within some ten seconds, while waiting and while idle.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "options": f"-c lock_timeout={BUSY_SECONDS}s -c statement_timeout={STATEMENT_SECONDS}s"
            f" -c idle_in_transaction_session_timeout={STATEMENT_SECONDS}s",
        },
    )
    event.listen(made, "checkin", _note_rest)
    event.listen(made, "checkout", partial(_check_alive, made))
    return made


def _note_rest(_connection: object, record: Any) -> None:
    record.info[_RESTING_SINCE] = time.monotonic()


def _check_alive(engine: Engine, connection: Any, record: Any, _proxy: object) -> None:
    """Ask a pooled connection whether it lives, as `pool_pre_ping` does at each use. A `Query`, which is asked again if
    that was wrong, trusts one that was used within a second and to which nothing came from the server since. So does
    `connect_trusting`."""
    since = record.info.get(_RESTING_SINCE)
    if since is None:
        return
    quiet = select.poll()
    quiet.register(connection.fileno(), select.POLLIN)
    if _thread.trusts and time.monotonic() < since + TRUSTED_SECONDS and not quiet.poll(0):
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error  # all that rest are as old; SQLAlchemy then connects anew


def _sqlite(address: URL) -> Engine:
    file = Path(address.database) if address.database else None
    if file:
        private.folder(file.parent)
    made = sa.create_engine(
        address,
        json_serializer=_dumps,
        module=sqlite3,
        pool_size=32,
        max_overflow=64,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS},
    )
    if file:
        event.listen(made, "do_connect", lambda *_: private.database(file))
    event.listen(made, "connect", partial(_prepare_sqlite, file))
    event.listen(made, "begin", partial(_begin_sqlite, threading.Lock()))
    return made


def _prepare_sqlite(file: Path | None, connection: sqlite3.Connection, record: Any) -> None:
    record.info[_FILE] = file and (file, _identity(file))
    connection.isolation_level = None  # the driver must not begin transactions by itself: _begin_sqlite does
    connection.execute("PRAGMA foreign_keys = ON")
    [path] = [path for _, name, path in connection.execute("PRAGMA database_list") if name == "main"]
    record.info[_WAL] = wal.of(path) if _set_journal(connection) == "wal" else None


def _set_journal(connection: sqlite3.Connection) -> str:
    """The journal that the database has now."""
    for mode in ("WAL", "PERSIST") if WAL_IS_SAFE else ("PERSIST",):
        try:
            return str(connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0])
        except sqlite3.OperationalError as error:
            # Only a connection that is alone can begin or end a WAL: while others use the database, it stays as it is.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _begin_sqlite(turn: threading.Lock, connection: sa.Connection) -> None:
    # A deferred transaction that reads and then writes is refused at once (SQLITE_BUSY) when another one wrote in
    # between, whatever the busy timeout; so writers take the write lock first.
    options = connection.get_execution_options()
    read_only = options.get(_READ_ONLY, False)
    wait_seconds = options.get(_WAIT_SECONDS, BUSY_SECONDS)
    if not read_only:
        _check_file(connection)
        # An accepted job survives a power cut: either the commit waits for the disk, or `session_scope` does.
        log: WriteAheadLog | None = connection.info[_WAL]
        waits_later = log is not None and options.get(_SYNCED_LATER, False)
        if log is not None:
            log.check()
        _set_pragmas(connection, synchronous="NORMAL" if waits_later else "FULL", query_only="OFF", busy_timeout="0")
        _wait_for_turn(turn, connection, wait_seconds)
        if log is not None:
            return  # with a WAL, whoever has the lock waits for nobody any more
    _set_pragmas(connection, query_only="ON" if read_only else "OFF", busy_timeout=str(round(wait_seconds * 1000)))
    if read_only and not options.get(_ONE_STATEMENT, False):
        driver_of(connection).execute("BEGIN")


def _check_file(connection: sa.Connection) -> None:
    """Refuse a write to a file that was deleted or replaced: nobody would find it. With a WAL, SQLite does not look."""
    opened = connection.info.get(_FILE)
    if opened and _identity(opened[0]) != opened[1]:
        raise Unavailable(_GONE)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def driver_of(connection: sa.Connection) -> sqlite3.Connection:
    """SQLite's own connection below one of SQLAlchemy."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def _set_pragmas(connection: sa.Connection, **wanted: str) -> None:
    """Straight to the driver, and only what has changed: SQLAlchemy takes ten times as long as SQLite."""
    for name in (name for name, value in wanted.items() if connection.info.get(name) != value):
        driver_of(connection).execute(f"PRAGMA {name} = {wanted[name]}")
        connection.info[name] = wanted[name]


def _wait_for_turn(turn: threading.Lock, connection: sa.Connection, seconds: float) -> None:
    """Begin a transaction that writes, waiting for others for so long.

    SQLite's own waiting looks every 100 ms: beside somebody who writes again and again it may find the lock taken each
    time. So we look often, and by chance. One thread of a process looks, and the others wait for `turn`.
    """
    until = time.monotonic() + seconds
    if turn.acquire(timeout=seconds):
        try:
            while time.monotonic() < until:
                try:
                    driver_of(connection).execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                        break
                    time.sleep(random.uniform(*LOOKS_SECONDS))  # noqa: S311
                else:
                    return
        finally:
            turn.release()
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # raises as SQLAlchemy does


class _Thread(threading.local):
    scopes = 0
    """How many scopes of this thread are open."""
    trusts = False
    """Whether it takes a pooled connection without a ping."""


_thread = _Thread()


@contextmanager
def open_scope() -> Iterator[None]:
    """While a transaction of this thread is open, as `check_no_session` sees it."""
    _thread.scopes += 1
    try:
        yield
    finally:
        _thread.scopes -= 1


def check_no_session(what: str) -> None:
    """Hold work that may take long to the rule that no transaction waits for it: on SQLite all writers would wait too.

    Raises:
        RuntimeError: this thread has a session open; a mistake of ours.
    """
    if _thread.scopes:
        raise RuntimeError(f"A database session is open while {what}: do that first, then open the session.")


@contextmanager
def session_scope(engine: Engine, *, wait: bool = True) -> Iterator[Session]:
    """One transaction that may write: committed at the end, rolled back on any error.

    Slow work (an upload, a download) belongs before it: on SQLite there is one writer at a time (`check_no_session`).
    `wait=False` is for what may be left undone: a SQLite that is locked is not waited for.

    Raises:
        Unavailable: the database cannot be reached, is full, or stayed locked for 8 s.
    """
    with open_scope(), translated_errors(), _read_only_translated():
        with (
            _WritingSession(_for_sessions(engine, wait), expire_on_commit=False, info={_FRESH: True}) as session,
            session.begin(),
        ):
            yield session
            faults.point("transaction.written")
        log: WriteAheadLog | None = session.info.get(_WAL)
        if log is not None:  # even for one that changed nothing: it may have read what is not on the disk yet
            log.sync()
        metrics.committed(session)
        faults.point("transaction.committed")


@lru_cache(maxsize=16)
def _for_sessions(engine: Engine, wait: bool) -> Engine:
    return engine.execution_options(**{_SYNCED_LATER: True, **({} if wait else {_WAIT_SECONDS: 0.0})})


class _WritingSession(Session):
    """One that notes its first question, and the log of its database."""


@event.listens_for(_WritingSession, "after_begin")  # for all of them: to listen to each takes as long as a statement
def _note_begin(session: Session, _transaction: object, connection: sa.Connection) -> None:
    session.info.pop(_FRESH, None)
    session.info[_WAL] = connection.info.get(_WAL)


@contextmanager
def _trusting() -> Iterator[None]:
    _thread.trusts = True
    try:
        yield
    finally:
        _thread.trusts = False


def connect_trusting(session: Session) -> None:
    """Give a session its connection without a ping, if that was used within a second; for whoever has had an answer
    from the database just now. A ping would take as long as a statement."""
    with _trusting():
        session.connection()


def is_fresh(session: Session) -> bool:
    """Whether a session has not asked the database yet: then it holds no lock, and no connection."""
    return _FRESH in session.info


def check_writes(engine: Engine) -> bool:
    """Try a write that leaves nothing behind. False: on SQLite somebody else writes just now, which is not waited for.

    Raises:
        Unavailable: nothing can be written.
    """
    row = {"name": f"probe:{secrets.token_hex(8)}", "queues": "", "state": "idle", "started_at": 0.0, "seen_at": now()}
    try:
        with session_scope(engine, wait=False) as session:
            session.execute(sa.insert(Worker).values(row))
            session.execute(sa.delete(Worker).where(Worker.name == row["name"]))
            if engine.dialect.name != "sqlite":  # SQLite finds a full disk only when it commits
                session.rollback()
    except Unavailable as error:
        if _code(error.__cause__) == "SQLITE_BUSY":
            return False
        raise
    return True


@contextmanager
def savepoint(session: Session) -> Iterator[None]:
    """A part of a transaction that is taken back alone if it ends in an error, with what it was to count."""
    with metrics.dropped_on_error(session), session.begin_nested():
        yield


@contextmanager
def read_scope(engine: Engine) -> Iterator[Session]:
    """One transaction that only reads, from one snapshot; the database refuses writes in it.

    Raises:
        Unavailable: as `session_scope`.
    """
    options: dict[str, Any] = {_READ_ONLY: True}
    if engine.dialect.name == "postgresql":
        options |= {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
    reading = engine.execution_options(**options)
    with open_scope(), translated_errors(), Session(reading, expire_on_commit=False) as session:
        yield session


class _Compiled(NamedTuple):
    """A statement in the words of a dialect."""

    text: str
    order: Sequence[str]
    """SQLite: the names of its parameters, in their order."""
    constants: Mapping[str, Any]
    """Values of those parameters that are part of the statement."""
    converters: Sequence[tuple[str, Callable[[Any], Any]]]
    """What turns the value of a parameter into one of the driver, such as JSON into text."""

    @classmethod
    def of(cls, statement: Any, dialect: sa.Dialect) -> _Compiled:
        compiled = statement.compile(dialect=dialect)
        constants = {name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required}
        found = ((name, bind.type.dialect_impl(dialect)) for name, bind in compiled.binds.items())
        converters = [(name, kind.bind_processor(dialect)) for name, kind in found]
        used = [(name, convert) for name, convert in converters if convert is not None]
        return cls(compiled.string, compiled.positiontup or (), constants, used)


class Statement:
    """A statement that is built once and run often, with its parameters by name.

    The driver alone runs it, because SQLAlchemy takes longer than most statements. Python's defaults of columns are not
    filled in. If somebody listens to statements, SQLAlchemy runs it.
    """

    def __init__(self, statement: sa.Executable, *, binary: bool = False) -> None:
        self._statement: Any = statement
        self._binary = binary
        self._compiled: dict[str, _Compiled] = {}

    def execute(self, connection: sa.Connection, **parameters: Any) -> Any:
        """Run it in the transaction of a connection; returns the driver's cursor.

        Raises:
            DBAPIError: as `connection.execute`.
        """
        if connection.engine.dispatch.before_cursor_execute or not connection.in_transaction():
            return cast(sa.CursorResult[Any], connection.execute(self._statement, parameters)).cursor
        dialect, driver = connection.dialect, connection.connection.driver_connection
        try:
            return self._run(dialect, driver, parameters)
        except dialect.loaded_dbapi.Error as error:
            if dialect.is_disconnect(error, cast(Any, driver), None):
                connection.invalidate(error)
            text = self._compiled[dialect.name].text
            raise DBAPIError.instance(text, None, error, dialect.loaded_dbapi.Error, dialect=dialect) from error

    def _run(self, dialect: sa.Dialect, driver: Any, parameters: dict[str, Any]) -> Any:
        if (compiled := self._compiled.get(dialect.name)) is None:
            compiled = self._compiled[dialect.name] = _Compiled.of(self._statement, dialect)
        values = {**compiled.constants, **parameters}
        for name, convert in compiled.converters:
            values[name] = convert(values[name])
        if dialect.name == "sqlite":
            return driver.execute(compiled.text, [values[name] for name in compiled.order])
        return driver.execute(compiled.text, values, binary=self._binary)


class Query(Statement):
    """A statement that returns rows.

    Its rows have the names of its columns and the values that the driver gives: booleans of SQLite are 0 and 1. With
    `binary` PostgreSQL sends bytes as they are, and not as digits. If the driver fails on an engine, the statement runs
    again through SQLAlchemy. So on an engine it may run twice, and one that writes must allow for that (as in
    `lanes.py`).
    """

    def __init__(self, statement: sa.Select[Any] | sa.CompoundSelect[Any], *, binary: bool = False) -> None:
        super().__init__(statement, binary=binary)
        made: Any = collections.namedtuple
        self._named = made("Row", [column.name for column in statement.selected_columns])._make

    def rows(self, source: Engine | sa.Connection, **parameters: Any) -> list[Any]:
        """The answer within the transaction of a connection; or, of an engine, in a transaction of its own, for which
        PostgreSQL is asked once, without BEGIN and ROLLBACK.

        Raises:
            Unavailable: of an engine, as `session_scope`.
        """
        return [*map(self._named, self.tuples(source, **parameters))]

    def tuples(self, source: Engine | sa.Connection, **parameters: Any) -> Sequence[Any]:
        """The same without names, for when there are thousands."""
        if isinstance(source, sa.Connection):
            return cast(Sequence[Any], self.execute(source, **parameters).fetchall())
        # If the driver fails, SQLAlchemy runs it again, because it knows whether a connection is lost.
        if (
            not source.dispatch.before_cursor_execute
            and (found := self._execute_without_begin(source, parameters)) is not None
        ):
            return found
        with open_scope(), translated_errors(), _for_one_statement(source).connect() as connection:
            cursor: Any = cast(sa.CursorResult[Any], connection.execute(self._statement, parameters)).cursor
            return cast(Sequence[Any], cursor.fetchall())

    def _execute_without_begin(self, engine: Engine, parameters: dict[str, Any]) -> Sequence[Any] | None:
        try:
            with open_scope(), translated_errors(), _trusting():
                pooled = engine.raw_connection()
        except engine.dialect.loaded_dbapi.Error:
            return None
        driver: Any = pooled.driver_connection
        is_postgresql = engine.dialect.name == "postgresql"
        try:
            if is_postgresql:
                driver.autocommit = True
            found: Sequence[Any] = self._run(engine.dialect, driver, parameters).fetchall()
            if is_postgresql:
                driver.autocommit = False
        except BaseException as error:
            pooled.invalidate()  # whatever it was: on PostgreSQL the connection would go on without transactions
            if isinstance(error, engine.dialect.loaded_dbapi.Error):
                return None
            raise
        else:
            return found
        finally:
            pooled.close()


@lru_cache(maxsize=16)
def _for_one_statement(engine: Engine) -> Engine:
    options: dict[str, Any] = {_READ_ONLY: True, _ONE_STATEMENT: True}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "AUTOCOMMIT"
    return engine.execution_options(**options)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise Unavailable, with a sentence that says what to do, for a database that cannot answer."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("Every database connection is busy; try again in a few seconds.") from error
    except (OperationalError, InterfaceError) as error:
        if _is_our_mistake(error):
            raise
        raise Unavailable(_sentence(error)) from error
    except DatabaseError as error:
        if type(error) is not DatabaseError:  # its subclasses are mistakes of ours
            raise
        raise Unavailable(f"The database is damaged ({_first_line(error)}); restore it from a backup.") from error


@contextmanager
def _read_only_translated() -> Iterator[None]:
    """A PostgreSQL that takes no writes from anybody says so in a class of its own."""
    try:
        yield
    except (InternalError, NotSupportedError) as error:
        if getattr(error.orig, "sqlstate", None) != "25006" and "during recovery" not in str(error.orig):
            raise
        raise Unavailable("The database takes no writes: it is read-only, or a standby.") from error


def _sentence(error: DBAPIError) -> str:
    code = _code(error)
    what = next((message for name, message in _SQLITE_MESSAGES.items() if code.startswith(name)), None)
    return what or f"The database cannot answer now ({_first_line(error)}); try again soon."


def _code(error: BaseException | None) -> str:
    """SQLite's name of what went wrong, or nothing."""
    return str(getattr(getattr(error, "orig", None), "sqlite_errorname", ""))


def _is_our_mistake(error: DBAPIError) -> bool:
    # sqlite3 has one class for "locked", "disk full" and "no such table"; the last is not cured by waiting.
    return isinstance(error.orig, sqlite3.Error) and str(error.orig).startswith(("no such", "near "))


def _first_line(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def lock(session: Session, name: str) -> None:
    """Wait until no other transaction holds the lock `name`; held to the end of this one.

    Only PostgreSQL needs it: on SQLite a transaction that may write is alone anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"loopline.{name}", 0))))


def rowcount(result: sa.Result[Any]) -> int:
    """How many rows an INSERT, UPDATE or DELETE touched."""
    return cast(sa.CursorResult[Any], result).rowcount


def check_schema(engine: Engine) -> None:
    """Refuse a database whose schema is not this code's.

    Raises:
        SchemaMismatch: it was never migrated, is behind, or is newer.
        Unavailable: the database cannot be reached.
    """
    with translated_errors(), engine.execution_options(**{_READ_ONLY: True}).connect() as connection:
        found = _revision(connection)
    if found == REVISION:
        return
    if found is None:
        raise SchemaMismatch(
            "The database has no tables yet; start the service once, or run `python -m services migrate`."
        )
    raise SchemaMismatch(
        f"The database's schema is revision {found}; this version of Loopline works with {REVISION}. "
        "Start the newest version, which upgrades the schema by itself."
    )


def migrate(engine: Engine) -> None:
    """Bring the schema to this code's revision; several processes may do this at once, and one does the work.

    All steps are one transaction, behind a lock, on both databases: a start that is killed leaves the old schema.

    Raises:
        SchemaMismatch: the database has a revision that this code does not know.
        Unavailable: the database cannot be reached, or another start held the lock for too long.
    """
    with translated_errors():
        with engine.execution_options(**{_READ_ONLY: True}).connect() as connection:
            if _revision(connection) == REVISION:
                return
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('loopline.migrate', 0))"))
            _upgrade(connection)


def _upgrade(connection: sa.Connection) -> None:
    # Alembic takes 0.2 s to import, and almost every start finds the schema in place.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = _revision(connection)
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"The database's schema is revision {found}, which this version of Loopline does not know. "
            "It was made by a newer version; upgrade Loopline."
        )
    command.upgrade(config, "head")


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found
