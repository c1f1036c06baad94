"""The page of jobs in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.service import Service
from services import db
from services.jobs import attempts, progress
from services.jobs.leases import Lease
from tests.api.pages.conftest import needs_browser
from tests.serving import serving

pytestmark = needs_browser

SCRIPT = "<img src=x onerror=document.title='run'>"


def test_the_list_follows_its_filters_and_shows_what_strangers_wrote_as_text(
    client: FlaskClient, server: str, page: Page, spec: dict[str, Any], barriers: Callable[[Page], list[str]]
) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    expect(page.get_by_role("link", name="Drop a file")).to_have_attribute("href", "/datasets")
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
    page.get_by_label("Name").fill("FIR")
    expect(page.locator("#known option")).to_have_count(2)
    page.get_by_label("Name").press("Enter")
    expect(page.locator("#similar")).to_have_text(
        "Of the newest 100 jobs that are no trials, these names contain “FIR”: first"
    )
    assert barriers(page) == []
    page.get_by_role("link", name="first").click()
    expect(rows).to_have_count(2)
    assert page.url.endswith("/jobs?name=first")
    page.get_by_role("button", name="Clear filters").click()
    expect(rows).to_have_count(3)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []


def test_a_trial_that_its_search_stopped_is_pruned_in_the_list_too(
    client: FlaskClient, service: Service, server: str, page: Page, spec: dict[str, Any]
) -> None:
    client.post("/v1/jobs", json=spec)
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        attempts.pruned(session, Lease.of(job))
    page.goto(f"{server}/jobs")
    expect(page.locator("#list .state")).to_have_text("pruned")


def test_a_row_is_drawn_from_what_the_service_streams(page: Page, spec: dict[str, Any], tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        httpx.post(f"{served.url}/v1/jobs", json={**spec, "name": "live"}).raise_for_status()
        with page.expect_response("**/v1/stream"):
            page.goto(f"{served.url}/jobs")
        row = page.get_by_role("row").nth(1)
        expect(row).to_contain_text("live")
        with db.session_scope(served.engine) as session:
            job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
            assert job is not None
            lease = Lease.of(job)
            progress.started(session, lease, epochs=9, steps_per_epoch=2, info={"device": "cpu", "threads": 1})
        expect(row).to_contain_text("running")
        page.route("**/v1/jobs?*", lambda route: route.abort())  # from here on there is only the stream
        with db.session_scope(served.engine) as session:
            progress.record_steps(session, lease, 1, [1.0] * 4, [0.5] * 4)
            progress.record_all(session, lease, [{"epoch": epoch, "train_loss": 1.0} for epoch in (1, 2)])
        expect(row).to_contain_text("epoch 2 of 9")


def test_colours_are_chosen_once(server: str, page: Page) -> None:
    page.goto(f"{server}/workers")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Colours: system").click()
    assert page.evaluate(background) != light
    page.goto(f"{server}/jobs")
    expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    assert page.evaluate(background) != light
