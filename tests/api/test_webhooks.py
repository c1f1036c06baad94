"""/v1/webhooks: made, tested, looked at and deleted over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from standardwebhooks.webhooks import Webhook as Verifier

from services.settings import Settings
from services.upkeep.reconciler import reconcile
from tests.receiving import Receiver, receiving, status
from tests.ringing import FakeDoorbell


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def client(make_app: Callable[..., Flask], sqlite_url: str) -> FlaskClient:
    """Of a service that may send to this machine's IPv4 loopback."""
    return make_app(sqlite_url, webhook_allow="127.0.0.0/8").test_client()


def test_a_webhook_is_made_listed_shown_and_deleted_and_its_secret_is_told_once(
    client: FlaskClient, receiver: Receiver
) -> None:
    answer = client.post("/v1/webhooks", json={"url": receiver.url, "events": ["job.failed"], "tags": {"a": "b"}})
    assert answer.status_code == 201
    made = answer.get_json()
    assert made["secret"].startswith("whsec_")
    assert answer.headers["Cache-Control"] == "no-store"
    shown = {key: value for key, value in made.items() if key != "secret"}
    assert (shown["events"], shown["tags"], shown["disabled_at"]) == (["job.failed"], {"a": "b"}, None)
    assert client.get(f"/v1/webhooks/{made['id']}").get_json() == shown
    usual = client.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    assert usual["events"] == ["job.succeeded", "job.failed", "job.cancelled"]
    assert [one["id"] for one in client.get("/v1/webhooks").get_json()["data"]] == [usual["id"], made["id"]]
    assert client.delete(f"/v1/webhooks/{made['id']}").status_code == 204
    gone = client.delete(f"/v1/webhooks/{made['id']}")
    assert (gone.status_code, gone.get_json()["code"]) == (404, "webhook_not_found")
    done = {entry["action"] for entry in client.get("/v1/audit").get_json()["data"]}
    assert done == {"webhook.create", "webhook.delete"}


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "invalid", "/url"),
        ({"url": "ftp://example.com"}, "invalid", "/url"),
        ({"url": "http://10.0.0.1/"}, "address_refused", "/url"),
        ({"url": "http://[::1]/"}, "address_refused", "/url"),
        ({"url": "http://2130706433/"}, "address_refused", "/url"),
        ({"url": "https://1.1.1.1/", "events": []}, "invalid", "/events"),
        ({"url": "https://1.1.1.1/", "events": ["job.deleted"]}, "invalid", "/events/0"),
        ({"url": "https://1.1.1.1/", "secret": "mine"}, "invalid", "/secret"),
        ({"url": "https://1.1.1.1/", "only": "ds_1"}, "invalid", "/only"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_with_the_place(
    client: FlaskClient, body: dict[str, Any], code: str, pointer: str
) -> None:
    answer = client.post("/v1/webhooks", json=body)
    assert (answer.status_code, answer.get_json()["code"]) == (422, code)
    assert [one["pointer"] for one in answer.get_json()["errors"]] == [pointer]


def test_an_unknown_field_of_a_webhook_is_told_with_those_there_are(client: FlaskClient) -> None:
    answer = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/", "event": ["job.failed"], "tags": {"test": 1}})
    assert {one["pointer"]: one["detail"] for one in answer.get_json()["errors"]} == {
        "/event": "there is no such field; did you mean `events`? allowed here: events, only, tags, url",
        "/tags/test": "must be text; got 1",
    }


def test_a_test_says_what_came_of_it_and_stands_in_the_log(client: FlaskClient, receiver: Receiver) -> None:
    made = client.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    receiver.replies = [status(500, b"broken"), status(410), status(204)]
    outcomes = [client.post(f"/v1/webhooks/{made['id']}/test").get_json() for _ in range(3)]
    assert [(one["state"], one["last_status"], one["last_answer"]) for one in outcomes] == [
        ("given_up", 500, "broken"),
        ("given_up", 410, None),
        ("delivered", 204, None),
    ]
    assert client.get(f"/v1/webhooks/{made['id']}").get_json()["disabled_at"] is None  # by the last one
    for request, one in zip(receiver.received, outcomes, strict=True):
        assert Verifier(made["secret"]).verify(request.body, request.headers) == one["payload"]
        assert (one["event"], request.headers["webhook-id"]) == ("webhook.test", one["id"])
    page = client.get(f"/v1/webhooks/{made['id']}/deliveries?limit=2").get_json()
    assert (page["data"], page["has_more"]) == ([outcomes[2], outcomes[1]], True)
    rest = client.get(f"/v1/webhooks/{made['id']}/deliveries?after={outcomes[1]['id']}").get_json()
    assert (rest["data"], rest["has_more"]) == ([outcomes[0]], False)


def test_what_jobs_go_through_is_in_the_log_and_is_sent_again_on_request(
    client: FlaskClient, receiver: Receiver, spec: dict[str, Any]
) -> None:
    made = client.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    job = client.post("/v1/jobs", json=spec).get_json()
    client.post(f"/v1/jobs/{job['id']}/cancel")
    [told] = client.get(f"/v1/webhooks/{made['id']}/deliveries").get_json()["data"]
    assert (told["event"], told["job_id"], told["state"], told["attempts"]) == (
        "job.cancelled",
        job["id"],
        "pending",
        0,
    )
    assert told["payload"]["data"]["finished_at"] == client.get(f"/v1/jobs/{job['id']}").get_json()["finished_at"]
    again = client.post(f"/v1/webhooks/{made['id']}/deliveries/{told['id']}/redeliver")
    assert (again.status_code, again.get_json()["state"]) == (202, "pending")
    unknown = client.post(f"/v1/webhooks/{made['id']}/deliveries/msg_1/redeliver")
    assert (unknown.status_code, unknown.get_json()["code"]) == (404, "delivery_not_found")


def test_too_many_tests_at_once_are_told_to_wait(client: FlaskClient, receiver: Receiver) -> None:
    made = client.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    service = client.application.extensions["loopline"]
    while service.waiting.acquire(blocking=False):
        pass
    answer = client.post(f"/v1/webhooks/{made['id']}/test")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert receiver.received == []


def test_a_receiver_inside_is_refused_unless_it_is_allowed(
    make_app: Callable[..., Flask], sqlite_url: str, client: FlaskClient, receiver: Receiver
) -> None:
    made = client.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    careful = make_app(sqlite_url).test_client()  # the same, after the setting was taken back
    refused = careful.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    assert refused["code"] == "address_refused"
    assert "LOOPLINE_WEBHOOK_ALLOW" in refused["detail"]
    tried = careful.post(f"/v1/webhooks/{made['id']}/test").get_json()
    assert (tried["state"], tried["last_status"]) == ("given_up", None)
    assert tried["last_error"].startswith("Nothing was sent: 127.0.0.1 is no public address")
    assert receiver.received == []


def test_an_unknown_event_is_told_with_those_there_are(client: FlaskClient) -> None:
    answer = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/", "events": ["batch.end"]}).get_json()
    [problem] = answer["errors"]
    assert problem["detail"].startswith("there is no event batch.end; there are job.queued, ")
    assert "batch.ended" in problem["detail"]


def test_a_webhook_can_be_for_one_batch_only(client: FlaskClient, receiver: Receiver, spec: dict[str, Any]) -> None:
    batch = client.post("/v1/batches", json={"jobs": [spec, spec]}).get_json()
    assert batch["ended_at"] is None
    made = client.post("/v1/webhooks", json={"url": receiver.url, "only": batch["id"]}).get_json()
    assert (made["only"], made["events"]) == (batch["id"], ["batch.ended"])
    client.post(f"/v1/batches/{batch['id']}/cancel")
    engine = client.application.extensions["loopline"].engine
    reconcile(engine, FakeDoorbell(), Settings())
    [told] = client.get(f"/v1/webhooks/{made['id']}/deliveries").get_json()["data"]
    seen = client.get(f"/v1/batches/{batch['id']}").get_json()
    assert (told["event"], told["job_id"], told["payload"]["data"]["ended_at"]) == (
        "batch.ended",
        None,
        seen["ended_at"],
    )
    assert seen["ended_at"] == seen["finished_at"]
    again = client.post("/v1/webhooks", json={"url": receiver.url, "only": batch["id"]})
    assert (again.status_code, again.get_json()["code"]) == (409, "conflict")
    unknown = client.post("/v1/webhooks", json={"url": receiver.url, "only": "job_1"})
    assert (unknown.status_code, unknown.get_json()["code"]) == (404, "job_not_found")


def test_a_secret_is_changed_and_both_verify(client: FlaskClient, receiver: Receiver) -> None:
    made = client.post("/v1/webhooks", json={"url": receiver.url}).get_json()
    assert made["old_secret_until"] is None
    answer = client.post(f"/v1/webhooks/{made['id']}/rotate")
    changed = answer.get_json()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert changed["secret"] != made["secret"]
    assert changed["old_secret_until"] > made["created_at"]
    shown = client.get(f"/v1/webhooks/{made['id']}").get_json()
    assert shown == {key: value for key, value in changed.items() if key != "secret"}
    client.post(f"/v1/webhooks/{made['id']}/test")
    [request] = receiver.received
    for secret in (made["secret"], changed["secret"]):
        assert Verifier(secret).verify(request.body, request.headers)["type"] == "webhook.test"
    assert client.get("/v1/audit").get_json()["data"][1]["action"] == "webhook.rotate"
    assert client.post("/v1/webhooks/wh_1/rotate").status_code == 404
