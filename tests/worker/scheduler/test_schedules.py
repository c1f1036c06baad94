"""Schedules kept by real schedulers: two at once, one that dies before and after the commit, one with a defect."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.orm import Batch, Firing, Job, Schedule
from services.schedules import definitions
from services.schedules.definitions import Definition
from services.settings import Settings
from tests.ringing import FakeDoorbell
from tests.worker.watching import Process
from worker.scheduler import loop

SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 1},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}


def due(engine: Engine, *names: str) -> float:
    """Make schedules that are due now; their slot."""
    with db.session_scope(engine) as session:
        slot = definitions.clock(session) - 1
        for name in names:
            made = definitions.create(session, name, Definition("0 0 1 1 *", SPEC))
            session.execute(sa.update(Schedule).where(Schedule.id == made.id).values(next_slot=slot, due_at=slot))
    return slot


def firings(engine: Engine) -> list[Firing]:
    with db.read_scope(engine) as session:
        return [*session.scalars(sa.select(Firing).order_by(Firing.id))]


def count(engine: Engine, table: type[Batch] | type[Job]) -> int:
    with db.read_scope(engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def until(engine: Engine, number: int, seconds: float = 60.0) -> list[Firing]:
    """The firings as soon as there are so many."""
    deadline = time.monotonic() + seconds
    while len(found := firings(engine)) < number:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


@pytest.mark.parametrize(
    ("database_url", "point"),
    [("sqlite", "firing.written"), ("postgresql", "firing.written"), ("postgresql", "transaction.committed")],
    indirect=["database_url"],
)
def test_a_scheduler_that_dies_as_it_fires_a_slot_neither_loses_nor_doubles_it(
    engine: Engine, start: Callable[..., Process], point: str
) -> None:
    slot = due(engine, "nightly")
    dying = start("tests.worker.dying_scheduler", point)
    assert dying.popen.wait(60) == -9
    committed = int(point == "transaction.committed")
    assert (len(firings(engine)), count(engine, Batch), count(engine, Job)) == (committed,) * 3
    other = start("worker.scheduler")
    [row] = until(engine, 1)
    due(engine, "another")
    until(engine, 2)  # so it has looked at the first one as well
    assert other.popen.poll() is None
    assert (row.slot, row.outcome) == (slot, "fired")
    assert (len(firings(engine)), count(engine, Batch), count(engine, Job)) == (2, 2, 2)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_of_two_schedulers_at_once_each_slot_is_fired_by_one(engine: Engine, start: Callable[..., Process]) -> None:
    for _ in range(2):
        start("worker.scheduler")
    names = [f"model-{number}" for number in range(20)]
    for first in range(0, 20, 5):
        due(engine, *names[first : first + 5])
        until(engine, first + 5)
    due(engine, "last")
    found = until(engine, 21)
    assert {row.outcome for row in found} == {"fired"}
    assert len({row.schedule_id for row in found}) == len(found) == count(engine, Batch) == count(engine, Job) == 21


def test_the_pass_that_submits_rings(engine: Engine, settings: Settings) -> None:
    due(engine, "nightly")
    bell, stop = FakeDoorbell(), threading.Event()
    lasting = settings.model_copy(update={"reconcile_seconds": 600.0})
    thread = threading.Thread(target=loop.run, args=(lasting, engine, bell, stop))
    thread.start()
    until(engine, 1)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert bell.rung == ["default"]


def test_a_defect_that_shows_with_one_schedule_keeps_no_other_waiting(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    due(engine, "broken", "nightly")
    with db.session_scope(engine) as session:
        session.execute(sa.update(Schedule).where(Schedule.name == "broken").values(time_zone="Mars/Olympus"))
    with caplog.at_level(logging.ERROR, "worker.scheduler"):
        loop.keep_schedules(engine)
    [row] = firings(engine)
    assert row.outcome == "fired"
    [line] = caplog.records
    assert "cannot process a schedule" in line.getMessage()
    with db.read_scope(engine) as session:
        assert definitions.overdue(session, seconds=0.0) == 1


def test_a_database_that_is_away_leaves_schedules_for_the_next_pass(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = db.engine("postgresql://nobody@127.0.0.1:1/nothing")
    with caplog.at_level(logging.WARNING, "worker.scheduler"):
        loop.keep_schedules(engine)
    engine.dispose()
    assert "cannot process schedules, will try again: The database cannot answer now" in caplog.text
