"""A real service on a free port: the API on SQLite, with the test itself in the part of the worker."""

from __future__ import annotations

import functools
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import stamina.instrumentation
import typer
import typer.testing
from loopline import Client
from werkzeug.serving import WSGIRequestHandler, make_server

from api.app import create_app
from services import db
from services.jobs import attempts, control, events, progress
from services.jobs.events import Line
from services.jobs.leases import Lease
from services.orm import Job
from services.settings import Settings
from services.states import Status
from tests.ringing import FakeDoorbell
from worker.scheduler import searches

# The command is built once for all tests: typer's runner builds all groups and options anew each time, for 25 ms.
typer.testing._get_command = functools.cache(typer.main.get_command)

SPEC: dict[str, Any] = {
    "name": "tiny",
    "architecture": {"cell": "gru", "hidden_size": 8},
    "training": {"epochs": 3, "batch_size": 16},
    "data": {"synthetic": {"samples": 64, "length": 10, "features": 3, "classes": 2}},
}
FILES = {"model.safetensors": b"weights" * 1000, "model.json": b"{}", "history.json": b'{"epochs": []}'}


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Says nothing: the tests look at what the client says."""


class Bell(FakeDoorbell):
    """Lets a test wait until a job is there."""

    def __init__(self) -> None:
        super().__init__()
        self.was_rung = threading.Event()

    def ring(self, queue: str) -> bool:
        self.was_rung.set()
        return super().ring(queue)


class Service:
    """The running service, and what a worker would do to its jobs. `wrap` puts something in front of the API."""

    def __init__(self, folder: Path, database_url: str, **given: Any) -> None:
        self.bell = Bell()
        settings = Settings(data_dir=folder, database_url=database_url, broker_url="redis://127.0.0.1:1/0", **given)
        self.app = create_app(settings, bell=self.bell)
        self.engine = self.app.extensions["loopline"].engine
        self.storage = self.app.extensions["loopline"].storage
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.wrapped: Callable[..., Any] = self.app.wsgi_app
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        headers = {name: str(value) for name, value in environ.items() if name.startswith("HTTP_")}
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], headers))
        return self.wrapped(environ, start_response)

    def wrap(self, layer: Callable[..., Any]) -> None:
        self.wrapped = layer

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.engine.dispose()

    # What a worker does.

    def do(self, verb: Callable[..., Any], job_id: str, *args: Any, **values: Any) -> Any:
        with db.session_scope(self.engine) as session:
            lease = Lease.of(control.get(session, job_id))
            return verb(session, lease, *args, **values)

    def start(self, job_id: str, *, epochs: int = 3, steps_per_epoch: int = 4) -> None:
        with db.session_scope(self.engine) as session:
            claimed = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
            assert claimed is not None
            assert claimed.id == job_id
        self.do(progress.started, job_id, epochs=epochs, steps_per_epoch=steps_per_epoch, info={"device": "cpu"})

    def epoch(self, job_id: str, epoch: int, *, loss: float | None = None) -> None:
        loss = 1.0 / epoch if loss is None else loss
        self.do(progress.record_steps, job_id, 4 * epoch - 3, [loss] * 4, [0.5, None, 0.5, 0.5])
        record = {
            "epoch": epoch,
            "train_loss": loss,
            "validation_loss": loss + 0.1,
            "train_accuracy": 0.9,
            "validation_accuracy": 0.5 + epoch / 10,
            "lr": 1e-3,
            "grad_norm_mean": 0.5,
            "grad_norm_max": float("inf"),
            "clipped_fraction": 0.25,
            "seconds": 0.2,
            "samples_per_second": 320.0,
        }
        with db.read_scope(self.engine) as session:
            best = control.get(session, job_id).best
        if best is None or record["validation_loss"] < best["value"]:
            best = {"epoch": epoch, "metric": "validation_loss", "value": record["validation_loss"]}
        self.do(progress.record, job_id, record, best=best)

    def checkpoint(self, job_id: str, step: int) -> None:
        files = {path.name: b"state" for path in self.storage.checkpoint_files(job_id, step)}
        self.do(progress.checkpoint, job_id, epoch=1, step=step, best=True, files=self._written(job_id, files))

    def succeed(
        self, job_id: str, *, files: dict[str, bytes] = FILES, not_beaten: str | None = None, **more: Any
    ) -> None:
        """`not_beaten` is the sentence about a baseline that the model does not beat; `more` are entries of the
        result."""
        metrics = {"validation_accuracy": 0.8, "test_accuracy": 0.75, "test_macro_f1": float("nan")}
        baseline = {
            "answer": "the most frequent class (1)",
            "metrics": {"test_accuracy": 0.75},
            "metric": "test_accuracy",
            "is_beaten": not_beaten is None,
            "message": not_beaten,
        }
        result = {
            "best_epoch": 3,
            "epochs": 3,
            "stopped_early": False,
            "metrics": metrics,
            "baseline": baseline,
            **more,
        }
        result = json.loads(json.dumps(result).replace("NaN", "null"))
        self.do(attempts.succeed, job_id, result, self._written(job_id, files))

    def fail(self, job_id: str, reason: str = "diverged", message: str = "Training diverged at step 7.") -> None:
        self.do(attempts.fail, job_id, reason, message, retry=False)

    def cut_short(self, job_id: str, *, files: dict[str, bytes] = FILES) -> None:
        marks = {"complete": False, "incomplete_because": "time_limit"}
        result = {**marks, "best_epoch": 2, "epochs": 3, "stopped_early": False, "metrics": {"validation_loss": 0.5}}
        written = self._written(job_id, files)
        self.do(attempts.fail, job_id, "time_limit", "Too long.", retry=False, result=result, files=written)

    def log(self, job_id: str, *told: str) -> None:
        """Levels and texts, in turn."""
        self.do(events.log, job_id, [Line(*pair) for pair in zip(told[::2], told[1::2], strict=True)])

    def seen(self, job_id: str) -> None:
        """Waits until somebody who has seen the job as it is now asks for news of it."""
        with db.read_scope(self.engine) as session:
            tag = f'W/"{control.get(session, job_id).revision}"'
        deadline = time.monotonic() + 20
        while not any(
            path.endswith(job_id) and sent.get("HTTP_IF_NONE_MATCH") == tag for _, path, sent in self.requests
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def cancel(self, job_id: str) -> None:
        """As the API does it."""
        with db.session_scope(self.engine) as session:
            control.cancel(session, job_id)

    def complete(self, job_id: str) -> None:
        self.start(job_id)
        for epoch in (1, 2, 3):
            self.epoch(job_id, epoch)
        self.succeed(job_id)

    def trial(self, search_id: str, *losses: float) -> None:
        """The scheduler makes the next trials of a search one after the other, and each succeeds with a loss."""
        for loss in losses:
            searches.look(self.engine, self.bell)
            with db.read_scope(self.engine) as session:
                query = sa.select(Job.id).where(Job.search_id == search_id, Job.status == Status.QUEUED)
                job_id = session.scalars(query).one()
            self.start(job_id)
            self.epoch(job_id, 1, loss=loss - 0.1)
            self.succeed(job_id, metrics={"validation_loss": loss}, best_epoch=1)
        searches.look(self.engine, self.bell)

    def final(self, search_id: str, **metrics: float) -> None:
        """The final model of a search comes to its end with these metrics."""
        with db.read_scope(self.engine) as session:
            query = sa.select(Job.id).where(Job.search_id == search_id, Job.trial.is_(None))
            job_id = session.scalars(query).one()
        self.start(job_id)
        self.succeed(job_id, metrics=metrics)
        searches.look(self.engine, self.bell)

    def _written(self, job_id: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
        folder = self.storage.job_dir(job_id)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return [
            {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        ]


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    running = Service(tmp_path / "service", sqlite_url)
    yield running
    running.close()


@pytest.fixture
def keyed(tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    """A service that asks for API keys."""
    running = Service(tmp_path / "service", sqlite_url, auth="keys")
    yield running
    running.close()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, retry_seconds=5) as connected:
        yield connected


@pytest.fixture(autouse=True)
def quiet_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """stamina would log its retries through structlog, to stdout; and no variable of the machine reaches a test."""
    for name in ("LOOPLINE_URL", "LOOPLINE_API_KEY", "LOOPLINE_API_KEY_FILE", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    stamina.instrumentation.set_on_retry_hooks([])
    yield
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A spec that the service takes as it is."""
    copy: dict[str, Any] = json.loads(json.dumps(SPEC))
    return copy


@pytest.fixture
def in_background() -> Iterator[Callable[..., threading.Thread]]:
    """Runs a function in a thread that is joined, and whose error is raised, when the test ends."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def run(work: Callable[..., Any], *args: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*args)
            except BaseException as error:  # noqa: BLE001  (raised again below)
                errors.append(error)

        thread = threading.Thread(target=guarded)
        threads.append(thread)
        thread.start()
        return thread

    yield run
    for thread in threads:
        thread.join(30)
    assert not errors, errors[0]


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A small data set as a file: 40 sequences of 5 to 9 steps, 3 features, 2 classes."""
    rng = np.random.default_rng(0)
    path = tmp_path / "small.npz"
    np.savez(
        path,
        x=rng.normal(size=(40, 9, 3)).astype(np.float32),
        y=np.arange(40) % 2,
        lengths=rng.integers(5, 10, size=40),
    )
    return path


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
