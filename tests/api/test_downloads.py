from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Any

import pytest
from flask.testing import FlaskClient

from api import downloads
from api.service import Service
from services import db
from services.jobs import attempts
from services.jobs.leases import Lease
from services.orm import Job


def test_a_model_is_a_zip_of_its_files(client: FlaskClient, trained_job: str, model_files: dict[str, bytes]) -> None:
    answer = client.get(f"/v1/jobs/{trained_job}/model", buffered=True)
    assert (answer.status_code, answer.mimetype) == (200, "application/zip")
    assert answer.headers["Content-Disposition"] == f"attachment; filename={trained_job}.zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == model_files
    again = client.get(f"/v1/jobs/{trained_job}/model", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_zip_leaves_in_pieces(client: FlaskClient, trained_job: str) -> None:
    answer = client.get(f"/v1/jobs/{trained_job}/model", buffered=False)
    pieces = [len(piece) for piece in answer.iter_encoded()]
    answer.close()
    assert len(pieces) >= 4
    assert max(pieces) < 2 * downloads.CHUNK_BYTES


def test_one_file_of_a_model_may_be_had_by_range(
    client: FlaskClient, trained_job: str, model_files: dict[str, bytes]
) -> None:
    path = f"/v1/jobs/{trained_job}/model/model.safetensors"
    whole = client.get(path, buffered=True)
    assert (whole.status_code, whole.data) == (200, model_files["model.safetensors"])
    part = client.get(path, headers={"Range": "bytes=10-19", "If-Range": whole.headers["ETag"]}, buffered=True)
    assert (part.status_code, part.data) == (206, bytes(range(10, 20)))
    assert client.get(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    beyond = client.get(path, headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, beyond.get_json()["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["Content-Range"] == f"bytes */{len(whole.data)}"


@pytest.mark.parametrize(
    "name", ["model.pt", "checkpoint-000000012.json", "..%2fmodel.json", "%2e%2e", "%00", "MODEL.JSON"]
)
def test_a_file_that_no_model_has_is_404(client: FlaskClient, trained_job: str, name: str) -> None:
    answer = client.get(f"/v1/jobs/{trained_job}/model/{name}")
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


@pytest.mark.parametrize("ended", ["cancelled", "time_limit"])
def test_the_best_weights_of_a_job_that_was_cut_short_are_offered_and_marked(
    client: FlaskClient, service: Service, running_job: Lease, model_files: dict[str, bytes], ended: str
) -> None:
    path = f"/v1/jobs/{running_job.job_id}"
    assert client.get(path).get_json()["links"]["model"] is None
    folder = service.storage.job_dir(running_job.job_id)
    files = []
    for name, data in model_files.items():
        (folder / name).write_bytes(data)
        files.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    marks = {"complete": False, "incomplete_because": ended}
    result = {**marks, "best_epoch": 2, "epochs": 3, "stopped_early": False, "metrics": {"validation_loss": 0.5}}
    with db.session_scope(service.engine) as session:
        if ended == "cancelled":
            attempts.cancelled(session, running_job, result=result, files=files)
        else:
            attempts.fail(session, running_job, "time_limit", retry=False, result=result, files=files)
    shown = client.get(path).get_json()
    assert (shown["links"]["model"], shown["result"]["complete"]) == (f"{path}/model", False)
    assert shown["result"]["incomplete_because"] == ended
    answer = client.get(f"{path}/model", buffered=True)
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == model_files
    weights = client.get(f"{path}/model/model.safetensors", buffered=True)
    assert weights.data == model_files["model.safetensors"]
    refused = client.post("/v1/models/vowels/versions", json={"job": running_job.job_id})
    assert (refused.status_code, refused.get_json()["code"]) == (409, "job_not_succeeded")


@pytest.mark.parametrize("path", ["model", "model/model.json"])
def test_a_model_is_not_there_before_the_end(client: FlaskClient, queued_job: dict[str, Any], path: str) -> None:
    answer = client.get(f"{queued_job['links']['self']}/{path}")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "model_not_ready")
    client.post(queued_job["links"]["cancel"])
    assert "cancelled" in client.get(f"{queued_job['links']['self']}/{path}").get_json()["detail"]


def test_checkpoints_are_listed_and_downloaded(client: FlaskClient, trained_job: str) -> None:
    (checkpoint,) = client.get(f"/v1/jobs/{trained_job}/checkpoints").get_json()["data"]
    assert (checkpoint["id"], checkpoint["epoch"], checkpoint["best"]) == (12, 3, True)
    answer = client.get(checkpoint["links"]["self"], buffered=True)
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert sorted(archive.namelist()) == ["checkpoint-000000012.json", "checkpoint-000000012.safetensors"]
        assert archive.testzip() is None
        assert checkpoint["bytes"] == sum(info.file_size for info in archive.infolist())


@pytest.mark.parametrize(("step", "status"), [("13", 404), ("0", 404), ("-1", 400), ("x", 400), ("9" * 30, 400)])
def test_a_checkpoint_that_is_not_there_is_refused(
    client: FlaskClient, trained_job: str, step: str, status: int
) -> None:
    answer = client.get(f"/v1/jobs/{trained_job}/checkpoints/{step}")
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")


def test_a_file_that_has_vanished_is_a_problem_document(
    client: FlaskClient, service: Service, trained_job: str
) -> None:
    service.storage.job_file(trained_job, "model.json").unlink()
    for path in ("model", "model/model.json"):
        answer = client.get(f"/v1/jobs/{trained_job}/{path}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")


def test_only_the_head_of_a_download_may_be_asked_for(client: FlaskClient, trained_job: str) -> None:
    for path in ("model", "model/model.safetensors"):
        answer = client.head(f"/v1/jobs/{trained_job}/{path}")
        assert (answer.status_code, answer.data) == (200, b"")


def test_the_model_card_and_its_pictures_are_attachments_of_their_types(
    client: FlaskClient, trained_job: str, model_files: dict[str, bytes]
) -> None:
    for name, kind in (("README.md", "text/markdown"), ("loss.svg", "image/svg+xml")):
        answer = client.get(f"/v1/jobs/{trained_job}/model/{name}", buffered=True)
        assert (answer.data, answer.mimetype) == (model_files[name], kind)
        assert answer.headers["Content-Disposition"] == f"attachment; filename={name}"


def test_a_model_without_an_onnx_file_is_downloaded_all_the_same(
    client: FlaskClient, trained_job: str, model_files: dict[str, bytes], service: Service
) -> None:
    path = f"/v1/jobs/{trained_job}/model"
    assert client.get(f"{path}/model.onnx", buffered=True).data == model_files["model.onnx"]
    with db.session_scope(service.engine) as session:
        job = session.get_one(Job, trained_job)
        job.files = [file for file in job.files or () if file["name"] != "model.onnx"]
    answer = client.get(f"{path}/model.onnx")
    assert (answer.status_code, answer.get_json()["detail"]) == (404, "This job's model has no model.onnx.")
    with zipfile.ZipFile(io.BytesIO(client.get(path, buffered=True).data)) as archive:
        assert sorted(archive.namelist()) == [
            "README.md",
            "history.json",
            "loss.svg",
            "model.json",
            "model.safetensors",
        ]
