from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from services import db, workers
from services.orm import Job


def test_the_process_is_alive_whatever_else_is_down(make_app: Callable[..., Flask]) -> None:
    client = make_app("postgresql://nobody@127.0.0.1:1/nothing").test_client()
    assert client.get("/v1/health/live").get_json() == {"status": "alive"}


def test_the_service_is_ready_with_database_and_broker(
    make_app: Callable[..., Flask], database_url: str, broker_url: str
) -> None:
    answer = make_app(database_url, broker_url=broker_url).test_client().get("/v1/health/ready")
    assert (answer.status_code, answer.get_json()) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "workers": "ok", "broker": "ok"}},
    )


def test_without_a_broker_the_service_is_degraded_and_takes_jobs(
    make_app: Callable[..., Flask], sqlite_url: str
) -> None:
    answer = make_app(sqlite_url, broker_url="redis://127.0.0.1:1/0").test_client().get("/v1/health/ready")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert answer.get_json()["checks"]["broker"] == "cannot be reached (ConnectionError)"


def test_without_a_database_the_service_is_not_ready(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    for url in ("postgresql://nobody:secret@127.0.0.1:1/nothing", f"sqlite:///{tmp_path}/never-migrated.db"):
        answer = make_app(url).test_client().get("/v1/health/ready")
        assert (answer.status_code, answer.get_json()["status"]) == (503, "unavailable")
        assert "Retry-After" in answer.headers
        assert b"secret" not in answer.data


def test_jobs_that_nobody_takes_turn_the_check_of_workers_red(
    make_app: Callable[..., Flask], database_url: str, broker_url: str, spec: dict[str, Any]
) -> None:
    app = make_app(database_url, broker_url=broker_url, stuck_seconds=30)
    client, engine = app.test_client(), app.extensions["loopline"].engine
    job_id = client.post("/v1/jobs", json=spec).get_json()["id"]
    answer = client.get("/v1/health/working")
    assert (answer.status_code, answer.get_json()) == (
        200,
        {"status": "working", "checks": {"database": "ok", "workers": "ok"}},
    )
    with db.session_scope(engine) as session:  # as if it had waited for a minute
        session.execute(sa.update(Job).values(updated_at=db.now() - 60))
    answer = client.get("/v1/health/working")
    assert (answer.status_code, answer.get_json()["status"]) == (503, "stuck")
    assert "and no worker listens to it." in answer.get_json()["checks"]["workers"]
    ready = client.get("/v1/health/ready")  # jobs are accepted all the same
    assert (ready.status_code, ready.get_json()["status"]) == (200, "degraded")
    with db.session_scope(engine) as session:
        workers.beat(session, "w:1", queues=["default"], state="idle", job_id=None, heard_seconds_ago=None)
    assert "w:1 is idle and does not take them." in client.get("/v1/health/working").get_json()["checks"]["workers"]
    with db.session_scope(engine) as session:
        workers.beat(session, "w:1", queues=["default"], state="busy", job_id=job_id, heard_seconds_ago=1.0)
    assert client.get("/v1/health/working").status_code == 200


def test_without_a_database_nothing_works(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    answer = make_app(f"sqlite:///{tmp_path}/never-migrated.db").test_client().get("/v1/health/working")
    assert (answer.status_code, answer.get_json()["status"]) == (503, "stuck")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("damage", [b"\xff" * 4096, b"this is no database at all" * 200])
def test_a_damaged_database_is_503_and_says_so(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any], damage: bytes
) -> None:
    client = make_app(sqlite_url).test_client()
    Path(sqlite_url.removeprefix("sqlite:///")).write_bytes(damage)
    ready = client.get("/v1/health/ready")
    assert (ready.status_code, ready.get_json()["status"]) == (503, "unavailable")
    assert "damaged" in ready.get_json()["checks"]["database"]
    assert client.get("/v1/health/working").status_code == 503
    for answer in (client.get("/v1/jobs"), client.get("/v1/jobs/job_" + "0" * 26), client.post("/v1/jobs", json=spec)):
        assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/v1/health/live").status_code == 200


def test_presets_are_listed_with_their_fragments(client: FlaskClient) -> None:
    presets = {preset["name"]: preset["spec"] for preset in client.get("/v1/presets").get_json()["data"]}
    assert len(presets) == 9
    assert presets["bi_lstm"]["architecture"]["bidirectional"] is True
    for name in presets:
        answer = client.post("/v1/jobs", json={"preset": name, "data": {"synthetic": {}}})
        assert answer.status_code == 202, answer.get_json()
