"""The page of a new job in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from tests.api.pages.conftest import needs_browser

pytestmark = needs_browser


def test_a_job_is_run_again_with_changes_and_mistakes_are_shown_at_their_lines(
    client: FlaskClient, queued_job: dict[str, Any], server: str, page: Page, barriers: Callable[[Page], list[str]]
) -> None:
    page.goto(f"{server}/submit?from={queued_job['id']}")
    expect(page.get_by_role("heading", name="Run try again")).to_be_visible()
    editor = page.get_by_role("textbox", name="Spec")
    expect(page.locator("#foreseen")).to_contain_text("Parameters")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    assert barriers(page) == []
    spec = json.loads(editor.input_value())
    spec["training"]["epochs"] = -5
    editor.fill(json.dumps(spec, indent=2))
    problem = page.locator("#problems")
    expect(problem).to_contain_text("training.epochs")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    assert barriers(page) == []
    problem.get_by_role("button").click()
    assert page.evaluate("(s => s.value.slice(s.selectionStart, s.selectionEnd))(document.activeElement)") == "-5"
    page.keyboard.type("7")
    expect(problem).to_be_empty()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/job_*")
    newest = client.get("/v1/jobs?full=true").get_json()["data"][0]
    assert (newest["spec"]["training"]["epochs"], newest["tags"]) == (7, {"team": "speech"})


def test_a_spec_in_yaml_is_taken_too(client: FlaskClient, queued_job: dict[str, Any], server: str, page: Page) -> None:
    page.goto(f"{server}/submit")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    page.get_by_role("textbox", name="Spec").fill("data: {synthetic: {samples: 20}}\nname: typed\npreset: basic_gru\n")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/job_*")
    expect(page.get_by_role("heading", name="typed")).to_be_visible()
