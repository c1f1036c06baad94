"""Which workers there are, and whether work is stuck beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.jobs import control, workers
from services.orm import Job, Worker


def beat(session: Session, name: str = "a:1:x", state: str = "idle", queues: tuple[str, ...] = ("default",)) -> None:
    workers.beat(session, name, queues=queues, state=state, job_id=None, doorbell_seconds_ago=5.0)


def age(session: Session, seconds: float) -> None:
    """As if so much time had passed since the jobs came to wait."""
    session.execute(sa.update(Job).values(updated_at=Job.updated_at - seconds))


def test_a_worker_is_seen_until_it_says_good_bye(session: Session) -> None:
    beat(session, "b:1:x")
    beat(session, "a:1:x", "busy", ("default", "night"))
    beat(session, "b:1:x")
    rows = workers.seen(session)
    assert [(row.name, row.state, row.queues) for row in rows] == [
        ("a:1:x", "busy", "default,night"),
        ("b:1:x", "idle", "default"),
    ]
    assert rows[0].seen_at - (rows[0].heard_at or 0) == pytest.approx(5, abs=1)
    workers.remove(session, "a:1:x")
    assert [row.name for row in workers.seen(session)] == ["b:1:x"]


def test_a_worker_tells_what_it_computes_on_once_it_knows(session: Session) -> None:
    beat(session)
    assert [(row.device, row.memory_bytes) for row in workers.seen(session)] == [(None, None)]
    known = {"queues": ("default",), "state": "idle", "job_id": None, "doorbell_seconds_ago": None}
    workers.beat(session, "a:1:x", **known, device="NVIDIA H200", memory_bytes=150_000_000_000)
    session.expire_all()
    assert [(row.device, row.memory_bytes) for row in workers.seen(session)] == [("NVIDIA H200", 150_000_000_000)]


def test_a_silent_worker_is_no_longer_listed_and_forgotten_in_the_end(session: Session) -> None:
    beat(session)
    session.execute(sa.update(Worker).values(seen_at=db.now() - workers.SEEN_SECONDS - 1))
    assert workers.seen(session) == []
    assert not workers.any_old(session)
    session.execute(sa.update(Worker).values(seen_at=db.now() - workers.KEEP_SECONDS - 1))
    assert workers.any_old(session)
    workers.forget_old(session)
    assert session.scalars(sa.select(Worker)).all() == []


def test_nothing_is_stuck_while_nothing_waits_long(session: Session, queued_job: Job) -> None:
    assert workers.stuck(session, 60) == []
    assert not workers.runnable_for(session, ["default"], 60)


def test_a_queue_that_nobody_listens_to_is_stuck(engine: Engine, make_job: Callable[..., Job]) -> None:
    make_job(queue="night"), make_job(queue="night"), make_job()
    with db.session_scope(engine) as session:
        age(session, 90)
        beat(session, state="busy")
        (sentence,) = workers.stuck(session, 60)
        assert "2 jobs of the queue night waited up to 90 s, and no worker listens to it." in sentence
        assert workers.runnable_for(session, ["night"], 60)
        assert not workers.runnable_for(session, ["other"], 60)


def test_only_the_next_jobs_of_a_lane_are_looked_at(
    engine: Engine, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LOOKED_AT", 2)
    waiting_for_retry = [make_job().id for _ in range(3)]
    for _ in range(3):
        make_job()
    make_job(priority=1)
    with db.session_scope(engine) as session:
        later = {"not_before": db.now() + 600, "turn": -1.0}
        session.execute(sa.update(Job).where(Job.id.in_(waiting_for_retry)).values(later))
        age(session, 90)
        (sentence,) = workers.stuck(session, 60)
        assert sentence == "At least 3 jobs of the queue default waited up to 90 s, and no worker listens to it."
        assert workers.runnable_for(session, ["default"], 60)
        assert not workers.runnable_for(session, ["default"], 120)


def test_an_idle_worker_beside_waiting_work_is_stuck_and_a_busy_one_is_not(
    engine: Engine, queued_job: Job, session: Session
) -> None:
    age(session, 90)
    beat(session, state="busy")
    assert workers.stuck(session, 60) == []
    beat(session, state="idle")
    assert "a:1:x is idle and does not take them" in workers.stuck(session, 60)[0]


def test_a_job_that_waits_for_its_retry_is_not_stuck(session: Session, queued_job: Job) -> None:
    age(session, 90)
    session.execute(sa.update(Job).values(not_before=db.now() - 10))
    assert workers.stuck(session, 60) == []
    control.pause(session, queued_job.id)
    age(session, 900)
    assert workers.stuck(session, 60) == []
