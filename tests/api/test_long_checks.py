"""Uploads whose check takes longer than their answer: 202, then `ready` or `rejected`, and what jobs hear meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.access import keys, tenants
from tests.checking import UNCHECKED_SECONDS, do_checks
from tests.worker.scheduler.test_checks import table

NPZ = "application/octet-stream"
JOB = {"preset": "basic_rnn", "data": {"dataset": "walks"}}


@pytest.fixture
def app(make_app: Callable[..., Flask], database_url: str) -> Flask:
    """An API that waits for no check, on each of the databases."""
    return make_app(database_url, check_wait_seconds=UNCHECKED_SECONDS)


def post(client: FlaskClient, content: bytes, *, name: str = "walks", **query: str) -> Any:
    query = {"name": name, "file": "walks.csv", **query}
    return client.post("/v1/datasets", query_string=query, data=content, content_type=NPZ)


def job(dataset: str) -> dict[str, Any]:
    return {**JOB, "data": {"dataset": dataset}}


def settle(service: Service) -> None:
    assert do_checks(service.settings, service.engine)


def test_a_long_check_is_202_and_then_ready(client: FlaskClient, service: Service) -> None:
    answer = post(client, table())
    dataset = answer.get_json()
    assert (answer.status_code, dataset["status"], dataset["version"]) == (202, "validating", 1)
    assert answer.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["samples"], dataset["target"], dataset["format"], dataset["problems"]) == (None,) * 4
    for reference in (dataset["id"], "walks", "walks@1"):
        assert client.get(f"/v1/datasets/{reference}").get_json() == dataset
    assert client.get("/v1/datasets").get_json()["data"] == [dataset]
    settle(service)
    ready = client.get(answer.headers["Location"]).get_json()
    assert (ready["status"], ready["id"], ready["version"]) == ("ready", dataset["id"], 1)
    assert (ready["samples"], ready["format"], ready["source_sha256"]) == (12, "csv", dataset["sha256"])
    assert client.post("/v1/jobs", json=job("walks@1")).status_code == 202


def test_a_long_check_of_a_wrong_file_says_what_a_422_says(
    client: FlaskClient, service: Service, make_app: Callable[..., Flask], database_url: str
) -> None:
    patient = make_app(database_url).test_client()
    refused = post(patient, table(bad=True)).get_json()
    assert refused["status"] == 422
    dataset = post(client, table(bad=True)).get_json()
    settle(service)
    rejected = client.get(f"/v1/datasets/{dataset['id']}").get_json()
    assert (rejected["status"], rejected["samples"]) == ("rejected", None)
    assert (rejected["message"], rejected["problems"]) == (refused["detail"], refused["errors"])
    assert [one["status"] for one in client.get("/v1/datasets").get_json()["data"]] == ["rejected"]
    answer = client.post("/v1/jobs", json=job("walks@1"))
    assert (answer.status_code, answer.get_json()["code"]) == (422, "spec_invalid")
    [problem] = answer.get_json()["errors"]
    assert problem["pointer"] == "/data/dataset"
    assert problem["detail"] == f"walks@1 was rejected when it was checked: {refused['errors'][0]['detail']}"
    assert client.delete("/v1/datasets/walks@1").status_code == 204
    assert client.get("/v1/datasets").get_json()["data"] == []


def test_a_job_does_not_wait_for_a_check(client: FlaskClient, service: Service) -> None:
    post(client, table())
    documents: list[tuple[str, dict[str, Any]]] = [
        ("/v1/jobs", job("walks")),
        ("/v1/jobs", job("walks@latest")),
        ("/v1/batches", {**JOB, "matrix": {"training.optimizer.lr": [0.1, 0.01]}}),
        ("/v1/schedules", {"name": "nightly", "cron": "0 3 * * *", "submit": job("walks@1")}),
    ]
    for path, document in documents:
        answer = client.post(path, json=document)
        assert (answer.status_code, answer.get_json()["code"]) == (409, "dataset_validating"), path
        assert "walks@1 is still being checked" in answer.get_json()["detail"]
        assert "GET /v1/datasets/walks@1 shows when" in answer.get_json()["detail"]
    settle(service)
    assert client.post("/v1/jobs", json=job("walks")).status_code == 202


def test_a_name_means_the_version_before_while_a_new_one_is_checked(client: FlaskClient, service: Service) -> None:
    first = post(client, table()).get_json()
    settle(service)
    second = post(client, table(20)).get_json()
    assert second["version"] == 2
    assert client.get("/v1/datasets/walks").get_json()["id"] == first["id"]
    made = client.post("/v1/jobs", json=job("walks"))
    assert made.get_json()["dataset"]["id"] == first["id"]
    assert client.post("/v1/jobs", json=job("walks@2")).status_code == 409
    settle(service)
    assert client.get("/v1/datasets/walks").get_json()["id"] == second["id"]


def test_an_upload_that_is_sent_again_is_the_same_version(client: FlaskClient, service: Service) -> None:
    first, again = post(client, table()), post(client, table())
    assert (again.status_code, again.get_json()) == (202, first.get_json())
    settle(service)
    late = post(client, table())
    assert (late.status_code, late.get_json()["version"]) == (202, 2)
    settle(service)
    found = client.get(late.headers["Location"]).get_json()
    assert (found["id"], found["status"]) == (first.get_json()["id"], "ready")
    assert [one["version"] for one in client.get("/v1/datasets").get_json()["data"]] == [1]
    refused = client.delete(late.headers["Location"])  # it would be the version of an earlier upload
    assert (refused.status_code, refused.get_json()["errors"][0]["pointer"]) == (400, "/path/dataset")
    assert "name that version to delete it" in refused.get_json()["errors"][0]["detail"]
    assert client.delete("/v1/datasets/walks@1").status_code == 204
    assert client.get(late.headers["Location"]).status_code == 404


def test_a_file_that_came_in_parts_is_checked_too(client: FlaskClient, service: Service) -> None:
    content = table()
    upload = client.post(f"/v1/uploads?bytes={len(content)}").get_json()
    client.put(f"/v1/uploads/{upload['id']}?offset=0", data=content, content_type=NPZ)
    query = {"name": "walks", "file": "walks.csv", "upload": upload["id"]}
    first = client.post("/v1/datasets", query_string=query)
    again = client.post("/v1/datasets", query_string=query)
    assert (first.status_code, again.status_code, again.get_json()) == (202, 202, first.get_json())
    settle(service)
    ready = client.post("/v1/datasets", query_string=query)
    assert (ready.status_code, ready.get_json()["status"]) == (200, "ready")


def test_a_version_is_deleted_while_it_is_checked(client: FlaskClient, service: Service) -> None:
    dataset = post(client, table()).get_json()
    assert client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert client.get(f"/v1/datasets/{dataset['id']}").status_code == 404
    assert do_checks(service.settings, service.engine) == 0
    assert post(client, table()).get_json()["version"] == 2


def test_columns_that_were_named_are_kept_for_the_check(client: FlaskClient, service: Service) -> None:
    post(client, table(), target="pace", features=json.dumps(["kind"]), group="walk")
    settle(service)
    ready = client.get("/v1/datasets/walks").get_json()
    assert (ready["schema"]["target"], ready["schema"]["features"]) == (["pace"], ["kind"])


def test_the_upload_of_another_tenant_is_nobodys_business(
    make_app: Callable[..., Flask], database_url: str, client: FlaskClient
) -> None:
    app = make_app(database_url, auth="keys")
    with db.session_scope(app.extensions["loopline"].engine) as session:
        tenants.create(session, "acme")
        key = keys.create(session, "acme", ["read", "submit"]).text
    dataset = post(client, table()).get_json()
    other = app.test_client()
    headers = {"Authorization": f"Bearer {key}"}
    assert other.get(f"/v1/datasets/{dataset['id']}", headers=headers).status_code == 404
    refused = other.post("/v1/jobs", json=job(dataset["id"]), headers=headers)
    assert (refused.status_code, refused.get_json()["code"]) == (422, "spec_invalid")
