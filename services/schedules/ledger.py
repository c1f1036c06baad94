"""Records the result of a slot, writes its webhook messages in the same transaction, and counts it after the commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from services import metrics
from services.orm import Firing, Job, Schedule
from services.schedules.outcomes import Outcome, Reason
from services.webhooks import news
from services.webhooks.news import News, moment

EVENTS: Mapping[Outcome, str] = {
    Outcome.FIRED: "schedule.fired",
    Outcome.SUCCEEDED: "schedule.ended",
    Outcome.FAILED: "schedule.ended",
    Outcome.CANCELLED: "schedule.ended",
    Outcome.DELETED: "schedule.ended",
    Outcome.SKIPPED: "schedule.skipped",
    Outcome.MISSED: "schedule.missed",
    Outcome.REFUSED: "schedule.refused",
}
"""The webhook event of each outcome. A slot that waits has none yet."""


def expect_counts() -> None:
    """Show a zero for every outcome that may come to be counted."""
    for outcome in Outcome:
        metrics.FIRINGS.expect(outcome=outcome)


def record(session: Session, firing: Firing) -> Firing:
    """Write down what a firing has come to, and count it."""
    session.add(firing)
    session.flush()
    metrics.after_commit(session, metrics.FIRINGS.inc, outcome=firing.outcome)
    return firing


def announce(session: Session, schedule: Schedule, firing: Firing, *, besides: int = 0) -> None:
    """Announce the outcome of a firing; `besides` is the number of slots missed with it that are not announced."""
    if (event := EVENTS.get(Outcome(firing.outcome))) is not None:
        news.announce(session, event, schedule.tenant, lambda: _news(session, schedule, firing, besides))


def skip_waiting(session: Session, schedule: Schedule, at: float, reason: Reason) -> None:
    """Let what waits for the end of a batch be skipped; the caller holds the schedule."""
    waiting = (Firing.schedule_id == schedule.id, Firing.outcome == sa.literal_column(f"'{Outcome.WAITING}'"))
    skipped = {"outcome": Outcome.SKIPPED, "reason": reason, "message": reason.sentence, "ended_at": at}
    statement = update(Firing).where(*waiting).values(skipped).returning(Firing)
    for firing in session.scalars(statement, execution_options={"populate_existing": True}).all():
        announce(session, schedule, record(session, firing))


def _news(session: Session, schedule: Schedule, firing: Firing, besides: int) -> News:
    tags = session.scalars(select(Job.tags).where(Job.batch_id == firing.batch_id)).all() if firing.batch_id else ()
    batch = f"/v1/batches/{firing.batch_id}" if firing.batch_id else None
    data: dict[str, Any] = {
        "id": firing.id,
        "schedule": {"id": schedule.id, "name": schedule.name},
        **{key: getattr(firing, key) for key in ("outcome", "reason", "message", "batch_id", "counts")},
        **{key: moment(getattr(firing, key)) for key in ("slot", "created_at", "ended_at")},
        "links": {"schedule": f"/v1/schedules/{schedule.name}", "batch": batch},
    }
    if firing.outcome == Outcome.MISSED:
        data["missed"] = 1 + besides
    at = firing.created_at if firing.ended_at is None else firing.ended_at
    return News(at, data, [schedule.id], tags)
