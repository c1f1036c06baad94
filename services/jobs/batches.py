"""Batches: jobs that are submitted together, all of them or none. They can be read and cancelled together.

A batch is an id and a name that its jobs share. Its counts are computed from the rows of its jobs, so they always agree
with the jobs. Each job can also be read, cancelled or deleted alone.

Only the end of a batch is stored. The scheduler writes it, because the jobs cannot: if the last two jobs end at the
same time, each transaction still sees the other job as running. Locking the batch in every transaction would prevent
this, but then all jobs of a batch would wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services import faults, idempotency, paging
from services.access import tenants
from services.db import now
from services.errors import BatchNotFound, JobNotFound, SpecInvalid
from services.idempotency import Key
from services.jobs import control, matrix, submission
from services.jobs.control import Wanted
from services.jobs.matrix import Cell, Source
from services.jobs.submission import Parsed
from services.orm import Batch, Job, new_id
from services.states import TERMINAL, Status
from services.text import clean
from services.training.spec import Spec
from services.webhooks import news
from services.webhooks.news import News, moment

Made = TypeVar("Made")

MOST_TOLD = 100
"""Jobs that `batch.ended` names."""
MAX_MESSAGE = 200
"""Characters of a job's message there."""


class SubmittedBatch(NamedTuple):
    """A batch, and whether an earlier request with the same Idempotency-Key had made it."""

    batch: Batch
    replayed: bool


@dataclass(frozen=True)
class Summary:
    """How many jobs of a batch stand where. A job that was deleted no longer counts."""

    counts: Mapping[Status, int]
    revision: str
    """Another one whenever something has changed that a reader can see."""
    ended_at: float | None = None
    """When its last job ended; None until a scheduler has seen it."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def terminal(self) -> bool:
        """Whether every job has ended."""
        return not self.counts.keys() - TERMINAL

    @property
    def status(self) -> Status:
        """That of its jobs together: `running` once one has begun and until all have ended, then the worst there is."""
        there = self.counts.keys()
        if there - TERMINAL:
            begun = Status.RUNNING in there or (Status.QUEUED in there and bool(there & TERMINAL))
            return Status.RUNNING if begun else Status.QUEUED if Status.QUEUED in there else Status.PAUSED
        return next((end for end in (Status.FAILED, Status.CANCELLED) if end in there), Status.SUCCEEDED)


def submit(
    session: Session,
    document: Mapping[str, Any],
    *,
    key: Key | None = None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
    name: str | None = None,
    schedule_id: str | None = None,
) -> SubmittedBatch:
    """The batch that the document asks for: a new one, or the one that an earlier request with this key made.

    Nothing is inserted before every spec was found right, and fits its data set. `name` is for a batch whose document
    has none, `schedule_id` for one that a schedule submits.

    Raises:
        SpecInvalid: with the problems of all specs, each with a pointer into the document.
        IdempotencyConflict: the key came with another request.
        IdempotencyInFlight: that request is under way.
        QuotaExceeded: the tenant would have more jobs waiting than it may.
    """
    named, sources = matrix.read(document)
    specs = _specs(sources, accepted=schedule_id is not None)
    if key is not None and (earlier := idempotency.claim(session, key)) is not None:
        return SubmittedBatch(get(session, earlier, tenant=tenant), replayed=True)
    wanted = _fitted(session, sources, specs, tenant)
    batch = _insert(session, named or name, sources, tenant, request_id, schedule_id)
    control.create_all(session, wanted, request_id=request_id, tenant=tenant, batch_id=batch.id)
    if key is not None:
        idempotency.settle(session, key, batch.id)
    return SubmittedBatch(batch, replayed=False)


def check(
    session: Session, document: Mapping[str, Any], *, tenant: str = tenants.DEFAULT, accepted: bool = False
) -> Sequence[Wanted[Spec]]:
    """The jobs that the document expands to. Inserts nothing. `accepted`: this document was accepted before.

    Raises:
        SpecInvalid: as `submit`.
    """
    _, sources = matrix.read(document)
    return _fitted(session, sources, _specs(sources, accepted=accepted), tenant)


def parsed(document: Mapping[str, Any]) -> tuple[Sequence[Source], Sequence[Sequence[tuple[Cell, Parsed]]]]:
    """The specs that the document stands for, read. Raises SpecInvalid where it cannot be expanded."""
    _, sources = matrix.read(document)
    return sources, _specs(sources, accepted=False)


def get(session: Session, batch_id: str, *, tenant: str | None = None) -> Batch:
    """The batch.

    Raises:
        BatchNotFound: there is none, or it is another tenant's.
    """
    batch = session.get(Batch, batch_id)
    if batch is None or (tenant is not None and batch.tenant != tenant):
        raise BatchNotFound(f"There is no batch {clean(batch_id, 100)}.")
    return batch


def summaries(session: Session, batch_ids: Sequence[str]) -> Mapping[str, Summary]:
    """Of each of these batches how many jobs stand where, in one query."""
    query = (
        select(
            Batch.id, Batch.ended_at, Job.status, func.count(Job.id).label("jobs"), func.sum(Job.revision).label("sum")
        )
        .outerjoin(Job, Job.batch_id == Batch.id)
        .where(Batch.id.in_(batch_ids))
        .group_by(Batch.id, Batch.ended_at, Job.status)
    )
    counts: dict[str, dict[Status, int]] = {batch_id: {} for batch_id in batch_ids}
    revisions = dict.fromkeys(batch_ids, 0)
    ends: dict[str, float | None] = {}
    for row in session.execute(query):
        ends[row.id] = row.ended_at
        if row.jobs:
            counts[row.id][Status(row.status)] = row.jobs
            revisions[row.id] += int(row.sum)
    return {each: _summary(counts[each], revisions[each], ends.get(each)) for each in batch_ids}


def members(session: Session, batch_id: str) -> Sequence[Job]:
    """The jobs of a batch, in the order in which they were asked for."""
    return session.scalars(select(Job).where(Job.batch_id == batch_id).order_by(Job.id)).all()


def cancel(session: Session, batch_id: str, *, tenant: str | None = None) -> Batch:
    """Cancel every job that has not ended: those that wait at once, those that run at their next step.

    Raises:
        BatchNotFound: there is none, or it is another tenant's.
    """
    batch = get(session, batch_id, tenant=tenant)
    going_on = select(Job.id).where(Job.batch_id == batch_id, Job.status.not_in(TERMINAL)).order_by(Job.id)
    for job_id in session.scalars(going_on).all():
        with suppress(JobNotFound):  # it has ended meanwhile, and was deleted
            control.cancel(session, job_id)
    return batch


def ended(session: Session, limit: int = 100) -> Sequence[str]:
    """Batches all of whose jobs have ended, or were deleted, which nobody has written down: a look without a lock.

    It reads two indexes, of batches that go on and of their jobs that do.
    """
    return session.scalars(select(Batch.id).where(*_over()).order_by(Batch.id).limit(limit)).all()


def end(session: Session, batch_id: str) -> bool:
    """Write down that a batch has ended, and tell it. Whether it was this transaction that did: of many only one."""
    last = select(func.max(Job.finished_at)).where(Job.batch_id == batch_id).scalar_subquery()
    statement = sa.update(Batch).where(Batch.id == batch_id, *_over()).values(ended_at=func.coalesce(last, now()))
    options = {"populate_existing": True, "synchronize_session": False}
    batch = session.scalars(statement.returning(Batch), execution_options=options).one_or_none()
    if batch is None:
        return False
    news.announce(session, "batch.ended", batch.tenant, lambda: _news(session, batch))
    faults.point("batch.ended")
    return True


def is_unfinished(batch_id: sa.SQLColumnExpression[Any]) -> sa.ColumnElement[bool]:
    """Whether a job of the batch has not ended, as an SQL expression."""
    # Written out, as the predicate of ix_jobs_batch_going_on has it: a parameter would keep PostgreSQL from that index.
    ended = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
    ends: Sequence[sa.ColumnElement[str]] = [sa.literal_column(f"'{status}'") for status in ended]
    return select(sa.literal(1)).where(Job.batch_id == batch_id, Job.status.not_in(ends)).exists()


def _over() -> tuple[sa.ColumnElement[bool], ...]:
    return (Batch.ended_at.is_(None), ~is_unfinished(Batch.id))


def metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """By which jobs of a batch are compared: the metrics of a result, and with folds also the means over them."""
    return {**(result.get("mean") or {}), **(result.get("metrics") or {})}


def _news(session: Session, batch: Batch) -> News:
    columns = (Job.id, Job.name, Job.status, Job.reason, Job.message, Job.result, Job.tags)
    rows = session.execute(select(*columns).where(Job.batch_id == batch.id).order_by(Job.id)).all()
    summary = summaries(session, [batch.id])[batch.id]
    failed_first = sorted(rows, key=lambda row: row.status != Status.FAILED)
    named = [
        {
            **{key: getattr(row, key) for key in ("id", "name", "status", "reason")},
            "message": row.message and clean(row.message, MAX_MESSAGE),
            "metrics": metrics_of((row.status == Status.SUCCEEDED and row.result) or {}),
        }
        for row in failed_first[:MOST_TOLD]
    ]
    data = {
        "id": batch.id,
        "name": batch.name,
        "schedule_id": batch.schedule_id,
        "status": summary.status,
        "total": summary.total,
        "counts": {status: summary.counts.get(status, 0) for status in Status if status in TERMINAL},
        "created_at": moment(batch.created_at),
        "ended_at": moment(batch.ended_at),
        "jobs": named,
        "links": {"self": f"/v1/batches/{batch.id}"},
    }
    return News(batch.ended_at or 0.0, data, news.subjects_of_batch(batch), [row.tags for row in rows])


def _summary(counts: Mapping[Status, int], revisions: int, ended_at: float | None) -> Summary:
    # A job that is deleted lowers both numbers, so neither alone would do.
    revision = f"{sum(counts.values())}.{revisions}"
    return Summary(counts, revision if ended_at is None else f"{revision}.ended", ended_at)


def _specs(sources: Sequence[Source], *, accepted: bool) -> Sequence[Sequence[tuple[Cell, Parsed]]]:
    return [[(cell, submission.read(cell.spec, accepted=accepted)) for cell in source.cells] for source in sources]


def _fitted(
    session: Session, sources: Sequence[Source], specs: Sequence[Sequence[tuple[Cell, Parsed]]], tenant: str
) -> Sequence[Wanted[Spec]]:
    known = submission.Known()
    return for_each(sources, specs, lambda parsed: submission.fitted(session, parsed, tenant, known))


def for_each(
    sources: Sequence[Source], specs: Sequence[Sequence[tuple[Cell, Parsed]]], make: Callable[[Parsed], Made]
) -> Sequence[Made]:
    """What `make` makes of each spec.

    Raises SpecInvalid with the problems of all specs, each where it lies in the document.
    """
    made = []
    wrong = []
    for source, cells in zip(sources, specs, strict=True):
        for cell, parsed in cells:
            try:
                made.append(make(parsed))
            except SpecInvalid as error:
                wrong.append((source, cell, error.problems))
    if wrong:
        raise SpecInvalid(matrix.located(wrong))
    return made


def _insert(
    session: Session,
    name: str | None,
    sources: Sequence[Source],
    tenant: str,
    request_id: str | None,
    schedule_id: str | None,
) -> Batch:
    varied = dict.fromkeys(path for source in sources for path in source.paths)
    values = {"name": name, "tenant": tenant, "varied": [*varied], "request_id": request_id, "created_at": now()}
    values["schedule_id"] = schedule_id
    return session.scalars(sa.insert(Batch).values(id=new_id("batch"), **values).returning(Batch)).one()


def page(
    session: Session, *, limit: int = 20, after: str | None = None, tenant: str | None = None
) -> tuple[Sequence[Batch], bool]:
    """Batches older than the batch `after`, newest first, and whether there are more."""
    query = select(Batch)
    if tenant is not None:
        query = query.where(Batch.tenant == tenant)
    return paging.newest(session, query, Batch.id, after=after, limit=limit)
