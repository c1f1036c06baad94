"""What is new of a job since a reader last looked, and which jobs to look at again.

A cursor is made of the keys of rows: the last event, log line, epoch and step that a reader has. So what comes next is
read from the tables alone, by any process, and nothing else has to be kept for a reader that comes back.

A `Cursor` is of one job, a `Place` among the changes of state of all jobs.

An attempt may forget epochs and steps, because it lives them again. Then an event of the same transaction says from
where on (`FORGETS`), and that event moves the cursor back.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.db import Query
from services.errors import BadRequest
from services.jobs import events, progress, queries
from services.jobs.events import Type
from services.jobs.progress import Steps
from services.jobs.queries import Source
from services.orm import Event, Job, LogLine
from services.text import clean

MOST_ROWS = 200
"""Of each kind that are read at once."""
MOST_POINTS = 500
"""Steps of one message: more are thinned out."""
FORGETS = (Type.RESUMED, Type.ROLLED_BACK)
"""Events after which epochs and steps beyond a place are recorded again; `data` has the place."""

_MOST_DIGITS = 16
_CURSOR = re.compile(rf"(?:\d{{1,{_MOST_DIGITS}}}-){{4}}\d{{1,{_MOST_DIGITS}}}", re.ASCII)


class Cursor(NamedTuple):
    """What a reader has of a job: the state of its row, and the last row of each kind."""

    revision: int = 0
    event: int = 0
    line: int = 0
    epoch: int = 0
    step: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` of a cursor gave.

        Raises:
            BadRequest: it gave something else.
        """
        if not _CURSOR.fullmatch(text):
            raise BadRequest(f"{clean(text, 100)!r} is no id of a message of this stream: leave `Last-Event-ID` out.")
        return cls(*map(int, text.split("-")))

    def __str__(self) -> str:
        return "-".join(map(str, self))

    def after_event(self, event: Event) -> Self:
        """The cursor of a reader that has this event too, and drops what the job forgets with it."""
        if event.type not in FORGETS:
            return self._replace(event=event.id)
        place = event.data or {}
        epoch, step = min(self.epoch, place.get("epoch", 0)), min(self.step, place.get("step", 0))
        return self._replace(event=event.id, epoch=epoch, step=step)


@dataclass(frozen=True)
class News:
    """What a job has beyond a cursor."""

    job: Any
    """The row, as `queries.one` gives it."""
    events: Sequence[Event]
    lines: Sequence[LogLine]
    epochs: Sequence[dict[str, Any]]
    steps: Steps
    more: bool
    """Whether there is still more."""


def of_job(session: Session, job_id: str, cursor: Cursor, *, tenant: str | None = None) -> News:
    """What a job has beyond a cursor, at most MOST_ROWS rows of each kind; all from one snapshot.

    Raises:
        JobNotFound: there is none, or it is another tenant's.
    """
    job = queries.one(session.connection(), job_id, tenant=tenant, full=False)
    found, more_events = events.page(session, job_id, after=cursor.event, limit=MOST_ROWS)
    lines, more_lines = events.lines(session, job_id, after=cursor.line, limit=MOST_ROWS)
    if more_events:  # one of them may move the cursor back
        return News(job, found, lines, (), Steps([], [], [], 0), more=True)
    place = cursor
    for event in found:
        place = place.after_event(event)
    epochs, steps = list[dict[str, Any]](), Steps([], [], [], 0)
    if job.epoch > place.epoch:
        epochs = [*progress.epochs(session, job_id, after=place.epoch, limit=MOST_ROWS)]
    if job.step > place.step:
        steps = progress.steps(session, job_id, points=MOST_POINTS, first=place.step + 1)
    return News(job, found, lines, epochs, steps, more=more_lines or len(epochs) == MOST_ROWS)


def revisions(source: Source, job_ids: Collection[str]) -> dict[str, int]:
    """The revisions of those of these jobs that are there."""
    name = source.dialect.name
    asked: Any = json.dumps(sorted(job_ids)) if name == "sqlite" else sorted(job_ids)
    return dict(_revisions(name).tuples(source, job_ids=asked))


@cache
def _revisions(dialect: str) -> Query:
    jobs = Job.__table__.c
    if dialect == "sqlite":
        each = sa.func.json_each(sa.bindparam("job_ids", type_=sa.Text())).table_valued("value")
        return Query(select(jobs.id, jobs.revision).where(jobs.id.in_(select(each.c.value))))
    ids = sa.bindparam("job_ids", type_=sa.ARRAY(sa.Text()))
    return Query(select(jobs.id, jobs.revision).where(jobs.id == sa.any_(ids)))


class Place(NamedTuple):
    """What a reader has of the changes of state of all jobs: those up to an event, but for some that come later.

    PostgreSQL gives out the id of an event before its transaction commits. So an event may come after one with a higher
    id. Until then its id is missing, and the reader remembers it. (Transactions that are rolled back leave ids missing
    for good, as deleted jobs do. So only the newest missing ones are remembered, and only for a while.)

    SQLite gives the ids of deleted events out again. There the time of the event tells whether it is still the same.
    """

    event: int = 0
    milliseconds: int = 0
    """The time of that event, since 1970."""
    missing: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` of a place gave.

        Raises:
            BadRequest: it gave something else.
        """
        if not _PLACE.fullmatch(text):
            raise BadRequest(f"{clean(text, 100)!r} is no id of a message of this stream: leave `Last-Event-ID` out.")
        event, milliseconds, *missing = map(int, text.split("-"))
        return cls(event, milliseconds, tuple(missing))

    def __str__(self) -> str:
        return "-".join(map(str, (self.event, self.milliseconds, *self.missing)))

    def after(self, row: Any, *, remembers: bool) -> Self:
        """The place of a reader that has this event too. On SQLite one transaction writes at a time, so nothing has to
        be remembered."""
        if remembers and row.id <= self.event:
            return self._replace(missing=tuple(each for each in self.missing if each != row.id))
        first = max(self.event + 1, row.id - MOST_MISSING)
        missing = (*self.missing, *range(first, row.id))[-MOST_MISSING:] if remembers else ()
        return type(self)(row.id, round(row.at * 1000), missing)


MOST_MISSING = 50
MISSING_SECONDS = 120.0
"""No transaction takes so long (`db.STATEMENT_SECONDS`)."""
_PLACE = re.compile(rf"\d{{1,{_MOST_DIGITS}}}(?:-\d{{1,{_MOST_DIGITS}}}){{1,{MOST_MISSING + 1}}}", re.ASCII)


def newest(source: Source) -> Place:
    """The place of a reader who wants only what comes from now on."""
    place = Place()
    for row in reversed(_newest().rows(source)):
        place = place.after(row, remembers=place.event > 0 and source.dialect.name != "sqlite")
    return place


def events_after(source: Source, place: Place, limit: int = MOST_ROWS) -> Sequence[tuple[Any, Place]]:
    """Events of all tenants that a reader at this place does not have, ascending, at most `limit`; each with the
    `tenant` of its job, and with the place of a reader who has it and those before it."""
    is_sqlite = source.dialect.name == "sqlite"
    missing: Any = json.dumps(place.missing) if is_sqlite else list(place.missing)
    at = (place.milliseconds + 0.5) / 1000
    found = _events_after(source.dialect.name).rows(source, event=place.event, at=at, missing=missing, limit=limit)
    if time.time() - place.milliseconds / 1000 > MISSING_SECONDS:
        place = place._replace(missing=())
    told = []
    for row in found:
        place = place.after(row, remembers=not is_sqlite)
        told.append((row, place))
    return told


@cache
def _newest() -> Query:
    events_ = Event.__table__.c
    some = sa.literal_column(str(MOST_MISSING), sa.Integer())
    return Query(select(events_.id, events_.at).order_by(events_.id.desc()).limit(some))


@cache
def _events_after(dialect: str) -> Query:
    event, job = Event.__table__.c, Job.__table__.c
    plain = "id job_id at type level attempt worker from_status to_status reason message"
    query = select(*(event[name] for name in plain.split()), sa.null().label("data"), job.tenant)
    after: Any = sa.bindparam("event", type_=sa.BigInteger())
    of_missing: sa.ColumnElement[bool]
    if dialect == "sqlite":
        other = Event.__table__.alias("other").c
        same = select(other.id).where(other.id <= after, other.at <= sa.bindparam("at"))
        after = sa.func.coalesce(same.order_by(other.id.desc()).limit(sa.literal_column("1")).scalar_subquery(), 0)
        each = sa.func.json_each(sa.bindparam("missing", type_=sa.Text())).table_valued("value")
        of_missing = event.id.in_(select(each.c.value))
    else:
        of_missing = event.id == sa.any_(sa.bindparam("missing", type_=sa.ARRAY(sa.BigInteger())))
    query = query.join_from(Event.__table__, Job.__table__, job.id == event.job_id)
    query = query.where(sa.or_(event.id > after, of_missing)).order_by(event.id)
    return Query(query.limit(sa.bindparam("limit", type_=sa.Integer())))


def running(source: Source, tenants: Collection[str]) -> Sequence[Any]:
    """The `id`, `tenant` and `revision` of each running job of these tenants."""
    name = source.dialect.name
    asked: Any = json.dumps(sorted(tenants)) if name == "sqlite" else sorted(tenants)
    return _running(name).rows(source, tenants=asked)


@cache
def _running(dialect: str) -> Query:
    job = Job.__table__.c
    query = select(job.id, job.tenant, job.revision).where(job.status == sa.literal_column("'running'"))
    if dialect == "sqlite":
        each = sa.func.json_each(sa.bindparam("tenants", type_=sa.Text())).table_valued("value")
        return Query(query.where(job.tenant.in_(select(each.c.value))))
    return Query(query.where(job.tenant == sa.any_(sa.bindparam("tenants", type_=sa.ARRAY(sa.Text())))))
