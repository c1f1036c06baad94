"""The outbox: what is written with each move, who may send it when, and what comes of attempts."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.access import tenants
from services.errors import Conflict, DeliveryNotFound, QuotaExceeded, WebhookNotFound
from services.jobs import attempts, control
from services.jobs.leases import Lease
from services.orm import Delivery, Job, Webhook
from services.webhooks import subscriptions
from services.webhooks.news import OF_STATUS
from services.webhooks.posting import SendResult
from services.webhooks.subscriptions import Message

MakeJob = Callable[..., Job]
ALL = tuple(OF_STATUS.values())
ARRIVED = SendResult(204, None)
FAILED = SendResult(500, "The receiver answered 500.", "oh no")


def hook(engine: Engine, *, events: Any = ALL, tags: Any = None, tenant: str = "default") -> Webhook:
    with db.session_scope(engine) as session:
        return subscriptions.create(session, "https://example.com/", events=events, tags=tags, tenant=tenant)


def outbox(engine: Engine) -> list[Delivery]:
    with db.read_scope(engine) as session:
        return [*session.scalars(sa.select(Delivery).order_by(Delivery.id))]


def messages(engine: Engine) -> list[str]:
    return [row.event for row in outbox(engine)]


def claim(engine: Engine, **given: Any) -> Message | None:
    with db.session_scope(engine) as session:
        return subscriptions.claim(session, **given)


def attempt(engine: Engine, outcome: SendResult) -> Message:
    """Claim what waits, whenever it is due, and record what came of it."""
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).where(Delivery.next_at.is_not(None)).values(next_at=0.0))
        session.execute(sa.update(Webhook).values(quiet_until=0.0))
        message = subscriptions.claim(session)
        assert message is not None
    with db.session_scope(engine) as session:
        subscriptions.record(session, message, outcome)
    return message


def look(engine: Engine, webhook: Webhook) -> Webhook:
    with db.read_scope(engine) as session:
        return subscriptions.get(session, webhook.id, tenant=webhook.tenant)


def test_every_move_is_told_once_in_its_own_transaction(engine: Engine, make_job: MakeJob) -> None:
    webhook = hook(engine)
    job = make_job(name="speakers", tags={"team": "speech"})
    with db.session_scope(engine) as session:
        claimed = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
        assert claimed is not None
    with db.session_scope(engine) as session:
        attempts.fail(session, Lease.of(claimed), "trainer_crashed", "It fell.", retry=False)
    queued, started, failed = outbox(engine)
    assert [one.event for one in (queued, started, failed)] == ["job.queued", "job.started", "job.failed"]
    assert {(one.webhook_id, one.job_id, one.attempts) for one in (queued, started, failed)} == {
        (webhook.id, job.id, 0)
    }
    payload = json.loads(failed.payload)
    assert (payload["type"], payload["timestamp"][-1]) == ("job.failed", "Z")
    data = payload["data"]
    assert (data["id"], data["name"], data["status"], data["reason"]) == (
        job.id,
        "speakers",
        "failed",
        "trainer_crashed",
    )
    assert (data["attempt"], data["tags"], data["links"]) == (1, {"team": "speech"}, {"self": f"/v1/jobs/{job.id}"})
    assert data["finished_at"] <= payload["timestamp"]


def test_a_move_that_is_rolled_back_is_not_told(engine: Engine, make_job: MakeJob) -> None:
    hook(engine, events=["job.cancelled"])
    job = make_job()

    def cancel_in_vain() -> None:
        with db.session_scope(engine) as session:
            control.cancel(session, job.id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cancel_in_vain()
    assert messages(engine) == []
    with db.session_scope(engine) as session:
        control.cancel(session, job.id)
    assert messages(engine) == ["job.cancelled"]
    with db.session_scope(engine) as session:
        control.delete(session, job.id)
    assert messages(engine) == ["job.cancelled"]  # of a job that is deleted too


def test_a_webhook_hears_what_it_asked_for_of_its_own_tenant(engine: Engine, make_job: MakeJob) -> None:
    with db.session_scope(engine) as session:
        tenants.create(session, "acme")
    hook(engine, tenant="acme")
    hook(engine, events=["job.paused"], tags={"team": "speech"})
    hook(engine, events=["job.succeeded"])
    for tags in ({"team": "vision"}, {"team": "speech", "notify": "me"}):
        job = make_job(tags=tags)
        with db.session_scope(engine) as session:
            control.pause(session, job.id)
    assert [(row.event, row.job_id) for row in outbox(engine)] == [("job.paused", job.id)]


def test_of_many_senders_at_once_one_gets_a_message(engine: Engine, make_job: MakeJob) -> None:
    hook(engine, events=["job.queued"])
    make_job()
    with ThreadPoolExecutor(8) as pool:
        got = [message for message in pool.map(lambda _: claim(engine), range(8)) if message is not None]
    assert len(got) == 1
    [row] = outbox(engine)
    assert (row.id, row.attempts, row.payload.encode()) == (got[0].id, 1, got[0].body)


def test_a_message_whose_sender_fell_silent_is_sent_by_another_under_the_same_id(
    engine: Engine, make_job: MakeJob
) -> None:
    hook(engine, events=["job.queued"])
    make_job()
    first = claim(engine)
    assert first is not None
    assert claim(engine) is None
    with db.session_scope(engine) as session:  # a minute later
        session.execute(sa.update(Delivery).values(next_at=Delivery.next_at - subscriptions.LEASE_SECONDS))
    second = claim(engine)
    assert second is not None
    assert (second.id, second.attempt, second.body) == (first.id, 2, first.body)
    with db.session_scope(engine) as session:  # the first one was only slow, and failed: that counts no more
        subscriptions.record(session, first, FAILED)
    assert outbox(engine)[0].last_status is None
    with db.session_scope(engine) as session:
        subscriptions.record(session, second, ARRIVED)
    assert claim(engine) is None
    [row] = outbox(engine)
    assert (row.next_at, row.last_status, row.delivered_at is not None) == (None, 204, True)


def test_failures_are_tried_again_for_three_days_and_then_the_webhook_is_disabled(
    engine: Engine, make_job: MakeJob
) -> None:
    webhook = hook(engine, events=["job.queued"])
    make_job()
    waits = []
    for _ in subscriptions.RETRY_SECONDS:
        attempt(engine, FAILED)
        with db.read_scope(engine) as session:
            waits.append(session.scalar(sa.select(Delivery.next_at - db.now())) or 0.0)
    for wait, least in zip(waits, subscriptions.RETRY_SECONDS, strict=True):
        assert least - 2 < wait <= least * 1.2
    assert 3 < sum(subscriptions.RETRY_SECONDS) / 86_400 < 4
    assert look(engine, webhook).disabled_at is None
    message = attempt(engine, FAILED)
    [row] = outbox(engine)
    assert (message.attempt, row.next_at, row.last_error, row.last_answer) == (10, None, FAILED.error, "oh no")
    assert row.given_up_at is not None
    assert "given up after 10" in (look(engine, webhook).disabled_reason or "")
    make_job()
    assert len(outbox(engine)) == 1  # nothing is written for one that is disabled


def test_a_receiver_that_takes_other_messages_is_not_disabled(engine: Engine, make_job: MakeJob) -> None:
    webhook = hook(engine, events=["job.queued"])
    make_job()
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).values(attempts=9))
        session.execute(sa.update(Webhook).values(delivered_at=db.now() + 1))
    attempt(engine, FAILED)
    assert outbox(engine)[0].given_up_at is not None
    assert look(engine, webhook).disabled_at is None


def test_a_receiver_that_is_gone_is_told_nothing_more_until_a_test_succeeds(engine: Engine, make_job: MakeJob) -> None:
    webhook = hook(engine, events=["job.queued"])
    make_job()
    make_job()
    attempt(engine, SendResult(410, "The receiver answered 410."))
    assert "410" in (look(engine, webhook).disabled_reason or "")
    assert claim(engine) is None
    with pytest.raises(Conflict, match="a test that succeeds enables it"), db.session_scope(engine) as session:
        subscriptions.redeliver(session, webhook.id, outbox(engine)[0].id, tenant="default")
    with db.session_scope(engine) as session:
        trial = subscriptions.begin_test(session, webhook.id, tenant="default")
    with db.session_scope(engine) as session:
        subscriptions.record(session, trial, ARRIVED)
    assert look(engine, webhook).disabled_at is None
    waiting = claim(engine)  # what waited goes on
    assert waiting is not None
    assert waiting.event == "job.queued"


def test_a_receiver_that_fails_is_left_alone_for_a_while_and_tried_with_one_message(
    engine: Engine, make_job: MakeJob
) -> None:
    webhook = hook(engine, events=["job.queued"])
    make_job()
    make_job()
    attempt(engine, SendResult(503, "The receiver answered 503.", retry_after=120.0))
    assert claim(engine) is None
    with db.read_scope(engine) as session:
        quiet = session.scalar(sa.select(Webhook.quiet_until - db.now())) or 0.0
        waits = session.scalar(sa.select(sa.func.max(Delivery.next_at) - db.now())) or 0.0
    assert 110 < quiet <= 120
    assert 110 < waits <= 120
    with db.session_scope(engine) as session:
        session.execute(sa.update(Webhook).values(quiet_until=0.0))
    assert claim(engine) is not None
    assert claim(engine) is None  # until that one has arrived
    assert look(engine, webhook).failures == 1


def test_one_webhook_that_is_busy_leaves_the_others_their_turn(engine: Engine, make_job: MakeJob) -> None:
    first, second = (hook(engine, events=["job.queued"]) for _ in range(2))
    make_job()
    message = claim(engine, without=[first.id])
    assert message is not None
    assert message.webhook_id == second.id
    assert claim(engine, without=[first.id]) is None


def test_a_message_is_sent_again_on_request_under_its_own_id(engine: Engine, make_job: MakeJob) -> None:
    webhook = hook(engine, events=["job.queued"])
    make_job()
    first = attempt(engine, ARRIVED)
    for unknown, error in (((webhook.id, "msg_1"), DeliveryNotFound), (("wh_1", first.id), WebhookNotFound)):
        with pytest.raises(error), db.session_scope(engine) as session:
            subscriptions.redeliver(session, *unknown, tenant="default")
    with db.session_scope(engine) as session:
        assert subscriptions.redeliver(session, webhook.id, first.id, tenant="default").delivered_at is None
    again = claim(engine)
    assert again is not None
    assert (again.id, again.attempt, again.body) == (first.id, 2, first.body)


def test_deleting_a_webhook_forgets_its_messages_and_old_ones_are_forgotten_anyway(
    engine: Engine, make_job: MakeJob
) -> None:
    kept, gone = hook(engine, events=["job.queued"]), hook(engine, events=["job.queued"])
    make_job()
    message = claim(engine, without=[kept.id])
    assert message is not None
    with db.session_scope(engine) as session:
        subscriptions.delete(session, gone.id, tenant="default")
    with db.session_scope(engine) as session:
        subscriptions.record(session, message, FAILED)  # it was under way
    assert [row.webhook_id for row in outbox(engine)] == [kept.id]
    with db.session_scope(engine) as session:
        assert subscriptions.forget_old(session, 10) == 0
        session.execute(sa.update(Delivery).values(created_at=db.now() - subscriptions.KEPT_SECONDS - 1))
        assert subscriptions.forget_old(session, 10) == 1


def test_a_tenant_has_twenty_webhooks_at_most(engine: Engine) -> None:
    for _ in range(subscriptions.MOST):
        hook(engine)
    with pytest.raises(QuotaExceeded, match="has 20 webhooks and may have 20"):
        hook(engine)
