"""What browsers say of where a request comes from, and what is made of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from services import db
from services.access import keys
from services.access.keys import Scope
from services.jobs import control

EVIL = "http://evil.example"
FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site", "Origin": EVIL},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9000"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin,cross-site"},
    {"Sec-Fetch-Site": ""},
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://"},
    {"Origin": "localhost"},
    {"Origin": "file://localhost"},
    {"Origin": "http://localhost:9000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost,http://evil.example"},
]
OURS: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy.example"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost"},
    {"Origin": "https://localhost"},
    {"Origin": "http://LOCALHOST"},
]


def changing(app: Flask) -> list[tuple[str, str]]:
    """Every method and path that is no reading."""
    return [
        (method, re.sub(r"<[^>]+>", "x", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"GET", "HEAD", "OPTIONS"})
    ]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_what_a_page_of_another_origin_would_change_is_refused(app: Flask, headers: dict[str, str]) -> None:
    client = app.test_client()
    asked = [*changing(app), ("POST", "/v1/nowhere"), ("PUT", "/v1/jobs"), ("POST", "/docs"), ("TRACE", "/v1/jobs")]
    assert len(asked) > 25
    for method, path in asked:
        answer = client.open(path, method=method, headers=headers)
        assert (answer.status_code, answer.get_json()["code"]) == (403, "cross_origin"), (method, path)
        assert "leave both headers out" in answer.get_json()["detail"]


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_our_own_page_and_tools_change_what_they_like(
    client: FlaskClient, spec: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = client.post("/v1/jobs", json=spec, headers=headers)
    assert answer.status_code == 202
    assert client.post(f"{answer.headers['Location']}/cancel", headers=headers).get_json()["status"] == "cancelled"


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_origin_may_not_read_without_a_key(
    client: FlaskClient, queued_job: dict[str, Any], headers: dict[str, str]
) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        answer = client.open(queued_job["links"]["self"], method=method, headers=headers)
        assert answer.status_code == 403
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control-")]
    stream = client.get(f"{queued_job['links']['self']}/stream", headers=headers)
    assert (stream.status_code, stream.get_json()["code"]) == (403, "cross_origin")
    assert "LOOPLINE_ALLOWED_HOSTS" in stream.get_json()["detail"]
    for path in ("/v1/health/live", "/docs", "/v1/openapi.json"):  # which say nothing of anybody
        assert client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_our_own_page_and_tools_read_what_they_like(
    client: FlaskClient, queued_job: dict[str, Any], headers: dict[str, str]
) -> None:
    assert client.get(queued_job["links"]["self"], headers=headers).status_code == 200


def test_a_link_of_another_page_may_be_followed(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get(queued_job["links"]["self"], headers=followed).status_code == 200
    assert client.post(queued_job["links"]["cancel"], headers=followed).status_code == 403


def test_reading_with_a_key_stays_free(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    app = make_app(sqlite_url, auth="keys", broker_url="redis://127.0.0.1:1/0")
    with db.session_scope(app.extensions["loopline"].engine) as session:
        key = keys.create(session, "default", ["read"]).text
    for headers in FOREIGN:
        mine = {"Authorization": f"Bearer {key}", **headers}
        assert app.test_client().get("/v1/jobs", headers=mine).status_code == 200


def test_a_refused_request_has_changed_nothing(app: Flask, queued_job: dict[str, Any], npz_bytes: Any) -> None:
    client, headers = app.test_client(), {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}
    assert client.post(queued_job["links"]["cancel"], headers=headers).status_code == 403
    form = {"file": (io.BytesIO(npz_bytes()), "x.npz")}
    assert client.post("/v1/datasets?name=vowels", data=form, headers=headers).status_code == 403
    assert client.get("/v1/datasets").get_json()["data"] == []
    with db.read_scope(app.extensions["loopline"].engine) as session:
        assert control.get(session, queued_job["id"]).status == "queued"


def test_a_key_does_not_help_a_page_of_another_origin(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any]
) -> None:
    app = make_app(sqlite_url, host="0.0.0.0")  # noqa: S104
    with db.session_scope(app.extensions["loopline"].engine) as session:
        key = keys.create(session, "default", list(Scope)).text
    client, mine = app.test_client(), {"Authorization": f"Bearer {key}"}
    assert client.post("/v1/jobs", json=spec, headers=mine).status_code == 202
    refused = client.post("/v1/jobs", json=spec, headers={**mine, "Origin": EVIL})
    assert (refused.status_code, refused.get_json()["code"]) == (403, "cross_origin")
    assert "`Host`" in refused.get_json()["detail"]


def test_a_name_that_is_made_to_point_here_needs_a_key(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    rebound = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080", "Sec-Fetch-Site": "same-origin"}
    refused = client.post(queued_job["links"]["cancel"], headers=rebound)
    assert refused.status_code == 401
    assert "LOOPLINE_ALLOWED_HOSTS" in refused.get_json()["detail"]
    assert client.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 401


@pytest.mark.parametrize(
    ("allowed", "name", "status"),
    [
        ("box", "box", 202),
        ("box", "BOX:8080", 202),
        ("box:8080", "box:8080", 202),
        ("box:8080", "box:9000", 401),
        ("other, box", "box", 202),
        ("box", "box.evil.example", 401),
        ("box", "evil.example", 401),
        ("[2001:db8::1]", "[2001:db8::1]:8080", 401),
        ("[2001:db8::1]:8080", "[2001:db8::1]:8080", 202),
    ],
)
def test_a_host_name_can_be_allowed(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any], allowed: str, name: str, status: int
) -> None:
    client = make_app(sqlite_url, allowed_hosts=allowed).test_client()
    assert client.post("/v1/jobs", json=spec, headers={"Host": name}).status_code == status


def test_the_pages_of_an_allowed_host_are_ours(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any]
) -> None:
    client = make_app(sqlite_url, allowed_hosts="box.example:8443").test_client()
    page = {"Sec-Fetch-Site": "cross-site", "Origin": "https://box.example:8443"}
    assert client.post("/v1/jobs", json=spec, headers=page).status_code == 202
    assert client.get("/v1/jobs", headers=page).status_code == 200
    for other in (EVIL, "https://box.example", "https://evil.example:8443", "null"):
        assert client.post("/v1/jobs", json=spec, headers={**page, "Origin": other}).status_code == 403


def test_no_page_may_frame_an_answer_or_guess_what_it_is(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    for path in ("/", "/jobs", "/docs", "/v1/jobs", queued_job["links"]["self"], "/v1/nowhere", "/v1/openapi.json"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path
        assert headers["X-Content-Type-Options"] == "nosniff", path


def test_an_origin_is_shown_short_and_in_ascii(client: FlaskClient) -> None:
    strange = client.post("/v1/jobs", headers={"Origin": "http://\x9b\xff" + "x" * 5000}).get_json()["detail"]
    assert strange.isascii()
    assert len(strange) < 500
