"""Messages on their way to a real receiver, from real schedulers: signed, tried again, never lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from services import db
from services.jobs import batches
from services.orm import Delivery, Job, Webhook
from services.settings import Settings, networks
from services.webhooks import posting, subscriptions
from services.webhooks.addresses import Guard
from services.webhooks.posting import SendResult
from tests.receiving import Receiver, receiving, status
from tests.worker.watching import Process
from worker.scheduler import outbox

MakeJob = Callable[..., Job]
LOOPBACK = "127.0.0.0/8"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def sender(settings: Settings, engine: Engine) -> Iterator[outbox.Outbox]:
    """Sends when it is told to, and may reach this machine."""
    made = outbox.Outbox(settings.model_copy(update={"webhook_allow": LOOPBACK}), engine)
    yield made
    assert made.drain(20)


def hook(engine: Engine, url: str, event: str = "job.queued") -> Webhook:
    with db.session_scope(engine) as session:
        return subscriptions.create(session, url, events=[event], tenant="default")


@pytest.fixture
def ended(engine: Engine) -> str:
    """A batch all of whose jobs have ended, which nobody has noticed."""
    spec = {
        "architecture": {"cell": "gru", "hidden_size": 4},
        "training": {"loss": "cross_entropy"},
        "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
    }
    with db.session_scope(engine) as session:
        batch = batches.submit(session, {"name": "nightly", "jobs": [spec, spec]}).batch
        batches.cancel(session, batch.id)
        return batch.id


def hurry(engine: Engine) -> None:
    """What waits to be sent again is due now, as after hours."""
    with db.session_scope(engine) as session:
        session.execute(sa.update(Delivery).where(Delivery.next_at.is_not(None)).values(next_at=0.0))
        session.execute(sa.update(Webhook).values(quiet_until=0.0))


def settled(engine: Engine, attempts: int) -> Delivery:
    """The only message, once so many attempts at it were made and written down."""
    deadline = time.monotonic() + 20
    while True:
        with db.read_scope(engine) as session:
            row = session.scalars(sa.select(Delivery)).one()
        if row.attempts == attempts and (row.delivered_at or row.given_up_at or (attempts == 1 and row.last_error)):
            return row
        assert time.monotonic() < deadline, (row.attempts, row.last_error)
        time.sleep(0.02)


def sent(engine: Engine, receiver: Receiver) -> SendResult:
    """What comes of posting to the receiver."""
    return posting.post(Guard(networks(LOOPBACK)), receiver.url, [posting.new_secret()], "msg_1", b"{}")


def test_a_receiver_that_fails_at_first_gets_the_same_message_again_with_a_valid_signature(
    engine: Engine, make_job: MakeJob, receiver: Receiver, sender: outbox.Outbox
) -> None:
    webhook, job = hook(engine, receiver.url), make_job()
    receiver.replies = [status(500, b"not now"), status(204)]
    assert sender.send_one()
    failed = settled(engine, 1)
    assert (failed.last_status, failed.last_answer, failed.delivered_at) == (500, "not now", None)
    assert not sender.send_one()  # it waits
    hurry(engine)
    assert sender.send_one()
    arrived = settled(engine, 2)
    first, second = receiver.until(2)
    for request in (first, second):
        payload = Verifier(webhook.secret).verify(request.body, request.headers)
        assert (payload["type"], payload["data"]["id"]) == ("job.queued", job.id)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == arrived.id
    assert (first.body, first.path) == (second.body, "/hook")
    assert first.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_a_receiver_that_fails_at_first_is_told_of_the_end_of_a_batch_once(
    engine: Engine, ended: str, receiver: Receiver, sender: outbox.Outbox
) -> None:
    webhook = hook(engine, receiver.url, "batch.ended")
    receiver.replies = [status(500), status(204)]
    for _ in range(2):  # as two schedulers
        with db.session_scope(engine) as session:
            batches.end(session, ended)
    assert sender.send_one()
    settled(engine, 1)
    hurry(engine)
    assert sender.send_one()
    arrived = settled(engine, 2)
    for request in receiver.until(2):
        payload = Verifier(webhook.secret).verify(request.body, request.headers)
        assert (request.headers["webhook-id"], payload["type"]) == (arrived.id, "batch.ended")
        assert (payload["data"]["id"], payload["data"]["counts"]["cancelled"]) == (ended, 2)
    assert not sender.send_one()


def test_both_secrets_verify_while_a_receiver_changes_over(
    engine: Engine, make_job: MakeJob, receiver: Receiver, sender: outbox.Outbox
) -> None:
    webhook = hook(engine, receiver.url)
    with db.session_scope(engine) as session:
        rotated = subscriptions.rotate(session, webhook.id, tenant="default").secret
    make_job()
    assert sender.send_one()
    [request] = receiver.until(1)
    assert rotated != webhook.secret
    for secret in (rotated, webhook.secret):
        assert Verifier(secret).verify(request.body, request.headers)["type"] == "job.queued"
    with pytest.raises(WebhookVerificationError):
        Verifier(posting.new_secret()).verify(request.body, request.headers)
    assert request.headers["webhook-signature"].count("v1,") == 2


def test_a_redirect_is_a_failure_and_is_not_followed(engine: Engine, receiver: Receiver) -> None:
    receiver.replies = [status(307, Location=f"http://127.0.0.1:{receiver.port}/elsewhere")]
    outcome = sent(engine, receiver)
    assert outcome.status == 307
    assert "redirects are not followed" in (outcome.error or "")
    assert [request.path for request in receiver.received] == ["/hook"]


def test_a_receiver_that_hangs_or_never_ends_its_answer_is_left_in_time(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "TOTAL_SECONDS", 0.5)
    for reply in (receiver.hang, receiver.drip):
        receiver.replies = [reply]
        began = time.monotonic()
        assert "did not answer in time" in (sent(engine, receiver).error or "")
        assert time.monotonic() - began < 5
    receiver.replies = [receiver.flood]  # it has said 200, which is what counts
    outcome = sent(engine, receiver)
    assert (outcome.status, outcome.error, len(outcome.answer)) == (200, None, posting.KEPT + 1)


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xffgarbage\r\n\r\n")


def test_what_is_no_http_and_what_asks_for_time_is_understood(engine: Engine, receiver: Receiver) -> None:
    receiver.replies = [garbage]
    assert "could not be asked" in (sent(engine, receiver).error or "")
    receiver.replies = [status(429, Retry_After="7")]
    assert sent(engine, receiver).retry_after == 7.0
    receiver.replies = [status(503, Retry_After="tomorrow")]
    assert sent(engine, receiver).retry_after is None


def test_a_receiver_that_is_gone_is_disabled(
    engine: Engine, make_job: MakeJob, receiver: Receiver, sender: outbox.Outbox
) -> None:
    webhook = hook(engine, receiver.url)
    make_job()
    receiver.replies = [status(410)]
    assert sender.send_one()
    assert settled(engine, 1).given_up_at is not None
    with db.read_scope(engine) as session:
        assert subscriptions.get(session, webhook.id, tenant="default").disabled_at is not None
    hurry(engine)
    assert not sender.send_one()


def test_a_receiver_that_hangs_holds_up_no_other(
    engine: Engine, make_job: MakeJob, receiver: Receiver, sender: outbox.Outbox
) -> None:
    receiver.replies = [receiver.hang]
    for _ in range(2):
        hook(engine, receiver.url)
    with receiving() as other:
        for _ in range(outbox.MOST):
            make_job()
        hook(engine, other.url)
        job = make_job()
        while sender.send_one():
            pass
        [request] = other.until(1)
        assert json.loads(request.body)["data"]["id"] == job.id
        assert len(receiver.received) <= 2 * outbox.MOST_EACH
        receiver.ending.set()


@pytest.mark.parametrize("point", ["webhook.claimed", "webhook.sent"])
def test_a_scheduler_that_dies_between_claim_and_record_loses_no_message(
    engine: Engine,
    make_job: MakeJob,
    receiver: Receiver,
    start: Callable[..., Process],
    point: str,
) -> None:
    webhook = hook(engine, receiver.url)
    make_job()
    dying = start("tests.worker.dying_scheduler", point, webhook_allow=LOOPBACK)
    assert dying.popen.wait(60) == -9
    before = 0 if point == "webhook.claimed" else 1
    assert len(receiver.received) == before
    with db.read_scope(engine) as session:
        row = session.scalars(sa.select(Delivery)).one()
    assert (row.attempts, row.delivered_at) == (1, None)
    hurry(engine)  # the lease is over
    start("worker.scheduler", webhook_allow=LOOPBACK)
    request = receiver.until(before + 1, 60)
    assert {one.headers["webhook-id"] for one in request} == {row.id}
    for one in request:
        Verifier(webhook.secret).verify(one.body, one.headers)


@pytest.mark.parametrize("point", ["batch.ended", "batch.committed"])
def test_a_scheduler_that_dies_as_a_batch_ends_tells_it_once(
    engine: Engine, ended: str, receiver: Receiver, start: Callable[..., Process], point: str
) -> None:
    webhook = hook(engine, receiver.url, "batch.ended")
    dying = start("tests.worker.dying_scheduler", point, webhook_allow=LOOPBACK)
    assert dying.popen.wait(60) == -9
    for _ in range(2):
        start("worker.scheduler", webhook_allow=LOOPBACK)
    hurry(engine)  # what the dead one may have begun to send
    request = receiver.until(1, 60)
    deadline = time.monotonic() + 20
    while not (row := only_message(engine)).delivered_at:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {one.headers["webhook-id"] for one in request} == {row.id}
    assert Verifier(webhook.secret).verify(request[0].body, request[0].headers)["data"]["id"] == ended


def only_message(engine: Engine) -> Delivery:
    with db.read_scope(engine) as session:
        return session.scalars(sa.select(Delivery)).one()
