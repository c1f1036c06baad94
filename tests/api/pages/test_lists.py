"""The pages of searches, batches and schedules in a browser, with what the database holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.service import Service
from services import db
from services.jobs import attempts, progress
from services.jobs.leases import Lease
from tests.api.pages.conftest import needs_browser
from tests.ringing import FakeDoorbell
from worker.scheduler import searches

pytestmark = needs_browser

SCRIPT = "<script>document.title='run'</script>"
SPACE = {"training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "architecture.cell": ["lstm", "gru"]}
Barriers = Callable[[Page], list[str]]


@pytest.mark.parametrize("name", ["searches", "batches", "schedules"])
def test_an_empty_list_says_what_to_do(server: str, page: Page, barriers: Barriers, name: str) -> None:
    page.goto(f"{server}/{name}")
    expect(page.get_by_role("heading", name=f"No {name} yet")).to_be_visible()
    expect(page.locator("#empty").locator("code, a").first).to_be_visible()
    assert barriers(page) == []


def test_a_search_shows_its_best_trials_and_is_cancelled(
    client: FlaskClient, service: Service, spec: dict[str, Any], server: str, page: Page, barriers: Barriers
) -> None:
    document = {**spec, "name": SCRIPT, "search": {"space": SPACE, "trials": 12, "final": False, "algorithm": "random"}}
    made = client.post("/v1/searches", json=document).get_json()
    page.goto(f"{server}/searches")
    expect(page.get_by_role("row", name=SCRIPT)).to_contain_text("0 of 12")
    for trial in range(11):
        searches.look(service.engine, FakeDoorbell())
        with db.session_scope(service.engine) as session:
            job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
            assert job is not None
            metrics = {"validation_loss": 1 - trial / 20}
            result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": metrics}
            attempts.succeed(session, Lease.of(job), result, [])
    page.get_by_role("link", name=SCRIPT).click()
    expect(page.get_by_role("img", name="Best so far: best so far 0.500")).to_be_visible()
    expect(page.locator("#importance").get_by_role("progressbar")).to_have_count(2)
    expect(page.locator("#importance")).to_contain_text(
        "Shares overlap: they need not add up to 100 %. 11 trials are few"
    )
    rows = page.get_by_role("table", name="Trials").locator("tbody tr")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("0.500")
    expect(page.locator("#parallel polyline")).to_have_count(11)
    axis = page.locator("#parallel line").last
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    assert box is not None
    page.mouse.move(box["x"], box["y"] + box["height"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"], box["y"] + 0.75 * box["height"])
    page.mouse.up()
    expect(page.locator("#parallel polyline.out")).to_have_count(8)  # those above the lowest quarter
    page.get_by_role("button", name=re.compile("^Trial")).click()
    expect(rows.first).to_contain_text("0.950")
    expect(page.get_by_role("button", name="Trial ↑")).to_be_focused()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the search").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    assert client.get(f"/v1/searches/{made['id']}").get_json()["status"] == "cancelled"
    page.set_viewport_size({"width": 390, "height": 844})
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_schedule_is_run_and_leads_to_its_batch(
    client: FlaskClient, spec: dict[str, Any], server: str, page: Page, barriers: Barriers
) -> None:
    submit = {**spec, "name": SCRIPT, "matrix": {"training.epochs": [2, 3]}}
    made = client.put("/v1/schedules/nightly", json={"cron": "0 3 * * *", "submit": submit})
    assert made.status_code == 201, made.get_json()
    page.goto(f"{server}/schedules")
    expect(page.get_by_role("row", name="nightly")).to_contain_text("not fired yet")
    assert barriers(page) == []
    page.get_by_role("link", name="nightly").click()
    expect(page.locator("#submits")).to_contain_text(SCRIPT.split("'")[0])
    page.get_by_role("button", name="Run now").click()
    page.get_by_role("dialog").get_by_role("button", name="Run now").click()
    slots = page.get_by_role("table", name="Slots, newest first")
    expect(slots).to_contain_text("2 queued")
    assert barriers(page) == []
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state")).to_have_text("paused")
    slots.get_by_role("link", name="Batch").click()
    jobs = page.get_by_role("table", name="Jobs of the batch").locator("tbody tr")
    expect(jobs).to_have_count(2)
    expect(jobs.first).to_contain_text(SCRIPT.split("'")[0])
    assert barriers(page) == []
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the jobs").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    page.goto(f"{server}/batches")
    expect(page.locator("#items tbody tr")).to_have_count(1)
    assert barriers(page) == []


def test_a_batch_draws_the_losses_of_its_jobs_and_says_what_they_share(
    client: FlaskClient, service: Service, spec: dict[str, Any], server: str, page: Page, barriers: Barriers
) -> None:
    made = client.post("/v1/batches", json={**spec, "matrix": {"training.seed": [1, 2]}}).get_json()
    for loss in (0.5, 0.25):
        with db.session_scope(service.engine) as session:
            job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
            assert job is not None
            lease = Lease.of(job)
            progress.started(session, lease, epochs=1, steps_per_epoch=4, info={"device": "cpu"})
            progress.record(session, lease, {"epoch": 1, "train_loss": loss, "validation_loss": loss})
            metrics = {"validation_loss": loss, "validation_accuracy": 0.6719}
            result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": metrics}
            attempts.succeed(session, lease, result, [])
    page.goto(f"{server}/batches/{made['id']}")
    expect(page.get_by_role("img", name="Losses of the jobs: seed 1 0.500, seed 2 0.250")).to_be_visible()
    expect(page.locator("#verdicts")).to_contain_text("All 2 jobs have the same validation accuracy (0.6719).")
    expect(page.locator("#tiles progress")).to_have_class("succeeded")
    assert barriers(page) == []
