"""The page of a new job in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from tests.api.pages.conftest import needs_browser

pytestmark = needs_browser
Barriers = Callable[[Page], list[str]]


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
    editor = page.get_by_role("textbox", name="Spec")
    editor.fill("data: {synthetic: {samples: 20}}\nname: typed\ntraining:\n  # how long\n  epochs: -5\n")
    page.locator("#problems").get_by_role("button", name="line 5").click()
    assert (
        page.evaluate("(s => s.value.slice(s.selectionStart, s.selectionEnd))(document.activeElement)") == "epochs: -5"
    )
    editor.fill("data: {dataset: pumps}\n")
    expect(page.locator("#problems")).to_contain_text("known: none yet; upload it on the page Data sets")
    expect(page.locator("#target")).to_be_hidden()
    editor.fill("data: {synthetic: {samples: 20}}\nname: typed\npreset: basic_gru\n")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/job_*")
    expect(page.get_by_role("heading", name="typed")).to_be_visible()


def upload_walks(client: FlaskClient) -> None:
    steps = [
        f"w{walk},{step},{walk % 3 + step / 10},{'up' if walk % 2 else 'down'}"
        for walk in range(40)
        for step in range(6)
    ]
    rows = "\n".join(["walk,second,speed,what", *steps, ""])
    assert (
        client.post(
            "/v1/datasets?name=walks&file=walks.csv", data=rows, content_type="application/octet-stream"
        ).status_code
        == 201
    )


def test_a_search_is_submitted_by_its_fields_and_wrong_ones_are_shown_there(
    client: FlaskClient, server: str, page: Page, barriers: Barriers
) -> None:
    upload_walks(client)
    page.goto(f"{server}/submit")
    page.get_by_role("link", name="A search").click()
    editor, budget = page.get_by_role("textbox", name="Spec"), page.get_by_label("Budget of the search")
    expect(editor).to_have_value("name: walks\ndata: {dataset: walks@1}\nsearch: {minutes: 10}\n")
    expect(page.locator("#target")).to_contain_text("Predicts what.")
    expect(page.locator("#foreseen")).to_contain_text("as many as there is time for in 10 min")
    for amount in ("0", "-2"):
        budget.fill("5")
        expect(page.locator("#budget-problem")).to_be_empty()
        budget.fill(amount)
        expect(page.locator("#budget-problem")).to_contain_text("greater than 0")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    assert barriers(page) == []
    page.get_by_label("Unit of the budget").select_option("trials")
    budget.fill("7")
    expect(editor).to_have_value(re.compile(r"search: {trials: 7}"))
    page.get_by_label("Unit of the budget").select_option("minutes")
    expect(page.locator("#budget-problem")).to_be_empty()
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    editor.fill(editor.input_value().replace("walks\n", "mine\n", 1))
    expect(budget).to_be_disabled()
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/searches/search_*")
    expect(page.locator("#tiles")).to_contain_text(
        re.compile(r"Time used.* s?of 7 min, 6 min [\d]+ s left|Time used0 sof 7 min")
    )
    [made] = client.get("/v1/searches").get_json()["data"]
    settings = made["settings"]
    assert (made["name"], settings["minutes"], list(settings["datasets"])) == ("mine", 7, ["walks@1"])


def test_a_batch_is_submitted_from_its_example(client: FlaskClient, server: str, page: Page) -> None:
    upload_walks(client)
    page.goto(f"{server}/batches")
    page.get_by_role("link", name="New batch").first.click()
    expect(page.get_by_role("textbox", name="Spec")).to_have_value(re.compile("^matrix:\n  architecture.cell: ", re.M))
    expect(page.locator("#foreseen")).to_contain_text("Jobs4")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/batches/batch_*")
    [made] = client.get("/v1/batches").get_json()["data"]
    assert (made["total"], made["varied"]) == (4, ["architecture.cell", "training.optimizer.lr"])
