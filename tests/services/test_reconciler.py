"""One pass of the scheduler: nothing that was lost stays lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db, idempotency, jobs, reconciler
from services.jobs import Lease
from services.orm import IdempotencyKey, Job
from services.queue import FakeDoorbell
from services.settings import Settings
from tests.services.conftest import claimed, let_expire


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir, grace_seconds=0)


def test_every_queue_with_runnable_jobs_is_rung_once(
    engine: Engine, make_job: Callable[..., Job], settings: Settings
) -> None:
    for queue in ("night", "default", "default"):
        make_job(queue=queue)
    claimed(engine, make_job(queue="busy").queue)
    bell = FakeDoorbell()
    assert reconciler.reconcile(engine, bell, settings).rung == ["default", "night"]
    assert bell.rung == ["default", "night"]


def test_a_lost_job_is_queued_again_and_rung(engine: Engine, lease: Lease, settings: Settings) -> None:
    let_expire(engine, lease.job_id)
    bell = FakeDoorbell()
    done = reconciler.reconcile(engine, bell, settings)
    assert (done.expired, bell.rung) == ([lease.job_id], ["default"])
    assert claimed(engine) == Lease(lease.job_id, 2)


def test_a_broker_that_is_down_stops_nothing_else(engine: Engine, lease: Lease, settings: Settings) -> None:
    let_expire(engine, lease.job_id)
    done = reconciler.reconcile(engine, FakeDoorbell(broken=True), settings)
    assert (done.expired, done.rung) == ([lease.job_id], [])


def test_an_idle_pass_writes_nothing(engine: Engine, lease: Lease, settings: Settings) -> None:
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    done = reconciler.reconcile(engine, FakeDoorbell(), settings)
    assert done == reconciler.Pass((), [], 0)
    assert [text for text in statements if text.split()[0] in {"UPDATE", "DELETE", "INSERT"}] == []
    with db.read_scope(engine) as session:
        assert jobs.get(session, lease.job_id).status == "running"


def test_old_keys_are_forgotten(engine: Engine, settings: Settings) -> None:
    with db.session_scope(engine) as session:
        idempotency.claim(session, idempotency.Key("jobs", "k", "f"))
        session.execute(sa.update(IdempotencyKey).values(created_at=0.0))
    assert reconciler.reconcile(engine, FakeDoorbell(), settings).forgotten_keys == 1
