"""The schedules: what to submit and when. Their slots are computed in cron.py, and fired in firings.py.

The row is the truth: `next_slot` is the slot that comes next, `due_at` when it is to be fired. Both are moved in the
transaction that records the result of a slot. So no slot is lost or fired twice, whichever process dies.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services import db, paging
from services.access import tenants
from services.db import now
from services.errors import Problem, QuotaExceeded, ScheduleExists, ScheduleInvalid, ScheduleNotFound, SpecInvalid
from services.jobs import batches
from services.orm import Schedule, new_id
from services.schedules import cron, ledger
from services.schedules.outcomes import Reason
from services.text import clean

MOST = 200
"""Schedules a tenant may have."""
CATCH_UP_SECONDS = 6 * 3600
"""So late a slot is fired still, unless its schedule says otherwise: a night's work begins before the day's."""
MOST_CATCH_UP_SECONDS = 30 * 86_400
MOST_JITTER_SECONDS = 86_400

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ID_PREFIX = "sch_"


class Overlap(StrEnum):
    """What becomes of a slot while a batch that the schedule submitted before has not ended."""

    SKIP = "skip"
    """It is left out."""
    QUEUE = "queue"
    """It waits for the end of that batch, and takes the place of another that waits."""
    REPLACE = "replace"
    """That batch is cancelled."""


@dataclass(frozen=True)
class Definition:
    """What somebody asks for under a name."""

    cron: str
    submit: Mapping[str, Any]
    """A document as `batches.submit` takes it."""
    time_zone: str = "UTC"
    overlap: str = Overlap.SKIP
    catch_up_seconds: int = CATCH_UP_SECONDS
    jitter_seconds: int = 0
    only_new_data: bool = False


class Kept(NamedTuple):
    """A schedule, and what `put` did with it."""

    schedule: Schedule
    created: bool
    changed: bool


def clock(session: Session) -> float:
    """The time by which slots are due, in seconds since 1970: the database's. Nothing about schedules reads another."""
    return float(session.scalar(select(now())) or 0.0)


def create(
    session: Session, name: str, wanted: Definition, *, by: str | None = None, tenant: str = tenants.DEFAULT
) -> Schedule:
    """A new schedule.

    Raises:
        ScheduleInvalid: with every problem, those of its specs too.
        ScheduleExists: there is one of this name.
        QuotaExceeded: the tenant has as many as it may.
    """
    _check(session, name, wanted, tenant)
    db.lock(session, f"schedules.{tenant}")
    if _named(session, name, tenant) is not None:
        raise ScheduleExists(f"There is a schedule {name} already; PUT /v1/schedules/{name} replaces it.")
    return _insert(session, name, wanted, by, tenant)


def put(
    session: Session, name: str, wanted: Definition, *, by: str | None = None, tenant: str = tenants.DEFAULT
) -> Kept:
    """The schedule of this name as it is wanted: made, changed, or left alone where it is so already.

    What comes next stays as it was unless cron or time zone are others; then slots count from now on. An id names one
    that there is.

    Raises:
        ScheduleInvalid: with every problem, those of its specs too.
        ScheduleNotFound: there is none of this id.
        QuotaExceeded: the tenant has as many as it may.
    """
    if name.startswith(_ID_PREFIX):
        name = get(session, name, tenant=tenant).name
    _check(session, name, wanted, tenant)
    db.lock(session, f"schedules.{tenant}")
    found = _named(session, name, tenant)
    if found is None:
        return Kept(_insert(session, name, wanted, by, tenant), created=True, changed=True)
    held = locked_or_none(session, found.id)
    if held is None:  # deleted in between
        return Kept(_insert(session, name, wanted, by, tenant), created=True, changed=True)
    changed = {key: value for key, value in asdict(wanted).items() if _plain(getattr(held, key)) != _plain(value)}
    if not changed:
        return Kept(held, created=False, changed=False)
    at = clock(session)
    if changed.keys() & {"cron", "time_zone"} and held.paused_at is None:
        changed |= _coming(held.id, wanted, at)
    elif held.next_slot is not None:
        changed["due_at"] = due(held.id, held.next_slot, wanted.jitter_seconds)
    return Kept(_changed(session, held, at, **changed), created=False, changed=True)


def get(session: Session, name: str, *, tenant: str = tenants.DEFAULT) -> Schedule:
    """The schedule of this name or id.

    Raises:
        ScheduleNotFound: there is none, or it is another tenant's.
    """
    column = Schedule.id if name.startswith(_ID_PREFIX) else Schedule.name
    query = select(Schedule).where(column == clean(name, 100), Schedule.tenant == tenant)
    found = session.scalar(query, execution_options={"populate_existing": True})
    if found is None:
        raise _none_such(name)
    return found


def locked(session: Session, name: str, *, tenant: str = tenants.DEFAULT) -> Schedule:
    """The schedule of this name or id, held against everybody else to the end of the transaction.

    Raises:
        ScheduleNotFound: there is none, or it is another tenant's.
    """
    found = locked_or_none(session, get(session, name, tenant=tenant).id)
    if found is None:
        raise _none_such(name)
    return found


def locked_or_none(session: Session, schedule_id: str, *, skip_locked: bool = False) -> Schedule | None:
    """The schedule, held; None where there is none, or with `skip_locked` where somebody else holds it."""
    query = select(Schedule).where(Schedule.id == schedule_id).with_for_update(skip_locked=skip_locked)
    return session.scalar(query, execution_options={"populate_existing": True})


def pause(session: Session, name: str, *, tenant: str = tenants.DEFAULT) -> Kept:
    """Nothing is due any more until it is resumed. What it has submitted goes on, what waits for that is left out.

    Raises:
        ScheduleNotFound: there is none, or it is another tenant's.
    """
    found = locked(session, name, tenant=tenant)
    if found.paused_at is not None:
        return Kept(found, created=False, changed=False)
    at = clock(session)
    paused = _changed(session, found, at, paused_at=at, next_slot=None, due_at=None)
    ledger.skip_waiting(session, paused, at, Reason.PAUSED)
    return Kept(paused, created=False, changed=True)


def resume(session: Session, name: str, *, tenant: str = tenants.DEFAULT) -> Kept:
    """It goes on with the next slot from now on: those in between were no slots of it.

    Raises:
        ScheduleNotFound: there is none, or it is another tenant's.
    """
    found = locked(session, name, tenant=tenant)
    if found.paused_at is None:
        return Kept(found, created=False, changed=False)
    at = clock(session)
    resumed = _changed(session, found, at, paused_at=None, **_coming(found.id, _definition(found), at))
    return Kept(resumed, created=False, changed=True)


def delete(session: Session, name: str, *, tenant: str = tenants.DEFAULT) -> Schedule:
    """Delete a schedule and its history. The batches that it has submitted stay, and go on.

    Raises:
        ScheduleNotFound: there is none, or it is another tenant's.
    """
    found = locked(session, name, tenant=tenant)
    session.execute(sa.delete(Schedule).where(Schedule.id == found.id).execution_options(synchronize_session=False))
    return found


def coming(schedule: Schedule, count: int) -> Sequence[float]:
    """The next slots, the one that is due first; none while it is paused."""
    if schedule.next_slot is None or count < 1:
        return []
    later = cron.slots(schedule.cron, schedule.time_zone, schedule.next_slot)
    return [schedule.next_slot, *islice(later, count - 1)]


def due(schedule_id: str, slot: float, jitter_seconds: int) -> float:
    """When a slot is to be fired: up to `jitter_seconds` later, by a share that is the slot's own, whoever asks."""
    share = int.from_bytes(hashlib.sha256(f"{schedule_id} {slot:.0f}".encode()).digest()[:8]) / 2**64
    return slot + jitter_seconds * share


def advance(session: Session, schedule: Schedule, slot: float | None) -> None:
    """Let `slot` be what comes next, None for nothing; the caller holds the schedule."""
    due_at = None if slot is None else due(schedule.id, slot, schedule.jitter_seconds)
    _write(session, schedule, next_slot=slot, due_at=due_at)


def overdue(session: Session, *, seconds: float) -> int:
    """How many schedules have been due for more than so many seconds."""
    late = Schedule.due_at < clock(session) - seconds
    return session.scalar(select(func.count()).select_from(Schedule).where(late)) or 0


def _check(session: Session, name: str, wanted: Definition, tenant: str) -> None:
    problems = []
    if not _NAME.fullmatch(name) or name.startswith(_ID_PREFIX):
        allowed = "1 to 100 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit, and not with sch_"
        problems.append(Problem("/name", f"must be {allowed}"))
    if unread := cron.problem(wanted.cron):
        problems.append(Problem("/cron", unread))
    if unknown := cron.zone_problem(wanted.time_zone):
        problems.append(Problem("/time_zone", unknown))
    if not problems and wanted.jitter_seconds:
        shortest = cron.shortest_wait(wanted.cron, wanted.time_zone, clock(session))
        if wanted.jitter_seconds >= shortest:
            detail = f"must be shorter than the shortest time between two slots, which is {shortest:,.0f} s here"
            problems.append(Problem("/jitter_seconds", detail))
    problems += _problems_of_specs(session, wanted, tenant)
    if problems:
        raise ScheduleInvalid(problems)


def _problems_of_specs(session: Session, wanted: Definition, tenant: str) -> Sequence[Problem]:
    try:
        jobs = batches.check(session, wanted.submit, tenant=tenant)
    except SpecInvalid as error:
        return within_submit(error.problems)
    if wanted.only_new_data and any(job.dataset_id is None for job in jobs):
        return [Problem("/only_new_data", "needs data sets that are uploaded; a spec here has synthetic data")]
    return []


def within_submit(problems: Sequence[Problem]) -> Sequence[Problem]:
    """Problems of the document to submit, as pointers into its schedule."""
    return [Problem(f"/submit{each.pointer}", each.detail) for each in problems]


def _insert(session: Session, name: str, wanted: Definition, by: str | None, tenant: str) -> Schedule:
    tenants.get(session, tenant)
    counted = select(func.count()).select_from(Schedule).where(Schedule.tenant == tenant)
    if (there := session.scalar(counted) or 0) >= MOST:
        raise QuotaExceeded(f"The tenant {tenant} has {there} schedules and may have {MOST}: delete one first.")
    at, schedule_id = clock(session), new_id("sch")
    insert = sa.insert(Schedule).values(
        id=schedule_id,
        tenant=tenant,
        name=name,
        **asdict(wanted),
        created_by=by,
        created_at=at,
        updated_at=at,
        revision=1,
        **_coming(schedule_id, wanted, at),
    )
    return session.scalars(insert.returning(Schedule)).one()


def _coming(schedule_id: str, wanted: Definition, at: float) -> dict[str, float | None]:
    slot = next(cron.slots(wanted.cron, wanted.time_zone, at), None)
    return {"next_slot": slot, "due_at": None if slot is None else due(schedule_id, slot, wanted.jitter_seconds)}


def _changed(session: Session, schedule: Schedule, at: float, **values: Any) -> Schedule:
    return _write(session, schedule, **values, updated_at=at, revision=schedule.revision + 1)


def _write(session: Session, schedule: Schedule, **values: Any) -> Schedule:
    statement = update(Schedule).where(Schedule.id == schedule.id).values(values).returning(Schedule)
    return session.scalars(statement, execution_options={"populate_existing": True}).one()


def _definition(row: Schedule) -> Definition:
    return Definition(**{key: getattr(row, key) for key in Definition.__dataclass_fields__})


def _named(session: Session, name: str, tenant: str) -> Schedule | None:
    return session.scalar(select(Schedule).where(Schedule.tenant == tenant, Schedule.name == name))


def _none_such(name: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"There is no schedule {clean(name, 100)}.")


def _plain(value: Any) -> str:
    """For a comparison in which 1, 1.0 and true are three things."""
    return json.dumps(value, sort_keys=True)


def page(
    session: Session, *, limit: int = 20, after: str | None = None, tenant: str = tenants.DEFAULT
) -> tuple[Sequence[Schedule], bool]:
    """Schedules by name, from after the name `after` on, and whether there are more."""
    query = select(Schedule).where(Schedule.tenant == tenant).order_by(Schedule.name)
    if after is not None:
        query = query.where(Schedule.name > after)
    return paging.first(session, query, limit)
