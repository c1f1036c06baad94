"""Data that may have been meant otherwise: told with the data set, and with each job that it concerns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.datasets import inbox
from services.orm import Dataset, Job

ONE_HOT = np.eye(3, dtype=np.int64)[np.arange(24) % 3]
LABELS = np.random.default_rng(0).integers(0, 2, (30, 5))


def npz(y: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.random.default_rng(1).standard_normal((len(y), 7, 2)), y=y)
    return file.getvalue()


def upload(client: FlaskClient, y: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.post(
        f"/v1/datasets?name={name}", data=npz(y), content_type="application/octet-stream"
    ).get_json()
    return found


def spec(dataset: str, **training: Any) -> dict[str, Any]:
    return {"preset": "basic_gru", "training": {"epochs": 1, **training}, "data": {"dataset": dataset}}


def test_a_data_set_says_what_may_have_been_meant_otherwise(any_app: Flask) -> None:
    client = any_app.test_client()
    uploaded = upload(client, ONE_HOT, "hot")
    [warning] = uploaded["warnings"]
    assert "taken as 3 separate yes-or-no labels. For classes save y.argmax(axis=1)." in warning
    assert client.get("/v1/datasets/hot").get_json() == uploaded
    assert client.get("/v1/datasets").get_json()["data"] == [uploaded]
    assert upload(client, ONE_HOT, "hot") == uploaded  # the same content again
    assert upload(client, ONE_HOT.argmax(axis=1), "hot")["warnings"] == []


def test_a_job_says_what_applies_to_it(any_app: Flask) -> None:
    client = any_app.test_client()
    warnings = upload(client, ONE_HOT, "hot")["warnings"]
    job = client.post("/v1/jobs", json=spec("hot")).get_json()
    assert job["warnings"] == warnings
    assert client.get(job["links"]["self"]).get_json()["warnings"] == warnings
    assert client.post("/v1/jobs", json=spec("hot", loss="bce")).get_json()["warnings"] == []
    synthetic = {"preset": "basic_gru", "data": {"synthetic": {}}}
    assert client.post("/v1/jobs", json=synthetic).get_json()["warnings"] == []


def test_the_rows_of_a_batch_say_it_each_for_itself(client: FlaskClient) -> None:
    warnings = upload(client, ONE_HOT, "hot")["warnings"]
    batch = client.post("/v1/batches", json={"name": "two", "jobs": [spec("hot"), spec("hot", loss="bce")]}).get_json()
    assert [row["warnings"] for row in batch["jobs"]] == [warnings, []]


def test_a_schedule_makes_jobs_that_say_it(client: FlaskClient, service: Service) -> None:
    warnings = upload(client, ONE_HOT, "hot")["warnings"]
    made = client.post("/v1/schedules", json={"name": "nightly", "cron": "0 0 1 1 *", "submit": spec("hot")})
    assert made.status_code in (200, 201), made.get_json()
    fired = client.post("/v1/schedules/nightly/run").get_json()
    assert fired
    with db.read_scope(service.engine) as session:
        assert session.scalars(sa.select(Job.warnings)).all() == [warnings]


def test_the_inbox_says_it_of_what_it_took_in(client: FlaskClient, service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "inbox" / "default" / "hot"
    folder.mkdir(parents=True)
    (folder / "a.npz").write_bytes(npz(ONE_HOT))
    source = inbox.Folder(tmp_path / "inbox")
    for entry in source.entries():
        inbox.ingest(service.engine, service.storage, source, entry, service.settings)
    [row] = client.get("/v1/inbox").get_json()["data"]
    assert row["dataset"] == "hot@1"
    assert row["warnings"] == client.get("/v1/datasets/hot").get_json()["warnings"] != []


def test_data_sets_and_jobs_of_before_have_none(any_app: Flask) -> None:
    client = any_app.test_client()
    upload(client, ONE_HOT, "hot")
    job = client.post("/v1/jobs", json=spec("hot")).get_json()
    with db.session_scope(any_app.extensions["loopline"].engine) as session:
        session.execute(sa.update(Dataset).values(suspicions=None))
        session.execute(sa.update(Job).values(warnings=None))
    assert client.get("/v1/datasets/hot").get_json()["warnings"] == []
    assert client.get(job["links"]["self"]).get_json()["warnings"] == []
    assert client.post("/v1/jobs", json=spec("hot")).get_json()["warnings"] == []


@pytest.mark.parametrize(("y", "target", "count"), [(LABELS, "multilabel", 5), (LABELS + 0.5, "values", 5)])
def test_a_data_set_says_how_many_labels_or_values_it_has(client: FlaskClient, y: Any, target: str, count: int) -> None:
    uploaded = upload(client, y, "many")
    assert (uploaded["target"], uploaded["target_dim"], uploaded["warnings"]) == (target, count, [])
