"""Pages of a service that asks for keys, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect

from services import db
from services.orm import Job
from services.training.spec import parse
from tests.api.pages.conftest import needs_browser, sign_in
from tests.rows import create_job

pytestmark = needs_browser


@pytest.fixture
def app(make_app: Callable[..., Flask], sqlite_url: str) -> Flask:
    return make_app(sqlite_url, auth="keys", rate_limit="none", broker_url="redis://127.0.0.1:1/0")


@pytest.fixture
def job(app: Flask, spec: dict[str, Any]) -> Job:
    with db.session_scope(app.extensions["loopline"].engine) as session:
        return create_job(session, parse(spec))


def test_a_reader_signs_in_and_is_offered_what_the_key_may_do(
    server: str, page: Page, job: Job, make_key: Callable[..., str], barriers: Callable[[Page], list[str]]
) -> None:
    page.goto(f"{server}/jobs/{job.id}?x=1#log")
    page.wait_for_url("**/sign-in?to=*")
    assert barriers(page) == []
    sign_in(page, "ll_wrong")
    expect(page.get_by_role("alert")).to_contain_text("no valid key")
    sign_in(page, make_key("read"))
    page.wait_for_url(f"**/jobs/{job.id}?x=1#log")
    expect(page.locator("#state")).to_have_text("queued")
    expect(page.get_by_text("Tenant default")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.goto(f"{server}/jobs")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("link", name="New job")).to_be_hidden()
    assert barriers(page) == []
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in?to=*")

    sign_in(page, make_key("read", "submit"))
    expect(page.get_by_role("link", name="New job")).to_be_visible()
    page.goto(f"{server}/jobs/{job.id}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#state")).to_have_text("cancelled")


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "/\\evil.example"])
def test_signing_in_leads_nowhere_else(server: str, page: Page, make_key: Callable[..., str], to: str) -> None:
    page.goto(f"{server}/sign-in?to={to}")
    sign_in(page, make_key("read"))
    page.wait_for_url(f"{server}/**")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()


@pytest.mark.parametrize("to", ["/.//evil.example/jobs", "/..//evil.example/jobs", "/%2e//evil.example/jobs"])
def test_a_path_that_becomes_a_host_stays_a_path(
    server: str, page: Page, make_key: Callable[..., str], to: str
) -> None:
    there = re.compile(r"^[^?]*//evil\.example/jobs$")
    page.route(there, lambda route: route.fulfill(body="here"))
    page.goto(f"{server}/sign-in?to={to}")
    sign_in(page, make_key("read"))
    page.wait_for_url(there)
    assert page.url == f"{server}//evil.example/jobs"
