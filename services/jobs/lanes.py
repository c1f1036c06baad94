"""Fair queueing: the tenants with jobs in a queue take turns, and so do the batches of a tenant.

The queued jobs of one tenant, in one queue and at one priority, are a lane. The lanes of a priority are served by
start-time fair queueing (Goyal, Vin and Cheng 1996): the lane with the least `turn` goes next, and its `turn` then
grows by 1 / share. A lane that had no jobs begins at the turn of the lane that went last, so nobody saves up turns.

Within a lane jobs go in the order of their own `turn`, which they get when they are queued: a batch counts up from the
head of the lane, and so do the jobs without a batch, which count as one batch together. A job that comes back to the
queue (resumed, retried, lost, given back) goes to the head of its lane.

So a claim reads two rows of an index of lanes and one of an index of jobs, however many of either there are. The
database makes a lane when a job is queued in it (a trigger). Whoever takes the last job of a lane closes it. Where
nobody saw that it was the last, claims take one look more until `close_empty` finds the lane.

On PostgreSQL a claim takes its turn in one statement, which is a transaction of its own, and takes the job after that.
So no claim waits for the commit of another. The turn is taken only if the lane stands where the statement saw it;
otherwise the claim looks again. A claim that gets no job for its turn gives the turn back. A claim that dies between
the two, or a database that crashes within a second, costs a tenant one turn and no job.

Lock order: job, tenant, one lane. Nobody waits for a job or a tenant while holding a lane.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session, aliased

from services.access import tenants
from services.db import Query, connect_trusting, is_fresh, now
from services.orm import Job, Lane, Tenant

CLOSED_AT_ONCE = 100

# Not parameters. They would keep PostgreSQL from the partial indexes, and from planning a statement only once: without
# the number of a LIMIT the plan looks dear, so PostgreSQL plans anew each time, which takes twice as long as the rest.
_QUEUED: ColumnElement[str] = sa.literal_column("'queued'")
ONE: ColumnElement[int] = sa.literal_column("1", sa.Integer())
_TWO: ColumnElement[int] = sa.literal_column("2", sa.Integer())
_WHOLE: ColumnElement[float] = sa.literal_column("1.0", sa.Double())


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
    step: float
    """What it adds to the lane's turn."""
    is_taken: bool
    """It was added already, and committed."""


class Turns:
    """The turns that one claim of a queue takes, until it gets a job: each is another lane's."""

    def __init__(self, session: Session, queue: str) -> None:
        engine = session.get_bind()
        self._session, self._queue = session, queue
        # A session that has done something may hold lanes, for which the statement apart would wait in vain.
        self._apart = engine.engine if engine.dialect.name == "postgresql" and is_fresh(session) else None
        self._passed: list[Key] = []

    def next(self) -> Turn | None:
        """The lane from which a job is to be taken; None when no job can run. Tenants that run as many jobs as they may
        are left out."""
        while True:
            rows = self._rows()
            if not rows:
                return None
            row = rows[0]
            turn = Turn(Key(self._queue, row.priority, row.tenant), at=row.at, step=row.step, **_flags(row))
            if self._apart is None:
                return turn
            if turn.is_taken or not turn.contested:
                connect_trusting(self._session)  # the database has just answered
                return turn
            if row.is_closing:
                self._passed.append(turn.lane)

    def _rows(self) -> Sequence[Any]:
        parameters: dict[str, Any] = {"in_queue": self._queue}
        for number, key in enumerate(self._passed):
            parameters |= {f"priority_{number}": key.priority, f"tenant_{number}": key.tenant}
        if self._apart is None:
            return _look(len(self._passed)).rows(self._session.connection(), **parameters)
        return _take(len(self._passed)).rows(self._apart, **parameters)

    def took(self, turn: Turn) -> None:
        """A job of the lane was claimed: the next turn is another's. When a tenant is alone, nobody's turn moves."""
        if turn.contested and not turn.is_taken:
            self._session.connection().execute(_move(), {**_named(turn.lane), "at": turn.at, "step": turn.step})
        if turn.is_last_job:
            close(self._session, turn.lane)

    def passed(self, turn: Turn) -> None:
        """No job was claimed, because claims at the same time took the last one, or the tenant's last place."""
        if turn.is_taken and self._apart is not None:
            _give_back().rows(self._apart, **_named(turn.lane), step=turn.step)
        self._passed.append(turn.lane)


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


def waiting(session: Session) -> Sequence[str]:
    """The queues that have jobs which may run now: those of tenants at their limit may not."""
    return session.scalars(select(Lane.queue).where(*can_run()).distinct().order_by(Lane.queue)).all()


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
        [row] = _ends().rows(self._session.connection(), **key._asdict())
        first: float = row.first
        return first if self._in_batch or row.alone is None else max(first, row.alone + 1.0)


def back(job: Job) -> ColumnElement[float]:
    """The turn of a job that comes back to the queue: that of the head of its lane."""
    other = aliased(Job)
    line = (other.queue == job.queue, other.tenant == job.tenant, other.priority == job.priority)
    head = select(func.min(other.turn)).where(*line, other.status == _QUEUED, other.attempt == 0).scalar_subquery()
    return func.coalesce(head, Job.turn)


def lane_of(job: Job) -> Key:
    """The lane of a job."""
    return Key(job.queue, job.priority, job.tenant)


@cache
def _ends() -> Query:
    """Where a batch that is queued in a lane begins, and the last job there without a batch."""
    line = [getattr(Job, name) == sa.bindparam(name) for name in Key._fields]
    line.append(Job.status == _QUEUED)
    # Jobs that came back stand at the head too, with the turn that it had then.
    head = select(func.min(Job.turn)).where(*line, Job.attempt == 0).scalar_subquery()
    end = select(func.max(Job.turn)).where(*line).scalar_subquery()
    alone = select(func.max(Job.turn)).where(*line, Job.batch_id.is_(None)).scalar_subquery()
    return Query(select(func.coalesce(head, end, 0.0).label("first"), alone.label("alone")))


# A parameter must not have the name of a column: in an UPDATE, SQLAlchemy would take it for that column's new value.


def _next(passed: int) -> sa.CTE:
    """The lane that goes next, as a row; but for so many lanes. Of two lanes is looked up what decides which it is, and
    the rest only of that one."""
    other = aliased(Lane)
    same = (other.queue == Lane.queue, other.priority == Lane.priority)
    newest = select(func.max(other.last_turn)).where(*same).correlate(Lane).scalar_subquery()
    query = (
        select(Lane.queue, Lane.priority, Lane.tenant, Lane.turn, newest.label("newest"))
        .where(Lane.queue == sa.bindparam("in_queue"), *can_run())
        .order_by(Lane.priority.desc(), Lane.turn, Lane.tenant)
        .limit(_TWO)
    )
    for number in range(passed):
        is_it = (Lane.priority == sa.bindparam(f"priority_{number}"), Lane.tenant == sa.bindparam(f"tenant_{number}"))
        query = query.where(~sa.and_(*is_it))
    two = query.cte("two")
    equals = select(func.count()).where(two.alias().c.priority == two.c.priority)
    another = _head((Job.status == _QUEUED,), of=two, skip=1)
    # Of a lane that could not run for a while (a limit on running jobs, retries that wait) the turns are forgotten.
    at = sa.case((two.c.turn > two.c.newest, two.c.turn), else_=two.c.newest)
    first = select(
        *(two.c[name] for name in ("priority", "turn", "tenant")),
        another.is_(None).label("is_last_job"),
        Tenant.max_running.is_not(None).label("is_limited"),
        (equals.correlate(two).scalar_subquery() > ONE).label("contested"),
        at.label("at"),
        (_WHOLE / func.coalesce(Tenant.share, _WHOLE)).label("step"),
    ).select_from(two.outerjoin(Tenant, Tenant.name == two.c.tenant))
    return first.order_by(two.c.priority.desc(), two.c.turn, two.c.tenant).limit(ONE).cte("first")


@lru_cache(maxsize=64)
def _look(passed: int) -> Query:
    first = _next(passed)
    return Query(select(first, sa.false().label("is_taken")))


@lru_cache(maxsize=64)
def _take(passed: int) -> Query:
    """Look, and add the turn to the lane if it counts and nobody has moved the lane since. Nobody waits for a lane that
    is being closed, because its last job was claimed. PostgreSQL only."""
    first = _next(passed)
    there = (Lane.queue == sa.bindparam("in_queue"), Lane.priority == first.c.priority, Lane.tenant == first.c.tenant)
    # This lock conflicts with that of `_close`, and not with other turns.
    held = select(Lane.tenant).where(*there, first.c.contested)
    free = held.with_for_update(read=True, key_share=True, skip_locked=True, of=Lane).cte("free")
    taken = (
        update(Lane)
        .where(*there, Lane.turn == first.c.turn, Lane.tenant == free.c.tenant)
        .values(last_turn=first.c.at, turn=first.c.at + first.c.step)
        .returning(Lane.tenant)
        .cte("taken")
    )
    is_taken, is_closing = select(taken).exists(), ~select(free).exists()
    return Query(select(first, is_taken.label("is_taken"), is_closing.label("is_closing"), _unflushed()))


@cache
def _move() -> sa.Update:
    """Add a turn to a lane."""
    at: ColumnElement[float] = sa.bindparam("at", type_=sa.Double())
    step: ColumnElement[float] = sa.bindparam("step", type_=sa.Double())
    moved = sa.case((Lane.turn > at, Lane.turn), else_=at) + step
    return update(Lane).where(*_asked()).values(last_turn=at, turn=moved)


@cache
def _give_back() -> Query:
    given = (
        update(Lane)
        .where(*_asked())
        .values(turn=Lane.turn - sa.bindparam("step", type_=sa.Double()))
        .returning(Lane.tenant)
        .cte("given")
    )
    return Query(select(given, _unflushed()))


def _unflushed() -> ColumnElement[str]:
    """Let this transaction not wait for the disk, nor others for it: a crash may take a turn back."""
    return func.set_config("synchronous_commit", "off", sa.true()).label("flushed")


def _close(session: Session, *which: ColumnElement[bool]) -> None:
    # Whoever queues a job holds the lane, and is skipped here. Once we hold it, a second look sees what was committed.
    empty = (Lane.has_jobs, ~_has_queued())
    found = select(Lane.queue, Lane.priority, Lane.tenant).where(*which, *empty).limit(CLOSED_AT_ONCE)
    for row in session.execute(found.with_for_update(skip_locked=True)).all():
        statement = update(Lane).where(*_of(Key(*row)), *empty).values(has_jobs=False)
        session.execute(statement, execution_options={"synchronize_session": False})


def _flags(row: Any) -> dict[str, bool]:
    return {name: bool(getattr(row, name)) for name in ("contested", "is_last_job", "is_limited", "is_taken")}


def _named(key: Key) -> dict[str, Any]:
    return {"in_queue": key.queue, "of_priority": key.priority, "of_tenant": key.tenant}


def _asked() -> tuple[ColumnElement[bool], ...]:
    """Conditions of the lane of these parameters."""
    names = {Lane.queue: "in_queue", Lane.priority: "of_priority", Lane.tenant: "of_tenant"}
    return tuple(column == sa.bindparam(name) for column, name in names.items())


def _of(key: Key) -> tuple[ColumnElement[bool], ...]:
    return (Lane.queue == key.queue, Lane.priority == key.priority, Lane.tenant == key.tenant)


def _has_queued() -> ColumnElement[bool]:
    return _head((Job.status == _QUEUED,)).is_not(None)


def _head(conditions: tuple[ColumnElement[bool], ...], of: sa.CTE | None = None, skip: int = 0) -> sa.ScalarSelect[str]:
    """The first such job of a lane. With its LIMIT PostgreSQL cannot make a join with the whole queue of it."""
    lane: Any = Lane if of is None else of.c
    line = (Job.queue == lane.queue, Job.tenant == lane.tenant, Job.priority == lane.priority)
    query = select(Job.id).where(*line, *conditions).order_by(Job.turn, Job.id).limit(ONE)
    query = query.offset(sa.literal_column(str(skip))) if skip else query
    return query.correlate(Lane if of is None else of).scalar_subquery()


def _tenant(what: ColumnElement[bool], otherwise: bool) -> ColumnElement[bool]:
    found = select(what).where(Tenant.name == Lane.tenant).correlate(Lane).scalar_subquery()
    return func.coalesce(found, sa.true() if otherwise else sa.false())
