"""What the pages of models and data sets offer to keys of different scopes; changes carry the token of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from tests.api.pages.conftest import needs_browser, sign_in
from tests.api.pages.test_datasets import DROP, walks

pytestmark = needs_browser


@pytest.fixture
def app(make_app: Callable[..., Flask], sqlite_url: str) -> Flask:
    return make_app(sqlite_url, auth="keys", rate_limit="none", broker_url="redis://127.0.0.1:1/0")


@pytest.fixture
def client(app: Flask, make_key: Callable[..., str]) -> Iterator[FlaskClient]:
    """Somebody who may do everything."""
    with app.test_client() as made:
        made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {make_key('read', 'submit')}"
        yield made


def test_only_who_may_submit_is_offered_to_upload_and_to_promote(
    client: FlaskClient,
    ended: Callable[..., str],
    server: str,
    page: Page,
    make_key: Callable[..., str],
    walking: Any,
) -> None:
    job_id = ended(walking[0].folder)
    client.post("/v1/models/toy/versions", json={"job": job_id})
    page.goto(f"{server}/models/toy")
    sign_in(page, make_key("read"))
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.get_by_role("button", name="Promote version 1")).to_have_count(0)
    page.goto(f"{server}/jobs/{job_id}")
    expect(page.get_by_role("link", name="Download model")).to_be_visible()
    expect(page.get_by_role("button", name="Register as a model")).to_have_count(0)
    page.goto(f"{server}/datasets")
    expect(page.get_by_role("heading", name="No data sets yet")).to_be_visible()
    expect(page.get_by_role("heading", name="Upload a file")).to_be_hidden()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in?to=*")

    sign_in(page, make_key("read", "submit"))
    expect(page.get_by_role("heading", name="Upload a file")).to_be_visible()
    page.locator("#drop").evaluate(DROP, ["walks.csv", walks()])
    page.get_by_role("button", name="Make the data set").click()
    page.wait_for_url("**/datasets/ds_*")
    page.goto(f"{server}/models/toy")
    page.get_by_role("button", name="Promote version 1").click()
    page.get_by_role("button", name="Promote", exact=True).click()
    expect(page.locator("#tiles")).to_contain_text("In productionversion 1")
