from __future__ import annotations

import errno
import gzip
import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api import errors as table
from api.service import MAX_HEAVY, Service
from services import errors
from services.sqlite import driver as sqlite3


def test_every_error_of_ours_has_a_status_in_the_table() -> None:
    assert table.status_of(errors.JobNotFound) == 404
    assert table.status_of(errors.SpecInvalid) == table.status_of(errors.IdempotencyConflict) == 422
    assert table.status_of(errors.BadRequest) == 400
    assert table.status_of(errors.IllegalMove) == table.status_of(errors.IdempotencyInFlight) == 409
    assert table.status_of(errors.SchemaMismatch) == 503
    assert table.status_of(errors.Diverged) == 500


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "no_such_route"),
        ("POST", "/v1/nowhere", 404, "no_such_route"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 400, "bad_request"),
        ("GET", "/v1/datasets/nothing", 404, "dataset_not_found"),
        ("POST", "/v1/jobs", 415, "unsupported_media_type"),
    ],
)
def test_every_problem_is_a_problem_document(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.open(path, method=method)
    problem = answer.get_json()
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:loopline:problem:{code}")
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_wrong_method_is_told_the_right_ones(client: FlaskClient) -> None:
    assert set(client.delete("/v1/jobs").headers["Allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}


@pytest.mark.parametrize(
    ("query", "pointer", "said"),
    [
        ("limit=0", "/query/limit", 'must be at least 1; got "0"'),
        ("limit=101", "/query/limit", 'must be at most 100; got "101"'),
        ("limit=ten", "/query/limit", 'must be a whole number; got "ten"'),
        ("limit=" + "9" * 5000, "/query/limit", "must be a whole number in range; got "),
        ("limit=NaN", "/query/limit", 'must be a whole number; got "NaN"'),
        ("status=done", "/query/status", "must be one of queued, running, paused, succeeded, failed, cancelled; got"),
        ("tag=speech", "/query/tag", 'must look like KEY:VALUE; got "speech"'),
        ("name=%00", "/query/name", "must hold no control characters, marks of direction "),
        ("after=", "/query/after", "is too short: at least 1"),
        (
            "stauts=queued",
            "/query/stauts",
            "there is no such parameter here; did you mean `status`? allowed here: after, dataset, full, kind, limit",
        ),
        ("sort=id", "/query/sort", "there is no such parameter here; allowed here: after, dataset, full, kind, limit"),
    ],
)
def test_a_wrong_parameter_is_named(client: FlaskClient, query: str, pointer: str, said: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    [told] = answer.get_json()["errors"]
    assert (answer.status_code, told["pointer"], told["detail"][: len(said)]) == (400, pointer, said)


def test_every_route_with_parameters_names_them_where_one_is_unknown(client: FlaskClient) -> None:
    document = client.get("/v1/openapi.json").get_json()
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            allowed = sorted(one["name"] for one in operation.get("parameters", ()) if one["in"] == "query")
            if allowed:
                answer = client.open(re.sub(r"{[^}]*}", "1", path) + "?unheard=of", method=method.upper())
                told = {one["pointer"]: one["detail"] for one in answer.get_json()["errors"]}
                said = f"there is no such parameter here; allowed here: {', '.join(allowed)}"
                assert told["/query/unheard"] == said, path
                asked += 1
    assert asked > 10


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("status=queued&status=failed", ["/query/status"]),
        ("limit=1&limit=1", ["/query/limit"]),
        ("tag=a:b&limit=5&tag=c:d&limit=6&tag=e:f", ["/query/tag", "/query/limit"]),
        ("other=1&%6fther=2", ["/query/other"]),
    ],
)
def test_a_parameter_that_stands_twice_is_refused(client: FlaskClient, query: str, pointers: list[str]) -> None:
    for path in ("/v1/jobs", "/v1/presets", "/v1/health/live"):
        answer = client.get(f"{path}?{query}")
        problem = answer.get_json()
        assert (answer.status_code, problem["code"]) == (422, "invalid")
        assert [one["pointer"] for one in problem["errors"]] == pointers
    assert client.post("/v1/datasets?name=a&name=b", data=b"", content_type="application/zip").status_code == 422


def test_who_may_not_ask_is_told_that_first(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    client = make_app(sqlite_url, host="0.0.0.0").test_client()  # noqa: S104
    assert client.get("/v1/jobs?limit=1&limit=2").status_code == 401


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon"])
def test_a_wrong_wait_is_refused(client: FlaskClient, queued_job: dict[str, Any], wait: str) -> None:
    assert client.get(f"{queued_job['links']['self']}?wait={wait}").status_code == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"a": 1,', "line 1, column"),
        ('{\n"a": 1\n"b": 2}', "line 3, column 1"),
        ("", "JSON"),
        ("[]", "list"),
        ('"text"', "mapping"),
        ("5", "mapping"),
        ("null", "nothing"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 10_000 + "]" * 10_000, "deep"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "deep"),
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": NaN}', "NaN"),
        ('{"a": "\x00"}', "NUL"),
    ],
)
def test_a_body_that_cannot_be_read_is_400_and_says_where(client: FlaskClient, body: str | bytes, said: str) -> None:
    began = time.monotonic()
    answer = client.post("/v1/jobs", data=body, content_type="application/json")
    assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_request")
    assert said in answer.get_json()["errors"][0]["detail"]
    assert time.monotonic() - began < 10


def test_a_problem_of_yaml_has_its_line_and_one_of_json_none(client: FlaskClient, spec: dict[str, Any]) -> None:
    text = "data: {synthetic: {samples: 20}}\ntraining:\n  epochs: 3\n  optimizer: {name: adam,\n    lr: -1}\nx: 1\n"
    yaml = client.post("/v1/jobs", data=text, content_type="application/yaml").get_json()["errors"]
    assert {each["pointer"]: each.get("line") for each in yaml} == {"/training/optimizer/lr": 5, "/x": 6}
    for json_text in ('{\n\t"x": 1}', json.dumps({"x" * 2000: 1}), json.dumps({"x": [1] * 11_000})):
        answer = client.post("/v1/jobs", data=json_text, content_type="application/yaml")
        assert (answer.status_code, {"line"} & answer.get_json()["errors"][0].keys()) == (422, set())
    plain = client.post("/v1/jobs", json={**spec, "x": 1}).get_json()["errors"]
    assert [each.keys() for each in plain] == [{"detail", "pointer"}]


@pytest.mark.parametrize(
    "body", ["a: &x 1\nb: *x", "a: !!python/object/apply:os.getcwd []", "- " * 10_000, "a: 1\na: 2", "{" * 10_000]
)
def test_yaml_that_plays_tricks_is_refused(client: FlaskClient, body: str) -> None:
    began = time.monotonic()
    assert client.post("/v1/jobs", data=body, content_type="application/yaml").status_code in (400, 422)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "media",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/xml"],
)
def test_a_body_of_another_type_is_415_and_says_which_are_read(client: FlaskClient, media: str) -> None:
    answer = client.post("/v1/jobs", data=b"{}", content_type=media)
    assert answer.status_code == 415
    assert "application/json" in answer.get_json()["detail"]


def test_a_compressed_body_is_refused_unread(client: FlaskClient) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = client.post("/v1/jobs", data=bomb, headers=headers)
    assert (answer.status_code, answer.get_json()["code"]) == (415, "unsupported_media_type")


def test_a_body_over_the_limit_is_413_sent_whole_or_in_chunks(
    make_app: Callable[..., Flask], sqlite_url: str, tmp_path: Path
) -> None:
    client = make_app(sqlite_url, max_body_bytes=1000).test_client()
    answer = client.post("/v1/jobs", data=b" " * 1001, content_type="application/json")
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
    (tmp_path / "body").write_bytes(b" " * 1001)
    with (tmp_path / "body").open("rb") as stream:
        answer = client.post(
            "/v1/jobs",
            input_stream=stream,
            content_type="application/json",
            environ_overrides={"wsgi.input_terminated": True},
        )
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")


def test_a_request_id_is_echoed_when_it_is_one_and_minted_otherwise(client: FlaskClient) -> None:
    assert client.get("/v1/presets", headers={"X-Request-Id": "my-id:7"}).headers["X-Request-Id"] == "my-id:7"
    for strange in ("", "a b", "x" * 200, "é", "<script>", '"', "_x"):
        minted = client.get("/v1/presets", headers={"X-Request-Id": strange}).headers["X-Request-Id"]
        assert re.fullmatch(r"req_[0-9a-f]{32}", minted)


def test_every_answer_keeps_browsers_careful(client: FlaskClient) -> None:
    for path in ("/v1/presets", "/docs", "/nowhere"):
        answer = client.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "Cache-Control" in answer.headers


def test_a_database_that_is_locked_is_503_with_retry_after(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.db.BUSY_SECONDS", 0.1)
    client = make_app(sqlite_url).test_client()
    holder = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    answer = client.post("/v1/jobs", json=spec)
    assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    holder.close()
    assert client.post("/v1/jobs", json=spec).status_code == 202


def test_a_full_disk_is_503(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("services.blobs.storage._received", full)
    answer = client.post("/v1/datasets?name=toy", data=b"x", content_type="application/zip")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")


def test_an_unforeseen_error_is_a_problem_that_gives_nothing_away(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("services.jobs.queries.page", broken)
    answer = client.get("/v1/jobs")
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal")
    assert b"secret" not in answer.data
    assert "ZeroDivisionError: secret" in caplog.text


def test_few_large_documents_are_read_at_once(
    client: FlaskClient, service: Service, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.bodies.HEAVY_SECONDS", 0.0)
    large = {**spec, "tags": {"padding": "x"}, "name": "n" + " " * 70_000}
    heavy = [("/v1/jobs", large), ("/v1/batches", {"jobs": [spec]}), ("/v1/schedules", {"name": "n", "cron": "@daily"})]
    with ExitStack() as stack:
        for _ in range(MAX_HEAVY):
            stack.enter_context(service.heavy)
        for path, document in heavy:
            answer = client.post(path, json=document if path != "/v1/schedules" else {**document, "submit": spec})
            assert (answer.status_code, answer.get_json()["code"]) == (503, "busy"), path
            assert int(answer.headers["Retry-After"]) > 0
        assert client.post("/v1/jobs", json=spec).status_code == 202
    assert client.post("/v1/batches", json={"jobs": [spec]}).status_code == 202
