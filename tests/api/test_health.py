from __future__ import annotations

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from api.resources import health
from services import db
from services.jobs import workers
from services.orm import Job
from services.sqlite import driver as sqlite3


def test_the_process_is_alive_whatever_else_is_down(make_app: Callable[..., Flask]) -> None:
    client = make_app("postgresql://nobody@127.0.0.1:1/nothing").test_client()
    assert client.get("/v1/health/live").get_json() == {"status": "alive"}


def test_the_service_is_ready_with_database_and_broker(
    make_app: Callable[..., Flask], database_url: str, broker_url: str
) -> None:
    answer = make_app(database_url, broker_url=broker_url).test_client().get("/v1/health/ready")
    assert (answer.status_code, answer.get_json()) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "workers": "ok", "folder": "ok", "broker": "ok"}},
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
        workers.beat(session, "w:1", queues=["default"], state="idle", job_id=None, doorbell_seconds_ago=None)
    assert "w:1 is idle and does not take them." in client.get("/v1/health/working").get_json()["checks"]["workers"]
    with db.session_scope(engine) as session:
        workers.beat(session, "w:1", queues=["default"], state="busy", job_id=job_id, doorbell_seconds_ago=1.0)
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


def asked(app: Flask) -> tuple[int, dict[str, str]]:
    """What readiness says when it is tried anew."""
    app.extensions["loopline"].ready_checks = (-math.inf, {})
    answer = app.test_client().get("/v1/health/ready")
    assert answer.get_json()["status"] == ("ready" if answer.status_code == 200 else "unavailable")
    return answer.status_code, answer.get_json()["checks"]


@pytest.fixture
def app(make_app: Callable[..., Flask], database_url: str, broker_url: str) -> Flask:
    made = make_app(database_url, broker_url=broker_url)
    assert asked(made)[0] == 200
    return made


only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@only_sqlite
def test_a_deleted_database_file_is_not_ready(app: Flask, sqlite_url: str, spec: dict[str, Any]) -> None:
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()
    status, checks = asked(app)
    assert status == 503
    assert "was deleted or moved while it was in use; put it back" in checks["database"]
    refused = app.test_client().post("/v1/jobs", json=spec)
    assert (refused.status_code, refused.get_json()["detail"]) == (503, checks["database"])


@only_sqlite
def test_a_disk_that_takes_nothing_is_not_ready(app: Flask) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # Python ignores the signal: each write is refused
    try:
        status, checks = asked(app)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 503
    assert checks["database"] != "ok"
    assert checks["folder"].endswith("cannot be written: File too large.")
    assert asked(app)[0] == 200


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_only_answers_is_not_ready(app: Flask, spec: dict[str, Any]) -> None:
    def only_answer(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    sa.event.listen(app.extensions["loopline"].engine, "begin", only_answer)
    status, checks = asked(app)
    assert (status, checks["database"]) == (503, "The database takes no writes: it is read-only, or a standby.")
    assert app.test_client().post("/v1/jobs", json=spec).status_code == 503


def test_a_folder_that_takes_no_files_is_not_ready(app: Flask, data_dir: Path) -> None:
    folder = app.extensions["loopline"].storage.root / "datasets"
    folder.rename(folder.with_name("away"))
    folder.write_bytes(b"")
    status, checks = asked(app)
    assert status == 503
    assert str(folder.parent) in checks["folder"]
    assert "cannot be written: " in checks["folder"]
    assert checks["database"] == "ok"


@only_sqlite
def test_a_database_that_others_write_to_is_ready_for_a_while(
    app: Flask, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    other.execute("BEGIN IMMEDIATE")
    assert asked(app)[0] == 200
    monkeypatch.setattr(health, "LOCKED_SECONDS", 0.0)
    status, checks = asked(app)
    assert status == 503
    assert "locked by other writers" in checks["database"]
    other.rollback()
    other.close()
    assert asked(app)[0] == 200


def test_however_often_one_asks_it_is_tried_once_a_second(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 3600.0)
    statements: list[object] = []
    sa.event.listen(app.extensions["loopline"].engine, "before_cursor_execute", lambda *told: statements.append(told))
    client = app.test_client()
    client.get("/v1/health/ready")
    tried = len(statements)
    for _ in range(20):
        assert client.get("/v1/health/ready").status_code == 200
    assert len(statements) == tried


def test_trying_leaves_nothing(app: Flask) -> None:
    with db.read_scope(app.extensions["loopline"].engine) as session:
        assert workers.seen(session) == []
    assert [*app.extensions["loopline"].storage.root.rglob("*.part")] == []


def test_presets_are_listed_with_their_fragments(client: FlaskClient) -> None:
    presets = {preset["name"]: preset["spec"] for preset in client.get("/v1/presets").get_json()["data"]}
    assert len(presets) == 9
    assert presets["bi_lstm"]["architecture"]["bidirectional"] is True
    for name in presets:
        answer = client.post("/v1/jobs", json={"preset": name, "data": {"synthetic": {}}})
        assert answer.status_code == 202, answer.get_json()
