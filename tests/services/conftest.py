"""Jobs in a state, for the tests of what happens next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.jobs import attempts
from services.jobs.leases import Lease
from services.orm import Job


@pytest.fixture
def scope(engine: Engine) -> Callable[[], AbstractContextManager[Session]]:
    """Opens a transaction that commits."""
    return lambda: db.session_scope(engine)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """One transaction."""
    with db.session_scope(engine) as opened:
        yield opened


@pytest.fixture
def queued_job(make_job: Callable[..., Job]) -> Job:
    return make_job()


@pytest.fixture
def lease(engine: Engine, queued_job: Job) -> Lease:
    """The first attempt's lease of a running job."""
    return claimed(engine)


@pytest.fixture
def lost_lease(engine: Engine, lease: Lease) -> Lease:
    """The lease of an attempt that was taken for dead: the job runs as attempt 2 now."""
    let_expire(engine, lease.job_id)
    with db.session_scope(engine) as session:
        assert attempts.expire(session) == [lease.job_id]
    assert claimed(engine).attempt == 2
    return lease


def claimed(engine: Engine, queue: str = "default") -> Lease:
    with db.session_scope(engine) as session:
        job = attempts.claim(session, queue, worker="host:1", lease_seconds=60)
        assert job is not None
        return Lease.of(job)


def let_expire(engine: Engine, job_id: str) -> None:
    """As if the lease's time had passed."""
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(lease_until=db.now() - 1))


def make_runnable(engine: Engine, job_id: str) -> None:
    """As if the wait before a retry had passed."""
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(not_before=0.0))
