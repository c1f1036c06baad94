"""The API where the blobs lie in an object store: uploads, downloads, deleting, and a store that is away."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.resources import health
from api.service import Service
from services import db
from services.blobs import transfers
from services.blobs.objects import S3
from services.blobs.storage import Storage
from services.datasets import versions
from services.jobs import attempts
from services.jobs.leases import Lease
from tests.api.conftest import Put
from tests.conftest import S3Server


@pytest.fixture
def app(make_app: Callable[..., Flask], sqlite_url: str, store_settings: dict[str, Any]) -> Flask:
    """An API on SQLite and an object store."""
    return make_app(sqlite_url, **store_settings)


@pytest.fixture
def put(service: Service, storage: Storage) -> Put:
    """Leaves a file of a job as a worker does, and gives its record; nothing of it is left on the disk."""

    def leave(job_id: str, name: str, content: bytes) -> dict[str, Any]:
        assert service.storage.objects is not None
        path = storage.job_dir(job_id) / name
        path.write_bytes(content)
        file = {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (shared,) = transfers.share(storage, service.storage.objects, job_id, 1, [file])
        path.unlink()
        return shared

    return leave


def upload(client: FlaskClient, data: bytes, name: str = "vowels") -> Any:
    return client.post(f"/v1/datasets?name={name}", data=data, content_type="application/octet-stream")


def test_an_upload_goes_to_the_store_and_stays_nowhere_else(
    client: FlaskClient, store: S3, npz_bytes: Callable[..., bytes], data_dir: Path
) -> None:
    data = npz_bytes()
    answer = upload(client, data)
    assert answer.status_code == 201
    (found,) = store.list("")
    assert found.key == transfers.dataset_key(answer.get_json()["sha256"])
    assert found.bytes == len(data)
    assert [path for path in (data_dir / "blobs").rglob("*") if path.is_file()] == []
    assert upload(client, data).status_code == 200


def test_an_upload_that_is_none_never_reaches_the_store(client: FlaskClient, store: S3) -> None:
    assert upload(client, b"PK\x03\x04 no zip").status_code == 422
    assert list(store.list("")) == []


def test_no_upload_leaves_a_row_without_an_object(
    client: FlaskClient, service: Service, s3_server: S3Server, npz_bytes: Callable[..., bytes]
) -> None:
    with s3_server.away():
        answer = upload(client, npz_bytes())
    assert (answer.status_code, answer.get_json()["code"]) == (503, "storage_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    with db.read_scope(service.engine) as session:
        assert versions.page(session) == ([], False)
    assert upload(client, npz_bytes()).status_code == 201


def test_an_object_that_a_sweep_took_meanwhile_makes_no_row(
    client: FlaskClient, service: Service, store: S3, npz_bytes: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the sweep came between the upload and its row, having found an older object of this content unwanted."""
    share = transfers.share_dataset

    def swept(held: Storage, incoming: Any) -> None:
        share(held, incoming)
        store.delete([found.key for found in store.list("datasets/")])

    monkeypatch.setattr(transfers, "share_dataset", swept)
    assert upload(client, npz_bytes()).status_code == 503
    with db.read_scope(service.engine) as session:
        assert versions.page(session) == ([], False)


def test_a_model_comes_from_the_store(client: FlaskClient, trained_job: str, model_files: dict[str, bytes]) -> None:
    answer = client.get(f"/v1/jobs/{trained_job}/model", buffered=True)
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == model_files
    again = client.get(f"/v1/jobs/{trained_job}/model", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    checkpoint = client.get(f"/v1/jobs/{trained_job}/checkpoints/12", buffered=True)
    with zipfile.ZipFile(io.BytesIO(checkpoint.data)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2


def test_one_file_may_be_had_by_range_as_from_a_folder(
    client: FlaskClient, trained_job: str, model_files: dict[str, bytes]
) -> None:
    path, weights = f"/v1/jobs/{trained_job}/model/model.safetensors", model_files["model.safetensors"]
    whole = client.get(path, buffered=True)
    assert (whole.status_code, whole.data) == (200, weights)
    assert whole.headers["Content-Length"] == str(len(weights))
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["Content-Disposition"] == "attachment; filename=model.safetensors"
    for asked, start, stop in (("10-19", 10, 20), ("1048570-", 1048570, None), ("-5", -5, None)):
        part = client.get(path, headers={"Range": f"bytes={asked}", "If-Range": whole.headers["ETag"]}, buffered=True)
        assert (part.status_code, part.data) == (206, weights[start:stop])
        assert part.headers["Content-Length"] == str(len(part.data))
    assert client.get(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    beyond = client.get(path, headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, beyond.get_json()["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["Content-Range"] == f"bytes */{len(weights)}"
    head = client.head(path)
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(len(weights)))


def test_a_file_leaves_in_pieces(client: FlaskClient, trained_job: str) -> None:
    for path in ("model", "model/model.safetensors"):
        answer = client.get(f"/v1/jobs/{trained_job}/{path}", buffered=False)
        pieces = [len(piece) for piece in answer.iter_encoded()]
        answer.close()
        assert len(pieces) >= 4
        assert max(pieces) < 600_000


def test_an_object_that_has_vanished_is_the_same_404_as_a_file(
    client: FlaskClient, store: S3, trained_job: str
) -> None:
    store.delete([found.key for found in store.list("jobs/") if found.key.endswith("model.json")])
    for path in ("model", "model/model.json"):
        answer = client.get(f"/v1/jobs/{trained_job}/{path}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
        assert answer.get_json()["detail"] == "The file model.json is recorded and no longer in the storage."


def test_a_download_without_the_store_is_503(client: FlaskClient, s3_server: S3Server, trained_job: str) -> None:
    with s3_server.away():
        for path in ("model", "model/model.json"):
            answer = client.get(f"/v1/jobs/{trained_job}/{path}")
            assert (answer.status_code, answer.get_json()["code"]) == (503, "storage_unavailable")


def test_deleting_a_job_deletes_its_objects(client: FlaskClient, store: S3, trained_job: str) -> None:
    names = {each.key.rpartition("/")[2] for each in store.list(f"jobs/{trained_job}/")}
    assert {"checkpoint-000000012.json", "model.safetensors", "model.onnx", "README.md"} < names
    assert client.delete(f"/v1/jobs/{trained_job}").status_code == 204
    assert list(store.list("jobs/")) == []


def test_a_job_is_deleted_while_the_store_is_away(client: FlaskClient, s3_server: S3Server, trained_job: str) -> None:
    with s3_server.away():
        assert client.delete(f"/v1/jobs/{trained_job}").status_code == 204
    assert client.get(f"/v1/jobs/{trained_job}").status_code == 404


def test_a_file_from_before_there_was_a_store_is_still_served(
    client: FlaskClient, service: Service, running_job: Lease, storage: Storage
) -> None:
    files = []
    for name in ("model.safetensors", "model.json", "history.json"):
        (storage.job_dir(running_job.job_id) / name).write_bytes(b"{}")
        files.append({"name": name, "bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()})
    with db.session_scope(service.engine) as session:
        attempts.succeed(
            session, running_job, {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {}}, files
        )
    for path in ("model", "model/model.json"):
        answer = client.get(f"/v1/jobs/{running_job.job_id}/{path}", buffered=True)
        assert answer.status_code == 200


def test_a_store_that_is_away_is_degraded(
    make_app: Callable[..., Flask],
    sqlite_url: str,
    broker_url: str,
    store_settings: dict[str, Any],
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.0)
    monkeypatch.setattr(health, "BLOBS_SECONDS", 0.0)
    monkeypatch.setattr(health, "BLOBS_TIMEOUT_SECONDS", 30.0)  # the machine may be busy
    client = make_app(sqlite_url, broker_url=broker_url, **store_settings).test_client()
    assert client.get("/v1/health/ready").get_json() == {
        "status": "ready",
        "checks": {"database": "ok", "workers": "ok", "folder": "ok", "broker": "ok", "blobs": "ok"},
    }
    with s3_server.away():
        answer = client.get("/v1/health/ready")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert "The object store cannot answer now" in answer.get_json()["checks"]["blobs"]


def test_a_model_in_the_store_answers_and_leaves_nothing_on_the_disk(
    client: FlaskClient, service: Service, running_job: Lease, put: Put, trained_model: Any, data_dir: Path
) -> None:
    folder = trained_model("plain").folder
    files = [put(running_job.job_id, path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    with db.session_scope(service.engine) as session:
        attempts.succeed(session, running_job, {"metrics": {}}, files)
    answer = client.post(f"/v1/jobs/{running_job.job_id}/predict", json={"x": [[[0.1, 0.2, 0.3]] * 4]})
    assert (answer.status_code, len(answer.get_json()["rows"])) == (200, 1)
    assert not any((data_dir / "blobs" / "work").iterdir())
