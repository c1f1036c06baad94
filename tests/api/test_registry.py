"""The registry over HTTP: a version says where it came from, an alias moves at once, a download is the version's."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.access import keys
from services.datasets import versions
from services.jobs import attempts
from services.jobs.leases import Lease
from tests.api.conftest import Put

Train = Callable[..., str]


@pytest.fixture
def train(client: FlaskClient, service: Service, put: Put, spec: dict[str, Any]) -> Train:
    """Makes a job that has succeeded with weights of its own; its id."""

    def run(weights: bytes, **changes: Any) -> str:
        job_id: str = client.post("/v1/jobs", json={**spec, **changes}).get_json()["id"]
        with db.session_scope(service.engine) as session:
            job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
            assert job is not None
            contents = {"model.safetensors": weights, "model.json": b"{}", "history.json": b"{}"}
            files = [put(job_id, name, content) for name, content in contents.items()]
            result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {"validation_loss": 0.5}}
            attempts.succeed(session, Lease.of(job), result, files)
        return job_id

    return run


def registered(client: FlaskClient, job_id: str, **given: Any) -> dict[str, Any]:
    answer = client.post("/v1/models/vowels/versions", json={"job": job_id, **given})
    assert answer.status_code == 201, answer.data
    found: dict[str, Any] = answer.get_json()
    assert answer.headers["Location"] == found["links"]["self"]
    return found


def promoted(client: FlaskClient, version: int | str, **given: Any) -> Any:
    return client.put("/v1/models/vowels/aliases/production", json={"version": version, **given})


def weights(client: FlaskClient, ref: str) -> bytes:
    answer = client.get(f"/v1/models/vowels/versions/{ref}/download", buffered=True)
    assert (answer.status_code, answer.mimetype) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert sorted(archive.namelist()) == ["history.json", "model.json", "model.safetensors"]
        return archive.read("model.safetensors")


def test_a_version_says_which_job_data_and_spec_it_came_from(
    client: FlaskClient, service: Service, train: Train, npz_bytes: Callable[..., bytes]
) -> None:
    data = client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type="application/zip").get_json()
    job_id = train(b"one", data={"dataset": "toy"})
    version = registered(client, job_id, note="the first")
    with db.session_scope(service.engine) as session:
        versions.delete(session, data["id"])
    found = client.get("/v1/models/vowels/versions/1").get_json()
    assert found == version
    assert (found["job_id"], found["links"]["job"]) == (job_id, f"/v1/jobs/{job_id}")
    assert found["dataset"] == {key: data[key] for key in ("id", "name", "version", "sha256")}
    assert found["spec"] == client.get(f"/v1/jobs/{job_id}").get_json()["spec"]
    assert (found["note"], found["metrics"]) == ("the first", {"validation_loss": 0.5})
    assert [set(file) for file in found["files"]] == [{"name", "bytes", "sha256"}] * 3


def test_an_alias_is_promoted_rolled_back_and_taken_away(client: FlaskClient, train: Train) -> None:
    for content in (b"one", b"two"):
        registered(client, train(content))
    assert promoted(client, 1, reason="the first").get_json()["aliases"] == ["production"]
    assert weights(client, "production") == b"one"
    assert promoted(client, "latest", expected=1).get_json()["version"] == 2
    assert (weights(client, "production"), weights(client, "1")) == (b"two", b"one")
    again = client.post("/v1/models/vowels/aliases/production/rollback", json={"reason": "worse", "expected": 2})
    assert again.get_json()["version"] == 1
    assert weights(client, "production") == b"one"
    more = client.post("/v1/models/vowels/aliases/production/rollback")
    assert (more.status_code, more.get_json()["code"]) == (409, "nothing_before")
    assert client.delete("/v1/models/vowels/aliases/production").status_code == 204
    assert client.get("/v1/models/vowels/versions/production").get_json()["code"] == "model_not_found"
    told = client.get("/v1/models/vowels/history").get_json()["data"]
    assert [(one["action"], one["from_version"], one["to_version"], one["reason"]) for one in told] == [
        ("demote", 1, None, None),
        ("rollback", 2, 1, "worse"),
        ("promote", 1, 2, None),
        ("promote", None, 1, "the first"),
    ]
    page = client.get("/v1/models/vowels/history?limit=3").get_json()
    assert page["has_more"]
    rest = client.get(f"/v1/models/vowels/history?after={page['data'][-1]['id']}").get_json()
    assert page["data"] + rest["data"] == told


def test_models_and_versions_are_listed(client: FlaskClient, train: Train) -> None:
    first = train(b"one")
    for job_id in (first, train(b"two")):
        registered(client, job_id)
    client.post("/v1/models/accents/versions", json={"job": first})
    promoted(client, 1)
    [accents] = client.get("/v1/models?limit=1").get_json()["data"]
    [vowels] = client.get(f"/v1/models?after={accents['name']}").get_json()["data"]
    assert (vowels["name"], vowels["aliases"], vowels["latest"]["version"]) == ("vowels", {"production": 1}, 2)
    assert client.get(vowels["links"]["self"]).get_json() == vowels
    page = client.get("/v1/models/vowels/versions?limit=1").get_json()
    assert ([one["version"] for one in page["data"]], page["has_more"]) == ([2], True)
    assert [one["aliases"] for one in client.get("/v1/models/vowels/versions").get_json()["data"]] == [
        [],
        ["production"],
    ]


def test_a_process_that_serves_asks_whether_there_is_news(client: FlaskClient, train: Train) -> None:
    for content in (b"one", b"two"):
        registered(client, train(content))
    promoted(client, 1)
    address = "/v1/models/vowels/versions/production/download"
    first = client.get(address, buffered=True)
    known = {"If-None-Match": first.headers["ETag"]}
    assert first.headers["Content-Location"] == "/v1/models/vowels/versions/1/download"
    assert client.get(address, headers=known).status_code == 304
    promoted(client, 2)
    news = client.get(address, headers=known, buffered=True)
    assert (news.status_code, news.headers["Content-Location"]) == (200, "/v1/models/vowels/versions/2/download")


def test_what_cannot_be_done_is_refused_with_the_way_out(client: FlaskClient, train: Train, spec: Any) -> None:
    waiting = client.post("/v1/jobs", json={**spec, "queue": "other"}).get_json()["id"]
    job_id = train(b"one")
    registered(client, job_id)
    assert client.post("/v1/models/vowels/versions", json={"job": job_id}).status_code == 200
    promoted(client, 1)
    refused = [
        (client.post("/v1/models/vowels/versions", json={"job": waiting}), 409, "job_not_succeeded"),
        (client.post("/v1/models/No/versions", json={"job": job_id}), 400, "bad_request"),
        (client.post("/v1/models/vowels/versions", json={"job": job_id, "x": 1}), 422, "invalid"),
        (promoted(client, 2), 404, "model_not_found"),
        (promoted(client, 1, expected=-1), 422, "invalid"),
        (client.put("/v1/models/vowels/aliases/3", json={"version": 1}), 400, "bad_request"),
        (client.put("/v1/models/vowels/aliases/new", json={"version": 1, "expected": 4}), 409, "alias_moved"),
        (client.delete(f"/v1/jobs/{job_id}"), 409, "job_registered"),
        (client.delete("/v1/models/vowels/versions/1"), 409, "model_in_use"),
        (client.delete("/v1/models/vowels/versions/latest"), 400, "bad_request"),
    ]
    assert [(answer.status_code, answer.get_json()["code"]) for answer, _, _ in refused] == [
        (status, code) for _, status, code in refused
    ]
    [told] = promoted(client, 0).get_json()["errors"]
    sentence = "must be the number of a version, another alias, or `latest`; got 0"
    assert (told["pointer"], told["detail"]) == ("/version", sentence)
    assert weights(client, "production") == b"one"
    client.delete("/v1/models/vowels/aliases/production")
    for address in ("/v1/models/vowels/versions/1", f"/v1/jobs/{job_id}"):
        assert client.delete(address).status_code == 204


def test_a_version_is_downloaded_from_an_object_store(
    make_app: Callable[..., Flask], sqlite_url: str, store_settings: dict[str, Any], put: Put, spec: Any
) -> None:
    from services.blobs import transfers

    app = make_app(sqlite_url, **store_settings)
    client, service = app.test_client(), app.extensions["loopline"]
    job_id = client.post("/v1/jobs", json=spec).get_json()["id"]
    contents = {"model.safetensors": b"stored", "model.json": b"{}", "history.json": b"{}"}
    files = [put(job_id, name, content) for name, content in contents.items()]
    files = transfers.share(service.storage, service.storage.objects, job_id, 1, files)
    service.storage.remove_job(job_id)
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        attempts.succeed(session, Lease.of(job), {"metrics": {}}, files)
    registered(client, job_id)
    assert weights(client, "latest") == b"stored"


def test_who_moved_what_is_in_the_history_and_the_audit(
    make_app: Callable[..., Flask], sqlite_url: str, client: FlaskClient, service: Service, train: Train
) -> None:
    job_id = train(b"one")
    with db.session_scope(service.engine) as session:
        made = keys.create(session, "default", [*keys.Scope])
    asked = make_app(sqlite_url, auth="keys", rate_limit="none").test_client()
    asked.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {made.text}"
    assert registered(asked, job_id)["created_by"] == made.key.id
    asked.post("/v1/models/vowels/versions", json={"job": job_id})  # it is one already: nothing was done
    promoted(asked, 1)
    promoted(asked, 1)
    asked.delete("/v1/models/vowels/aliases/production")
    asked.delete("/v1/models/vowels/versions/1")
    told = asked.get("/v1/audit").get_json()["data"]
    assert [(one["action"], one["resource_id"], one["key_id"]) for one in reversed(told)] == [
        ("job.submit", job_id, None),
        ("model.register", "vowels@1", made.key.id),
        ("model.promote", "vowels@production", made.key.id),
        ("model.demote", "vowels@production", made.key.id),
        ("model.delete", "vowels@1", made.key.id),
    ]
    registered(asked, job_id)
    history = asked.get("/v1/models/vowels/history").get_json()["data"]
    assert [(one["action"], one["by"]) for one in history] == [("demote", made.key.id), ("promote", made.key.id)]
