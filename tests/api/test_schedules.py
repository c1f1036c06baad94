"""/v1/schedules: made and replaced, looked at, paused, run now; every problem with where it lies."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.jobs import control
from services.orm import Schedule
from services.schedules import definitions
from tests.ringing import FakeDoorbell
from worker.scheduler.loop import keep_schedules


@pytest.fixture
def document(spec: dict[str, Any]) -> dict[str, Any]:
    """A schedule as a client sends it."""
    return {"name": "nightly", "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "submit": spec}


def make_due(service: Service) -> None:
    """As if the next slot of every schedule had come."""
    with db.session_scope(service.engine) as session:
        session.execute(sa.update(Schedule).values(due_at=db.now() - 1, next_slot=db.now() - 1))


def test_a_schedule_is_made_and_says_what_comes_next(any_app: Flask, document: dict[str, Any]) -> None:
    client = any_app.test_client()
    answer = client.post("/v1/schedules", json=document)
    made = answer.get_json()
    assert (answer.status_code, answer.headers["Location"]) == (201, "/v1/schedules/nightly")
    assert {key: made[key] for key in document} == document
    assert (made["overlap"], made["catch_up_seconds"], made["jitter_seconds"], made["last"]) == ("skip", 21600, 0, None)
    assert [slot[11:16] for slot in made["next"]] == ["02:30"] * 3
    assert made["next"][0] == made["due_at"]
    assert made["next"][0][19:] in {"+01:00", "+02:00"}
    by_name, by_id = (client.get(f"/v1/schedules/{key}") for key in ("nightly", made["id"]))
    assert by_name.get_json() == by_id.get_json() == made
    [listed] = client.get("/v1/schedules").get_json()["data"]
    assert listed == {key: value for key, value in made.items() if key != "submit"}
    again = client.post("/v1/schedules", json=document)
    assert (again.status_code, again.get_json()["code"]) == (409, "schedule_exists")
    assert "PUT /v1/schedules/nightly" in again.get_json()["detail"]


def test_what_is_put_again_changes_nothing(client: FlaskClient, document: dict[str, Any]) -> None:
    del document["name"]
    first = client.put("/v1/schedules/nightly", json=document)
    again = client.put("/v1/schedules/nightly", json=document | {"name": "nightly"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json() == again.get_json()
    other = client.put(f"/v1/schedules/{first.get_json()['id']}", json=document | {"overlap": "queue"}).get_json()
    assert (other["overlap"], other["next"]) == ("queue", first.get_json()["next"])
    told = [(row["action"], row["resource_id"]) for row in client.get("/v1/audit").get_json()["data"]]
    assert told == [("schedule.change", "nightly"), ("schedule.create", "nightly")]
    wrong = client.put("/v1/schedules/nightly", json=document | {"name": "weekly"})
    assert (wrong.status_code, wrong.get_json()["errors"][0]["pointer"]) == (422, "/name")


def test_yaml_is_taken_as_well(client: FlaskClient) -> None:
    text = 'cron: "@daily"\nsubmit:\n  preset: basic_gru\n  data: {synthetic: {samples: 20, length: 5, features: 2}}\n'
    answer = client.put("/v1/schedules/daily", data=text, content_type="application/yaml")
    assert (answer.status_code, answer.get_json()["time_zone"]) == (201, "UTC")


def test_every_problem_has_its_pointer(client: FlaskClient, document: dict[str, Any]) -> None:
    wrong = document | {"cron": "61 * * * *", "time_zone": "Europe/Berln"}
    wrong["submit"] = {**document["submit"], "training": {"epochs": -1}, "data": {"dataset": "nothing"}}
    answer = client.post("/v1/schedules", json=wrong)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "schedule_invalid")
    told = {problem["pointer"]: problem["detail"] for problem in answer.get_json()["errors"]}
    assert told.keys() == {"/cron", "/time_zone", "/submit/training/epochs", "/submit/data/dataset"}
    assert "did you mean Europe/Berlin?" in told["/time_zone"]
    for changes, pointer in (
        ({"overlap": "both"}, "/overlap"),
        ({"catch_up_seconds": -1}, "/catch_up_seconds"),
        ({"name": None}, "/name"),
        ({"colour": "red"}, "/colour"),
        ({"submit": [1]}, "/submit"),
    ):
        answer = client.post("/v1/schedules", json=document | changes)
        assert (answer.status_code, answer.get_json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_wrong_schedule_is_told_in_the_sentences_of_a_spec(client: FlaskClient, document: dict[str, Any]) -> None:
    answer = client.post("/v1/schedules", json=document | {"overlaps": "skip", "jitter_seconds": -1, "submit": []})
    allowed = "catch_up_seconds, cron, jitter_seconds, name, only_new_data, overlap, submit, time_zone"
    assert {one["pointer"]: one["detail"] for one in answer.get_json()["errors"]} == {
        "/overlaps": f"there is no such field; did you mean `overlap`? allowed here: {allowed}",
        "/jitter_seconds": "must be at least 0; got -1",
        "/submit": "must be a mapping; got a list",
    }


def test_a_run_is_answered_with_its_batch_and_rings(
    client: FlaskClient, service: Service, document: dict[str, Any], bell: FakeDoorbell
) -> None:
    client.post("/v1/schedules", json=document)
    first = client.post("/v1/schedules/nightly/run", headers={"Idempotency-Key": "once"})
    again = client.post("/v1/schedules/nightly/run", headers={"Idempotency-Key": "once"})
    firing = first.get_json()
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.get_json() == firing
    assert bell.rung == ["default"]
    assert (firing["outcome"], firing["reason"], firing["slot"], firing["counts"]) == (
        *("fired", "run_now", None),
        {"queued": 1},
    )
    batch = client.get(firing["links"]["batch"]).get_json()
    schedule = client.get("/v1/schedules/nightly").get_json()
    assert (batch["schedule_id"], batch["name"]) == (schedule["id"], "try")
    assert schedule["last"] == firing
    busy = client.post("/v1/schedules/nightly/run")
    assert (busy.status_code, busy.get_json()["code"]) == (409, "schedule_busy")
    assert firing["batch_id"] in busy.get_json()["detail"]
    with db.session_scope(service.engine) as session:
        control.cancel(session, batch["jobs"][0]["id"])
    keep_schedules(service.engine)
    [ended] = client.get("/v1/schedules/nightly/firings").get_json()["data"]
    assert (ended["outcome"], ended["counts"], ended["message"].split(":")[0]) == (
        *("cancelled", {"cancelled": 1}),
        "Somebody asked for it. 1 of 1 jobs cancelled",
    )


def test_a_paused_schedule_has_nothing_to_come(client: FlaskClient, service: Service, document: dict[str, Any]) -> None:
    client.post("/v1/schedules", json=document)
    paused = client.post("/v1/schedules/nightly/pause").get_json()
    assert (paused["next"], paused["due_at"]) == ([], None)
    assert paused["paused_at"] is not None
    assert client.post("/v1/schedules/nightly/pause").get_json() == paused
    keep_schedules(service.engine)
    resumed = client.post("/v1/schedules/nightly/resume").get_json()
    assert (len(resumed["next"]), resumed["paused_at"]) == (3, None)
    assert client.get("/v1/schedules/nightly/firings").get_json()["data"] == []


def test_history_is_read_page_by_page_newest_first(
    client: FlaskClient, service: Service, document: dict[str, Any]
) -> None:
    client.post("/v1/schedules", json=document | {"cron": "* * * * *", "overlap": "replace"})
    for _ in range(3):
        make_due(service)
        keep_schedules(service.engine)
    page = client.get("/v1/schedules/nightly/firings?limit=2").get_json()
    rest = client.get(f"/v1/schedules/nightly/firings?after={page['data'][-1]['id']}").get_json()
    ids = [row["id"] for row in page["data"] + rest["data"]]
    assert (page["has_more"], rest["has_more"], len(ids)) == (True, False, 3)
    assert ids == sorted(ids, reverse=True)


def test_a_look_at_what_has_not_changed_is_cheap(client: FlaskClient, document: dict[str, Any]) -> None:
    client.post("/v1/schedules", json=document)
    tag = client.get("/v1/schedules/nightly").headers["ETag"]
    assert client.get("/v1/schedules/nightly", headers={"If-None-Match": tag}).status_code == 304
    client.post("/v1/schedules/nightly/run")
    assert client.get("/v1/schedules/nightly", headers={"If-None-Match": tag}).status_code == 200


def test_schedules_are_listed_page_by_page_by_name(client: FlaskClient, document: dict[str, Any]) -> None:
    for name in ("c", "a", "b"):
        client.put(f"/v1/schedules/{name}", json=document | {"name": name})
    page = client.get("/v1/schedules?limit=2").get_json()
    rest = client.get("/v1/schedules?after=b").get_json()
    assert [[row["name"] for row in each["data"]] for each in (page, rest)] == [["a", "b"], ["c"]]
    assert (page["has_more"], rest["has_more"]) == (True, False)


def test_a_deleted_schedule_is_gone_and_its_batches_are_not(client: FlaskClient, document: dict[str, Any]) -> None:
    client.post("/v1/schedules", json=document)
    batch = client.post("/v1/schedules/nightly/run").get_json()["links"]["batch"]
    assert client.delete("/v1/schedules/nightly").status_code == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/run"), ("POST", "/pause"), ("GET", "/firings")):
        answer = client.open(f"/v1/schedules/nightly{path}", method=method)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "schedule_not_found")
    assert client.get(batch).status_code == 200


def test_the_limits_of_the_document_are_those_of_the_service(client: FlaskClient) -> None:
    found = client.get("/v1/openapi.json").get_json()["paths"]["/v1/schedules"]["post"]["requestBody"]["content"]
    fields = found["application/json"]["schema"]["properties"]
    assert fields["catch_up_seconds"]["default"] == definitions.CATCH_UP_SECONDS
    assert fields["jitter_seconds"]["maximum"] == definitions.MOST_JITTER_SECONDS
