"""Requests made up from the OpenAPI document, right and wrong ones: no answer is a 500, none is outside its schema."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.service import Service
from services import db
from services.jobs import attempts, control, progress, workers
from services.jobs.events import Line, log
from services.jobs.leases import Lease
from services.models import registry
from services.orm import Base
from services.settings import Settings
from services.webhooks import subscriptions
from tests.properties import examples
from tests.ringing import FakeDoorbell

Put = Callable[[str, str, bytes], dict[str, Any]]
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
REGISTERED = {"model": ["toy"], "ref": ["1", "latest", "production"], "alias": ["production"]}
MEANT = {"isReady", "isWorking"}  # there is no broker here: 503 is an answer of theirs


@cache
def document() -> Any:
    """The document as schemathesis reads it. The app it is asked of touches nothing."""
    nowhere = Settings(data_dir=Path("/nowhere"), database_url="postgresql://x@127.0.0.1:1/x")
    app = create_app(nowhere, bell=FakeDoorbell())
    found = schemathesis.openapi.from_dict(app.test_client().get("/v1/openapi.json").get_json())
    app.extensions["loopline"].engine.dispose()
    return found


def operations() -> list[str]:
    return [operation["operationId"] for path in document().raw_schema["paths"].values() for operation in path.values()]


class Closing:
    """An app whose answers are read and closed at once: schemathesis leaves open what a download has opened."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        answer = self.app(environ, start_response)
        try:
            return [b"".join(answer)]
        finally:
            answer.close()


Known = dict[str, list[str]]


@dataclass(frozen=True)
class Kept:
    """What a service with something behind its paths has stored: it takes longer to make than to copy."""

    known: Known
    rows: dict[sa.Table, list[dict[str, Any]]]
    folder: Path

    @classmethod
    def of(cls, service: Service, known: Known, folder: Path) -> Kept:
        """What the service has stored now. `folder` does not exist yet; the service's files are copied into it."""
        shutil.copytree(service.storage.root, folder)
        with service.engine.connect() as connection:
            tables = Base.metadata.sorted_tables
            rows = {table: [dict(row) for row in connection.execute(sa.select(table)).mappings()] for table in tables}
        return cls(known, rows, folder)

    def put(self, service: Service) -> None:
        """Into an empty service on a database of the same kind."""
        shutil.copytree(self.folder, service.storage.root, dirs_exist_ok=True)
        with service.engine.begin() as connection, without_triggers(connection):
            for table in reversed(self.rows):
                connection.execute(sa.delete(table))
            for table, rows in self.rows.items():
                if rows:
                    connection.execute(sa.insert(table), rows)


@contextmanager
def without_triggers(connection: sa.Connection) -> Iterator[None]:
    """They know how a job moves from state to state, and would refuse one that comes as it ended."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        yield
    else:
        found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
        for name, _ in found:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield
        for _, definition in found:
            connection.exec_driver_sql(definition)


@pytest.fixture(scope="module")
def kept() -> dict[str, Kept]:
    """By the kind of the database."""
    return {}


@pytest.fixture
def known(
    any_app: Flask,
    spec: dict[str, Any],
    npz_bytes: Callable[..., bytes],
    put: Put,
    kept: dict[str, Kept],
    tmp_path_factory: pytest.TempPathFactory,
) -> Known:
    """Values of path parameters that something stands behind: a data set, and jobs that failed, are to be tried again,
    succeeded, run, are paused and wait."""
    service: Service = any_app.extensions["loopline"]
    service.waiting = threading.BoundedSemaphore(1)
    service.waiting.acquire()  # long polls are answered at once
    kind = service.engine.dialect.name
    if kind in kept:
        kept[kind].put(service)
    else:
        made = make(any_app, spec, npz_bytes, put)
        kept[kind] = Kept.of(service, made, tmp_path_factory.mktemp("kept") / kind)
    with db.session_scope(service.engine) as session:
        workers.beat(session, "a:1", queues=["default"], state="idle", job_id=None, doorbell_seconds_ago=None)
    return kept[kind].known


def make(app: Flask, spec: dict[str, Any], npz_bytes: Callable[..., bytes], put: Put) -> Known:
    client, service = app.test_client(), app.extensions["loopline"]
    ids = [client.post("/v1/jobs", json=spec).get_json()["id"] for _ in range(6)]
    client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type="application/zip")
    leases = []
    with db.session_scope(service.engine) as session:
        for _ in range(4):
            job = attempts.claim(session, "default", worker="test:1", lease_seconds=3600)
            assert job is not None
            leases.append(Lease.of(job))
            progress.started(session, leases[-1], epochs=3, steps_per_epoch=4, info={})
            progress.record_steps(session, leases[-1], 1, [1.0, None], [0.5, float("inf")])
            progress.record(session, leases[-1], {"epoch": 1, "train_loss": float("nan")})
            log(session, leases[-1], [Line("output", "Hello."), Line("error", "\u2028")])
        attempts.fail(session, leases[0], "diverged", "Step 3.", retry=False)
        attempts.fail(session, leases[1], "trainer_crashed", "Again.", retry=True)
        kept = [put(ids[2], f"checkpoint-000000002.{kind}", b"{}") for kind in ("json", "safetensors")]
        progress.checkpoint(session, leases[2], epoch=1, step=2, best=True, files=kept)
        result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {"test_macro_f1": None}}
        model = [put(ids[2], name, b"{}") for name in ("model.safetensors", "model.json", "history.json")]
        attempts.succeed(session, leases[2], result, model)
        registry.register(session, "toy", ids[2], note="a try")
        registry.promote(session, "toy", "1")
        control.pause(session, ids[4])
        hook = subscriptions.create(session, "http://127.0.0.1:1/", events=["job.queued"], tenant="default").id
        message = subscriptions.begin_test(session, hook, tenant="default").id
    told = {"webhook_id": [hook], "delivery_id": [message]}
    return {**told, "job_id": ids, "dataset": ["toy", "toy@1"], "file": ["model.json"], "step": ["2"], **REGISTERED}


@pytest.mark.hypothesis
@pytest.mark.parametrize("operation_id", operations())
def test_no_request_gets_an_answer_outside_its_schema(any_app: Flask, known: Known, operation_id: str) -> None:
    operation = document().find_operation_by_id(operation_id)
    app = Closing(any_app)
    modes = st.one_of(operation.as_strategy(mode) for mode in GenerationMode)

    @examples(10, suppress_health_check=list(HealthCheck))
    @given(case=modes, data=st.data())
    def every(case: Any, data: st.DataObject) -> None:
        for name in known.keys() & set(case.path_parameters or ()):
            if data.draw(st.booleans(), "a known one"):
                case.path_parameters[name] = data.draw(st.sampled_from(known[name]), name)
        response = case.call(app=app)
        meant = operation_id in MEANT and response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        case.validate_response(response, checks=CHECKS[1:] if meant else CHECKS)

    every()
