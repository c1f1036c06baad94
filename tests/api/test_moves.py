"""Pause, resume and delete, over HTTP and on both databases."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
from flask import Flask

from api.service import Service
from services import db
from services.jobs import attempts
from services.jobs.leases import Lease
from tests.ringing import FakeDoorbell

FILES = {"model.safetensors": bytes(3_000_000), "model.json": b"{}", "history.json": b"{}"}
UNKNOWN = "job_" + "0" * 26


def house(app: Flask) -> Service:
    found: Service = app.extensions["loopline"]
    return found


def submitted(app: Flask, spec: dict[str, Any]) -> str:
    return str(app.test_client().post("/v1/jobs", json=spec).headers["Location"])


def claimed(app: Flask) -> Lease:
    with db.session_scope(house(app).engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        return Lease.of(job)


def trained(app: Flask, spec: dict[str, Any]) -> str:
    """The address of a job that has a model."""
    path = submitted(app, spec)
    lease, storage = claimed(app), house(app).storage
    files = [{"name": name, "bytes": len(content), "sha256": "0" * 64} for name, content in FILES.items()]
    for name, content in FILES.items():
        (storage.job_dir(lease.job_id) / name).write_bytes(content)
    result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {}}
    with db.session_scope(house(app).engine) as session:
        attempts.succeed(session, lease, result, files)
    return path


def test_a_job_that_waits_is_paused_at_once_and_says_how_it_goes_on(
    any_app: Flask, bell: FakeDoorbell, spec: dict[str, Any]
) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    answer = client.post(f"{path}/pause")
    job = answer.get_json()
    assert (answer.status_code, job["status"], job["terminal"]) == (202, "paused", False)
    assert "resume it to go on" in job["message"]
    assert job["queue"]["position"] is None
    assert client.post(f"{path}/pause").get_json() == job  # again: as it is
    assert answer.headers["ETag"] == client.get(path).headers["ETag"]
    bell.rung.clear()
    answer = client.post(f"{path}/resume")
    assert (answer.status_code, answer.get_json()["status"], answer.get_json()["message"]) == (202, "queued", None)
    assert bell.rung == ["default"]


def test_a_running_job_is_asked_to_pause_and_may_be_left_alone_after_all(
    any_app: Flask, bell: FakeDoorbell, spec: dict[str, Any]
) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    lease = claimed(any_app)
    job = client.post(f"{path}/pause").get_json()
    assert (job["status"], job["pause_requested"]) == ("running", True)
    bell.rung.clear()
    job = client.post(f"{path}/resume").get_json()
    assert (job["status"], job["pause_requested"], bell.rung) == ("running", False, [])
    client.post(f"{path}/pause")
    with db.session_scope(house(any_app).engine) as session:
        attempts.paused(session, lease)
    job = client.get(path).get_json()
    assert (job["status"], job["pause_requested"]) == ("paused", False)
    assert client.post(f"{path}/resume").get_json()["status"] == "queued"


def test_a_paused_job_is_cancelled_at_once(any_app: Flask, spec: dict[str, Any]) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    client.post(f"{path}/pause")
    assert client.post(f"{path}/cancel").get_json()["status"] == "cancelled"


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_has_ended_is_neither_paused_nor_resumed(any_app: Flask, spec: dict[str, Any], verb: str) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    client.post(f"{path}/cancel")
    answer = client.post(f"{path}/{verb}")
    assert (answer.status_code, answer.get_json()["code"]) == (409, "illegal_move")
    assert "has ended (cancelled)" in answer.get_json()["detail"]


def test_a_long_poll_hears_of_a_pause(any_app: Flask, spec: dict[str, Any]) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    tag = client.get(path).headers["ETag"]
    client.post(f"{path}/pause")
    answer = client.get(f"{path}?wait=20", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.get_json()["status"]) == (200, "paused")


def test_a_job_that_was_lost_says_why_it_waits(any_app: Flask, spec: dict[str, Any]) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    with db.session_scope(house(any_app).engine) as session:
        attempts.claim(session, "default", worker="test:1", lease_seconds=-1)
    with db.session_scope(house(any_app).engine) as session:
        attempts.expire(session)
    job = client.get(path).get_json()
    assert (job["status"], job["reason"], job["lost"], job["failures"]) == ("queued", "worker_lost", 1, 0)
    assert job["message"] == "Worker test:1 was lost during attempt 1. The job goes on."
    assert job["waits_until"] is None


def test_a_job_that_is_tried_again_says_when(any_app: Flask, spec: dict[str, Any]) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    lease = claimed(any_app)
    with db.session_scope(house(any_app).engine) as session:
        attempts.fail(session, lease, "trainer_crashed", "It crashed.", retry=True, retry_seconds=60)
    job = client.get(path).get_json()
    assert (job["status"], job["reason"], job["failures"]) == ("queued", "trainer_crashed", 1)
    assert job["waits_until"] > job["started_at"]


def test_an_ended_job_is_deleted_with_its_files(any_app: Flask, spec: dict[str, Any]) -> None:
    client = any_app.test_client()
    keyed = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "once"})
    path = str(keyed.headers["Location"])
    client.post(f"{path}/cancel")
    folder = house(any_app).storage.job_dir(keyed.get_json()["id"])
    (folder / "model.json").write_bytes(b"{}")
    answer = client.delete(path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert not folder.exists()
    for gone in ("", "/epochs", "/events", "/logs", "/checkpoints"):
        assert client.get(f"{path}{gone}").status_code == 404
    assert client.delete(path).status_code == 404
    again = client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "once"})
    assert (again.status_code, again.headers["Location"] == path) == (202, False)


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_a_job_that_may_still_run_is_not_deleted(any_app: Flask, spec: dict[str, Any], state: str) -> None:
    client, path = any_app.test_client(), submitted(any_app, spec)
    if state == "running":
        claimed(any_app)
    elif state == "paused":
        client.post(f"{path}/pause")
    answer = client.delete(path)
    assert (answer.status_code, answer.get_json()["code"]) == (409, "job_not_ended")
    assert f"is {state};" in answer.get_json()["detail"]
    assert client.get(path).get_json()["status"] == state


def test_a_download_under_way_ends_whole_when_its_job_is_deleted(any_app: Flask, spec: dict[str, Any]) -> None:
    client, path = any_app.test_client(), trained(any_app, spec)
    archive = client.get(f"{path}/model", buffered=False)
    single = client.get(f"{path}/model/model.safetensors", buffered=False)
    whole, pieces = iter(archive.iter_encoded()), iter(single.iter_encoded())
    begun = next(whole), next(pieces)
    assert client.delete(path).status_code == 204
    with zipfile.ZipFile(io.BytesIO(begun[0] + b"".join(whole))) as package:
        assert package.testzip() is None
        assert {name: package.read(name) for name in package.namelist()} == FILES
    assert begun[1] + b"".join(pieces) == FILES["model.safetensors"]
    archive.close()
    single.close()
    assert client.get(f"{path}/model").status_code == 404


@pytest.mark.parametrize(("method", "below"), [("POST", "/pause"), ("POST", "/resume"), ("DELETE", "")])
@pytest.mark.parametrize("job_id", [UNKNOWN, "1", "..%2f..", "%00", "a" * 3000])
def test_an_unknown_id_is_404(app: Flask, method: str, below: str, job_id: str) -> None:
    answer = app.test_client().open(f"/v1/jobs/{job_id}{below}", method=method)
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
