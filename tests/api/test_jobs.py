from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from api.bell import CeleryDoorbell
from api.service import Service
from services import db
from services.jobs import attempts, control, progress
from services.jobs.leases import Lease
from services.orm import Job
from tests.ringing import FakeDoorbell

UNKNOWN = "job_" + "0" * 26


def test_a_submitted_job_is_accepted_located_and_rung_for(
    client: FlaskClient, bell: FakeDoorbell, spec: dict[str, Any]
) -> None:
    answer = client.post("/v1/jobs", json=spec)
    job = answer.get_json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["terminal"], job["queue"]) == ("queued", False, {"name": "default", "position": 0})
    assert job["spec"]["training"]["loss"]["name"] == "cross_entropy"  # filled in from the data
    assert client.get(answer.headers["Location"]).get_json() == job
    assert bell.rung == ["default"]


def test_a_job_keeps_the_id_of_the_request_that_submitted_it(
    client: FlaskClient, service: Service, spec: dict[str, Any]
) -> None:
    sent = client.post("/v1/jobs", json=spec, headers={"X-Request-Id": "night-7"}).get_json()
    with db.read_scope(service.engine) as session:
        assert control.get(session, sent["id"]).request_id == "night-7"


def test_a_spec_may_be_yaml(client: FlaskClient) -> None:
    text = "preset: basic_gru\ndata: {synthetic: {}}\ntraining: {optimizer: {lr: 1e-2}}\n"
    answer = client.post("/v1/jobs", data=text, content_type="application/yaml")
    assert answer.status_code == 202
    assert answer.get_json()["spec"]["training"]["optimizer"]["lr"] == 0.01


def test_jobs_are_listed_newest_first_and_page_by_page(client: FlaskClient, spec: dict[str, Any]) -> None:
    ids = [client.post("/v1/jobs", json=spec | {"name": f"job {n}"}).get_json()["id"] for n in range(5)]
    first = client.get("/v1/jobs?limit=3").get_json()
    rest = client.get(f"/v1/jobs?limit=3&after={first['data'][-1]['id']}").get_json()
    assert [job["id"] for job in first["data"] + rest["data"]] == ids[::-1]
    assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
    assert [job["queue"]["position"] for job in first["data"]] == [4, 3, 2]


def test_lists_are_filtered_by_status_queue_name_and_tag(client: FlaskClient, spec: dict[str, Any]) -> None:
    client.post("/v1/jobs", json=spec)
    other = client.post("/v1/jobs", json=spec | {"name": "b", "queue": "night", "tags": {"a:b": "c:d"}}).get_json()
    for query in ("queue=night", "name=b"):
        assert [job["id"] for job in client.get(f"/v1/jobs?{query}").get_json()["data"]] == [other["id"]]
    assert len(client.get("/v1/jobs?status=queued&tag=team:speech").get_json()["data"]) == 1
    assert client.get("/v1/jobs?status=failed").get_json()["data"] == []


def test_a_job_on_an_uploaded_data_set_names_it(client: FlaskClient, npz_bytes: Callable[..., bytes]) -> None:
    dataset = client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type="application/zip").get_json()
    job = client.post("/v1/jobs", json={"preset": "basic_rnn", "data": {"dataset": "toy@1"}}).get_json()
    assert job["dataset"] == {"id": dataset["id"], "name": "toy"}


def test_the_jobs_of_a_version_of_a_data_set_are_listed(client: FlaskClient, npz_bytes: Callable[..., bytes]) -> None:
    uploads = [
        client.post("/v1/datasets?name=toy", data=npz_bytes(seed), content_type="application/zip") for seed in (1, 2)
    ]
    first, second = [each.get_json()["id"] for each in uploads]
    spec = {"preset": "basic_rnn", "data": {"dataset": "toy@1"}}
    made = [client.post("/v1/jobs", json=spec).get_json()["id"] for _ in range(3)]

    def listed(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/v1/jobs?{query}").get_json()["data"]]

    assert listed(f"dataset={first}") == made[::-1]
    assert listed(f"dataset={first}&status=queued&after={made[1]}") == made[:1]
    assert listed(f"dataset={second}") == []


def test_cancelling_a_queued_job_ends_it_at_once(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    answer = client.post(queued_job["links"]["cancel"])
    assert answer.status_code == 202
    assert (answer.get_json()["status"], answer.get_json()["reason"]) == ("cancelled", "cancelled_by_user")
    assert client.post(queued_job["links"]["cancel"]).get_json() == answer.get_json()  # again: as it is
    assert "Retry-After" not in answer.headers


def test_cancelling_a_running_job_asks_it_to_stop(client: FlaskClient, running_job: Lease) -> None:
    job = client.post(f"/v1/jobs/{running_job.job_id}/cancel").get_json()
    assert (job["status"], job["cancel_requested"], job["terminal"]) == ("running", True, False)


def test_a_running_job_shows_how_far_it_is(client: FlaskClient, service: Service, running_job: Lease) -> None:
    with db.session_scope(service.engine) as session:
        progress.record_steps(session, running_job, 1, [1.0] * 6, [1.0] * 6)
    answer = client.get(f"/v1/jobs/{running_job.job_id}")
    shown = answer.get_json()["progress"]
    assert (shown["step"], shown["steps"], shown["fraction"]) == (6, 12, 0.5)
    assert 0 <= shown["eta_seconds"] < 5
    assert answer.headers["Retry-After"] == "1"


def test_the_numbers_of_a_run_are_ascending_and_null_where_not_finite(client: FlaskClient, trained_job: str) -> None:
    epochs = client.get(f"/v1/jobs/{trained_job}/epochs?after=1&limit=1").get_json()
    assert [record["epoch"] for record in epochs["data"]] == [2]
    assert epochs["has_more"]
    assert epochs["data"][0]["macro_f1"] is None
    steps = client.get(f"/v1/jobs/{trained_job}/steps?points=500").get_json()
    assert (steps["total"], steps["step"]) == (12, list(range(1, 13)))
    assert steps["loss"][:4] == [1.0, None, 0.5, None]
    assert len(client.get(f"/v1/jobs/{trained_job}/steps?points=4").get_json()["step"]) <= 4


def test_a_job_that_has_ended_shows_its_result(client: FlaskClient, trained_job: str) -> None:
    job = client.get(f"/v1/jobs/{trained_job}").get_json()
    assert (job["status"], job["terminal"], job["progress"]["fraction"]) == ("succeeded", True, 1.0)
    assert job["best"] == {"epoch": 3, "metric": "validation_loss", "value": pytest.approx(2 / 3)}
    assert job["result"]["metrics"] == {"validation_loss": 0.66, "test_loss": None}
    assert job["result"]["baseline"] is None  # as of a version that knew none
    assert job["links"]["model"] == f"/v1/jobs/{trained_job}/model"
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["created_at"].endswith("Z")


def test_an_unchanged_job_is_answered_with_304_by_one_cheap_query(
    client: FlaskClient, service: Service, queued_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = client.get(queued_job["links"]["self"]).headers["ETag"]
    monkeypatch.setattr(control, "get", None)  # nothing else may be loaded
    answer = client.get(queued_job["links"]["self"], headers={"If-None-Match": tag})
    assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", tag)
    monkeypatch.undo()
    client.post(queued_job["links"]["cancel"])
    assert client.get(queued_job["links"]["self"], headers={"If-None-Match": tag}).status_code == 200


def test_a_long_poll_ends_when_the_job_changes(
    app: Flask, client: FlaskClient, service: Service, running_job: Lease
) -> None:
    path = f"/v1/jobs/{running_job.job_id}"
    tag = client.get(path).headers["ETag"]
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        poll = pool.submit(lambda: app.test_client().get(f"{path}?wait=20", headers={"If-None-Match": tag}))
        with db.session_scope(service.engine) as session:
            progress.record(session, running_job, {"epoch": 1, "train_loss": 0.5})
        answer = poll.result()
    assert (answer.status_code, answer.get_json()["progress"]["epoch"]) == (200, 1)
    assert time.monotonic() - began < 15


def test_a_long_poll_without_a_tag_waits_for_the_end(app: Flask, service: Service, running_job: Lease) -> None:
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(lambda: app.test_client().get(f"/v1/jobs/{running_job.job_id}?wait=20"))
        with db.session_scope(service.engine) as session:
            progress.record(session, running_job, {"epoch": 1, "train_loss": 0.5})
            attempts.fail(session, running_job, "diverged", "Step 3.", retry=False)
        assert poll.result().get_json()["reason"] == "diverged"


def test_a_long_poll_without_news_ends_after_its_time(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    tag = client.get(queued_job["links"]["self"]).headers["ETag"]
    began = time.monotonic()
    answer = client.get(queued_job["links"]["self"] + "?wait=0.3", headers={"If-None-Match": tag})
    assert answer.status_code == 304
    assert time.monotonic() - began >= 0.3


def test_polls_past_the_thread_budget_are_answered_at_once(
    client: FlaskClient, service: Service, queued_job: dict[str, Any]
) -> None:
    service.waiting = threading.BoundedSemaphore(1)
    with service.waiting:
        began = time.monotonic()
        assert client.get(queued_job["links"]["self"] + "?wait=30").status_code == 200
        assert time.monotonic() - began < 15


@pytest.mark.parametrize("path", ["", "/cancel", "/epochs", "/steps", "/checkpoints", "/checkpoints/4", "/model"])
@pytest.mark.parametrize("job_id", [UNKNOWN, "1", "job_", "..%2f..", "%00", "%ED%A0%80", "a" * 3000])
def test_an_unknown_id_is_404_everywhere(client: FlaskClient, job_id: str, path: str) -> None:
    answer = client.open(f"/v1/jobs/{job_id}{path}", method="POST" if path == "/cancel" else "GET")
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert answer.get_json()["code"] in ("job_not_found", "checkpoint_not_found", "no_such_route")


def test_five_mistakes_are_one_answer_that_names_all_five(client: FlaskClient) -> None:
    answer = client.post(
        "/v1/jobs",
        json={
            "architecture": {"cell": "gru", "dropout": 0.3, "hiden_size": 8},
            "training": {"epochs": -1, "optimizer": {"lr": "fast"}},
            "data": {"dataset": "vowls"},
        },
    )
    problem = answer.get_json()
    assert (answer.status_code, answer.mimetype, problem["code"]) == (422, "application/problem+json", "spec_invalid")
    assert {one["pointer"] for one in problem["errors"]} == {
        "/architecture/dropout",
        "/architecture/hiden_size",
        "/training/epochs",
        "/training/optimizer/lr",
        "/data/dataset",
    }


def test_an_unknown_data_set_names_those_there_are(client: FlaskClient, npz_bytes: Callable[..., bytes]) -> None:
    client.post("/v1/datasets?name=vowels", data=npz_bytes(), content_type="application/zip")
    found = client.post("/v1/jobs", json={"preset": "basic_rnn", "data": {"dataset": "vowls"}}).get_json()["errors"]
    assert [one["pointer"] for one in found] == ["/data/dataset"]
    assert "did you mean vowels? known: vowels;" in found[0]["detail"]


@pytest.mark.parametrize("path", ["./x.npz", "x.npz", "/etc/passwd", "..\\x.npz", "~/x", "data/x"])
def test_a_path_as_a_data_set_is_told_to_be_uploaded(client: FlaskClient, path: str) -> None:
    found = client.post("/v1/jobs", json={"preset": "basic_rnn", "data": {"dataset": path}}).get_json()["errors"]
    assert [one["pointer"] for one in found] == ["/data/dataset"]
    assert "upload it first" in found[0]["detail"]


def test_a_spec_that_does_not_fit_its_data_is_refused(client: FlaskClient) -> None:
    data = {"synthetic": {"classes": 5}}
    answer = client.post("/v1/jobs", json={"preset": "basic_rnn", "data": data, "training": {"loss": "bce"}})
    assert [one["pointer"] for one in answer.get_json()["errors"]] == ["/training/loss"]


@pytest.mark.parametrize(
    "key",
    [
        "status",
        "attempt",
        "lease_until",
        "worker",
        "tenant",
        "id",
        "dataset_id",
        "revision",
        "cancel_requested",
        "files",
    ],
)
def test_what_is_not_the_clients_to_say_is_refused(client: FlaskClient, spec: dict[str, Any], key: str) -> None:
    answer = client.post("/v1/jobs", json=spec | {key: "x"})
    assert (answer.status_code, [one["pointer"] for one in answer.get_json()["errors"]]) == (422, [f"/{key}"])


@pytest.mark.parametrize(
    ("number", "status"),
    [
        ("-1", 422),
        ("0", 422),
        ("1e308", 422),
        ("1e999", 422),
        ('"5"', 422),
        ("true", 422),
        ("1.5", 422),
        ("null", 422),
        ("NaN", 400),
        ("Infinity", 400),
        ("-Infinity", 400),
        ("1" + "0" * 400, 400),
        ("1" + "0" * 5000, 400),
    ],
)
@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_a_wrong_number_is_a_clear_problem(client: FlaskClient, field: str, number: str, status: int) -> None:
    body = f'{{"preset": "basic_gru", "data": {{"synthetic": {{}}}}, "training": {{"{field}": {number}}}}}'
    answer = client.post("/v1/jobs", data=body, content_type="application/json")
    assert answer.status_code == status
    assert all(one["detail"] for one in answer.get_json()["errors"])


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "x" * 1_000_000, "\\n"])
@pytest.mark.parametrize("field", ["name", "queue", "dataset", "tag key", "tag value", "unknown key"])
def test_strange_text_is_refused_and_costs_little(client: FlaskClient, field: str, text: str) -> None:
    name, queue, dataset, key, value, extra = (
        text if field == one else "ok" for one in ("name", "queue", "dataset", "tag key", "tag value", "unknown key")
    )
    body = (
        f'{{"preset": "basic_gru", "data": {{"dataset": "{dataset}"}}, "name": "{name}", "queue": "{queue}", '
        f'"tags": {{"{key}": "{value}"}}, "{extra}": 1}}'
    )
    began = time.monotonic()
    answer = client.post("/v1/jobs", data=body, content_type="application/json")
    assert answer.status_code in (400, 422)
    assert len(answer.data) < 20_000
    assert time.monotonic() - began < 20


def test_the_same_key_twenty_times_at_once_makes_one_job(
    make_app: Callable[..., Flask], database_url: str, bell: FakeDoorbell, spec: dict[str, Any]
) -> None:
    app = make_app(database_url)

    def post(_: int) -> tuple[int, str, bool]:
        answer = app.test_client().post("/v1/jobs", json=spec, headers={"Idempotency-Key": "once"})
        return answer.status_code, answer.get_json()["id"], "Idempotency-Replayed" in answer.headers

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert {(status, job_id) for status, job_id, _ in answers} == {(202, answers[0][1])}
    assert sorted(replayed for _, _, replayed in answers) == [False] + [True] * 19
    assert len(app.test_client().get("/v1/jobs").get_json()["data"]) == 1
    assert bell.rung == ["default"]


def test_the_same_key_with_another_body_is_refused(client: FlaskClient, spec: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "once"}
    assert client.post("/v1/jobs", json=spec, headers=headers).status_code == 202
    answer = client.post("/v1/jobs", json=spec | {"name": "other"}, headers=headers)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "idempotency_conflict")


def test_a_key_whose_request_failed_may_be_used_again(client: FlaskClient, spec: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "once"}
    assert client.post("/v1/jobs", json=spec | {"queue": "!"}, headers=headers).status_code == 422
    assert client.post("/v1/jobs", json=spec, headers=headers).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "é", "\t"])
def test_a_key_that_is_none_is_refused(client: FlaskClient, spec: dict[str, Any], key: str) -> None:
    answer = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.get_json()["errors"][0]["pointer"]) == (400, "/header/Idempotency-Key")


def test_a_job_is_accepted_while_the_broker_is_down(
    client: FlaskClient, service: Service, spec: dict[str, Any], unused_port: int
) -> None:
    service.bell = CeleryDoorbell(f"redis://127.0.0.1:{unused_port}/0")
    began = time.monotonic()
    assert client.post("/v1/jobs", json=spec).status_code == 202
    assert time.monotonic() - began < 20


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_the_life_of_a_job_on_both_databases(
    make_app: Callable[..., Flask], database_url: str, spec: dict[str, Any]
) -> None:
    app = make_app(database_url)
    client, engine = app.test_client(), app.extensions["loopline"].engine
    path = client.post("/v1/jobs", json=spec).headers["Location"]
    with db.session_scope(engine) as session:
        claimed = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert claimed is not None
        progress.started(session, Lease.of(claimed), epochs=3, steps_per_epoch=4, info={"device": "cpu"})
    tag = client.get(path).headers["ETag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.post(f"{path}/cancel").get_json()["cancel_requested"]
    with db.session_scope(engine) as session:
        attempts.cancelled(session, Lease.of(claimed))
    assert client.get(f"{path}?wait=5", headers={"If-None-Match": tag}).get_json()["status"] == "cancelled"
    assert len(client.get("/v1/jobs?tag=team:speech&status=cancelled").get_json()["data"]) == 1
    assert client.get("/v1/jobs?name=%00&tag=a:b").status_code == 400


def test_a_job_whose_worker_is_silent_says_since_when_and_not_when_it_ends(
    client: FlaskClient, service: Service, running_job: Lease
) -> None:
    with db.session_scope(service.engine) as session:
        progress.started(session, running_job, epochs=10, steps_per_epoch=10, info={})
        progress.record_steps(session, running_job, 1, [1.0], [0.5])

    def silent_for(seconds: float) -> dict[str, Any]:
        """As if the worker had renewed its lease so long ago."""
        with db.session_scope(service.engine) as session:
            until = db.now() + service.settings.lease_seconds - seconds
            session.execute(sa.update(Job).where(Job.id == running_job.job_id).values(lease_until=until))
        found: dict[str, Any] = client.get(f"/v1/jobs/{running_job.job_id}").get_json()
        [listed] = client.get("/v1/jobs").get_json()["data"]
        assert listed["silent_since"] == found["silent_since"]
        return found

    recent, silent = silent_for(12), silent_for(40)
    assert recent["silent_since"] is None
    since = datetime.fromisoformat(silent["silent_since"])
    assert 39 < (datetime.now(UTC) - since).total_seconds() < 60
    assert (silent["status"], silent["progress"]["eta_seconds"]) == ("running", None)
