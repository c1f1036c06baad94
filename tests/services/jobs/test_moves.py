"""The database itself holds to the table of moves, in raw SQL, and writes every move down."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from services import db
from services.jobs import attempts, control, events, moves
from services.jobs.leases import Lease
from services.orm import Job
from services.states import ALLOWED, Status
from tests.rows import transitions


def move(engine: Engine, **values: Any) -> None:
    """Raw SQL, as somebody at a console would write it."""
    sets = ", ".join(f"{name} = :{name}" for name in values)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE jobs SET {sets}"), values)  # noqa: S608


def bring_to(engine: Engine, job_id: str, status: Status) -> None:
    if status == Status.QUEUED:
        return
    if status == Status.PAUSED:
        with db.session_scope(engine) as session:
            control.pause(session, job_id)
        return
    with db.session_scope(engine) as session:
        claimed = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
        assert claimed is not None
        if status != Status.RUNNING:
            moves.end(session, claimed, status)


@pytest.mark.parametrize("status", Status)
def test_raw_sql_makes_the_allowed_moves_and_no_other(engine: Engine, queued_job: Job, status: Status) -> None:
    bring_to(engine, queued_job.id, status)
    lease = 9e9 if status == Status.RUNNING else None
    for to in Status:
        numbered = {"attempt": 1} if (status, to) == (Status.QUEUED, Status.RUNNING) else {}
        values = {"status": to, "lease_until": 9e9 if to == Status.RUNNING else None, **numbered}
        if to in ALLOWED[status] or to == status:
            with engine.connect() as connection:  # rolled back
                connection.execute(sa.update(Job).values(values))
            continue
        with pytest.raises(IntegrityError, match="cannot move like this"):
            move(engine, **values)
    with db.read_scope(engine) as session:
        job = control.get(session, queued_job.id)
        assert (job.status, job.lease_until is None) == (status, lease is None)


@pytest.mark.parametrize(
    "values", [{"attempt": 2}, {"attempt": 0}, {"status": "queued", "attempt": 2, "lease_until": None}]
)
def test_an_attempt_begins_with_a_claim_and_its_number_never_changes_otherwise(
    engine: Engine, lease: Lease, values: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError, match="cannot move like this"):
        move(engine, **values)


def test_a_claim_raises_the_attempt_by_one(engine: Engine, queued_job: Job) -> None:
    for attempt in (0, 2):
        with pytest.raises(IntegrityError, match="cannot move like this"):
            move(engine, status="running", attempt=attempt, lease_until=9e9)


@pytest.mark.parametrize("values", [{"status": "succeeded"}, {"attempt": 1}])
def test_a_job_is_born_queued(engine: Engine, queued_job: Job, values: dict[str, Any]) -> None:
    born = {column.name: getattr(queued_job, column.name) for column in Job.__table__.columns}
    with pytest.raises(IntegrityError, match="a new job is queued"), engine.begin() as connection:
        connection.execute(sa.insert(Job).values(**{**born, "id": "job_x", **values}))


def test_every_move_is_written_down_with_who_and_why(engine: Engine, lease: Lease) -> None:
    with db.session_scope(engine) as session:
        attempts.fail(session, lease, "trainer_crashed", "It crashed.", retry=True)
    move(engine, status="cancelled")  # by hand: it cannot go unseen either
    with db.read_scope(engine) as session:
        told = events.page(session, lease.job_id, type="status")[0]
    assert [(row.from_status, row.to_status, row.attempt, row.worker, row.reason, row.level) for row in told] == [
        (None, "queued", 0, None, None, "info"),
        ("queued", "running", 1, "host:1", None, "info"),
        ("running", "queued", 1, "host:1", "trainer_crashed", "warning"),
        ("queued", "cancelled", 1, "host:1", "trainer_crashed", "info"),
    ]
    assert "It crashed." in (told[2].message or "")
    times = [row.at for row in told]
    assert times == sorted(times)


def test_a_write_that_is_rolled_back_leaves_no_trace(engine: Engine, queued_job: Job) -> None:
    with engine.connect() as connection:
        connection.execute(sa.update(Job).values(status="cancelled"))
    with db.read_scope(engine) as session:
        assert len(transitions(session, queued_job.id)) == 1
