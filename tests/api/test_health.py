from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient


def test_the_process_is_alive_whatever_else_is_down(make_app: Callable[..., Flask]) -> None:
    client = make_app("postgresql://nobody@127.0.0.1:1/nothing").test_client()
    assert client.get("/v1/health/live").get_json() == {"status": "alive"}


def test_the_service_is_ready_with_database_and_broker(
    make_app: Callable[..., Flask], database_url: str, broker_url: str
) -> None:
    answer = make_app(database_url, broker_url=broker_url).test_client().get("/v1/health/ready")
    assert (answer.status_code, answer.get_json()) == (
        200,
        {"status": "ready", "checks": {"database": "ok", "broker": "ok"}},
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


def test_presets_are_listed_with_their_fragments(client: FlaskClient) -> None:
    presets = {preset["name"]: preset["spec"] for preset in client.get("/v1/presets").get_json()["data"]}
    assert len(presets) == 9
    assert presets["bi_lstm"]["architecture"]["bidirectional"] is True
    for name in presets:
        answer = client.post("/v1/jobs", json={"preset": name, "data": {"synthetic": {}}})
        assert answer.status_code == 202, answer.get_json()
