"""A dry run answers as a submission would, with what can be known before, and stores nothing."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.access import tenants
from services.jobs import attempts, estimates, progress, workers
from services.jobs.leases import Lease
from services.orm import Base, Job, Worker
from services.states import Kind
from tests.ringing import FakeDoorbell

ROUTES = ("/v1/jobs?dry_run=true", "/v1/jobs/dry-run")
TOOK = (9.0, 2.0, 2.5, 1.5)


def rows(service: Service) -> dict[str, int]:
    """How many rows each table has."""
    with db.read_scope(service.engine) as session:
        tables = Base.metadata.sorted_tables
        return {table.name: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables}


@pytest.fixture
def earlier_job(service: Service, client: FlaskClient, spec: dict[str, Any]) -> str:
    """A job that has succeeded: the first of its epochs took 9 s, and the median of the others 2 s."""
    job_id: str = client.post("/v1/jobs", json=spec).get_json()["id"]
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        lease = Lease.of(job)
        progress.started(session, lease, epochs=4, steps_per_epoch=1, info={"device": "cpu", "threads": 1})
        progress.record_all(
            session, lease, [{"epoch": number, "seconds": seconds} for number, seconds in enumerate(TOOK, 1)]
        )
        attempts.succeed(session, lease, {"epochs": 4, "metrics": {}}, [])
    return job_id


@pytest.mark.parametrize("route", ROUTES)
def test_it_says_what_the_job_would_be_and_stores_nothing(
    any_app: Flask, spec: dict[str, Any], bell: FakeDoorbell, route: str
) -> None:
    client, service = any_app.test_client(), any_app.extensions["loopline"]
    before = rows(service)
    answer = client.post(route, json=spec, headers={"Idempotency-Key": "once"})
    assert (answer.status_code, rows(service), bell.rung) == (200, before, [])
    said = answer.get_json()
    assert (said["name"], said["dataset"], said["unchecked"]) == ("try", None, None)
    assert said["samples"] == {"train": 16, "validation": 4, "test": 0}
    assert (said["parameters"], said["steps_per_epoch"], said["steps"]) == (106, 1, 3)
    assert said["memory_bytes"] > 4 * 106
    assert said["spec"] == client.post("/v1/jobs", json=spec).get_json()["spec"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"architecture": {"cell": "gur", "dropout": 0.5}, "data": {"dataset": "nope"}},
        {"training": {"loss": "pinball"}},
        {"data": {"synthetic": {"samples": 4}, "split": {"validation": 0.5, "test": 0.5}}},
    ],
)
@pytest.mark.parametrize("route", ROUTES)
def test_it_finds_what_a_submission_finds(
    client: FlaskClient, spec: dict[str, Any], route: str, wrong: dict[str, Any]
) -> None:
    tried, submitted = (client.post(path, json=spec | wrong) for path in (route, "/v1/jobs"))
    assert tried.status_code == submitted.status_code == 422
    assert tried.get_json() | {"request_id": ""} == submitted.get_json() | {"request_id": ""}


def test_a_quota_that_is_used_up_refuses_it(client: FlaskClient, service: Service, queued_job: dict[str, Any]) -> None:
    with db.session_scope(service.engine) as session:
        tenants.change(session, tenants.DEFAULT, max_queued=1)
    tried, submitted = (client.post(path, json=queued_job["spec"]) for path in (ROUTES[0], "/v1/jobs"))
    assert tried.status_code == submitted.status_code >= 400
    assert tried.get_json()["detail"] == submitted.get_json()["detail"]


def test_the_spec_of_a_file_that_is_to_be_uploaded_is_checked_by_itself(
    client: FlaskClient, spec: dict[str, Any]
) -> None:
    spec |= {"data": {"dataset": "./walks.csv"}, "training": {"optimizer": {"name": "sgd", "lr": 30.0}}}
    said = client.post(ROUTES[0], json=spec).get_json()
    assert "`./walks.csv` looks like a file of yours" in said["unchecked"]
    assert (said["parameters"], said["samples"], said["steps"]) == (None, None, None)
    [warning] = said["warnings"]
    assert "lr is 30, which is high for sgd" in warning
    spec["architecture"] = {"cell": "gru", "dropout": 0.5}
    [problem] = client.post(ROUTES[0], json=spec).get_json()["errors"]
    assert problem["pointer"] == "/architecture/dropout"


def test_an_earlier_job_says_how_long_it_will_take(
    client: FlaskClient, service: Service, spec: dict[str, Any], earlier_job: str
) -> None:
    alike = client.post(ROUTES[0], json=spec).get_json()["estimate"]
    assert (alike["epoch_seconds"], alike["seconds"], alike["device"], alike["jobs"]) == (2.0, 6.0, "cpu", 1)
    assert alike["message"] == "An epoch will take about 2 s, the job about 6 s at most."
    spec["data"]["synthetic"]["samples"] = 2000
    larger = client.post(ROUTES[0], json=spec).get_json()
    assert larger["estimate"]["epoch_seconds"] > 10.0
    spec["limits"] = {"max_runtime_seconds": 20}
    [warning] = client.post(ROUTES[0], json=spec).get_json()["warnings"]
    assert "limits.max_runtime_seconds ends the job after 20 s" in warning
    with db.read_scope(service.engine) as session:
        assert estimates.past(session, "another") == []


def test_a_job_that_predicts_says_nothing_of_how_long_training_takes(
    client: FlaskClient, service: Service, spec: dict[str, Any], earlier_job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "LOOKED_AT", 1)
    newer = client.post("/v1/jobs", json=spec).get_json()["id"]
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        attempts.succeed(session, Lease.of(job), {"epochs": 4, "metrics": {}}, [])
        session.execute(sa.update(Job).where(Job.id == newer).values(kind=Kind.PREDICT))
    assert client.post(ROUTES[0], json=spec).get_json()["estimate"]["epoch_seconds"] == 2.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"queue": "aside"}, "no job of the queue aside has succeeded yet"),
        ({"architecture": {"cell": "lstm", "hidden_size": 4000}}, "no earlier job of the queue default on a processor"),
    ],
)
def test_a_job_unlike_all_others_has_no_estimate(
    client: FlaskClient, spec: dict[str, Any], earlier_job: str, changes: dict[str, Any], why: str
) -> None:
    unknown = client.post(ROUTES[0], json=spec | changes).get_json()["estimate"]
    assert (unknown["epoch_seconds"], unknown["seconds"], unknown["jobs"]) == (None, None, 0)
    assert why in unknown["message"]


@pytest.mark.parametrize("route", ["/v1/batches?dry_run=true", "/v1/batches/dry-run"])
def test_a_batch_is_tried_job_by_job(client: FlaskClient, service: Service, spec: dict[str, Any], route: str) -> None:
    before = rows(service)
    matrix = {**spec, "matrix": {"architecture.hidden_size": [4, 8]}}
    said = client.post(route, json=matrix).get_json()["data"]
    assert [each["spec"]["architecture"]["hidden_size"] for each in said] == [4, 8]
    assert said[0]["parameters"] < said[1]["parameters"]
    matrix["matrix"]["architecture.hidden_size"] = [4, 0]
    [problem] = client.post(route, json=matrix).get_json()["errors"]
    assert (problem["pointer"], rows(service)) == ("/matrix/architecture.hidden_size/1", before)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0123, "0.012 s"), (40.4, "40 s"), (119.0, "120 s"), (1190.0, "20 min"), (9000.0, "2.5 h"), (4e5, "4.6 days")],
)
def test_durations_have_two_digits(seconds: float, told: str) -> None:
    assert estimates.about(seconds) == told


def test_it_says_which_memory_the_workers_lack_as_a_submission_does(any_app: Flask, spec: dict[str, Any]) -> None:
    client, service = any_app.test_client(), any_app.extensions["loopline"]
    told = {"device": "cpu", "memory_bytes": 64 << 30}
    with db.session_scope(service.engine) as session:
        workers.beat(session, "a", queues=["default"], state="idle", job_id=None, doorbell_seconds_ago=None, **told)
    spec["architecture"] = {"cell": "lstm", "hidden_size": 8192, "num_layers": 16}
    tried, submitted = (client.post(path, json=spec) for path in (ROUTES[0], "/v1/jobs"))
    assert tried.status_code == submitted.status_code == 422
    [problem] = submitted.get_json()["errors"]
    assert tried.get_json()["errors"] == [problem]
    assert problem["pointer"] == "/architecture/hidden_size"
    assert "the one that comes closest has 64 GiB (cpu), and the job needs" in problem["detail"]
    assert "; lower architecture.hidden_size" in problem["detail"]
    spec["architecture"]["num_layers"] = 5
    [near] = [each for each in client.post(ROUTES[0], json=spec).get_json()["warnings"] if "memory" in each]
    assert near.startswith("The job may run out of memory: 4")
    assert "the workers of the queue default have at most 64 GiB (cpu)" in near
    assert client.post("/v1/jobs", json=spec).status_code == 202


@pytest.mark.parametrize("route", ["/v1/searches?dry_run=true", "/v1/searches/dry-run"])
def test_a_search_says_its_space_its_trials_and_how_long_they_take(
    service: Service, client: FlaskClient, spec: dict[str, Any], route: str
) -> None:
    before = rows(service)
    cells = {"architecture.cell": ["lstm", "gru"], "training.batch_size": [8, 16, 32]}
    wanted = {**spec, "search": {"space": cells, "parallel": 2}}
    answer = client.post(route, json=wanted)
    found = answer.get_json()
    assert (answer.status_code, found["object"], found["space"]) == (200, "search_dry_run", cells)
    assert (found["combinations"], found["trials"], found["parallel"], found["seconds"]) == (6, 6, 2, None)
    assert "unknown: no job of the queue default has succeeded yet" in found["message"]
    assert found["trial"]["spec"]["architecture"]["hidden_size"] == spec["architecture"]["hidden_size"]
    unbounded = {**cells, "training.optimizer.lr": {"low": 1e-3, "high": 1e-1}}
    assert client.post(route, json={**spec, "search": {"space": unbounded}}).get_json()["combinations"] is None
    chosen = client.post(route, json={"data": spec["data"], "search": {"minutes": 1}}).get_json()
    assert (chosen["trials"], "training.optimizer.lr" in chosen["space"]) == (1000, True)
    assert chosen["trial"]["spec"]["architecture"]["cell"] == "lstm"
    wrong = client.post(route, json={**spec, "search": {"space": {"architecture.cell": ["lstm", "gruu"]}}})
    assert (wrong.status_code, wrong.get_json()["errors"][0]["pointer"]) == (
        *(422, "/search/space/architecture.cell/1"),
    )
    assert rows(service) == before


@pytest.mark.usefixtures("earlier_job")
def test_a_search_takes_as_long_as_its_trials_and_its_final_model(
    client: FlaskClient, service: Service, spec: dict[str, Any]
) -> None:
    def tried(**search: Any) -> tuple[float, str]:
        wanted = {**spec, "search": {"space": {"training.seed": [1, 2, 3, 4, 5]}, **search}}
        found = client.post("/v1/searches/dry-run", json=wanted).get_json()
        return found["seconds"] / found["trial"]["estimate"]["seconds"], found["message"]

    assert tried()[0] == pytest.approx(6)
    assert tried(final=False)[0] == pytest.approx(5)
    assert tried(parallel=5)[0] == pytest.approx(6), "no worker is there yet, so one will come at least"
    listen(service, 2)
    assert tried(parallel=5)[0] == pytest.approx(4)
    assert tried(parallel=1)[0] == pytest.approx(6)
    assert tried()[0] == pytest.approx(4)
    listen(service, 1)
    assert tried(parallel=5)[0] == pytest.approx(6)
    assert tried()[1] == "A trial will take about 6 s, and the search about 36 s."
    assert tried(minutes=100)[0] == pytest.approx(6)
    least, message = tried(minutes=0.001)
    assert least == pytest.approx(2)
    assert message.endswith("A trial takes longer than the 0.06 s of the search; the first one is always made.")


def listen(service: Service, count: int) -> None:
    """So many workers listen, and no others."""
    told = {"queues": ["default"], "state": "idle", "job_id": None, "doorbell_seconds_ago": None}
    with db.session_scope(service.engine) as session:
        session.execute(sa.delete(Worker))
        for number in range(count):
            workers.beat(session, f"here:{number}", **told)


@pytest.mark.usefixtures("earlier_job")
def test_a_search_counts_that_some_trials_take_longer_than_that_of_the_spec(
    client: FlaskClient, spec: dict[str, Any]
) -> None:
    space = {"training.epochs": {"low": 2, "high": 12}, "training.seed": [1, 2, 3, 4, 5]}
    found = client.post("/v1/searches/dry-run", json={**spec, "search": {"space": space, "trials": 9}}).get_json()
    assert found["trial"]["estimate"]["seconds"] == pytest.approx(6)
    assert found["seconds"] == pytest.approx(10 * (6 + 24) / 2)
    assert found["message"] == "A trial will take about 6 s, the longest about 24 s, and the search about 2.5 min."
