"""Firings: one row for each slot of a schedule, written in the transaction that submits its batch.

The scheduler's part is three looks that take no lock (`ended`, `waiting`, `due`), and for each thing found a
transaction of its own that holds the schedule's row and looks again: any number of schedulers may do so at once, and
one that dies at any moment has done all of it or nothing. That a slot has one row is held by the database as well.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session, aliased

from services import db, faults, idempotency, paging
from services.access import tenants
from services.errors import (
    Conflict,
    DatasetValidating,
    Invalid,
    LooplineError,
    NotFound,
    ScheduleBusy,
    ScheduleInvalid,
    SpecInvalid,
)
from services.idempotency import Key
from services.jobs import batches, retraining
from services.orm import Firing, Schedule, new_id
from services.schedules import cron, definitions, ledger
from services.schedules.definitions import Overlap
from services.schedules.outcomes import OPEN, Outcome, Reason
from services.text import clean

PUNCTUAL_SECONDS = 60.0
"""A slot that is fired within this time is not late, whatever the schedule says of catching up."""
MOST_ROWS = 100
"""Of slots that were missed together so many get a row; the oldest row says how many more there were."""
KEPT_SECONDS = 400 * 86_400.0
"""Firings are forgotten when they are older."""
MOST_FORGOTTEN = 1000
"""At a time."""
MOST_MESSAGE = 1000
MOST_PROBLEMS = 3
REFUSALS = (Invalid, Conflict, NotFound)
"""What is wrong with what is to be submitted, and not with the database or with us."""


@dataclass(frozen=True)
class Due:
    """A schedule that is due, as a look found it, and when that was."""

    schedule: Schedule
    at: float


@dataclass(frozen=True)
class Slots:
    """The slots of a schedule that are due, ascending: the newest MOST_ROWS of them."""

    due: Sequence[float]
    older: int
    """How many there are besides."""
    following: float | None
    """The slot that comes next."""


# Clients


def run(
    session: Session,
    name: str,
    *,
    key: Key | None = None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> tuple[Firing, bool]:
    """Fire a schedule now, be it paused or without new data; and whether an earlier request with this key had done so.

    Raises:
        ScheduleNotFound: there is none, or it is another tenant's.
        ScheduleBusy: its overlap is `skip`, and the batch before has not ended.
        ScheduleInvalid: what it submits is not right any more.
        QuotaExceeded: the tenant would have more jobs waiting than it may.
        IdempotencyConflict, IdempotencyInFlight: as `idempotency.claim`.
    """
    schedule = definitions.locked(session, name, tenant=tenant)
    key = None if key is None else replace(key, fingerprint=schedule.id)  # there is no body
    if key is not None and (earlier := idempotency.claim(session, key)) is not None:
        return session.get_one(Firing, earlier), True
    going_on = _going_on(session, schedule.id)
    if going_on and schedule.overlap == Overlap.SKIP:
        raise ScheduleBusy(
            f"The batch {going_on[-1]} of the schedule {schedule.name} has not ended: wait for it, cancel it "
            f"(POST /v1/batches/{going_on[-1]}/cancel), or set `overlap` to queue or replace."
        )
    at = definitions.clock(session)
    firing = _new(schedule, None, at)
    try:
        _take_turn(session, schedule, firing, going_on, at, request_id)
    except SpecInvalid as error:
        raise ScheduleInvalid(definitions.within_submit(error.problems)) from None
    ledger.announce(session, schedule, ledger.record(session, firing))
    if key is not None:
        idempotency.settle(session, key, firing.id)
    return firing, False


def latest(session: Session, schedule_ids: Sequence[str]) -> Mapping[str, Firing]:
    """Of each of these schedules that has any the newest firing."""
    newest = select(sa.func.max(Firing.id)).where(Firing.schedule_id.in_(schedule_ids)).group_by(Firing.schedule_id)
    rows = session.scalars(select(Firing).where(Firing.id.in_(newest)))
    return {row.schedule_id: row for row in rows}


def history(
    session: Session, schedule_id: str, *, limit: int = 20, after: str | None = None
) -> tuple[Sequence[Firing], bool]:
    """Firings of a schedule older than `after`, newest first, and whether there are more."""
    query = select(Firing).where(Firing.schedule_id == schedule_id)
    return paging.newest(session, query, Firing.id, after=after, limit=limit)


# The scheduler: three looks


def ended(session: Session) -> Sequence[str]:
    """The firings whose batches have ended, and nobody has written it down."""
    return session.scalars(
        select(Firing.id).where(_is(Outcome.FIRED), ~batches.is_unfinished(Firing.batch_id)).order_by(Firing.id)
    ).all()


def waiting(session: Session) -> Sequence[str]:
    """The schedules that have a firing which waits, and no batch that it waits for."""
    before = aliased(Firing)
    same = (before.schedule_id == Firing.schedule_id, _is(Outcome.FIRED, before))
    going_on = select(before.id).where(*same).exists()
    return session.scalars(select(Firing.schedule_id).where(_is(Outcome.WAITING), ~going_on)).all()


def due(session: Session) -> Sequence[Due]:
    """The schedules that are due, those first that have been for longest."""
    at = definitions.clock(session)
    rows = session.scalars(select(Schedule).where(Schedule.due_at <= at).order_by(Schedule.due_at))
    return [Due(schedule, at) for schedule in rows]


# The scheduler: what is done about them, each in a transaction of its own


def end(session: Session, firing_id: str) -> Sequence[Firing]:
    """Write down how the batch of a firing has ended; nothing where it has not, or another has done so."""
    firing = session.get(Firing, firing_id)
    if firing is None or firing.batch_id is None:
        return []
    summary = batches.summaries(session, [firing.batch_id])[firing.batch_id]
    if not summary.terminal:
        return []
    outcome = Outcome(summary.status) if summary.total else Outcome.DELETED
    counts = {str(status): number for status, number in summary.counts.items()}
    became = retraining.outcome(batches.members(session, firing.batch_id))
    parts = [firing.message, _ending(outcome, counts, firing.batch_id), became and clean(became, MOST_MESSAGE)]
    message = " ".join(filter(None, parts)) or None
    values = {"outcome": outcome, "counts": counts, "message": message, "ended_at": definitions.clock(session)}
    statement = update(Firing).where(Firing.id == firing.id, Firing.outcome == Outcome.FIRED).values(values)
    done = session.scalars(statement.returning(Firing), execution_options={"populate_existing": True}).all()
    for row in done:
        ledger.announce(session, session.get_one(Schedule, row.schedule_id), ledger.record(session, row))
    return done


def fire_waiting(session: Session, schedule_id: str) -> Sequence[Firing]:
    """Fire what waits, if what it waited for has ended; nothing where it has not, or another does it."""
    schedule = definitions.locked_or_none(session, schedule_id, skip_locked=True)
    if schedule is None or _going_on(session, schedule_id):
        return []
    waits = select(Firing).where(Firing.schedule_id == schedule_id, _is(Outcome.WAITING))
    firing = session.scalar(waits, execution_options={"populate_existing": True})
    if firing is None:
        return []
    at = definitions.clock(session)
    try:
        _submit(session, schedule, firing, [], at, _fresh_request())
    except REFUSALS as error:
        _refuse(firing, error, at)
    ledger.announce(session, schedule, ledger.record(session, firing))
    faults.point("firing.written")
    return [firing]


def fire(session: Session, found: Due) -> Sequence[Firing]:
    """Record the outcomes of the due slots, submit the batch of the newest one if it is not too late, and advance the
    schedule. Does nothing if another scheduler is doing this, or if the schedule has changed since `found` was read."""
    slots = _slots(found)  # which may take seconds, so before the transaction begins
    schedule = definitions.locked_or_none(session, found.schedule.id, skip_locked=True)
    if schedule is None or not _is_as_it_was(schedule, found.schedule):
        return []
    there = select(Firing.slot).where(Firing.schedule_id == schedule.id, Firing.slot.in_(slots.due))
    known = set(session.scalars(there))  # a clock that was set back may have brought one a second time
    fresh = [slot for slot in slots.due if slot not in known]
    rows = []
    for slot in fresh:
        late = found.at - definitions.due(schedule.id, slot, schedule.jitter_seconds)
        in_time = late <= max(schedule.catch_up_seconds, PUNCTUAL_SECONDS)
        if in_time and slot == fresh[-1]:
            rows.append(_fire_slot(session, schedule, slot, late, found.at))
        else:
            reason = Reason.SUPERSEDED if in_time else Reason.DOWNTIME
            rows.append(_settle(_new(schedule, slot, found.at), Outcome.MISSED, reason))
    if rows and slots.older:
        rows[0].message = f"{rows[0].message or ''} {slots.older:,} slots before it were missed too.".strip()
    for row in rows:
        ledger.record(session, row)
    _tell(session, schedule, rows, slots.older)
    definitions.advance(session, schedule, slots.following)
    faults.point("firing.written")
    return rows


def forget_old(session: Session) -> int:
    """Delete firings older than 400 days, at most MOST_FORGOTTEN of them; returns how many."""
    old = Firing.created_at < definitions.clock(session) - KEPT_SECONDS
    some = select(Firing.id).where(old, Firing.outcome.not_in(OPEN)).limit(MOST_FORGOTTEN)
    statement = sa.delete(Firing).where(Firing.id.in_(some)).execution_options(synchronize_session=False)
    return db.rowcount(session.execute(statement))


def _tell(session: Session, schedule: Schedule, rows: Sequence[Firing], older: int) -> None:
    """Announce the outcomes of slots that were found together; of the missed ones only the newest is announced."""
    missed = [row for row in rows if row.outcome == Outcome.MISSED]
    if missed:
        ledger.announce(session, schedule, missed[-1], besides=len(missed) - 1 + older)
    for row in rows[len(missed) :]:
        ledger.announce(session, schedule, row)


def _slots(found: Due) -> Slots:
    schedule = found.schedule
    if schedule.next_slot is None:
        return Slots([], 0, None)
    slots, count = deque([schedule.next_slot], MOST_ROWS), 1
    for slot in cron.slots(schedule.cron, schedule.time_zone, schedule.next_slot):
        if definitions.due(schedule.id, slot, schedule.jitter_seconds) > found.at:
            return Slots([*slots], count - len(slots), slot)
        slots.append(slot)
        count += 1
    return Slots([*slots], count - len(slots), None)


def _is_as_it_was(now: Schedule, then: Schedule) -> bool:
    return now.next_slot is not None and (now.revision, now.next_slot) == (then.revision, then.next_slot)


def _fire_slot(session: Session, schedule: Schedule, slot: float, late: float, at: float) -> Firing:
    """What comes of a slot that is not too late: fired, waiting, skipped or refused."""
    firing = _new(schedule, slot, at)
    if schedule.only_new_data and not _has_new_data(session, schedule):
        return _settle(firing, Outcome.SKIPPED, Reason.NO_NEW_DATA)
    going_on = _going_on(session, schedule.id)
    if going_on and schedule.overlap == Overlap.SKIP:
        return _settle(firing, Outcome.SKIPPED, Reason.OVERLAP, f" ({going_on[-1]})")
    if late > PUNCTUAL_SECONDS:
        firing.reason, firing.message = Reason.CATCH_UP, Reason.CATCH_UP.sentence
    try:
        _take_turn(session, schedule, firing, going_on, at, _fresh_request())
    except REFUSALS as error:
        _refuse(firing, error, at)
    return firing


def _take_turn(
    session: Session, schedule: Schedule, firing: Firing, going_on: Sequence[str], at: float, request_id: str | None
) -> None:
    """Submit, or wait for what is going on; what waited until now is left out. Raises what `batches.submit` does."""
    if going_on and schedule.overlap == Overlap.QUEUE:
        firing.outcome, firing.message = Outcome.WAITING, f"It waits for the end of {going_on[-1]}."
    else:
        _submit(session, schedule, firing, going_on, at, request_id)
    ledger.skip_waiting(session, schedule, at, Reason.SUPERSEDED)


def _submit(
    session: Session, schedule: Schedule, firing: Firing, going_on: Sequence[str], at: float, request_id: str | None
) -> None:
    """Submit the batch of a firing, and cancel what is going on; both, or neither where `batches.submit` raises."""
    moment = cron.local(at if firing.slot is None else firing.slot, schedule.time_zone)
    with db.savepoint(session):
        for batch_id in going_on:
            batches.cancel(session, batch_id)
        batch = batches.submit(
            session,
            schedule.submit,
            request_id=request_id,
            tenant=schedule.tenant,
            name=f"{schedule.name} {moment:%Y-%m-%d %H:%M}",
            schedule_id=schedule.id,
        ).batch
    if firing.outcome == Outcome.WAITING:
        firing.reason, firing.message = _asked_for(firing.slot)
    firing.outcome, firing.batch_id = Outcome.FIRED, batch.id
    firing.datasets = _datasets(job.dataset_id for job in batches.members(session, batch.id))
    if going_on:
        firing.reason = Reason.REPLACED
        firing.message = f"{Reason.REPLACED.sentence} ({', '.join(going_on)})"


def _new(schedule: Schedule, slot: float | None, at: float) -> Firing:
    reason, message = _asked_for(slot)
    values = {"id": new_id("fir"), "schedule_id": schedule.id, "tenant": schedule.tenant, "created_at": at}
    return Firing(**values, slot=slot, outcome=Outcome.FIRED, reason=reason, message=message)


def _asked_for(slot: float | None) -> tuple[Reason | None, str | None]:
    return (None, None) if slot is not None else (Reason.RUN_NOW, Reason.RUN_NOW.sentence)


def _settle(firing: Firing, outcome: Outcome, reason: Reason, more: str = "") -> Firing:
    """The firing with an outcome that is its last."""
    firing.outcome, firing.reason, firing.message = outcome, reason, f"{reason.sentence}{more}"
    firing.ended_at = firing.created_at
    return firing


def _refuse(firing: Firing, error: LooplineError, at: float) -> None:
    firing.outcome, firing.reason, firing.ended_at = Outcome.REFUSED, error.code, at
    problems = definitions.within_submit(error.problems) if isinstance(error, Invalid) else ()
    sentences = [error.message, *(f"{problem}." for problem in problems[:MOST_PROBLEMS])]
    if len(problems) > MOST_PROBLEMS:
        sentences.append(f"And {len(problems) - MOST_PROBLEMS} more.")
    firing.message = clean(" ".join(sentences), MOST_MESSAGE) + " The next slot tries again; so does running it now."


def _ending(outcome: Outcome, counts: Mapping[str, int], batch_id: str) -> str | None:
    if outcome == Outcome.DELETED:
        return "Its jobs were deleted before their end was seen."
    if outcome == Outcome.SUCCEEDED:
        return None
    many = f"{counts[outcome]} of {sum(counts.values())} jobs {'failed' if outcome == Outcome.FAILED else 'cancelled'}"
    return f"{many}: `loopline batches show {batch_id}` says which, and why."


def _has_new_data(session: Session, schedule: Schedule) -> bool:
    """Whether a data set has another version than at the newest run that did not fail. True as well if a data set
    cannot be found or used: the submission then says so."""
    ran = (Firing.schedule_id == schedule.id, Firing.outcome.in_([Outcome.FIRED, Outcome.SUCCEEDED]))
    before = session.scalar(select(Firing).where(*ran).order_by(Firing.id.desc()).limit(1))
    if before is None:
        return True
    try:
        jobs = batches.check(session, schedule.submit, tenant=schedule.tenant, accepted=True)
    except (SpecInvalid, DatasetValidating):
        return True
    return _datasets(job.dataset_id for job in jobs) != before.datasets


def _datasets(ids: Iterable[str | None]) -> list[str]:
    return sorted({each for each in ids if each is not None})


def _going_on(session: Session, schedule_id: str) -> Sequence[str]:
    """The batches of the schedule that have not ended, oldest first."""
    mine = (Firing.schedule_id == schedule_id, _is(Outcome.FIRED), batches.is_unfinished(Firing.batch_id))
    found = session.scalars(select(Firing.batch_id).where(*mine).order_by(Firing.id))
    return [batch_id for batch_id in found if batch_id is not None]


def _is(outcome: Outcome, table: type[Firing] = Firing) -> ColumnElement[bool]:
    return table.outcome == sa.literal_column(f"'{outcome}'")  # as the index says it


def _fresh_request() -> str:
    """An id for the log lines of jobs that no request submitted."""
    return f"req_{uuid.uuid4().hex}"
