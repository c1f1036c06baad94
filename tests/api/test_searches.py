"""Searches over HTTP: accepted or refused, seen as one table, paused, cancelled, and given more trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.access import audit
from services.jobs import attempts
from services.jobs.leases import Lease
from tests.ringing import FakeDoorbell
from worker.scheduler import searches

SPACE = {"training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "architecture.cell": ["lstm", "gru"]}


@pytest.fixture
def wanted(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "search": {"space": SPACE, "trials": 3, "final": False}}


def look(service: Service) -> None:
    searches.look(service.engine, FakeDoorbell())


def finish(service: Service, loss: float = 0.5) -> None:
    """A trial is made, and comes to its end."""
    look(service)
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {"validation_loss": loss}}
        attempts.succeed(session, Lease.of(job), result, [])


def test_a_search_is_submitted_and_its_trials_are_its_table(any_app: Flask, wanted: Any) -> None:
    client, service = any_app.test_client(), any_app.extensions["loopline"]
    answer = client.post("/v1/searches", json=wanted)
    made = answer.get_json()
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/searches/{made['id']}")
    assert (made["name"], made["status"], made["terminal"], made["wanted"], made["made"]) == (
        *("try", "running", False, 3, 0),
    )
    assert made["document"] == wanted
    assert made["settings"] == {
        **{"space": SPACE, "algorithm": "tpe", "metric": "validation_loss", "higher_is_better": False},
        **{"seed": 0, "datasets": {}, "stop_early": {"rule": "median", "first_rung": 1, "factor": 3}},
        **{"minutes": None, "final": False, "base": None, "first": None},
    }
    for loss in (0.5, 0.25, 0.75):
        finish(service, loss)
    look(service)
    shown = client.get(made["links"]["self"]).get_json()
    assert (shown["status"], shown["terminal"], shown["counts"]["succeeded"]) == ("succeeded", True, 3)
    assert [(row["trial"], row["value"], row["best_so_far"]) for row in shown["trials"]] == [
        (1, 0.5, 0.5),
        (2, 0.25, 0.25),
        (3, 0.75, 0.25),
    ]
    assert (shown["best"]["trial"], shown["best"]["choices"]) == (2, shown["trials"][1]["choices"])
    job = client.get(shown["best"]["links"]["self"]).get_json()
    assert (job["search_id"], job["trial"], job["name"]) == (made["id"], 2, "try[2]")
    counts = [len(client.get(f"/v1/jobs?trials={shows}").get_json()["data"]) for shows in ("true", "false")]
    assert counts == [3, 0]
    [listed] = client.get("/v1/searches").get_json()["data"]
    assert listed == {
        key: shown[key] for key in shown if key not in ("best", "final", "trials", "importance", "advice", "document")
    }


def test_what_is_wrong_is_named_where_it_lies(client: FlaskClient, wanted: Any) -> None:
    space = {"training.optimizr.lr": [1, 2], "architecture.cell": ["lstm", "gruu"]}
    answer = client.post("/v1/searches", json={**wanted, "search": {"space": space}})
    assert (answer.status_code, answer.get_json()["code"]) == (422, "spec_invalid")
    assert [each["pointer"] for each in answer.get_json()["errors"]] == [
        "/search/space/training.optimizr.lr",
        "/search/space/architecture.cell/1",
    ]
    assert client.get("/v1/searches").get_json()["data"] == []


def test_one_key_makes_one_search(client: FlaskClient, wanted: Any) -> None:
    first, again = (client.post("/v1/searches", json=wanted, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.get_json()["id"] == again.get_json()["id"]
    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    other = client.post("/v1/searches", json={**wanted, "name": "b"}, headers={"Idempotency-Key": "k"})
    assert other.get_json()["code"] == "idempotency_conflict"


def test_a_tag_changes_with_the_search_and_with_its_trials(client: FlaskClient, service: Service, wanted: Any) -> None:
    made = client.post("/v1/searches", json=wanted)
    path, seen = made.get_json()["links"]["self"], [made.headers["ETag"]]
    assert client.get(path, headers={"If-None-Match": seen[0]}).status_code == 304
    assert client.get(path, query_string={"wait": 0.2}, headers={"If-None-Match": seen[0]}).status_code == 304
    for act in (lambda: look(service), lambda: finish(service), lambda: client.post(f"{path}/pause")):
        act()
        news = client.get(path, query_string={"wait": 30}, headers={"If-None-Match": seen[-1]})
        assert news.status_code == 200
        seen.append(news.headers["ETag"])
    assert len({*seen}) == 4
    assert "Retry-After" in news.headers
    ended = client.post(f"{path}/cancel")
    assert (ended.get_json()["status"], "Retry-After" in ended.headers) == ("cancelled", False)
    assert client.get(path, query_string={"wait": 60}).get_json()["terminal"]


def test_pause_resume_cancel_and_more_trials(
    client: FlaskClient, service: Service, bell: FakeDoorbell, wanted: Any
) -> None:
    path = client.post("/v1/searches", json=wanted).get_json()["links"]["self"]
    look(service)
    paused = client.post(f"{path}/pause")
    assert (paused.status_code, paused.get_json()["status"]) == (202, "paused")
    assert paused.get_json()["trials"][0]["status"] == "paused"
    assert bell.rung == []
    resumed = client.post(f"{path}/resume").get_json()
    assert resumed["trials"][0]["status"] == "queued"
    assert resumed["settings"].keys() == paused.get_json()["settings"].keys()
    assert bell.rung == ["default"]
    more = [client.post(f"{path}/trials", json={"more": 2}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [(answer.status_code, answer.get_json()["wanted"]) for answer in more] == [(202, 5), (202, 5)]
    assert more[1].headers["Idempotency-Replayed"] == "true"
    for body, pointer in (({"more": 0}, "/more"), ({"more": 1000}, "/more"), ({"some": 1}, "/some")):
        refused = client.post(f"{path}/trials", json=body)
        assert refused.status_code == 422
        assert pointer in [each["pointer"] for each in refused.get_json()["errors"]]
    assert client.post(f"{path}/cancel").get_json()["status"] == "cancelled"
    for verb in ("pause", "resume"):
        answer = client.post(f"{path}/{verb}")
        assert (answer.status_code, answer.get_json()["code"]) == (409, "illegal_move")
    with db.read_scope(service.engine) as session:
        entries, _ = audit.page(session, tenant="default")
    assert [entry.action for entry in entries] == [
        *("search.cancel", "search.add", "search.resume", "search.pause", "search.submit"),
    ]


def test_a_refused_trial_is_a_row_without_a_job(client: FlaskClient, service: Service, spec: Any) -> None:
    space = {"architecture.cell": ["gru", "lstm"], "architecture.forget_gate_bias": [0.5]}
    document = {**spec, "search": {"space": space, "algorithm": "grid", "final": False}}
    path = client.post("/v1/searches", json=document).get_json()["links"]["self"]
    look(service)
    first, second = client.get(path).get_json()["trials"]
    assert (first["status"], first["terminal"], first["job_id"], first["links"]) == ("refused", True, None, None)
    assert (second["status"], second["trial"]) == ("queued", 2)


def test_a_webhook_can_be_for_one_search(make_app: Callable[..., Flask], sqlite_url: str, wanted: Any) -> None:
    client = make_app(sqlite_url, webhook_allow="127.0.0.0/8").test_client()
    made = client.post("/v1/searches", json=wanted).get_json()
    asked = {"url": "http://127.0.0.1:9/", "only": made["id"]}
    webhook = client.post("/v1/webhooks", json=asked).get_json()
    assert (webhook["only"], webhook["events"]) == (made["id"], ["search.ended"])
    client.post(f"{made['links']['self']}/cancel")
    assert client.post("/v1/webhooks", json=asked).status_code == 409
    gone = {"url": "http://127.0.0.1:9/", "only": f"search_{'0' * 26}"}
    assert client.post("/v1/webhooks", json=gone).get_json()["code"] == "search_not_found"


@pytest.mark.parametrize("search_id", ["search_1", "job_01m8534rdzpk2b2nwmwmj4v6dg", f"search_{'0' * 26}"])
def test_there_is_no_such_search(client: FlaskClient, search_id: str) -> None:
    assert client.get(f"/v1/searches/{search_id}").get_json()["code"] == "search_not_found"
    for verb in ("cancel", "pause", "resume"):
        assert client.post(f"/v1/searches/{search_id}/{verb}").status_code == 404
    assert client.post(f"/v1/searches/{search_id}/trials", json={"more": 1}).status_code == 404
