"""Engines and transactions: who may write, who waits, and what a failure is called."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, StatementError
from sqlalchemy.orm import Session

from services import db
from services.errors import Unavailable
from services.jobs import control
from services.orm import IdempotencyKey, Job, Tenant
from services.sqlite import WAL_IS_SAFE
from services.sqlite import driver as sqlite3


def priority(engine: Engine, job_id: str) -> int:
    with db.read_scope(engine) as session:
        return control.get(session, job_id).priority


def test_a_scope_commits_at_its_end_and_rolls_back_on_an_error(engine: Engine, queued_job: Job) -> None:
    with db.session_scope(engine) as session:
        control.get(session, queued_job.id).priority = 5
    with pytest.raises(ZeroDivisionError), db.session_scope(engine) as session:
        control.get(session, queued_job.id).priority = 1 // 0
    assert priority(engine, queued_job.id) == 5


def test_a_reader_cannot_write(engine: Engine, queued_job: Job) -> None:
    with pytest.raises((Unavailable, DBAPIError)), db.read_scope(engine) as session:
        session.execute(sa.update(Job).values(priority=9))
    assert priority(engine, queued_job.id) == 0
    with db.session_scope(engine) as session:  # the same connection may write again
        session.execute(sa.update(Job).values(priority=9))
    assert priority(engine, queued_job.id) == 9


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # with SQLite's journal a writer waits instead
def test_a_reader_sees_one_snapshot(engine: Engine, queued_job: Job) -> None:
    with db.read_scope(engine) as reader:
        before = control.revision(reader, queued_job.id)
        with db.session_scope(engine) as session:
            control.cancel(session, queued_job.id)
        assert control.revision(reader, queued_job.id) == before


def test_the_clock_is_in_seconds_since_1970(engine: Engine) -> None:
    with db.read_scope(engine) as session:
        first = session.scalar(sa.select(db.now()))
        assert isinstance(first, float)
        assert abs(first - time.time()) < 5


def test_writers_that_read_first_wait_for_each_other(engine: Engine, queued_job: Job) -> None:
    """With a deferred BEGIN, SQLite would refuse all but one of these at once."""

    def add() -> None:
        for _ in range(5):
            with db.session_scope(engine) as session:
                row = session.scalar(sa.select(Job).where(Job.id == queued_job.id).with_for_update())
                assert row is not None
                row.priority += 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert priority(engine, queued_job.id) == 20


def test_a_database_that_stays_locked_is_unavailable(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.1)
    engine = db.engine(sqlite_url)
    with sqlite3.connect(tmp_path / "loopline.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"), db.session_scope(engine) as session:
            session.execute(sa.update(Job).values(priority=1))
        other.rollback()
    other.close()
    engine.dispose()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    engine = db.engine(f"postgresql://nobody@/none?host={tmp_path}")
    with pytest.raises(Unavailable), db.read_scope(engine) as session:
        session.execute(sa.select(1))
    with pytest.raises(Unavailable):
        db.check_schema(engine)
    engine.dispose()


def test_our_own_mistakes_are_not_called_unavailable(engine: Engine) -> None:
    with pytest.raises((OperationalError, sa.exc.ProgrammingError)), db.session_scope(engine) as session:
        session.execute(sa.text("SELECT * FROM no_such_table"))


def test_numbers_that_are_not_json_are_refused(engine: Engine, queued_job: Job) -> None:
    with pytest.raises((StatementError, ValueError)), db.session_scope(engine) as session:
        control.get(session, queued_job.id).result = {"loss": math.nan}


def test_sqlite_keeps_foreign_keys_and_a_journal_that_is_safe_here(sqlite_url: str) -> None:
    engine = db.engine(sqlite_url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        assert mode == ("wal" if WAL_IS_SAFE else "persist")
    engine.dispose()


def test_an_older_journal_is_kept_while_others_use_the_database_and_replaced_when_it_is_free(tmp_path: Path) -> None:
    modes = []
    with closing(sqlite3.connect(tmp_path / "loopline.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = PERSIST")
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN")
        other.execute("SELECT * FROM t").fetchall()
        for _ in ("in use", "free"):
            engine = db.engine(f"sqlite:///{tmp_path}/loopline.db")
            with engine.connect() as connection:
                modes.append(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
            engine.dispose()
            other.close()
    assert modes == ["persist", "wal" if WAL_IS_SAFE else "persist"]


def test_a_write_to_a_file_that_was_replaced_is_refused_until_it_is_back(tmp_path: Path) -> None:
    file, away = tmp_path / "loopline.db", tmp_path / "away.db"
    engine = db.engine(f"sqlite:///{file}")
    db.migrate(engine)
    file.rename(away)
    for _ in ("gone", "replaced"):
        with (
            pytest.raises(Unavailable, match="deleted or moved while it was in use"),
            db.session_scope(engine) as session,
        ):
            session.connection()
        file.touch()
    away.replace(file)
    with db.session_scope(engine) as session:
        session.connection()
    engine.dispose()


def test_a_fork_forgets_the_connections_of_its_parent(database_url: str) -> None:
    program = """
import os, sys, sqlalchemy as sa
from services import db
engine = db.engine(sys.argv[1])
with engine.connect() as connection:
    connection.execute(sa.select(1))
assert engine.pool.checkedin() == 1
child = os.fork()
if child == 0:
    fresh = engine.pool.checkedin() == 0
    with engine.connect() as connection:
        connection.execute(sa.select(1))
    os._exit(0 if fresh else 1)
_, status = os.waitpid(child, 0)
with engine.connect() as connection:
    connection.execute(sa.select(1))
sys.exit(os.waitstatus_to_exitcode(status))
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, database_url], check=True, cwd=root, timeout=30, env={**os.environ})


def test_a_writer_gets_its_turn_beside_one_that_writes_without_a_break(sqlite_url: str) -> None:
    """One that holds the lock for 20 ms at a time, and at once again, may keep another from it for seconds."""
    engine, turns, done = db.engine(sqlite_url), [0], threading.Event()

    def write() -> None:
        with db.session_scope(engine) as session:
            session.execute(sa.update(Tenant).values(max_bytes=turns[0]))
            done.wait(0.02)

    def write_on() -> None:
        while not done.is_set():
            write()
            turns[0] += 1

    hog = threading.Thread(target=write_on)
    hog.start()
    waits = []
    while len(waits) < 5:
        before = turns[0]
        write()
        waits.append(turns[0] - before)
    done.set()
    hog.join(20)
    engine.dispose()
    assert max(waits) < 300


def test_a_query_that_fails_leaves_no_connection_without_transactions(engine: Engine) -> None:
    query = db.Query(sa.select(IdempotencyKey.key).where(IdempotencyKey.key == sa.bindparam("key")))
    with pytest.raises(UnicodeEncodeError):  # an error of Python, and not of the driver
        query.rows(engine, key="\ud800")
    row = {"scope": "s", "key": "k", "fingerprint": "f", "created_at": 0.0}
    with db.session_scope(engine) as session:
        session.execute(sa.insert(IdempotencyKey).values(row))
        session.rollback()
    assert query.rows(engine, key="k") == []


def test_a_statement_of_the_driver_fails_as_one_of_sqlalchemy(engine: Engine, queued_job: Job) -> None:
    row = {"name": "default", "created_at": 0.0}
    insert = db.Statement(sa.insert(Tenant).values({name: sa.bindparam(name) for name in row}))
    with pytest.raises(IntegrityError), db.session_scope(engine) as session:
        insert.execute(session.connection(), **row)
    with db.session_scope(engine) as session:  # the connection works
        insert.execute(session.connection(), **{**row, "name": "acme"})
        with pytest.raises(IntegrityError), db.savepoint(session):
            insert.execute(session.connection(), **row)
    with db.read_scope(engine) as session:
        assert session.get(Tenant, "acme") is not None


def test_a_statement_of_the_driver_takes_values_as_sqlalchemy_does(engine: Engine, queued_job: Job) -> None:
    table: Any = Job.__table__
    values = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in ("tags", "pause_requested")}
    change = db.Statement(sa.update(table).where(table.c.queue == "default").values(values))
    with db.session_scope(engine) as session:
        change.execute(session.connection(), new_tags={"a": "ö"}, new_pause_requested=True)
    with db.read_scope(engine) as session:
        job = control.get(session, queued_job.id)
        assert (job.tags, job.pause_requested) == ({"a": "ö"}, True)
    with pytest.raises(ValueError), db.session_scope(engine) as session:
        change.execute(session.connection(), new_tags={"a": math.nan}, new_pause_requested=True)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_statement_of_the_driver_whose_connection_is_cut_is_unavailable(engine: Engine, queued_job: Job) -> None:
    look = db.Query(sa.select(Job.id))

    def look_after_cut(session: Session) -> None:
        pid = session.scalar(sa.select(sa.func.pg_backend_pid()))
        with db.session_scope(engine) as other:
            other.execute(sa.select(sa.func.pg_terminate_backend(pid)))
        look.rows(session.connection())

    with pytest.raises(Unavailable), db.session_scope(engine) as session:
        look_after_cut(session)
    with db.session_scope(engine) as session:
        assert len(look.rows(session.connection())) == 1
