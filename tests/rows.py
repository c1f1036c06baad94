"""What tests write into the database and read from it, where the product has no function of its own for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.access import tenants
from services.jobs import control, events
from services.orm import Event, Job
from services.training.spec import Spec


def create_job(
    session: Session,
    spec: Spec,
    *,
    requested: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> Job:
    """One new queued job."""
    wanted = control.Wanted(spec, requested or {}, dataset_id)
    [made] = control.create_all(session, [wanted], request_id=request_id, tenant=tenant)
    return session.get_one(Job, made.id)


def transitions(session: Session, job_id: str) -> Sequence[Event]:
    """Every change of the job's status, oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.type == events.Type.STATUS)
    return session.scalars(query.order_by(Event.id)).all()
