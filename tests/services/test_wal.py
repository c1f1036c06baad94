"""Commits on SQLite last once they are told of, and nobody holds its lock while the disk writes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db, wal
from services.errors import Unavailable
from services.orm import Tenant
from services.sqlite import WAL_IS_SAFE
from services.sqlite import driver as sqlite3
from services.wal import WriteAheadLog

pytestmark = pytest.mark.skipif(not WAL_IS_SAFE, reason="this SQLite has no safe WAL")


class Disk:
    """A disk that counts its writes, and waits or fails at will."""

    def __init__(self) -> None:
        self.writes = 0
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.fails = False

    def write(self, file: int) -> None:
        self.writes += 1
        self.begun.set()
        assert self.goes_on.wait(60)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(wal, "_fdatasync", made.write)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "loopline.db"


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    made = db.engine(f"sqlite:///{file}")
    db.migrate(made)
    yield made
    made.dispose()


def add(engine: Engine, name: str) -> None:
    with db.session_scope(engine) as session:
        session.add(Tenant(name=name, created_at=0.0))


def names(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM tenants")} - {"default"}


def test_a_transaction_ends_when_the_disk_has_it_and_nobody_waits_for_its_lock(
    engine: Engine, file: Path, disk: Disk
) -> None:
    disk.goes_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(add, engine, "a")
        assert disk.begun.wait(60)
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
        assert names(file) == {"a"}
        assert not first.done()
        disk.goes_on.set()
        first.result(60)
    assert disk.writes == 1


def test_those_that_commit_while_the_disk_writes_wait_for_one_more_write_together(
    engine: Engine, file: Path, disk: Disk
) -> None:
    disk.goes_on.clear()
    with ThreadPoolExecutor(9) as pool:
        ended = [pool.submit(add, engine, "first")]
        assert disk.begun.wait(60)
        ended += [pool.submit(add, engine, f"t{n}") for n in range(8)]
        while len(names(file)) < 9:
            threading.Event().wait(0.001)
        assert not any(each.done() for each in ended)
        threading.Event().wait(0.05)  # from a commit to its wait
        disk.goes_on.set()
        for each in ended:
            each.result(60)
    assert disk.writes <= 3  # one more where a thread came late


def test_only_a_transaction_that_may_write_waits_for_the_disk(engine: Engine, disk: Disk) -> None:
    with db.session_scope(engine):  # asks the database nothing
        pass
    with db.read_scope(engine) as session:
        session.scalars(sa.select(Tenant)).all()
    with pytest.raises(sa.exc.IntegrityError), db.session_scope(engine) as session:
        session.add_all([Tenant(name="a", created_at=0.0), Tenant(name="default", created_at=0.0)])
    assert disk.writes == 0


def test_what_was_read_before_the_disk_has_it_is_not_told_of_either(engine: Engine, disk: Disk) -> None:
    """Such as the job that an earlier request with the same key has made."""

    def look() -> bool:
        with db.session_scope(engine) as session:
            return session.get(Tenant, "a") is not None

    disk.goes_on.clear()
    with ThreadPoolExecutor(2) as pool:
        writes = pool.submit(add, engine, "a")
        assert disk.begun.wait(60)
        reads = pool.submit(look)
        threading.Event().wait(0.1)
        assert not reads.done()
        disk.goes_on.set()
        assert reads.result(60)
        writes.result(60)
    assert disk.writes == 2


def test_what_is_committed_in_another_way_waits_within_its_commit(engine: Engine, disk: Disk) -> None:
    add(engine, "a")
    with engine.begin() as connection:  # on the same connection
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        connection.execute(sa.delete(Tenant).where(Tenant.name == "a"))
    assert disk.writes == 1
    with db.session_scope(engine) as session:
        session.execute(sa.insert(Tenant).values(name="b", created_at=0.0))
        assert session.execute(sa.text("PRAGMA synchronous")).scalar() == 1
        with db.savepoint(session):
            session.execute(sa.text("SELECT 1"))
    assert disk.writes == 2


def test_after_a_failure_of_the_disk_nothing_is_stored_until_the_next_start(
    engine: Engine, file: Path, disk: Disk
) -> None:
    add(engine, "a")
    disk.fails = True
    with pytest.raises(Unavailable, match=r"has failed \(Input/output error\); look at the disk, then start"):
        add(engine, "b")
    disk.fails = False
    other = db.engine(f"sqlite:///{file}")
    for each in (engine, other):
        with pytest.raises(Unavailable, match="has failed"):
            add(each, "c")
    assert "c" not in names(file)
    with db.read_scope(engine) as session:
        assert session.get(Tenant, "a")
    other.dispose()
    engine.dispose()
    wal._logs.clear()  # as in another process
    again = db.engine(f"sqlite:///{file}")
    add(again, "d")
    again.dispose()
    assert {"a", "d"} <= names(file)


def test_all_who_wait_hear_that_the_log_cannot_be_opened_and_the_next_ones_try_again(
    engine: Engine, file: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(file)) as keeper, ThreadPoolExecutor(5) as pool:
        keeper.execute("SELECT * FROM tenants").fetchall()
        monkeypatch.setattr(wal.os, "open", no_more_files)
        for each in [pool.submit(add, engine, f"t{n}") for n in range(5)]:
            with pytest.raises(Unavailable, match=r"cannot be stored now \(Too many open files\); try again soon"):
                each.result(60)
        monkeypatch.undo()
        add(engine, "a")
    assert disk.writes == 0


def no_more_files(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_the_log_is_that_of_the_file_behind_a_link(file: Path, engine: Engine, disk: Disk) -> None:
    link = file.with_name("link.db")
    link.symlink_to(file)
    linked = db.engine(f"sqlite:///{link}")
    add(linked, "a")
    linked.dispose()
    assert disk.writes == 1


def test_a_child_process_has_logs_of_its_own(engine: Engine, file: Path, disk: Disk) -> None:
    add(engine, "a")
    log = wal.of(str(file.resolve()))
    with log._turn:  # as if another thread were waiting when this one forks
        child = os.fork()
        if child == 0:
            try:
                add(engine, "b")
            except BaseException:  # noqa: BLE001  pytest must not go on in the child
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_a_log_that_is_gone_has_nothing_to_write(tmp_path: Path) -> None:
    WriteAheadLog(str(tmp_path / "nothing.db-wal")).sync()
