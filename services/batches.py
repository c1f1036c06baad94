"""Batches: jobs that are submitted together, accepted whole or refused whole, looked at and cancelled as one.

A batch is a name and an id that its jobs share; all that there is to know of it is counted from their rows, so it
cannot disagree with them. Each job can be looked at, cancelled or deleted by itself as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services import idempotency, jobs, matrix, submission, tenants
from services.db import now
from services.errors import BatchNotFound, JobNotFound, SpecInvalid
from services.idempotency import Key
from services.jobs import Wanted
from services.matrix import Cell, Source
from services.orm import Batch, Job, new_id
from services.states import TERMINAL, Status
from services.submission import Parsed
from services.text import clean


class Submitted(NamedTuple):
    """A batch, and whether an earlier request with the same Idempotency-Key had made it."""

    batch: Batch
    replayed: bool


@dataclass(frozen=True)
class Summary:
    """How many jobs of a batch stand where. A job that was deleted no longer counts."""

    counts: Mapping[Status, int]
    revision: str
    """Another one whenever something about its jobs has changed that a reader can see."""

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
) -> Submitted:
    """The batch that the document asks for: a new one, or the one that an earlier request with this key made.

    Nothing is inserted before every spec was found right, and fits its data set.

    Raises:
        SpecInvalid: with the problems of all specs, each with a pointer into the document.
        IdempotencyConflict: the key came with another request.
        IdempotencyInFlight: that request is under way.
        QuotaExceeded: the tenant would have more jobs waiting than it may.
    """
    name, sources = matrix.read(document)
    specs = [[(cell, submission.read(cell.spec)) for cell in source.cells] for source in sources]
    if key is not None and (earlier := idempotency.claim(session, key)) is not None:
        return Submitted(get(session, earlier, tenant=tenant), replayed=True)
    wanted = _fitted(session, sources, specs, tenant)
    batch = _insert(session, name, sources, tenant, request_id)
    jobs.create_all(session, wanted, request_id=request_id, tenant=tenant, batch_id=batch.id)
    if key is not None:
        idempotency.settle(session, key, batch.id)
    return Submitted(batch, replayed=False)


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
        select(Job.batch_id, Job.status, func.count().label("jobs"), func.sum(Job.revision).label("revisions"))
        .where(Job.batch_id.in_(batch_ids))
        .group_by(Job.batch_id, Job.status)
    )
    counts: dict[str, dict[Status, int]] = {batch_id: {} for batch_id in batch_ids}
    revisions = dict.fromkeys(batch_ids, 0)
    for row in session.execute(query):
        counts[row.batch_id][Status(row.status)] = row.jobs
        revisions[row.batch_id] += int(row.revisions)
    # A job that is deleted lowers both numbers, so neither alone would do.
    return {each: Summary(counts[each], f"{sum(counts[each].values())}.{revisions[each]}") for each in batch_ids}


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
            jobs.cancel(session, job_id)
    return batch


def _fitted(
    session: Session, sources: Sequence[Source], specs: Sequence[Sequence[tuple[Cell, Parsed]]], tenant: str
) -> Sequence[Wanted]:
    wanted = []
    wrong = []
    found: dict[str, submission.Found] = {}
    for source, cells in zip(sources, specs, strict=True):
        for cell, parsed in cells:
            try:
                wanted.append(submission.fitted(session, parsed, tenant, found))
            except SpecInvalid as error:
                wrong.append((source, cell, error.problems))
    if wrong:
        raise SpecInvalid(matrix.located(wrong))
    return wanted


def _insert(
    session: Session, name: str | None, sources: Sequence[Source], tenant: str, request_id: str | None
) -> Batch:
    varied = dict.fromkeys(path for source in sources for path in source.paths)
    values = {"name": name, "tenant": tenant, "varied": [*varied], "request_id": request_id, "created_at": now()}
    return session.scalars(sa.insert(Batch).values(id=new_id("batch"), **values).returning(Batch)).one()


# Last, because it hides the built-in name within this module.


def list(
    session: Session, *, limit: int = 20, after: str | None = None, tenant: str | None = None
) -> tuple[Sequence[Batch], bool]:
    """Batches older than the batch `after`, newest first, and whether there are more."""
    query = select(Batch).order_by(Batch.id.desc()).limit(limit + 1)
    if tenant is not None:
        query = query.where(Batch.tenant == tenant)
    if after is not None:
        query = query.where(Batch.id < after)
    rows = session.scalars(query).all()
    return rows[:limit], len(rows) > limit
