"""Batches over HTTP: accepted whole or refused whole, one table, one cancel."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.access import tenants
from services.jobs import attempts, progress
from services.jobs.leases import Lease
from services.orm import Batch, Job
from tests.ringing import FakeDoorbell
from tests.services.jobs.test_claims import at_once

MATRIX = {"architecture.hidden_size": [4, 8], "training.epochs": [1, 2, 3]}


@pytest.fixture
def sweep(spec: dict[str, Any]) -> dict[str, Any]:
    return spec | {"matrix": MATRIX}


def rows(app: Flask, table: Any) -> int:
    with db.read_scope(app.extensions["loopline"].engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def start(service: Service) -> Lease:
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        progress.started(session, Lease.of(job), epochs=3, steps_per_epoch=4, info={})
        return Lease.of(job)


def succeed(service: Service, lease: Lease) -> None:
    with db.session_scope(service.engine) as session:
        best = {"epoch": 1, "metric": "validation_loss", "value": 0.5}
        progress.record(session, lease, {"epoch": 1, "train_loss": 1.0, "validation_loss": 0.5}, best=best)
        metrics = {"validation_accuracy": 0.75}
        result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": metrics}
        attempts.succeed(session, lease, result, [])


def test_a_matrix_becomes_a_batch_of_every_combination(any_app: Flask, bell: FakeDoorbell, sweep: Any) -> None:
    client = any_app.test_client()
    answer = client.post("/v1/batches", json=sweep)
    batch = answer.get_json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/batches/{batch['id']}")
    assert (batch["name"], batch["status"], batch["terminal"], batch["total"]) == ("try", "queued", False, 6)
    assert batch["varied"] == list(MATRIX)
    assert [(row["name"], [*row["cell"].values()]) for row in batch["jobs"]] == [
        (f"try[hidden_size={size}, epochs={epochs}]", [size, epochs]) for size in (4, 8) for epochs in (1, 2, 3)
    ]
    assert bell.rung == ["default"]
    job = client.get(f"/v1/jobs/{batch['jobs'][4]['id']}").get_json()
    assert (job["batch_id"], job["spec"]["training"]["epochs"], job["tags"]) == (batch["id"], 2, {"team": "speech"})
    assert client.get(batch["links"]["self"]).get_json() == batch
    [listed] = client.get("/v1/batches").get_json()["data"]
    assert listed == {key: batch[key] for key in batch if key not in ("jobs", "fraction", "finished_at")}


def test_a_list_of_specs_rings_each_queue_once(client: FlaskClient, bell: FakeDoorbell, spec: Any) -> None:
    listed = [spec, spec | {"queue": "b"}, spec | {"matrix": {"training.epochs": [1, 2]}}]
    batch = client.post("/v1/batches", json={"name": "night", "jobs": listed}).get_json()
    assert (batch["name"], batch["total"], bell.rung) == ("night", 4, ["b", "default"])
    assert [row["cell"]["training.epochs"] for row in batch["jobs"]] == [3, 3, 1, 2]


def test_a_batch_with_problems_is_refused_whole_and_all_are_named(any_app: Flask, spec: Any) -> None:
    wrong = [
        spec,
        spec | {"data": {"dataset": "nothing"}},
        spec | {"matrix": {"training.epochs": [1, -1], "training.loss": ["mse", "cross_entropy"]}, "nonsense": 1},
    ]
    answer = any_app.test_client().post("/v1/batches", json={"jobs": wrong}, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.get_json()["code"]) == (422, "spec_invalid")
    pointers = [problem["pointer"] for problem in answer.get_json()["errors"]]
    assert pointers == ["/jobs/1/data/dataset", "/jobs/2/nonsense", "/jobs/2/matrix/training.epochs/1"]
    losses = [{"name": "cross_entropy", "class_weights": [1, 2, 3]}, "cross_entropy"]
    only_data = {"jobs": [spec, spec | {"matrix": {"training.loss": losses}}]}
    answer = any_app.test_client().post("/v1/batches", json=only_data, headers={"Idempotency-Key": "k"})
    assert [problem["pointer"] for problem in answer.get_json()["errors"]] == [
        "/jobs/1/matrix/training.loss/0/class_weights"
    ]
    assert (rows(any_app, Job), rows(any_app, Batch)) == (0, 0)


def test_a_quota_takes_all_jobs_or_none(any_app: Flask, spec: Any, sweep: Any) -> None:
    client, engine = any_app.test_client(), any_app.extensions["loopline"].engine
    with db.session_scope(engine) as session:
        tenants.change(session, tenants.DEFAULT, max_queued=6)
    assert client.post("/v1/jobs", json=spec).status_code == 202
    refused = client.post("/v1/batches", json=sweep)
    assert (refused.status_code, refused.get_json()["code"]) == (409, "quota_exceeded")
    assert (
        "has 1 job waiting, queued or paused, and may have 6 (max_queued); these are 6 more"
        in (refused.get_json()["detail"])
    )
    assert (rows(any_app, Job), rows(any_app, Batch)) == (1, 0)
    with db.session_scope(engine) as session:
        tenants.change(session, tenants.DEFAULT, max_queued=7)
    assert client.post("/v1/batches", json=sweep).status_code == 202


def test_one_key_makes_one_batch_whatever_became_of_it(any_app: Flask, sweep: Any) -> None:
    def submit() -> Any:
        return any_app.test_client().post("/v1/batches", json=sweep, headers={"Idempotency-Key": "night"})

    answers = at_once([submit] * 8)
    assert {answer.status_code for answer in answers} == {202}
    [batch_id] = {answer.get_json()["id"] for answer in answers}
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert (rows(any_app, Job), rows(any_app, Batch)) == (6, 1)
    client = any_app.test_client()
    client.post(f"/v1/batches/{batch_id}/cancel")
    for row in client.get(f"/v1/batches/{batch_id}").get_json()["jobs"][1:]:
        assert client.delete(row["links"]["self"]).status_code == 204
    again = submit()
    assert (again.get_json()["id"], again.get_json()["total"]) == (batch_id, 1)
    assert (again.get_json()["status"], again.headers["Idempotency-Replayed"]) == ("cancelled", "true")
    other = client.post("/v1/batches", json=sweep | {"priority": 1}, headers={"Idempotency-Key": "night"})
    assert other.get_json()["code"] == "idempotency_conflict"
    job = client.post("/v1/jobs", json={**sweep, "matrix": None}, headers={"Idempotency-Key": "night"})
    assert job.get_json()["errors"][0]["pointer"] == "/matrix"  # one job has none


def test_a_batch_is_cancelled_as_one(client: FlaskClient, service: Service, sweep: Any) -> None:
    batch = client.post("/v1/batches", json=sweep).get_json()
    succeed(service, start(service))
    start(service)
    answer = client.post(batch["links"]["cancel"])
    assert answer.status_code == 202
    told = answer.get_json()
    assert (told["status"], told["terminal"]) == ("running", False)
    assert {status: count for status, count in told["counts"].items() if count} == {
        "succeeded": 1,
        "running": 1,
        "cancelled": 4,
    }
    assert client.get(told["jobs"][1]["links"]["self"]).get_json()["cancel_requested"]
    assert client.post("/v1/batches/batch_nothing/cancel").get_json()["code"] == "batch_not_found"
    assert client.get(f"/v1/batches/batch_{'0' * 26}").get_json()["code"] == "batch_not_found"


def test_the_status_of_a_batch_is_that_of_its_jobs_together(client: FlaskClient, service: Service, spec: Any) -> None:
    batch = client.post("/v1/batches", json={"jobs": [spec] * 3}).get_json()
    ids = [row["id"] for row in batch["jobs"]]

    def now() -> tuple[str, float]:
        told = client.get(batch["links"]["self"]).get_json()
        return told["status"], told["fraction"]

    for job_id in ids:
        client.post(f"/v1/jobs/{job_id}/pause")
    assert now() == ("paused", 0.0)
    for job_id in ids:
        client.post(f"/v1/jobs/{job_id}/resume")
    assert now() == ("queued", 0.0)
    lease = start(service)
    assert now()[0] == "running"
    succeed(service, lease)
    assert now() == ("running", pytest.approx(1 / 3))  # what is left waits
    lease = start(service)
    client.post(f"/v1/jobs/{ids[2]}/cancel")
    succeed(service, lease)
    told = client.get(batch["links"]["self"]).get_json()
    assert (told["status"], told["terminal"], told["fraction"]) == ("cancelled", True, 1.0)
    assert told["finished_at"] is not None
    assert told["jobs"][0]["metrics"] == {"validation_accuracy": 0.75}
    assert told["jobs"][0]["best"] == {"epoch": 1, "metric": "validation_loss", "value": 0.5}
    assert told["jobs"][0]["seconds"] >= 0
    assert told["jobs"][2]["reason"] == "cancelled_by_user"


def test_a_poll_waits_for_news_of_any_job_and_without_a_tag_for_the_end(
    client: FlaskClient, service: Service, app: Flask, spec: Any
) -> None:
    made = client.post("/v1/batches", json={"jobs": [spec] * 2})
    path, tag = made.get_json()["links"]["self"], made.headers["ETag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.get(path, query_string={"wait": 0.2}, headers={"If-None-Match": tag}).status_code == 304
    lease = start(service)
    news = client.get(path, query_string={"wait": 30}, headers={"If-None-Match": tag})
    assert (news.status_code, news.get_json()["counts"]["running"]) == (200, 1)
    assert news.headers["ETag"] != tag
    ended: list[Any] = []
    other = threading.Thread(target=lambda: ended.append(app.test_client().get(path, query_string={"wait": 60})))
    other.start()
    succeed(service, lease)
    with db.session_scope(service.engine) as session:
        attempts.fail(session, Lease.of(_claimed(session)), "diverged", "Step 3.", retry=False)
    other.join(30)
    assert (ended[0].get_json()["status"], ended[0].get_json()["terminal"]) == ("failed", True)
    assert "Retry-After" not in ended[0].headers


def _claimed(session: Any) -> Job:
    job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
    assert job is not None
    return job


def test_a_thousand_jobs_are_one_batch(client: FlaskClient, spec: Any) -> None:
    asked = {"training.epochs": list(range(1, 101)), "training.seed": list(range(10))}
    assert client.post("/v1/batches", json=spec | {"matrix": asked}).get_json()["counts"]["queued"] == 1000
    more = spec | {"matrix": asked | {"priority": [0, 1]}}
    assert "stands for 2,000 jobs" in client.post("/v1/batches", json=more).get_json()["errors"][0]["detail"]


def test_batches_are_listed_newest_first_and_page_by_page(client: FlaskClient, spec: Any) -> None:
    ids = [client.post("/v1/batches", json={"jobs": [spec]}).get_json()["id"] for _ in range(3)]
    page = client.get("/v1/batches?limit=2").get_json()
    assert ([row["id"] for row in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    page = client.get(f"/v1/batches?limit=2&after={ids[1]}").get_json()
    assert ([row["id"] for row in page["data"]], page["has_more"]) == ([ids[0]], False)
