"""Transactions that share a commit: each is as if it were alone, and none returns before the commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, group_commit
from services.errors import Unavailable
from services.group_commit import GroupCommit
from services.orm import Job, Tenant
from services.sqlite import driver as sqlite3

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, a transaction takes all parts that wait."""
    monkeypatch.setattr(group_commit, "OPEN_SECONDS", 60.0)


@pytest.fixture
def commits(engine: Engine) -> list[int]:
    """Has an entry for each commit."""
    made: list[int] = []
    sa.event.listen(engine, "commit", lambda _: made.append(1))
    return made


def names(engine: Engine) -> set[str]:
    with db.read_scope(engine) as session:
        return {*session.scalars(sa.select(Tenant.name))} - {"default"}


def add(session: Session, name: str) -> None:
    session.execute(sa.insert(Tenant).values(name=name, created_at=0.0))


def together(engine: Engine, acts: Sequence[Callable[[Session], object]]) -> Sequence[Future[None]]:
    """Each act in a scope of its own. The first one goes on when all the others wait for it."""
    group, others = GroupCommit(engine), len(acts) - 1

    def run(act: Callable[[Session], object], first: bool) -> None:
        with group.session_scope() as session:
            if first:
                begun.set()
                while engine.dialect.name == "sqlite" and group._waiting < others:
                    threading.Event().wait(0.001)
            act(session)

    begun = threading.Event()
    with ThreadPoolExecutor(len(acts)) as pool:
        ended = [pool.submit(run, acts[0], True)]
        begun.wait(60)
        ended += [pool.submit(run, act, False) for act in acts[1:]]
        wait(ended)
    return ended


@SQLITE
def test_those_that_wait_share_one_commit(engine: Engine, commits: list[int]) -> None:
    for ended in together(engine, [lambda session, n=n: add(session, f"t{n}") for n in range(8)]):  # type: ignore[misc]
        ended.result()
    assert names(engine) == {f"t{n}" for n in range(8)}
    assert len(commits) == 1


def test_one_that_fails_takes_back_what_it_did_and_nothing_else(engine: Engine) -> None:
    def fail(session: Session) -> None:
        add(session, "nobody")
        raise ZeroDivisionError

    def clash(session: Session) -> None:
        add(session, "nobody")
        session.add(Tenant(name="default", created_at=0.0))  # there is one: found when the session is flushed

    acts = [fail, lambda session: add(session, "a"), clash, fail, lambda session: add(session, "b"), fail]
    ended = [each.exception() for each in together(engine, acts)]
    assert [type(error) for error in ended] == [
        ZeroDivisionError,
        type(None),
        sa.exc.IntegrityError,
        ZeroDivisionError,
        type(None),
        ZeroDivisionError,
    ]
    assert names(engine) == {"a", "b"}


@SQLITE
def test_a_commit_that_fails_fails_for_each_and_leaves_nothing(engine: Engine, make_job: Callable[..., Job]) -> None:
    def break_a_key(session: Session) -> None:
        session.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        session.execute(sa.update(Job).values(dataset_id="ds_nothing"))

    make_job()
    ended = together(engine, [lambda session: add(session, "a"), break_a_key, lambda session: add(session, "b")])
    for each in ended:
        assert isinstance(each.exception(), Unavailable)
    assert names(engine) == set()
    with GroupCommit(engine).session_scope() as session:
        add(session, "c")
    assert names(engine) == {"c"}


@SQLITE
def test_no_transaction_takes_parts_for_ever(engine: Engine, commits: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(group_commit, "OPEN_SECONDS", -1.0)
    for ended in together(engine, [lambda session, n=n: add(session, f"t{n}") for n in range(3)]):  # type: ignore[misc]
        ended.result()
    assert len(commits) == 3


@SQLITE
def test_threads_that_waited_for_their_turn_do_not_wait_as_long_again_for_a_locked_database(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.5)
    waits: list[float] = []
    wait_for_turn = db._wait_for_turn

    def note(connection: sa.Connection, seconds: float) -> None:
        waits.append(seconds)
        wait_for_turn(connection, seconds)

    monkeypatch.setattr(db, "_wait_for_turn", note)
    group, begin = GroupCommit(engine), threading.Barrier(5)

    def write() -> None:
        begin.wait(60)
        with group.session_scope() as session:
            add(session, "a")

    with closing(sqlite3.connect(tmp_path / "loopline.db")) as other, ThreadPoolExecutor(5) as pool:
        other.execute("BEGIN IMMEDIATE")
        for ended in [pool.submit(write) for _ in range(5)]:
            with pytest.raises(Unavailable, match="locked"):
                ended.result()
    assert sum(waits) < 1.0


@SQLITE
def test_a_transaction_that_sqlite_rolls_back_fails_for_each_that_took_part(engine: Engine) -> None:
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def fill(session: Session) -> None:
        session.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
        session.execute(sa.insert(Tenant).values(name="x" * 1_000_000, created_at=0.0))

    ended = together(engine, [lambda session: add(session, "a"), fill, lambda session: add(session, "b")])
    for each in ended[:2]:
        with pytest.raises(Unavailable, match="is full"):
            each.result()
    # The last two take their turns in any order: after the failure "b" has a transaction of its own.
    assert names(engine) == ({"b"} if ended[2].exception() is None else set())
