"""Signing in with a key: the cookie, the token for changes, and when a session ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api import rates, streams
from api.auth import COOKIE, CSRF_HEADER
from services import db
from services.access import audit, keys, web_sessions
from services.access.keys import Scope
from services.orm import ApiKey, WebSession

HTTPS = {"Origin": "https://loopline.example", "Sec-Fetch-Site": "same-origin"}


class Browser:
    """A client that keeps cookies, and a key to sign in with."""

    def __init__(self, app: Flask, *scopes: str) -> None:
        self.engine = app.extensions["loopline"].engine
        self.keyring = app.extensions["loopline"].keyring
        self.client: FlaskClient = app.test_client()
        with db.session_scope(self.engine) as session:
            made = keys.create(session, "default", scopes)
        self.key, self.key_id = made.text, made.key.id

    def sign_in(self, key: str | None = None, **headers: str) -> TestResponse:
        return self.client.post("/v1/session", json={"key": key or self.key}, headers=headers)

    def asks_with(self, cookie: str) -> int:
        """The status of a request with this cookie. (A client that keeps cookies sends only its own.)"""
        client = self.client.application.test_client(use_cookies=False)
        return client.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code

    @property
    def token(self) -> dict[str, str]:
        return {CSRF_HEADER: self.client.get("/v1/session").get_json()["csrf_token"]}

    def actions(self) -> list[tuple[str, str | None]]:
        with db.read_scope(self.engine) as session:
            return [(entry.action, entry.key_id) for entry in audit.page(session)[0]]


@pytest.fixture
def app(make_app: Callable[..., Flask], sqlite_url: str) -> Flask:
    """A service that asks for keys."""
    return make_app(sqlite_url, auth="keys", rate_limit="none", broker_url="redis://127.0.0.1:1/0")


@pytest.fixture
def browser(app: Flask) -> Browser:
    return Browser(app, "read", "submit")


def test_a_browser_signs_in_changes_something_and_signs_out(browser: Browser, spec: dict[str, Any]) -> None:
    client = browser.client
    assert client.get("/v1/jobs").status_code == 401
    answer = browser.sign_in()
    found = answer.get_json()
    assert answer.status_code == 200
    assert (found["signed_in"], found["needs_key"], found["key_id"]) == (True, True, browser.key_id)
    assert found["scopes"] == ["read", "submit"]
    assert client.get("/v1/session").get_json() == found
    assert client.get("/v1/jobs").status_code == 200
    job = client.post("/v1/jobs", json=spec, headers=browser.token)
    assert job.status_code == 202
    assert client.delete("/v1/session", headers=browser.token).status_code == 204
    assert client.get_cookie(COOKIE) is None
    assert client.get("/v1/jobs").status_code == 401
    assert browser.actions() == [
        ("session.delete", browser.key_id),
        ("job.submit", browser.key_id),
        ("session.create", browser.key_id),
    ]


def test_a_session_that_has_ended_stays_ended(browser: Browser) -> None:
    browser.sign_in()
    cookie = browser.client.get_cookie(COOKIE)
    assert cookie is not None
    browser.client.delete("/v1/session", headers=browser.token)
    assert browser.asks_with(cookie.value) == 401


@pytest.mark.parametrize(("headers", "secure"), [({}, False), (HTTPS, True), ({"Origin": "http://localhost"}, False)])
def test_no_script_and_no_other_page_gets_the_cookie(browser: Browser, headers: dict[str, str], secure: bool) -> None:
    set_cookie = SimpleCookie(browser.sign_in(**headers).headers["Set-Cookie"])[COOKIE]
    assert (set_cookie["httponly"], set_cookie["samesite"], set_cookie["path"]) == (True, "Strict", "/")
    assert bool(set_cookie["secure"]) == secure
    assert set_cookie["domain"] == ""
    assert int(set_cookie["max-age"]) == web_sessions.SECONDS


def test_the_service_keeps_neither_the_key_nor_the_cookie(browser: Browser) -> None:
    cookie = SimpleCookie(browser.sign_in().headers["Set-Cookie"])[COOKIE].value
    with db.read_scope(browser.engine) as session:
        rows = str([vars(row) for table in (WebSession, ApiKey) for row in session.scalars(sa.select(table))])
    for secret in (cookie.split("_")[1], browser.key.split("_")[2]):
        assert secret not in rows


@pytest.mark.parametrize("token", [None, "", "0" * 64, "\xff"])
def test_a_change_without_the_right_token_is_refused(browser: Browser, spec: dict[str, Any], token: str | None) -> None:
    browser.sign_in()
    headers = {} if token is None else {CSRF_HEADER: token}
    for method, path in (("POST", "/v1/jobs"), ("DELETE", "/v1/session"), ("DELETE", "/v1/jobs/job_x")):
        refused = browser.client.open(path, method=method, json=spec, headers=headers)
        assert (refused.status_code, refused.get_json()["code"]) == (403, "csrf_token_wrong")
        assert CSRF_HEADER in refused.get_json()["detail"]
    assert browser.client.get("/v1/jobs").get_json()["data"] == []


def test_the_token_of_another_session_does_not_help(app: Flask, browser: Browser, spec: dict[str, Any]) -> None:
    other = Browser(app, "read", "submit")
    other.sign_in()
    browser.sign_in()
    assert browser.token != other.token
    assert browser.client.post("/v1/jobs", json=spec, headers=other.token).status_code == 403


def test_a_request_with_a_key_needs_no_token(browser: Browser, spec: dict[str, Any]) -> None:
    browser.sign_in()  # and has a cookie besides
    mine = {"Authorization": f"Bearer {browser.key}"}
    assert browser.client.post("/v1/jobs", json=spec, headers=mine).status_code == 202


def test_a_page_of_another_origin_gets_nothing_with_the_cookie(browser: Browser, spec: dict[str, Any]) -> None:
    """As from another port of the same machine, to which a browser sends the same cookies."""
    browser.sign_in()
    foreign = {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9000"}
    assert browser.client.get("/v1/jobs", headers=foreign).status_code == 403
    assert browser.client.get("/v1/session", headers=foreign).status_code == 403
    answer = browser.client.post("/v1/jobs", json=spec, headers={**foreign, **browser.token})
    assert (answer.status_code, answer.get_json()["code"]) == (403, "cross_origin")
    assert browser.sign_in(**foreign).status_code == 403


def test_a_session_may_what_its_key_may(app: Flask, spec: dict[str, Any]) -> None:
    for scopes, reads, submits in ((["read"], 200, 403), (["submit"], 403, 202), (["predict"], 403, 403)):
        browser = Browser(app, *scopes)
        assert browser.sign_in().get_json()["scopes"] == scopes
        assert browser.client.get("/v1/jobs").status_code == reads
        assert browser.client.post("/v1/jobs", json=spec, headers=browser.token).status_code == submits


@pytest.mark.parametrize("how", ["revoked", "expired", "session over"])
def test_a_session_ends_with_its_key_and_its_time(browser: Browser, how: str) -> None:
    browser.sign_in()
    assert browser.client.get("/v1/jobs").status_code == 200
    with db.session_scope(browser.engine) as session:
        if how == "revoked":
            keys.revoke(session, browser.key_id)
        elif how == "expired":
            session.execute(sa.update(ApiKey).values(expires_at=db.now() - 1))
        else:
            session.execute(sa.update(WebSession).values(expires_at=db.now() - 1))
    browser.keyring.forget()
    assert browser.client.get("/v1/jobs").status_code == 401


def test_the_stream_of_a_session_ends_with_its_key(app: Flask, browser: Browser, spec: dict[str, Any]) -> None:
    browser.sign_in()
    url = browser.client.post("/v1/jobs", json=spec, headers=browser.token).headers["Location"]
    answer = browser.client.get(f"{url}/stream", environ_overrides={streams.WAKE: lambda: None})
    parts = answer.iter_encoded()
    assert b"event: job" in next(parts)
    with db.session_scope(browser.engine) as session:
        keys.revoke(session, browser.key_id)
    browser.keyring.forget()
    [stream] = app.extensions["loopline"].streams._open
    stream.look_at(-1, 0.0)
    assert list(parts) == []
    answer.close()


def test_a_key_that_ended_signs_nobody_in_and_is_noted(browser: Browser) -> None:
    with db.session_scope(browser.engine) as session:
        keys.revoke(session, browser.key_id)
    assert browser.sign_in().status_code == 401
    assert browser.actions() == [("session.refuse", browser.key_id)]


def test_wrong_keys_are_counted_and_logged_and_make_no_entries(
    browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = browser.key[:-64] + "0" * 64
    browser.client.application.extensions["loopline"].rates._clock = lambda: 0.0  # all within one minute
    with caplog.at_level(logging.WARNING):
        statuses = [browser.sign_in(wrong).status_code for _ in range(rates.FAILURES.most + 1)]
    assert statuses == [401] * rates.FAILURES.most + [429]
    assert "a sign-in with an unknown key from 127.0.0.1 was refused" in caplog.text
    assert wrong not in caplog.text
    assert browser.actions() == []
    assert browser.sign_in().status_code == 200  # others at the same address are let in


def test_what_is_refused_for_its_rate_writes_nothing(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    app = make_app(sqlite_url, auth="keys", rate_limit="3 per minute", broker_url="redis://127.0.0.1:1/0")
    app.extensions["loopline"].rates._clock = lambda: 0.0  # all within one minute
    browser = Browser(app, "read")
    assert [browser.sign_in().status_code for _ in range(5)] == [200] * 3 + [429] * 2
    with db.session_scope(browser.engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(WebSession)) == 3
        keys.revoke(session, browser.key_id)
    most = rates.FAILURES.most
    assert [browser.sign_in().status_code for _ in range(most + 2)] == [401] * most + [429] * 2
    made, refused = ("session.create", browser.key_id), ("session.refuse", browser.key_id)
    assert browser.actions() == [refused] * most + [made] * 3


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": 1}, {"key": "x", "more": 1}, [], "x"])
def test_a_request_to_sign_in_has_a_key(browser: Browser, body: Any) -> None:
    assert browser.client.post("/v1/session", json=body).status_code in (400, 422)


@pytest.mark.parametrize("cookie", ["x", "0" * 26 + "_" + "0" * 64, "\xff", "_", '"'])
def test_no_other_cookie_is_a_session(browser: Browser, cookie: str) -> None:
    assert browser.asks_with(cookie) == 401


def test_a_key_is_no_cookie_and_a_cookie_no_key_even_right_after_their_use(browser: Browser) -> None:
    bearer = {"Authorization": f"Bearer {browser.key}"}
    assert browser.client.get("/v1/jobs", headers=bearer).status_code == 200
    assert browser.asks_with(browser.key) == 401
    browser.sign_in()
    cookie = browser.client.get_cookie(COOKIE)
    assert cookie is not None
    assert browser.client.get("/v1/jobs").status_code == 200
    as_key = {"Authorization": f"Bearer {cookie.value}"}
    assert browser.client.get("/v1/jobs", headers=as_key).status_code == 401


def test_the_oldest_session_of_a_key_ends_for_a_new_one(any_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_sessions, "MOST_OF_A_KEY", 2)
    browser = Browser(any_app, *Scope)
    with db.session_scope(browser.engine) as session:
        made = [web_sessions.create(session, browser.key_id) for _ in range(4)]
        session.execute(sa.update(WebSession).where(WebSession.id == made[2].id).values(expires_at=db.now() - 1))
        made.append(web_sessions.create(session, browser.key_id))
        left = session.scalars(sa.select(WebSession.id).order_by(WebSession.id)).all()
    assert left == [made[3].id, made[4].id]


def test_nobody_signs_in_where_no_key_is_needed(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    client = make_app(sqlite_url).test_client()
    found = client.get("/v1/session").get_json()
    assert (found["signed_in"], found["needs_key"], found["csrf_token"]) == (False, False, None)
    assert found["scopes"] == list(Scope)
    assert client.delete("/v1/session").status_code == 204
