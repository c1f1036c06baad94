"""Tenants: who owns a resource, and how much of it each tenant may have.

A limit is checked in the transaction that would exceed it, under a lock on the tenant's row. So of many concurrent
requests exactly as many succeed as the limit allows. A tenant without limits is never locked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.db import Query, now
from services.errors import BadRequest, Problem, QuotaExceeded, TenantExists, TenantNotFound
from services.orm import DEFAULT_TENANT, Dataset, Job, Tenant
from services.states import DatasetStatus, Status
from services.text import clean

DEFAULT = DEFAULT_TENANT
MIN_SHARE, MAX_SHARE = 0.01, 100.0

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_WAITING = (Status.QUEUED, Status.PAUSED)


@dataclass(frozen=True)
class Use:
    """What a tenant has now."""

    queued: int
    """Jobs that wait: queued, or paused, which a resume makes queued."""
    running: int
    bytes: int
    """Of uploaded data sets; content under two names counts twice."""


def create(session: Session, name: str, *, share: float | None = None, **limits: int | None) -> Tenant:
    """A new tenant; `limits` are max_queued, max_running and max_bytes, and None is none. While a tenant without a
    share gets one turn in a queue, this one gets `share` turns.

    Raises:
        BadRequest: the name is not one, a limit is negative, or the share is not from 0.01 to 100.
        TenantExists: there is one of this name.
    """
    if not _NAME.fullmatch(name):
        allowed = "1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit"
        raise BadRequest(f"{clean(name, 100)!r} is no name for a tenant: it must be {allowed}.")
    if session.get(Tenant, name) is not None:
        raise TenantExists(f"There is a tenant {name} already; `tenants set` changes its limits.")
    values = {"name": name, "created_at": now(), **_checked({**limits, "share": share})}
    return session.scalars(sa.insert(Tenant).values(values).returning(Tenant)).one()


def get(session: Session, name: str) -> Tenant:
    """The tenant of this name.

    Raises:
        TenantNotFound: there is none.
    """
    found = session.get(Tenant, name, populate_existing=True)
    if found is None:
        raise TenantNotFound(f"There is no tenant {clean(name, 100)}.")
    return found


def change(session: Session, name: str, **limits: float | None) -> Tenant:
    """Change those of the tenant's limits, and its share, that are given. What is beyond a lower limit stays; only more
    is refused. A share counts from the next turn on.

    Raises:
        TenantNotFound: there is none.
        BadRequest: a limit is negative, or the share is not from 0.01 to 100.
    """
    found = get(session, name)
    for limit, most in _checked(limits).items():
        setattr(found, limit, most)
    session.flush()
    return found


def use(session: Session, name: str) -> Use:
    """What the tenant has now."""
    return Use(
        queued=_jobs(session, name, *_WAITING),
        running=_jobs(session, name, Status.RUNNING),
        bytes=_bytes(session, name),
    )


def check_queued(session: Session, name: str, more: int = 1, *, lock: bool = True) -> None:
    """Make sure that so many more jobs may wait, to the end of this transaction; without `lock`, just now.

    Raises:
        TenantNotFound: there is no such tenant.
        QuotaExceeded: they would be too many.
    """
    known = _max_queued().rows(session.connection(), tenant=name) or [get(session, name)]
    if known[0].max_queued is None:
        return
    most = _locked(session, name).max_queued if lock else known[0].max_queued
    if most is not None and (waiting := _jobs(session, name, *_WAITING)) + more > most:
        these = "" if more == 1 else f"; these are {more} more"
        have = "1 job waiting" if waiting == 1 else f"{waiting} jobs waiting"
        raise QuotaExceeded(
            f"The tenant {name} has {have}, queued or paused, and may have {most} (max_queued){these}: "
            "let some run or cancel some, or ask who runs the service for a larger quota."
        )


@cache
def _max_queued() -> Query:
    """Every job that is created asks this."""
    return Query(select(Tenant.max_queued).where(Tenant.name == sa.bindparam("tenant")))


def check_bytes(session: Session, name: str, more: int) -> None:
    """Make sure that so many bytes of data sets may be added, to the end of this transaction.

    Raises:
        TenantNotFound: there is no such tenant.
        QuotaExceeded: they would be too many.
    """
    if get(session, name).max_bytes is None:
        return
    most = _locked(session, name).max_bytes
    if most is not None and (there := _bytes(session, name)) + more > most:
        raise QuotaExceeded(
            f"The tenant {name} has {there:,} bytes of data sets and may have {most:,} (max_bytes); this one has "
            f"{more:,}: delete data sets, or ask who runs the service for a larger quota."
        )


def full() -> sa.Select[str]:
    """The names of the tenants that have as many jobs running as they may, as a query."""
    return select(Tenant.name).where(Tenant.max_running.is_not(None), is_full())


def is_full() -> sa.ColumnElement[bool]:
    """Whether a tenant has as many jobs running as it may, as a condition; NULL for one without a limit."""
    running = (Job.tenant == Tenant.name, Job.status == sa.literal_column(f"'{Status.RUNNING}'"))
    count = select(func.count()).select_from(Job).where(*running).correlate(Tenant).scalar_subquery()
    return sa.case((Tenant.max_running.is_not(None), count >= Tenant.max_running))


def has_room_for_running(session: Session, name: str) -> bool:
    """Whether the tenant runs no more jobs than it may, this transaction's own ones counted, and none of another can
    start before the end of this one."""
    most = _locked(session, name).max_running
    return most is None or _jobs(session, name, Status.RUNNING) <= most


def _checked(limits: Mapping[str, float | None]) -> Mapping[str, float | None]:
    problems = [
        Problem(f"/{limit}", "must be 0 or more")
        for limit, most in limits.items()
        if limit != "share" and most is not None and most < 0
    ]
    share = limits.get("share")
    if share is not None and not MIN_SHARE <= share <= MAX_SHARE:  # not a number is neither
        problems.append(Problem("/share", f"must be from {MIN_SHARE:g} to {MAX_SHARE:g}"))
    if problems:
        raise BadRequest("A limit is a number of 0 or more, or none; a share one from 0.01 to 100.", problems)
    return limits


def _locked(session: Session, name: str) -> Tenant:
    """The tenant's row, held against other transactions that count. Its keys may still be made."""
    query = select(Tenant).where(Tenant.name == name).with_for_update(key_share=True)
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def _jobs(session: Session, tenant: str, *statuses: Status) -> int:
    counted = select(func.count()).select_from(Job).where(Job.tenant == tenant, Job.status.in_(statuses))
    return session.scalar(counted) or 0


def _bytes(session: Session, tenant: str) -> int:
    there = (Dataset.tenant == tenant, Dataset.deleted_at.is_(None), Dataset.status != DatasetStatus.REJECTED)
    return int(session.scalar(select(func.coalesce(func.sum(Dataset.bytes), 0)).where(*there)) or 0)


def every(session: Session) -> Sequence[Tenant]:
    """Every tenant, by name."""
    return session.scalars(select(Tenant).order_by(Tenant.name)).all()
