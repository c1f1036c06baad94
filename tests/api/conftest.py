"""An API on a database and a folder of its own, with a doorbell that remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from api.app import create_app
from api.service import Service
from services import db
from services.blobs.storage import Storage
from services.jobs import attempts, progress
from services.jobs.leases import Lease
from services.settings import Settings
from tests.api import answers
from tests.ringing import FakeDoorbell

SPEC: dict[str, Any] = {
    "name": "try",
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 3},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
    "tags": {"team": "speech"},
}


@pytest.fixture
def bell() -> FakeDoorbell:
    return FakeDoorbell()


@pytest.fixture
def make_app(data_dir: Path, bell: FakeDoorbell) -> Iterator[Callable[..., Flask]]:
    """A factory of apps on a migrated database; further arguments are settings."""
    made: list[Flask] = []

    def make(database_url: str, **settings: Any) -> Flask:
        app = create_app(Settings(data_dir=data_dir, database_url=database_url, **settings), bell=bell)
        answers.hold(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["loopline"].engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask], sqlite_url: str) -> Flask:
    """An API on SQLite."""
    return make_app(sqlite_url)


@pytest.fixture
def any_app(make_app: Callable[..., Flask], database_url: str) -> Flask:
    """An API on each of the databases: a test that takes it runs twice."""
    return make_app(database_url)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def service(app: Flask) -> Service:
    found: Service = app.extensions["loopline"]
    return found


@pytest.fixture
def spec() -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in SPEC.items()}


@pytest.fixture
def queued_job(client: FlaskClient, spec: dict[str, Any]) -> dict[str, Any]:
    """A job as the API answered it."""
    answer: dict[str, Any] = client.post("/v1/jobs", json=spec).get_json()
    return answer


@pytest.fixture
def running_job(service: Service, queued_job: dict[str, Any]) -> Lease:
    """The lease of a job whose trainer has begun: 3 epochs of 4 steps."""
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        progress.started(session, Lease.of(job), epochs=3, steps_per_epoch=4, info={"device": "cpu", "threads": 1})
    return Lease.of(job)


Put = Callable[[str, str, bytes], dict[str, Any]]
Publish = Callable[..., str]


@pytest.fixture
def put(storage: Storage) -> Put:
    """Leaves a file of a job as a trainer does, and gives its record."""
    return put_into(storage)


def put_into(storage: Storage) -> Put:
    def leave(job_id: str, name: str, content: bytes) -> dict[str, Any]:
        (storage.job_dir(job_id) / name).write_bytes(content)
        return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    return leave


@pytest.fixture
def model_files() -> dict[str, bytes]:
    """The contents of the model of `trained_job`."""
    return {
        "model.safetensors": bytes(range(256)) * 4096,
        "model.json": b'{"spec": {}}',
        "history.json": b'{"epochs": []}',
        "model.onnx": b"a graph",
        "README.md": b"# vowels",
        "loss.svg": b"<svg/>",
    }


@pytest.fixture
def trained_job(service: Service, running_job: Lease, put: Put, model_files: dict[str, bytes]) -> str:
    """The id of a job that has run to its end: records, a checkpoint, a model."""
    lease = running_job
    with db.session_scope(service.engine) as session:
        for epoch in (1, 2, 3):
            record = {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 2 / epoch, "macro_f1": float("nan")}
            first = 4 * (epoch - 1) + 1
            progress.record_steps(session, lease, first, [1.0, float("nan"), 0.5, None], [0.1, 0.2, float("inf"), 0.4])
            best = {"epoch": epoch, "metric": "validation_loss", "value": record["validation_loss"]}
            progress.record(session, lease, record, best=best)
        names = ("checkpoint-000000012.json", "checkpoint-000000012.safetensors")
        files = [put(lease.job_id, name, name.encode() * 1000) for name in names]
        progress.checkpoint(session, lease, epoch=3, step=12, best=True, files=files)
        model = [put(lease.job_id, name, content) for name, content in model_files.items()]
        result = {
            "best_epoch": 3,
            "epochs": 3,
            "stopped_early": False,
            "metrics": {"validation_loss": 0.66, "test_loss": None},
        }
        attempts.succeed(session, lease, result, model)
    return lease.job_id


@pytest.fixture
def publish(client: FlaskClient, service: Service, trained_model: Callable[[str], Any], storage: Storage) -> Publish:
    """Makes a trained model the result of a job, or of an unfinished one; returns the job's id."""

    def make(name: str | Path, *, without: tuple[str, ...] = (), succeeds: bool = True) -> str:
        client.post("/v1/jobs", json=SPEC)
        folder = name if isinstance(name, Path) else trained_model(name).folder
        return give_model(service.engine, storage, folder, without=without, succeeds=succeeds)

    return make


def give_model(
    engine: Engine, storage: Storage, folder: Path, *, without: tuple[str, ...] = (), succeeds: bool = True
) -> str:
    """Claims the next job and makes the model of a folder its result; returns the job's id."""
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        lease = Lease.of(job)
    files = []
    for path in sorted(folder.iterdir()):
        if path.name not in without:
            (storage.job_dir(lease.job_id) / path.name).write_bytes(path.read_bytes())
            incoming = storage.arrived(path)
            files.append({"name": path.name, "bytes": incoming.bytes, "sha256": incoming.sha256})
    if succeeds:
        with db.session_scope(engine) as session:
            attempts.succeed(session, lease, {"metrics": {"validation_loss": 0.5}}, files)
    return lease.job_id
