"""The webhooks of a tenant, the events that each one receives, and the outbox of their messages.

A message is written in the transaction of the change that it reports (news.py). A sender claims it for `LEASE_SECONDS`,
sends it and records the result. If the sender dies, another one sends it: a message arrives at least once, with one id.
addresses.py decides which addresses are allowed, posting.py sends a message, and `worker/scheduler/outbox.py` is the
loop.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from services import db, metrics, paging
from services.access import tenants
from services.db import now, rowcount
from services.errors import (
    BatchNotFound,
    Conflict,
    DeliveryNotFound,
    Invalid,
    JobNotFound,
    Problem,
    QuotaExceeded,
    ScheduleNotFound,
    SearchNotFound,
    WebhookNotFound,
)
from services.orm import Batch, Delivery, Job, Schedule, Search, Webhook, new_id
from services.states import TERMINAL
from services.text import clean
from services.webhooks import news
from services.webhooks.posting import SendResult, new_secret

MOST = 20
"""Webhooks a tenant may have for all that happens to it."""
MOST_ONLY = 200
"""And for one job, batch, search or schedule each."""
USUAL = ("job.succeeded", "job.failed", "job.cancelled")
"""The events of a webhook that names none."""
USUAL_OF_BATCH = ("batch.ended",)
"""And one that is for a batch."""
USUAL_OF_SEARCH = ("search.ended",)
"""And one that is for a search."""
USUAL_OF_SCHEDULE = ("schedule.ended", "schedule.missed", "schedule.refused")
"""And one that is for a schedule."""
ROTATION_SECONDS = 86_400.0
"""For so long an old secret signs beside the new one."""
MOST_OLD_SECRETS = 3
LEASE_SECONDS = 60.0
"""For so long a message belongs to who claimed it; sending takes a quarter of that at most."""
RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The waits after failed attempts, those of the specification: ten attempts in a bit more than three days."""
JITTER = 0.2
"""A wait is lengthened at random by up to this part."""
MAX_QUIET_SECONDS = 600.0
"""A receiver that failed is left alone for 5 s, doubled each time to this."""
MAX_RETRY_AFTER_SECONDS = 86_400.0
KEPT_SECONDS = 30 * 86_400.0
"""Messages are forgotten when they are older."""
SPENT_SECONDS = 7 * 86_400.0
"""A webhook for one job, batch, search or schedule that has ended or was deleted is deleted after so long without an
event."""
GONE = 410


@dataclass(frozen=True)
class Message:
    """A message that was claimed, and what it takes to send it."""

    id: str
    attempt: int
    event: str
    webhook_id: str
    url: str
    secrets: Sequence[str] = field(repr=False)
    """Each signs: the present one, and those before it for a while."""
    body: bytes


# Clients. They say whose webhooks they mean.


def create(
    session: Session,
    url: str,
    *,
    events: Collection[str] | None = None,
    only: str | None = None,
    tags: Mapping[str, str] | None = None,
    tenant: str,
) -> Webhook:
    """Create a webhook for `events` (None: the usual ones); `only` is the id of the job, batch, search or schedule
    that it is for.

    That its URL may be sent to is for the caller to check, outside of a transaction.

    Raises:
        TenantNotFound: there is no such tenant.
        Invalid: `only` is no such id, or one that some of the events never happen to.
        JobNotFound, BatchNotFound, SearchNotFound, ScheduleNotFound: what it is for is not there, or another tenant's.
        Conflict: that has ended: nothing more would be told.
        QuotaExceeded: the tenant has as many webhooks as it may.
    """
    tenants.get(session, tenant)
    db.lock(session, f"webhooks.{tenant}")
    _check_room(session, tenant, only)
    wanted = events or USUAL
    if only is not None:
        wanted = _wanted_of(session, only, events, tenant)
    insert = sa.insert(Webhook).values(
        id=new_id("wh"),
        tenant=tenant,
        url=url,
        events=[event for event in news.EVENTS if event in wanted],
        only=only,
        tags=dict(tags or {}),
        secret=new_secret(),
        created_at=now(),
        failures=0,
        quiet_until=0.0,
    )
    return session.scalars(insert.returning(Webhook)).one()


def _check_room(session: Session, tenant: str, only: str | None) -> None:
    alike = Webhook.only.is_(None) if only is None else Webhook.only.is_not(None)
    there = session.scalar(select(func.count()).where(Webhook.tenant == tenant, alike)) or 0
    most, what = (MOST, "") if only is None else (MOST_ONLY, " for one job, batch, search or schedule")
    if there >= most:
        raise QuotaExceeded(f"The tenant {tenant} has {there} webhooks{what} and may have {most}: delete one first.")


def _wanted_of(session: Session, only: str, events: Collection[str] | None, tenant: str) -> Collection[str]:
    """The events of a webhook for `only` (default: the usual ones). Locks its row, so that no end is missed."""
    if only.startswith("job_"):
        status = session.scalar(
            select(Job.status).where(Job.id == clean(only, 100), Job.tenant == tenant).with_for_update(read=True)
        )
        if status is None:
            raise JobNotFound(f"There is no job {clean(only, 100)}.")
        if status in TERMINAL:
            raise Conflict(f"The job {only} has ended ({status}), so there is nothing more to be told of it.")
        return _checked(events or USUAL, ("job",), "a job")
    if only.startswith("batch_"):
        query = select(Batch).where(Batch.id == clean(only, 100), Batch.tenant == tenant).with_for_update(read=True)
        batch = session.scalar(query, execution_options={"populate_existing": True})
        if batch is None:
            raise BatchNotFound(f"There is no batch {clean(only, 100)}.")
        if batch.ended_at is not None:
            raise Conflict(f"The batch {only} has ended, so there is nothing more to be told of it.")
        return _checked(events or USUAL_OF_BATCH, ("job", "batch"), "a batch")
    if only.startswith("search_"):
        mine = select(Search).where(Search.id == clean(only, 100), Search.tenant == tenant).with_for_update(read=True)
        search = session.scalar(mine, execution_options={"populate_existing": True})
        if search is None:
            raise SearchNotFound(f"There is no search {clean(only, 100)}.")
        if search.ended_at is not None:
            raise Conflict(f"The search {only} has ended, so there is nothing more to be told of it.")
        return _checked(events or USUAL_OF_SEARCH, ("job", "search"), "a search")
    if only.startswith("sch_"):
        known = select(Schedule.id).where(Schedule.id == clean(only, 100), Schedule.tenant == tenant)
        if session.scalar(known.with_for_update(read=True)) is None:
            raise ScheduleNotFound(f"There is no schedule {clean(only, 100)}.")
        return _checked(events or USUAL_OF_SCHEDULE, ("job", "batch", "schedule"), "a schedule")
    detail = "must be the id of a job, batch, search or schedule: `job_...`, `batch_...`, `search_...` or `sch_...`"
    raise Invalid(
        "A webhook can be for one job, batch, search or schedule only, or for all.", [Problem("/only", detail)]
    )


def _checked(events: Collection[str], nouns: Collection[str], what: str) -> Collection[str]:
    problems = [
        Problem(f"/events/{index}", f"{event} never happens to {what}: leave it out, or make a webhook without `only`")
        for index, event in enumerate(events)
        if event.partition(".")[0] not in nouns
    ]
    if problems:
        raise Invalid("This webhook would wait for something that cannot happen.", problems)
    return events


def get(session: Session, webhook_id: str, *, tenant: str, lock: bool = False) -> Webhook:
    """The webhook; with `lock` held to the end of the transaction.

    Raises:
        WebhookNotFound: there is none, or it is another tenant's.
    """
    found = session.get(Webhook, clean(webhook_id, 100), populate_existing=True, with_for_update=lock or None)
    if found is None or found.tenant != tenant:
        raise WebhookNotFound(f"There is no webhook {clean(webhook_id, 100)}.")
    return found


def delete(session: Session, webhook_id: str, *, tenant: str) -> None:
    """Delete a webhook, its unsent messages and its log.

    Raises:
        WebhookNotFound: there is none, or it is another tenant's.
    """
    found = get(session, webhook_id, tenant=tenant)
    # In this order, which is that of `record`: two that lock in different orders could wait for each other.
    session.execute(sa.delete(Delivery).where(Delivery.webhook_id == found.id))
    session.execute(sa.delete(Webhook).where(Webhook.id == found.id))


def rotate(session: Session, webhook_id: str, *, tenant: str) -> Webhook:
    """Give a webhook a new secret. Those before it sign as well for a day, so that its receiver can change over.

    Raises:
        WebhookNotFound: there is none, or it is another tenant's.
    """
    found = get(session, webhook_id, tenant=tenant, lock=True)
    at = session.scalar(select(now())) or 0.0
    old = [{"secret": found.secret, "until": at + ROTATION_SECONDS}, *_signing(found, at)][:MOST_OLD_SECRETS]
    session.execute(_write(Webhook, found.id, {"secret": new_secret(), "old_secrets": old}))
    session.refresh(found)
    return found


def deliveries(
    session: Session, webhook_id: str, *, tenant: str, limit: int = 20, after: str | None = None
) -> tuple[Sequence[Delivery], bool]:
    """The messages of a webhook older than `after`, newest first, and whether there are more.

    Raises:
        WebhookNotFound: there is none, or it is another tenant's.
    """
    found = get(session, webhook_id, tenant=tenant)
    query = select(Delivery).where(Delivery.webhook_id == found.id)
    return paging.newest(session, query, Delivery.id, after=after, limit=limit)


def get_delivery(session: Session, webhook_id: str, delivery_id: str, *, tenant: str) -> Delivery:
    """One message of a webhook.

    Raises:
        WebhookNotFound: there is no such webhook, or it is another tenant's.
        DeliveryNotFound: it has no such message.
    """
    found = get(session, webhook_id, tenant=tenant)
    row = session.get(Delivery, clean(delivery_id, 100), populate_existing=True)
    if row is None or row.webhook_id != found.id:
        raise DeliveryNotFound(f"The webhook {found.id} has no delivery {clean(delivery_id, 100)}.")
    return row


def redeliver(session: Session, webhook_id: str, delivery_id: str, *, tenant: str) -> Delivery:
    """Have a message sent again at once, with the id it has always had, whether it had arrived or not.

    Raises:
        WebhookNotFound: there is no such webhook, or it is another tenant's.
        DeliveryNotFound: it has no such message.
        Conflict: the webhook is disabled.
    """
    found = get(session, webhook_id, tenant=tenant)
    if found.disabled_at is not None:
        raise Conflict(f"The webhook {found.id} is disabled; a test that succeeds enables it.")
    delivery = get_delivery(session, found.id, delivery_id, tenant=tenant)
    session.execute(_write(Delivery, delivery.id, {"next_at": now(), "delivered_at": None, "given_up_at": None}))
    session.execute(_write(Webhook, found.id, {"quiet_until": 0.0}))
    session.refresh(delivery)
    return delivery


def begin_test(session: Session, webhook_id: str, *, tenant: str) -> Message:
    """A test message, claimed by the caller, who sends it and records the result.

    Raises:
        WebhookNotFound: there is no such webhook, or it is another tenant's.
    """
    found = get(session, webhook_id, tenant=tenant)
    at = session.scalar(select(now())) or 0.0
    row = news.row(found, news.TEST, None, news.payload(news.TEST, at, {"webhook": found.id}))
    session.execute(sa.insert(Delivery).values(**row, attempts=1, attempted_at=now(), next_at=now() + LEASE_SECONDS))
    return _message(session, found, row["id"], 1, news.TEST, row["payload"])


# The outbox


def any_due(session: Session) -> bool:
    """Whether `claim` may find something: a look that takes no lock."""
    return bool(session.scalar(select(_due().exists())))


def claim(session: Session, *, without: Collection[str] = ()) -> Message | None:
    """Take the message that is due for longest, of a webhook that is not among `without`; None when there is none.

    Of a receiver that has failed one message at a time is tried, by all senders together, until one arrives.
    """
    oldest = _due().where(Webhook.id.not_in(without)).order_by(Delivery.next_at).limit(1)
    row = session.execute(oldest.with_for_update(skip_locked=True, of=Delivery)).one_or_none()
    if row is None:
        return None
    delivery, webhook = row
    values = {"attempts": delivery.attempts + 1, "attempted_at": now(), "next_at": now() + LEASE_SECONDS}
    session.execute(_write(Delivery, delivery.id, values))
    if webhook.failures:
        session.execute(_write(Webhook, webhook.id, {"quiet_until": now() + LEASE_SECONDS}))
    return _message(session, webhook, delivery.id, delivery.attempts + 1, delivery.event, delivery.payload)


def record(session: Session, message: Message, outcome: SendResult) -> None:
    """Record the result of an attempt. A failure counts only if no other sender has claimed the message since."""
    answered = {"last_status": outcome.status, "last_error": outcome.error, "last_answer": outcome.answer or None}
    if outcome.delivered:
        arrived = {"delivered_at": now(), "given_up_at": None, "next_at": None}
        session.execute(_write(Delivery, message.id, {**answered, **arrived}))
        metrics.after_commit(session, metrics.DELIVERIES.inc, outcome="delivered")
        alive = {"delivered_at": now(), "failures": 0, "quiet_until": 0.0}
        enabled = {"disabled_at": None, "disabled_reason": None} if message.event == news.TEST else {}
        session.execute(_write(Webhook, message.webhook_id, {**alive, **enabled}))
        return
    again = _wait_seconds(message, outcome)
    values = {"next_at": None, "given_up_at": now()} if again is None else {"next_at": now() + again}
    failed = _write(Delivery, message.id, {**answered, **values}).where(Delivery.attempts == message.attempt)
    if not rowcount(session.execute(failed)):
        return
    given_up = again is None and message.event != news.TEST
    metrics.after_commit(session, metrics.DELIVERIES.inc, outcome="given_up" if given_up else "failed")
    webhook = session.get(Webhook, message.webhook_id, populate_existing=True)
    if webhook is None:  # deleted meanwhile
        return
    quiet = max(min(RETRY_SECONDS[0] * 2**webhook.failures, MAX_QUIET_SECONDS), _requested_seconds(outcome))
    session.execute(_write(Webhook, webhook.id, {"failures": Webhook.failures + 1, "quiet_until": now() + quiet}))
    if outcome.status == GONE:
        _disable(session, webhook, "The receiver answered 410: it is gone, and wants no more messages.")
    elif given_up:
        _disable_if_dead(session, webhook, message)


@dataclass(frozen=True)
class Backlog:
    """What is to be sent, and by whose webhooks; for the metrics."""

    enabled: int
    disabled: int
    waiting: int
    """Messages of enabled webhooks that have neither arrived nor been given up."""
    oldest_seconds: float
    """For how long the one that waits longest for a sender could have been sent; 0.0 without one."""


def backlog(session: Session) -> Backlog:
    """Count. Messages that have arrived or were given up are not looked at."""
    total, disabled = session.execute(select(func.count(), func.count(Webhook.disabled_at)).select_from(Webhook)).one()
    sent = select(func.count()).select_from(Delivery).join(Webhook, Webhook.id == Delivery.webhook_id)
    waiting = session.scalar(sent.where(Delivery.next_at.is_not(None), Webhook.disabled_at.is_(None))) or 0
    since = sa.case((Delivery.next_at > Webhook.quiet_until, Delivery.next_at), else_=Webhook.quiet_until)
    oldest = session.scalar(_due().with_only_columns(func.max(now() - since))) or 0.0
    return Backlog(total - disabled, disabled, waiting, oldest)


def forget_old(session: Session, limit: int) -> int:
    """Forget messages older than 30 days, at most `limit`. Returns how many."""
    old = select(Delivery.id).where(Delivery.created_at < now() - KEPT_SECONDS).limit(limit)
    return rowcount(session.execute(sa.delete(Delivery).where(Delivery.id.in_(old))))


def forget_spent(session: Session) -> int:
    """Forget webhooks for one thing that has ended or was deleted, a week after their last message, and old
    secrets that sign no more. Returns how many webhooks."""
    going_on = sa.union_all(
        select(Job.id).where(Job.id == Webhook.only, Job.status.not_in(TERMINAL)),
        select(Batch.id).where(Batch.id == Webhook.only, Batch.ended_at.is_(None)),
        select(Search.id).where(Search.id == Webhook.only, Search.ended_at.is_(None)),
        select(Schedule.id).where(Schedule.id == Webhook.only),
    )
    lately = now() - SPENT_SECONDS
    waits = sa.or_(Delivery.next_at.is_not(None), Delivery.created_at > lately)
    pending = select(Delivery.id).where(Delivery.webhook_id == Webhook.id, waits)
    spent = (Webhook.only.is_not(None), Webhook.created_at < lately, ~sa.exists(going_on), ~pending.exists())
    ids = session.scalars(select(Webhook.id).where(*spent).order_by(Webhook.id)).all()
    if ids:
        session.execute(sa.delete(Delivery).where(Delivery.webhook_id.in_(ids)))
        session.execute(sa.delete(Webhook).where(Webhook.id.in_(ids)))
    at = session.scalar(select(now())) or 0.0
    rotated = select(Webhook).where(Webhook.old_secrets.is_not(None)).order_by(Webhook.id).with_for_update()
    for webhook in session.scalars(rotated, execution_options={"populate_existing": True}):
        webhook.old_secrets = [*_signing(webhook, at)] or None
    session.flush()
    return len(ids)


def _due() -> sa.Select[Delivery, Webhook]:
    awake = (Webhook.disabled_at.is_(None), Webhook.quiet_until <= now())
    joined = select(Delivery, Webhook).join(Webhook, Webhook.id == Delivery.webhook_id)
    return joined.where(Delivery.next_at <= now(), *awake)


def _wait_seconds(message: Message, outcome: SendResult) -> float | None:
    """Seconds until the next attempt; None when there is none."""
    if outcome.status == GONE or message.event == news.TEST or message.attempt > len(RETRY_SECONDS):
        return None
    wait = RETRY_SECONDS[message.attempt - 1] * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311
    return max(wait, _requested_seconds(outcome))


def _requested_seconds(outcome: SendResult) -> float:
    return min(outcome.retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)


def _disable_if_dead(session: Session, webhook: Webhook, message: Message) -> None:
    """Give a webhook up with a message, unless others have arrived since: then that one is what it does not take."""
    created = session.scalar(select(Delivery.created_at).where(Delivery.id == message.id))
    if created is not None and (webhook.delivered_at or 0.0) < created:
        why = f"No message arrived since the first attempt at {message.id}, which was given up after {message.attempt}."
        _disable(session, webhook, why)


def _disable(session: Session, webhook: Webhook, reason: str) -> None:
    values = {"disabled_at": now(), "disabled_reason": f"{reason} A test that succeeds enables the webhook again."}
    session.execute(_write(Webhook, webhook.id, values))


def _write(table: type[Delivery] | type[Webhook], row_id: str, values: Mapping[str, Any]) -> sa.Update:
    return update(table).where(table.id == row_id).values(values).execution_options(synchronize_session=False)


def _message(session: Session, webhook: Webhook, message_id: str, attempt: int, event: str, payload: str) -> Message:
    old = _signing(webhook, session.scalar(select(now())) or 0.0) if webhook.old_secrets else []
    secrets = [webhook.secret, *(one["secret"] for one in old)]
    return Message(message_id, attempt, event, webhook.id, webhook.url, secrets, payload.encode())


def _signing(webhook: Webhook, at: float) -> Sequence[dict[str, Any]]:
    """Its old secrets whose time is not over."""
    return [one for one in webhook.old_secrets or () if one["until"] > at]


def page(session: Session, *, tenant: str, limit: int = 20, after: str | None = None) -> tuple[Sequence[Webhook], bool]:
    """Webhooks older than `after`, newest first, and whether there are more; disabled ones too."""
    query = select(Webhook).where(Webhook.tenant == tenant)
    return paging.newest(session, query, Webhook.id, after=after, limit=limit)
