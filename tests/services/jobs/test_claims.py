"""Many at once: claims, cancels, and a long queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.access import tenants
from services.jobs import attempts, control, lanes, queries
from services.jobs.leases import Lease
from services.orm import Job, new_id
from services.states import TERMINAL
from tests.rows import create_job, transitions

T = TypeVar("T")


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run the calls in threads that start together."""
    together = threading.Barrier(len(calls))

    def one(call: Callable[[], T]) -> T:
        together.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(one, call) for call in calls]]


def take(engine: Engine) -> str | None:
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="w", lease_seconds=60)
        return job.id if job else None


def test_fifty_claims_of_one_job_have_one_winner(engine: Engine, queued_job: Job) -> None:
    won = at_once([lambda: take(engine)] * 50)
    assert sorted(won, key=str) == [None] * 49 + [queued_job.id]
    with db.read_scope(engine) as session:
        job = control.get(session, queued_job.id)
        assert (job.status, job.attempt) == ("running", 1)
        assert len(transitions(session, job.id)) == 2


def test_claims_at_once_each_get_another_job(engine: Engine, make_job: Callable[..., Job]) -> None:
    made = {make_job().id for _ in range(10)}
    assert set(at_once([lambda: take(engine)] * 10)) == made


@pytest.mark.parametrize("round_", range(5))
def test_a_cancel_against_a_claim_and_its_end_has_one_outcome(engine: Engine, make_job: Any, round_: int) -> None:
    job_id = make_job().id

    def cancel() -> None:
        with db.session_scope(engine) as session:
            control.cancel(session, job_id)

    def run() -> None:
        if take(engine) is None:
            return
        with db.session_scope(engine) as session:
            if attempts.renew(session, Lease(job_id, 1), 60).cancel:
                attempts.cancelled(session, Lease(job_id, 1))
            else:
                attempts.succeed(session, Lease(job_id, 1), {}, [])

    at_once([cancel, run])
    with db.read_scope(engine) as session:
        moves = [row.to_status for row in transitions(session, job_id)]
        assert sum(status in TERMINAL for status in moves) == 1
        assert moves[-1] == control.get(session, job_id).status in {"cancelled", "succeeded"}


def test_schedulers_at_once_expire_each_job_once(engine: Engine, make_job: Callable[..., Job]) -> None:
    made = {make_job().id for _ in range(6)}
    for _ in made:
        take(engine)
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).values(lease_until=db.now() - 1))

    def expire() -> Sequence[str]:
        with db.session_scope(engine) as session:
            return attempts.expire(session)

    moved = [job_id for found in at_once([expire] * 4) for job_id in found]
    assert sorted(moved) == sorted(made)


@pytest.fixture
def long_queue(engine: Engine, queued_job: Job) -> Engine:
    """10,000 queued jobs, and 2,000 that have ended."""
    with db.session_scope(engine) as session:
        columns = {column.name: getattr(queued_job, column.name) for column in Job.__table__.columns}
        rows = [columns | {"id": new_id("job"), "priority": n % 7} for n in range(12_000)]
        session.execute(sa.insert(Job), rows)
        ended = [row["id"] for row in rows[-2_000:]]
        session.execute(sa.update(Job).where(Job.id.in_(ended)).values(status="cancelled"))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE jobs"))
    return engine


def plan_of_a_claim(engine: Engine) -> tuple[str | None, str]:
    """The job that a claim takes, and how the database looks for it."""
    plans = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("UPDATE jobs SET status"):
            prefix = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
            cursor.execute(prefix + statement, parameters)
            plans.append(" ".join(str(row) for row in cursor.fetchall()))

    taken = take(engine)
    sa.event.remove(engine, "before_cursor_execute", explain)
    return taken, plans[0]


def reads_in_order(plan: str) -> bool:
    """Whether the queue's index is read in its order, to the first row that will do."""
    scans = any(word in plan.upper() for word in ("SEQ SCAN", "SCAN JOBS", "SORT", "TEMP B-TREE"))
    return "ix_jobs_queued" in plan and not scans


def test_a_long_queue_of_a_tenant_at_its_limit_is_passed_over(
    long_queue: Engine, make_spec: Callable[..., Any]
) -> None:
    with db.session_scope(long_queue) as session:
        tenants.create(session, "acme", max_running=5)
        tenants.change(session, "default", max_running=0)
        last = create_job(session, make_spec(priority=-5), tenant="acme").id
    assert take(long_queue) == last
    with db.session_scope(long_queue) as session:
        tenants.change(session, "default", max_running=1)
    taken, plan = plan_of_a_claim(long_queue)  # a limit that is not reached costs a look, and no other plan
    assert taken is not None
    assert reads_in_order(plan)
    assert take(long_queue) is None


def test_a_long_queue_costs_nothing(long_queue: Engine, queued_job: Job) -> None:
    taken, plan = plan_of_a_claim(long_queue)
    assert taken is not None
    assert reads_in_order(plan)

    assert take(long_queue) is not None
    with db.read_scope(long_queue) as session:
        assert queries.position(queries.one(session.connection(), queued_job.id)) is not None
        assert lanes.waiting(session) == ["default"]
