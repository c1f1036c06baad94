"""Whose turn it is: the tenants whose jobs wait in a queue take turns, and so do the batches of a tenant.

The queued jobs of one tenant, in one queue and at one priority, are a lane. The lanes of a priority are served by
start-time fair queueing (Goyal, Vin and Cheng 1996): the lane with the least `turn` goes next, and its `turn` then
grows by 1 / share. A lane that had no jobs begins at the turn of the lane that went last, so nobody saves up turns.

Within a lane jobs go in the order of their own `turn`, which they get when they are queued: a batch counts up from the
head of the lane, and so do the jobs without a batch, which count as one batch together. A job that comes back to the
queue (resumed, retried, lost, given back) goes to the head of its lane.

So a claim reads two rows of an index of lanes and one of an index of jobs, however many of either there are. The
database makes a lane when a job is queued in it (a trigger). Whoever takes the last job of a lane closes it. Where
nobody saw that it was the last, claims take one look more until `close_empty` finds the lane.

Lock order: the queue's lanes together (contested claims only), job, tenant, one lane. Nobody waits for a job or a
tenant while holding a lane.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session, aliased

from services import tenants
from services.db import lock, now
from services.orm import Job, Lane, Tenant

CLOSED_AT_ONCE = 100

# Not a parameter: that would keep PostgreSQL from the partial indexes.
_QUEUED: ColumnElement[str] = sa.literal_column("'queued'")


class Key(NamedTuple):
    """Which lane."""

    queue: str
    priority: int
    tenant: str


class Turn(NamedTuple):
    """The lane that goes next."""

    lane: Key
    contested: bool
    """Another tenant's jobs could run instead: so this turn counts."""
    is_last_job: bool
    """The lane has one queued job."""
    is_limited: bool
    """The tenant has a limit on running jobs, below which it is."""
    at: float
    """The turn that this one counts as."""
    then: float
    """The lane's turn afterwards."""


def next_turn(session: Session, queue: str, passed: Collection[Key] = ()) -> Turn | None:
    """The lane from which a job of the queue is to be taken, but for those that were passed over; None when no job can
    run. Tenants that run as many jobs as they may are left out.

    When two tenants could go, claims of this queue wait for each other from here to the end of the transaction.
    """
    turn = _look(session, queue, passed)
    if turn is not None and turn.contested and session.get_bind().dialect.name == "postgresql":
        lock(session, f"lanes.{queue}")
        turn = _look(session, queue, passed)
    return turn


def take(session: Session, turn: Turn) -> None:
    """A job of the lane was claimed: the next turn is another's. When a tenant is alone, nobody's turn moves."""
    if turn.contested:  # so no other claim has moved the lane since it was looked at
        statement = update(Lane).where(*_of(turn.lane)).values(last_turn=turn.at, turn=turn.then)
        session.execute(statement, execution_options={"synchronize_session": False})
    if turn.is_last_job:
        close(session, turn.lane)


def enter(session: Session, keys: Collection[Key]) -> None:
    """Hold several lanes in which jobs are about to be queued, always in the same order. Two transactions that took
    them as their jobs come, in different orders, could wait for each other for ever."""
    if len(keys) > 1 and session.get_bind().dialect.name == "postgresql":
        for key in sorted(keys):
            session.execute(select(func.enter_lane(*key)))


def close(session: Session, key: Key) -> None:
    """Note that a lane has no queued jobs, if that is so."""
    _close(session, *_of(key))


def close_empty(session: Session, queue: str | None = None) -> None:
    """Close lanes without queued jobs, at most 100: those that nobody saw become empty."""
    _close(session, *(() if queue is None else (Lane.queue == queue,)))


def forget(session: Session) -> int:
    """Delete lanes without jobs that would begin anew anyway, because others have come as far; returns how many. For
    once an hour."""
    there = aliased(Lane)
    same = (there.queue == Lane.queue, there.priority == Lane.priority)
    newest = select(func.max(there.last_turn)).where(*same).scalar_subquery()
    open_ones = select(there.tenant).where(*same, there.has_jobs).exists()
    old = select(Lane.queue, Lane.priority, Lane.tenant).where(
        ~Lane.has_jobs, sa.or_(Lane.turn <= newest, ~open_ones), ~_has_queued()
    )
    found = session.execute(old.with_for_update(skip_locked=True, of=Lane)).all()
    for row in found:
        session.execute(sa.delete(Lane).where(*_of(Key(*row)), ~Lane.has_jobs))
    return len(found)


def can_run() -> tuple[ColumnElement[bool], ...]:
    """Conditions of lanes from which a job could run now."""
    has_jobs: ColumnElement[bool] = Lane.has_jobs.expression
    return (has_jobs, _head(runnable()).is_not(None), ~_tenant(tenants.is_full(), False))


def runnable(job: type[Job] = Job) -> tuple[ColumnElement[bool], ...]:
    """Conditions of jobs that may be claimed, if their tenant may run more."""
    in_time = sa.or_(job.queue_deadline.is_(None), job.queue_deadline > now())
    return (job.status == _QUEUED, job.not_before <= now(), in_time)


class Places:
    """The turns of jobs that are about to be queued in one transaction, all of one batch, or all without one."""

    def __init__(self, session: Session, *, in_batch: bool) -> None:
        self._session = session
        self._in_batch = in_batch
        self._next: dict[Key, float] = {}

    def next(self, key: Key) -> float:
        """The turn of the next one in this lane."""
        turn = self._next[key] if key in self._next else self._first(key)
        self._next[key] = turn + 1.0
        return turn

    def _first(self, key: Key) -> float:
        line = (Job.queue == key.queue, Job.tenant == key.tenant, Job.priority == key.priority, Job.status == _QUEUED)
        # Jobs that came back stand at the head too, with the turn that it had then.
        head = select(func.min(Job.turn)).where(*line, Job.attempt == 0).scalar_subquery()
        end = select(func.max(Job.turn)).where(*line).scalar_subquery()
        first: float = self._session.scalar(select(func.coalesce(head, end, 0.0))) or 0.0
        if self._in_batch:
            return first
        alone = self._session.scalar(select(func.max(Job.turn)).where(*line, Job.batch_id.is_(None)))
        return first if alone is None else max(first, alone + 1.0)


def back(job: Job) -> ColumnElement[float]:
    """The turn of a job that comes back to the queue: that of the head of its lane."""
    other = aliased(Job)
    line = (other.queue == job.queue, other.tenant == job.tenant, other.priority == job.priority)
    head = select(func.min(other.turn)).where(*line, other.status == _QUEUED, other.attempt == 0).scalar_subquery()
    return func.coalesce(head, Job.turn)


def of(job: Job) -> Key:
    """The lane of a job."""
    return Key(job.queue, job.priority, job.tenant)


def _look(session: Session, queue: str, passed: Collection[Key]) -> Turn | None:
    another = _head((Job.status == _QUEUED,), skip=1)
    is_limited = _tenant(Tenant.max_running.is_not(None), False)
    other = aliased(Lane)
    same = (other.queue == Lane.queue, other.priority == Lane.priority)
    query = (
        select(
            Lane.priority,
            Lane.tenant,
            Lane.turn,
            another.is_(None).label("is_last_job"),
            is_limited.label("is_limited"),
            select(func.max(other.last_turn)).where(*same).correlate(Lane).scalar_subquery().label("newest"),
            select(Tenant.share).where(Tenant.name == Lane.tenant).correlate(Lane).scalar_subquery().label("share"),
        )
        .where(Lane.queue == queue, *can_run())
        .order_by(Lane.priority.desc(), Lane.turn, Lane.tenant)
        .limit(2)
    )
    if passed:
        query = query.where(
            sa.tuple_(Lane.priority, Lane.tenant).not_in([(key.priority, key.tenant) for key in passed])
        )
    rows = session.execute(query).all()
    if not rows:
        return None
    first = rows[0]
    contested = len(rows) == 2 and rows[1].priority == first.priority
    # Of a lane that could not run for a while (a limit on running jobs, retries that wait) the turns are forgotten.
    at = max(first.turn, first.newest)
    then = at + 1.0 / (first.share or 1.0)
    return Turn(Key(queue, first.priority, first.tenant), contested, first.is_last_job, first.is_limited, at, then)


def _close(session: Session, *which: ColumnElement[bool]) -> None:
    # Whoever queues a job holds the lane, and is skipped here. Once we hold it, a second look sees what was committed.
    empty = (Lane.has_jobs, ~_has_queued())
    found = select(Lane.queue, Lane.priority, Lane.tenant).where(*which, *empty).limit(CLOSED_AT_ONCE)
    for row in session.execute(found.with_for_update(skip_locked=True)).all():
        statement = update(Lane).where(*_of(Key(*row)), *empty).values(has_jobs=False)
        session.execute(statement, execution_options={"synchronize_session": False})


def _of(key: Key) -> tuple[ColumnElement[bool], ...]:
    return (Lane.queue == key.queue, Lane.priority == key.priority, Lane.tenant == key.tenant)


def _has_queued() -> ColumnElement[bool]:
    return _head((Job.status == _QUEUED,)).is_not(None)


def _head(conditions: tuple[ColumnElement[bool], ...], skip: int = 0) -> sa.ScalarSelect[str]:
    """The first such job of a lane. With its LIMIT PostgreSQL cannot make a join with the whole queue of it."""
    line = (Job.queue == Lane.queue, Job.tenant == Lane.tenant, Job.priority == Lane.priority)
    query = select(Job.id).where(*line, *conditions).order_by(Job.turn, Job.id).limit(1)
    return (query.offset(skip) if skip else query).correlate(Lane).scalar_subquery()


def _tenant(what: ColumnElement[bool], otherwise: bool) -> ColumnElement[bool]:
    found = select(what).where(Tenant.name == Lane.tenant).correlate(Lane).scalar_subquery()
    return func.coalesce(found, sa.literal(otherwise))
