"""The events of a job, for people to read, and the lines that its trainers logged.

A change of state is written down by a trigger of the database, so that none can go without (migrations/). The rest is
written here, fenced like every write of a worker. Ids ascend within a job in the order things happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from services import paging
from services.db import Query, now
from services.jobs.leases import Lease, owned
from services.orm import Event, Job, LogLine
from services.text import clean
from services.training.spec import automatic
from services.training.spec.automatic import Choice

MAX_MESSAGE = 4000
MAX_LINE = 2000
"""Characters of a log line that are kept."""
MAX_LINES = 2000
"""Of a job the newest so many log lines are kept."""


class Type(StrEnum):
    """Kinds of events."""

    STATUS = "status"
    """The job changed its state: `from_status`, `to_status`, `reason`."""
    REQUEST = "request"
    """A person asked a running job to be cancelled, paused, or to go on after all."""
    CHOSEN = "chosen"
    """The spec names no network: which of its fields were chosen for the data, and why."""
    RESUMED = "resumed"
    """An attempt goes on from a checkpoint."""
    CHECKPOINT = "checkpoint"
    """A checkpoint is on disk, in the object store if there is one, and registered."""
    CHECKPOINT_SKIPPED = "checkpoint_skipped"
    """There was no room for a checkpoint, or the object store was away; training went on."""
    RUNG = "rung"
    """A trial of a search was compared with the others at this epoch, and goes on."""
    FOLD = "fold"
    """A fold has begun, or has ended with these metrics; or the training of the final model has begun."""
    ROLLED_BACK = "rolled_back"
    """The run diverged and went back (training.on_divergence)."""
    MICRO_BATCH = "micro_batch"
    """The device ran out of memory; batches are taken in smaller parts from here on."""
    PRECISION = "precision"
    """The worker cannot compute the recurrent layers in training.precision; it computes them in float32."""
    ENGINE = "engine"
    """PyTorch computes the recurrent layers (training.engine), and why the compiled ones do not."""
    MISSING = "missing"
    """Samples with missing values were left out, or missing rows of series were added (data.missing)."""
    BASELINE = "baseline"
    """The model does not beat the plainest answer to its task."""
    ADVICE = "advice"
    """What to do about a run that has ended, where its numbers are clear."""
    EXPORT = "export"
    """The model could not be written as an ONNX file, or has no model card, and why."""
    RETRAINING = "retraining"
    """Which versions a retraining begins with, and has to beat."""
    WARM_START = "warm_start"
    """Training begins with the weights of another model, or why it does not."""
    DRIFT = "drift"
    """How the training samples differ from those of the model before."""
    GATE = "gate"
    """Whether the new model is better than the one before, and how surely."""
    REGISTERED = "registered"
    """The result is a version of a model."""
    PROMOTED = "promoted"
    """An alias points at that version now."""
    HELD_BACK = "held_back"
    """It does not, and why."""
    WARNING = "warning"


class Level(StrEnum):
    """How much an event or a log line matters."""

    OUTPUT = "output"
    """What a trainer printed."""
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Line(NamedTuple):
    """One line for a job's log."""

    level: str
    text: str


def note(
    session: Session,
    lease: Lease,
    type: str,
    message: str,
    level: str = Level.INFO,
    data: Mapping[str, Any] | None = None,
) -> Job:
    """Add an event to the job of this attempt. An unknown `type` is a warning.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease)
    kind = Type(type) if type in set(Type) else Type.WARNING
    add(session, job, kind, message, level, data)
    return job


def add(
    session: Session,
    job: Job,
    type: Type,
    message: str,
    level: str = Level.INFO,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add an event to a job whose row this transaction holds."""
    known = level if level in set(Level) - {Level.OUTPUT} else Level.INFO
    row = {"job_id": job.id, "type": type, "level": known, "attempt": job.attempt, "worker": job.worker}
    content = {"message": clean(message, MAX_MESSAGE), "data": None if data is None else dict(data)}
    session.execute(sa.insert(Event).values(**row, **content, at=now()))


def chosen(session: Session, job_id: str, choices: Sequence[Choice]) -> None:
    """Add the event of a new job that says what of its spec was chosen for its data."""
    row = {
        "job_id": job_id,
        "type": Type.CHOSEN,
        "level": Level.INFO,
        "attempt": 0,
        "message": clean(automatic.sentence(choices), MAX_MESSAGE),
    }
    data = {"fields": [each._asdict() for each in choices]}
    session.execute(sa.insert(Event).values(**row, data=data, at=now()))


def log(session: Session, lease: Lease, lines: Sequence[Line]) -> Job:
    """Append lines to the job's log, each cut to 2,000 characters; of a job the newest 2,000 are kept.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = owned(session, lease, log_lines=Job.log_lines + len(lines))
    first = job.log_lines - len(lines) + 1
    numbered = [*enumerate(lines, first)][-MAX_LINES:]
    rows = [
        {
            "job_id": job.id,
            "number": number,
            "attempt": job.attempt,
            "level": line.level,
            "text": clean(line.text, MAX_LINE),
        }
        for number, line in numbered
    ]
    if rows:
        session.execute(sa.insert(LogLine).values(at=now()), rows)
    session.execute(delete(LogLine).where(LogLine.job_id == job.id, LogLine.number <= job.log_lines - MAX_LINES))
    return job


def lines(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> tuple[Sequence[Any], bool]:
    """Lines of the job's log after the line `after`, ascending, and whether there are more. The newest 2,000 are
    kept."""
    rows = _lines().rows(session.connection(), job_id=job_id, after=after, limit=paging.asked(limit))
    return paging.cut(rows, limit)


@cache
def _lines() -> Query:
    line = LogLine.__table__.c
    job_id, after = sa.bindparam("job_id", type_=sa.Text()), sa.bindparam("after", type_=sa.BigInteger())
    query = select(*line).where(line.job_id == job_id, line.number > after).order_by(line.number)
    return Query(query.limit(sa.bindparam("limit", type_=sa.Integer())))


def page(session: Session, job_id: str, after: int = 0, limit: int = 100, **only: str) -> tuple[Sequence[Event], bool]:
    """Events of the job after the event `after`, oldest first, and whether there are more; `type="status"` takes only
    these."""
    query = select(Event).where(Event.job_id == job_id, Event.id > after).filter_by(**only).order_by(Event.id)
    return paging.first(session, query, limit)
