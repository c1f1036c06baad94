"""Webhooks from the client's side, and the commands about them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopline import BadRequest, Client, NotFound
from loopline.cli import webhooks
from loopline.cli.app import app
from standardwebhooks.webhooks import Webhook as Verifier
from typer.testing import CliRunner, Result

from services.webhooks.news import EVENTS
from tests.client.conftest import Service
from tests.receiving import Receiver, receiving, status


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    """A service that may send to this machine."""
    running = Service(tmp_path / "service", sqlite_url, webhook_allow="127.0.0.1")
    yield running
    running.close()


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def test_webhooks_are_made_tested_looked_at_and_deleted(
    client: Client, receiver: Receiver, tiny: dict[str, Any]
) -> None:
    made = client.webhooks.create(receiver.url, events=["job.queued"], tags={"team": "speech"})
    assert made.secret is not None
    assert made.secret not in repr(made)
    assert (made.url, made.events, made.tags) == (receiver.url, ["job.queued"], {"team": "speech"})
    tested = client.webhooks.test(made.id)
    assert (tested.state, tested.event, tested.last_status) == ("delivered", "webhook.test", 204)
    assert Verifier(made.secret).verify(receiver.received[0].body, receiver.received[0].headers) == tested.payload
    assert client.webhooks.get(made.id).delivered_at is not None
    job = client.submit(tiny | {"tags": {"team": "speech"}})
    client.submit(tiny)
    told, first = client.webhooks.deliveries(made.id, page_size=1)
    assert (told.job_id, told.state, first.id) == (job.id, "pending", tested.id)
    assert client.webhooks.redeliver(made.id, tested.id).state == "pending"
    assert [one.id for one in client.webhooks.list()] == [made.id]
    client.webhooks.delete(made.id)
    with pytest.raises(NotFound):
        client.webhooks.test(made.id)
    with pytest.raises(BadRequest, match="is no public address"):
        client.webhooks.create("http://10.0.0.1/")


def test_a_webhook_for_one_batch_and_a_new_secret(
    client: Client, run: Callable[..., Result], receiver: Receiver, tiny: dict[str, Any]
) -> None:
    batch = client.batches.submit([tiny, tiny])
    done = run("webhooks", "create", receiver.url, "--only", batch.id)
    assert f"is told of batch.ended of {batch.id}. Its secret" in done.stderr
    [made] = client.webhooks.list()
    assert (made.only, made.events) == (batch.id, ["batch.ended"])
    assert batch.id in run("webhooks", "list").stdout
    done = run("webhooks", "rotate", made.id)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", done.stdout)
    assert "The one before signs too until" in done.stderr
    tested = client.webhooks.test(made.id)
    assert (
        Verifier(done.stdout.strip()).verify(receiver.received[0].body, receiver.received[0].headers) == tested.payload
    )
    shown = run("webhooks", "show", made.id).stdout
    assert "signs too until" in shown
    assert batch.id in shown
    assert client.webhooks.rotate(made.id).secret != done.stdout.strip()
    with pytest.raises(NotFound):
        client.webhooks.rotate("wh_1")
    assert run("webhooks", "create", receiver.url, "--only", "job_1").exit_code == 2


def test_the_events_of_the_help_are_those_of_the_service() -> None:
    assert [*webhooks.EVENTS] == [*EVENTS]


def test_the_commands_about_webhooks(run: Callable[..., Result], receiver: Receiver) -> None:
    assert run("webhooks", "list").stdout.startswith("No webhooks yet. Make one: loopline webhooks create")
    done = run("webhooks", "create", receiver.url, "--event", "job.failed", "--tag", "team:speech")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", done.stdout)
    [webhook_id] = re.findall(r"(wh_\w+) is told of job\.failed\. Its secret", done.stderr)
    assert run("webhooks", "deliveries", webhook_id).stdout.startswith("No messages yet.")

    receiver.replies = [status(404), status(204)]
    done = run("webhooks", "test", webhook_id)
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: msg_\w+ did not arrive\. The receiver answered 404\.\n", done.stderr)
    assert "failing (1)" in run("webhooks", "list").stdout
    done = run("webhooks", "test", webhook_id)
    assert (done.exit_code, "the receiver answered 204" in done.stdout) == (0, True)

    header, newest, _ = run("webhooks", "deliveries", webhook_id, "-n", "2").stdout.splitlines()
    assert header.split() == ["id", "event", "about", "created", "state", "attempts", "because"]
    assert newest.split()[1:2] == ["webhook.test"]
    [message] = json.loads(run("webhooks", "deliveries", webhook_id, "-n", "1", "--json").stdout)
    assert run("webhooks", "redeliver", webhook_id, message["id"]).stdout.startswith(message["id"])
    shown = run("webhooks", "show", webhook_id).stdout
    assert "team:speech" in shown
    assert "well" in shown
    assert "secret" not in json.loads(run("webhooks", "show", webhook_id, "--json").stdout)

    receiver.replies = [status(410)]
    assert run("webhooks", "test", webhook_id).exit_code == 1
    assert "The receiver answered 410" in run("webhooks", "show", webhook_id).stdout
    done = run("webhooks", "delete", webhook_id, "wh_1")
    assert (done.exit_code, done.stdout) == (2, f"Deleted {webhook_id}.\n")
    assert "There is no webhook wh_1." in done.stderr
    assert run("webhooks", "create", "https://1.1.1.1/", "--tag", "x").exit_code == 2
