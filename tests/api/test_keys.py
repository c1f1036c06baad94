"""/v1/keys and /v1/whoami: keys made, listed and revoked over HTTP; quotas, seen and reached."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from services import db
from services.access import keys, tenants


def test_a_key_is_made_shown_once_and_works(
    client: FlaskClient, make_app: Callable[..., Flask], sqlite_url: str
) -> None:
    made = client.post("/v1/keys", json={"scopes": ["submit", "read"], "name": "ci", "expires_days": 1.5})
    assert made.status_code == 201
    key = made.get_json()
    assert (key["object"], key["name"], key["tenant"], key["scopes"]) == ("key", "ci", "default", ["read", "submit"])
    assert key["key"].startswith(f"ll_{key['id'].removeprefix('key_')}_")
    assert made.headers["Cache-Control"] == "no-store"
    assert key["expires_at"] > key["created_at"]

    keyed = make_app(sqlite_url, auth="keys").test_client()
    shown = {"Authorization": f"bearer {key['key']}"}
    who = keyed.get("/v1/whoami", headers=shown).get_json()
    assert (who["tenant"], who["key_id"], who["scopes"]) == ("default", key["id"], ["read", "submit"])

    [listed] = client.get("/v1/keys").get_json()["data"]
    assert listed["last_used_at"]
    assert listed == {
        **{name: value for name, value in key.items() if name != "key"},
        "last_used_at": listed["last_used_at"],
    }


def test_keys_are_listed_newest_first_in_pages_and_revoked_ones_stay(client: FlaskClient) -> None:
    ids = [client.post("/v1/keys", json={"scopes": ["read"]}).get_json()["id"] for _ in range(3)]
    gone = client.delete(f"/v1/keys/{ids[0]}").get_json()
    assert gone["revoked_at"]
    assert client.delete(f"/v1/keys/{ids[0]}").get_json() == gone
    page = client.get("/v1/keys?limit=2").get_json()
    assert ([key["id"] for key in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    rest = client.get(f"/v1/keys?limit=2&after={ids[1]}").get_json()
    assert ([key["id"] for key in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    answer = client.delete("/v1/keys/key_%00")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/scopes"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["write"]}, "/scopes/0"),
        ({"scopes": ["read"], "name": ""}, "/name"),
        ({"scopes": ["read"], "expires_days": 0}, "/expires_days"),
        ({"scopes": ["read"], "tenant": "acme"}, "/tenant"),
        ({"scopes": ["read"], "key": "ll_mine"}, "/key"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_the_place(
    client: FlaskClient, body: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/keys", json=body)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "invalid")
    assert [one["pointer"] for one in answer.get_json()["errors"]] == [pointer]


def test_a_wrong_key_is_told_in_the_sentences_of_a_spec(client: FlaskClient) -> None:
    answer = client.post("/v1/keys", json={"scopes": ["write"], "expires_days": "soon", "expire_days": 3, "lr": 1})
    allowed = "allowed here: expires_days, name, scopes"
    assert {one["pointer"]: one["detail"] for one in answer.get_json()["errors"]} == {
        "/scopes/0": 'must be one of read, predict, submit, admin; got "write"',
        "/expires_days": 'must be a number; got "soon"',
        "/expire_days": f"there is no such field; did you mean `expires_days`? {allowed}",
        "/lr": f"there is no such field; {allowed}",
    }


@pytest.fixture
def limited(make_app: Callable[..., Flask], database_url: str) -> tuple[Flask, dict[str, str]]:
    """An app with a tenant that may have 10 jobs waiting, and the headers of its key."""
    app = make_app(database_url, auth="keys", rate_limit="none")
    with db.session_scope(app.extensions["loopline"].engine) as session:
        tenants.create(session, "acme", max_queued=10, max_bytes=5000)
        text = keys.create(session, "acme", ["read", "submit"]).text
    return app, {"Authorization": f"Bearer {text}"}


def test_of_fifty_posts_at_once_a_quota_of_ten_takes_exactly_ten(
    limited: tuple[Flask, dict[str, str]], spec: dict[str, Any]
) -> None:
    app, headers = limited

    def post(_: int) -> int:
        return app.test_client().post("/v1/jobs", json=spec, headers=headers).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(post, range(50)))
    assert statuses == [202] * 10 + [409] * 40
    client = app.test_client()
    assert len(client.get("/v1/jobs?limit=100", headers=headers).get_json()["data"]) == 10
    refused = client.post("/v1/jobs", json=spec, headers=headers).get_json()
    assert refused["code"] == "quota_exceeded"
    assert "has 10 jobs waiting, queued or paused, and may have 10 (max_queued)" in refused["detail"]
    assert client.get("/v1/whoami", headers=headers).get_json()["quotas"] == {
        "queued": {"used": 10, "limit": 10},
        "running": {"used": 0, "limit": None},
        "bytes": {"used": 0, "limit": 5000},
    }


def test_uploads_count_against_the_quota_of_bytes(
    limited: tuple[Flask, dict[str, str]], npz_bytes: Callable[..., bytes]
) -> None:
    app, headers = limited
    client, content = app.test_client(), npz_bytes(samples=40)
    assert len(content) < 5000 < 2 * len(content)

    def upload(seed: int) -> Any:
        body = npz_bytes(seed, samples=40)
        return client.post("/v1/datasets?name=toy", data=body, content_type="application/zip", headers=headers)

    assert upload(0).status_code == 201
    assert upload(0).status_code == 200
    answer = upload(1)
    assert (answer.status_code, answer.get_json()["code"]) == (409, "quota_exceeded")
    assert "(max_bytes)" in answer.get_json()["detail"]
    assert client.delete("/v1/datasets/toy", headers=headers).status_code == 204
    assert upload(1).status_code == 201
