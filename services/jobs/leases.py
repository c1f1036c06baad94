"""The fence: a write of a worker begins with an UPDATE of its job that names the attempt and `running`.

What hangs on the job is written behind it in the same transaction, which holds the row. An attempt that was replaced
touches no row, gets LeaseLost, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from services import faults
from services.db import now
from services.errors import LeaseLost
from services.orm import Job
from services.states import Status


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write its job."""

    job_id: str
    attempt: int

    @classmethod
    def of(cls, job: Job) -> Lease:
        """The lease of the attempt that `job` is at."""
        return cls(job.id, job.attempt)


def fence(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    """What is true of the job's row as long as the lease holds."""
    return (Job.id == lease.job_id, Job.attempt == lease.attempt, Job.status == Status.RUNNING)


def owned(session: Session, lease: Lease, **values: Any) -> Job:
    """Write `values` as this attempt, raise the revision, and hold the row to the end of the transaction.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    job = returned(session, update(Job).where(*fence(lease)).values(revised(**values)))
    if job is None:
        raise lost(lease)
    faults.point("job.fenced")
    return job


def revised(**values: Any) -> dict[str, Any]:
    """The values, and what every write that a reader can see changes besides."""
    return {"revision": Job.revision + 1, "updated_at": now(), **values}


def returned(session: Session, statement: sa.Update, parameters: Mapping[str, Any] | None = None) -> Job | None:
    """Carry out an UPDATE of at most one job; the job as it is then."""
    options = {"populate_existing": True, "synchronize_session": False}
    return session.scalars(statement.returning(Job), parameters, execution_options=options).one_or_none()


def lost(lease: Lease) -> LeaseLost:
    """The error of an attempt that owns its job no more."""
    return LeaseLost(f"Attempt {lease.attempt} of {lease.job_id} was taken over or has ended; its writes are refused.")
