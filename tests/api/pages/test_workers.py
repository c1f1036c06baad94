"""The page of workers and waiting jobs in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.service import Service
from services import db
from services.jobs import attempts, workers
from tests.api.pages.conftest import needs_browser

pytestmark = needs_browser


def test_it_says_why_a_job_waits(
    client: FlaskClient,
    service: Service,
    server: str,
    page: Page,
    spec: dict[str, Any],
    barriers: Callable[[Page], list[str]],
) -> None:
    page.goto(f"{server}/workers")
    expect(page.get_by_text("No worker has reported within the last minute")).to_be_visible()
    expect(page.get_by_text("No job waits.")).to_be_visible()
    for name in ("first", "second"):
        client.post("/v1/jobs", json={**spec, "name": name})
    expect(page.get_by_text("No worker takes jobs of the queue default.")).to_have_count(2)
    client.post("/v1/jobs", json={**spec, "name": "under way", "queue": "other"})
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "other", worker="host:1:abc", lease_seconds=60)
        assert job is not None
        workers.beat(session, "host:1:abc", queues=["default"], state="busy", job_id=job.id, doorbell_seconds_ago=None)
    expect(page.get_by_role("cell", name="host:1:abc")).to_be_visible()
    expect(page.get_by_role("row", name="host:1:abc").get_by_role("link")).to_have_text("under way")
    expect(page.get_by_role("row", name="first")).to_contain_text("It is next")
    expect(page.get_by_role("row", name="second")).to_contain_text("One of your jobs is ahead of it.")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []
