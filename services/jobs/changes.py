"""What is new of a job since a reader last looked, and which jobs to look at again.

A cursor is made of the keys of rows: the last event, log line, epoch and step that a reader has. So what comes next is
read from the tables alone, by any process, and nothing else has to be kept for a reader that comes back.

An attempt may forget epochs and steps, because it lives them again. Then an event of the same transaction says from
where on (`FORGETS`), and that event moves the cursor back.
"""

from __future__ import annotations

import json
import re
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
    epochs = progress.epochs(session, job_id, after=place.epoch, limit=MOST_ROWS)
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
