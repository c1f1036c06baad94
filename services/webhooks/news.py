"""The events of webhooks: their table, and the messages that are written when one happens.

A message is written in the transaction of the change that it reports, so it exists exactly if the change was committed.
Code that makes such a change calls `announce`, which costs one index lookup if nobody subscribes. The messages are then
in the outbox (subscriptions.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.db import Query, now
from services.orm import Batch, Delivery, Job, Webhook, new_id
from services.states import Kind, Status

EVENTS: Mapping[str, str] = {
    "job.queued": "A job was submitted or resumed. Or it was queued again because its worker was lost or returned it, "
    "or because an attempt failed.",
    "job.started": "An attempt started.",
    "job.paused": "A job was paused.",
    "job.succeeded": "A job has ended and has a model, or answers if it predicts.",
    "job.failed": "A job has failed; `reason` and `message` say why.",
    "job.cancelled": "A job has ended because somebody cancelled it, or because its search stopped it early.",
    "batch.ended": "Every job of a batch has ended; `status` and `counts` say how.",
    "schedule.fired": "A schedule submitted a batch, for a slot or because somebody requested it.",
    "schedule.ended": "A batch that a schedule submitted has ended; `outcome` and `counts` say how.",
    "schedule.skipped": "A slot was skipped because of a rule of the schedule; `reason` and `message` say why.",
    "schedule.missed": "No scheduler reached a slot in time. It is sent once for all slots that were missed together.",
    "schedule.refused": "What a schedule submits is no longer valid or exceeds a quota; `message` says what to do.",
    "search.ended": "A search and its final model have ended, or it was cancelled; `best` is the best trial.",
    "model.promoted": "An alias of a model was moved; `action` says how: `promote`, `rollback` or `demote`.",
}
"""Every event that a webhook can get, by noun. docs/webhooks.md has this table."""
TEST = "webhook.test"

OF_STATUS: Mapping[Status, str] = {
    Status.QUEUED: "job.queued",
    Status.RUNNING: "job.started",
    Status.PAUSED: "job.paused",
    Status.SUCCEEDED: "job.succeeded",
    Status.FAILED: "job.failed",
    Status.CANCELLED: "job.cancelled",
}
"""The event of a job, by its new state."""


@dataclass(frozen=True)
class News:
    """The content of an event."""

    at: float
    """When it happened, by the database's clock."""
    data: Mapping[str, Any]
    """As JSON has it; times are those of `moment`."""
    subjects: Collection[str] = ()
    """Ids of its resources, the narrowest first; a webhook for one resource receives the event if its id is here."""
    tags: Sequence[Mapping[str, Any]] = ()
    """The tags of each job of the event; a webhook with tags receives it if one of these has all of them."""
    job_id: str | None = None


def announce(session: Session, event: str, tenant: str, news: Callable[[], News]) -> None:
    """Write a message for each webhook of the tenant that wants to know of an event of this transaction.

    `news` is asked only if there is one that may, so it may ask the database. This locks nothing but what it inserts,
    and can be called with any row held.
    """
    session.flush()
    if not _listening().tuples(session.connection(), tenant=tenant):
        return
    listening = [webhook for webhook in session.scalars(_enabled(), {"tenant": tenant}) if event in webhook.events]
    if not listening:
        return
    content = news()
    text = payload(event, content.at, content.data)
    rows = [row(webhook, event, content.job_id, text) for webhook in listening if _is_for(webhook, content)]
    if rows:
        session.execute(sa.insert(Delivery).values([{**each, "attempts": 0, "next_at": now()} for each in rows]))


@cache
def _enabled() -> sa.Select[Webhook]:
    """The webhooks of a tenant."""
    return select(Webhook).where(Webhook.tenant == sa.bindparam("tenant"), Webhook.disabled_at.is_(None))


@cache
def _listening() -> Query:
    """Has a row if a tenant has a webhook. Every move of a job asks this."""
    return Query(_enabled().with_only_columns(Webhook.id).limit(sa.literal_column("1", sa.Integer())))


def announce_job(session: Session, job: Job) -> None:
    """Announce the state that a job has come to in this transaction."""
    announce(session, OF_STATUS[Status(job.status)], job.tenant, lambda: _job_news(session, job))


def announce_new_job(session: Session, job_id: str, *, tenant: str) -> None:
    """Announce a job that this transaction has made."""
    announce(session, OF_STATUS[Status.QUEUED], tenant, lambda: _job_news(session, session.get_one(Job, job_id)))


def _job_news(session: Session, job: Job) -> News:
    return News(job.updated_at, _job_data(job), subjects_of(session, job), [job.tags], job.id)


def subjects_of(session: Session, job: Job) -> Sequence[str]:
    """The ids that what happens to a job is about: its own, and those of what it belongs to."""
    search = [] if job.search_id is None else [job.search_id]
    batch = None if job.batch_id is None else session.get(Batch, job.batch_id)
    return [job.id, *search, *([] if batch is None else subjects_of_batch(batch))]


def subjects_of_batch(batch: Batch) -> Sequence[str]:
    """The same of a batch: its own, and that of the schedule that submitted it."""
    return [batch.id] if batch.schedule_id is None else [batch.id, batch.schedule_id]


def row(webhook: Webhook, event: str, job_id: str | None, text: str) -> dict[str, Any]:
    """A message, as it is inserted into the outbox; when it is sent is for the caller to say."""
    known = {"id": new_id("msg"), "webhook_id": webhook.id, "job_id": job_id, "event": event}
    return {**known, "payload": text, "created_at": now()}


def payload(event: str, at: float, data: Mapping[str, Any]) -> str:
    """The text that is signed and sent."""
    document = {"type": event, "timestamp": moment(at), "data": data}
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def moment(seconds: float | None) -> str | None:
    """A time as payloads have it: RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _is_for(webhook: Webhook, content: News) -> bool:
    if webhook.only is not None and webhook.only not in content.subjects:
        return False
    return not webhook.tags or any(webhook.tags.items() <= tags.items() for tags in content.tags)


def _job_data(job: Job) -> dict[str, Any]:
    ended_well = job.result if job.status == Status.SUCCEEDED and job.kind == Kind.TRAIN else None
    answers = job.result if job.status == Status.SUCCEEDED and job.kind == Kind.PREDICT else None
    result = ended_well and {key: ended_well.get(key) for key in ("metrics", "best_epoch", "epochs", "stopped_early")}
    if result and (retrain := (ended_well or {}).get("retrain")):
        result["retrain"] = {key: retrain[key] for key in ("model", "version", "alias", "decision")}
    return {
        **{key: getattr(job, key) for key in ("id", "kind", "name", "status", "reason", "message", "queue", "tags")},
        "attempt": job.attempt,
        "batch_id": job.batch_id,
        "search_id": job.search_id,
        "trial": job.trial,
        **{key: moment(getattr(job, key)) for key in ("created_at", "started_at", "finished_at")},
        "result": result,
        "answers": answers and {key: answers[key] for key in ("model", "format", "bytes", "sequences", "rows")},
        "links": {"self": f"/v1/jobs/{job.id}"},
    }
