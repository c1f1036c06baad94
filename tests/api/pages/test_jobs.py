"""The page of jobs in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from tests.api.pages.conftest import needs_browser

pytestmark = needs_browser

SCRIPT = "<img src=x onerror=document.title='run'>"


def test_the_list_follows_its_filters_and_shows_what_strangers_wrote_as_text(
    client: FlaskClient, server: str, page: Page, spec: dict[str, Any], barriers: Callable[[Page], list[str]]
) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    expect(page.get_by_text("loopline submit examples/vowels.yaml")).to_be_visible()
    assert barriers(page) == []
    client.post("/v1/jobs", json={**spec, "name": "first", "tags": {"team": "vision"}})
    client.post("/v1/jobs", json={**spec, "name": SCRIPT, "tags": {"note": SCRIPT}})
    rows = page.get_by_role("row")
    expect(rows).to_have_count(3)  # with the titles
    expect(rows.nth(1)).to_contain_text(SCRIPT)
    expect(rows.nth(1)).to_contain_text(f"note:{SCRIPT}")
    expect(rows.nth(2)).to_contain_text("first")
    expect(rows.nth(2)).to_contain_text("queued")
    assert page.locator("main img").count() == 0
    assert page.title() == "Jobs · Loopline"

    page.get_by_role("link", name="team:vision").click()
    expect(rows).to_have_count(2)
    assert page.url.endswith("/jobs?tag=team%3Avision")
    page.reload()
    expect(rows).to_have_count(2)
    expect(page.get_by_label("Tag")).to_have_value("team:vision")
    page.go_back()
    expect(rows).to_have_count(3)
    page.get_by_label("State").select_option("failed")
    expect(page.get_by_role("heading", name="No job matches these filters")).to_be_visible()
    assert page.url.endswith("/jobs?status=failed")
    page.get_by_role("button", name="Clear filters").click()
    expect(rows).to_have_count(3)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []


def test_colours_are_chosen_once(server: str, page: Page) -> None:
    page.goto(f"{server}/workers")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Colours: system").click()
    assert page.evaluate(background) != light
    page.goto(f"{server}/jobs")
    expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    assert page.evaluate(background) != light
