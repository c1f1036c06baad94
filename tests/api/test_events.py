"""Events, log lines and workers as clients read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from services import db
from services.jobs import attempts, events, workers
from services.jobs.events import Line
from services.jobs.leases import Lease


@pytest.fixture
def told_job(any_app: Flask, spec: dict[str, Any]) -> str:
    """The address of a job with events of several kinds and five log lines."""
    path = str(any_app.test_client().post("/v1/jobs", json=spec).headers["Location"])
    engine = any_app.extensions["loopline"].engine
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        lease = Lease.of(job)
    with db.session_scope(engine) as session:
        events.note(session, lease, "micro_batch", "Halved.", "warning", {"micro_batch": 16})
        events.log(session, lease, [Line("info", "Hello."), Line("output", "two\twords"), Line("error", "böse")])
        events.log(session, lease, [Line("output", f"line {n}") for n in (4, 5)])
        attempts.fail(session, lease, "diverged", "Step 3.", retry=False)
    return path


def test_events_are_told_in_the_order_they_happened(any_app: Flask, told_job: str) -> None:
    page = any_app.test_client().get(f"{told_job}/events").get_json()
    assert (page["object"], page["has_more"]) == ("list", False)
    found = page["data"]
    assert [(event["type"], event["level"], event["from_status"], event["to_status"]) for event in found] == [
        ("status", "info", None, "queued"),
        ("status", "info", "queued", "running"),
        ("micro_batch", "warning", None, None),
        ("status", "error", "running", "failed"),
    ]
    assert [event["attempt"] for event in found] == [0, 1, 1, 1]
    assert (found[2]["message"], found[2]["data"], found[2]["worker"]) == ("Halved.", {"micro_batch": 16}, "test:1")
    assert (found[3]["reason"], found[3]["message"]) == ("diverged", "Step 3.")
    assert [event["id"] for event in found] == sorted(event["id"] for event in found)
    assert all(event["at"].endswith("Z") for event in found)


def test_events_come_page_by_page(any_app: Flask, told_job: str) -> None:
    client = any_app.test_client()
    first = client.get(f"{told_job}/events?limit=3").get_json()
    rest = client.get(f"{told_job}/events?limit=3&after={first['data'][-1]['id']}").get_json()
    assert (len(first["data"]), first["has_more"], len(rest["data"]), rest["has_more"]) == (3, True, 1, False)
    assert client.get(f"{told_job}/events?after={2**53}").get_json()["data"] == []


def test_log_lines_are_numbered_and_come_page_by_page(any_app: Flask, told_job: str) -> None:
    client = any_app.test_client()
    first = client.get(f"{told_job}/logs?limit=3").get_json()
    assert [(line["number"], line["level"], line["text"]) for line in first["data"]] == [
        (1, "info", "Hello."),
        (2, "output", "two\twords"),
        (3, "error", "böse"),
    ]
    assert first["has_more"]
    rest = client.get(f"{told_job}/logs?after=3").get_json()
    assert ([line["text"] for line in rest["data"]], rest["has_more"]) == (["line 4", "line 5"], False)
    assert rest["data"][0]["attempt"] == 1


def test_log_lines_are_plain_text_for_those_who_ask(any_app: Flask, told_job: str) -> None:
    client = any_app.test_client()
    answer = client.get(f"{told_job}/logs?limit=3", headers={"Accept": "text/plain"})
    assert answer.content_type == "text/plain; charset=utf-8"
    lines = answer.get_data(as_text=True).splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["info    Hello.", "output  two\twords", "error   böse"]
    assert answer.headers["Link"] == f'<{told_job}/logs?after=3&limit=3>; rel="next"'
    assert "Link" not in client.get(f"{told_job}/logs", headers={"Accept": "text/plain"}).headers
    for asked in ("*/*", "application/json", "text/html", "text/plain;q=0.5, application/json"):
        assert client.get(f"{told_job}/logs", headers={"Accept": asked}).mimetype == "application/json"


def test_a_job_that_never_ran_has_an_empty_log(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    assert client.get(queued_job["links"]["logs"]).get_json()["data"] == []
    assert client.get(queued_job["links"]["logs"], headers={"Accept": "text/plain"}).data == b""
    assert len(client.get(queued_job["links"]["events"]).get_json()["data"]) == 1


@pytest.mark.parametrize("kind", ["events", "logs"])
@pytest.mark.parametrize("query", ["after=-1", "limit=0", "limit=5000", "after=x", f"after={10**30}", "page=2"])
def test_a_wrong_parameter_is_refused(client: FlaskClient, queued_job: dict[str, Any], kind: str, query: str) -> None:
    answer = client.get(f"{queued_job['links'][kind]}?{query}")
    assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_request")


def test_workers_are_listed_with_what_they_do(any_app: Flask, spec: dict[str, Any]) -> None:
    client, engine = any_app.test_client(), any_app.extensions["loopline"].engine
    assert client.get("/v1/workers").get_json() == {"object": "list", "data": [], "has_more": False}
    job_id = client.post("/v1/jobs", json=spec).get_json()["id"]
    with db.session_scope(engine) as session:
        workers.beat(session, "b:2", queues=["default"], state="idle", job_id=None, doorbell_seconds_ago=None)
        what = {"state": "busy", "job_id": job_id, "device": "cpu", "memory_bytes": 8 << 30}
        workers.beat(session, "a:1", queues=["default", "night"], doorbell_seconds_ago=3.0, **what)
    busy, idle = client.get("/v1/workers").get_json()["data"]
    assert (busy["name"], busy["queues"], busy["state"], busy["job_id"]) == (
        "a:1",
        ["default", "night"],
        "busy",
        job_id,
    )
    assert busy["heard_at"] < busy["seen_at"]
    assert (busy["device"], busy["memory_bytes"]) == ("cpu", 8 << 30)
    assert (idle["state"], idle["job_id"], idle["heard_at"]) == ("idle", None, None)
    assert (idle["device"], idle["memory_bytes"]) == (None, None)


def test_every_type_of_event_is_documented() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "http.md").read_text()
    table = page.split("| type | what happened |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)) == set(events.Type)
