"""What people do with the pages, with a whole service: real trainings, real streams."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.api.pages.conftest import needs_browser
from tests.api.pages.test_datasets import DROP, walks
from tests.system.conftest import Service

pytestmark = needs_browser

SPEC: dict[str, Any] = {
    "name": "<b>long</b>",
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 100_000, "batch_size": 8, "max_grad_norm": 0.01},
    "data": {"synthetic": {"samples": 64, "length": 8, "features": 2, "classes": 2}},
    "tags": {"team": "<i>speech</i>"},
}
FURTHER = r"""shown => {
    const found = /epoch ([\d,]+) of/.exec(document.getElementById("tiles").innerText);
    return found && Number(found[1].replaceAll(",", "")) > shown + 20;
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"))
    yield started
    started.end()


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return service.url()


def epoch_of(page: Page) -> int:
    """The epoch that the page shows."""
    found = re.search(r"epoch ([\d,]+) of", page.locator("#tiles").inner_text())
    return int(found.group(1).replace(",", "")) if found else 0


def test_a_job_is_submitted_by_form_watched_paused_compared_and_cancelled(
    service: Service, url: str, page: Page, barriers: Callable[[Page], list[str]]
) -> None:
    short = httpx.post(f"{url}/v1/jobs", json={**SPEC, "name": "short", "training": {"epochs": 3}}).json()
    page.goto(f"{url}/submit")
    page.get_by_role("textbox", name="Spec").fill(json.dumps(SPEC))
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/job_*")
    job_id = page.url.rpartition("/")[2]
    expect(page.get_by_role("heading", name="<b>long</b>")).to_be_visible()
    expect(page.locator("#state")).to_have_text("running")

    # It is live: by the stream alone, for the page asks for nothing else meanwhile.
    expect(page.get_by_role("img", name=re.compile("^Gradient norm: "))).to_be_visible()
    expect(page.locator("#tail")).to_contain_text("epoch")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    shown = epoch_of(page)
    page.wait_for_function(FURTHER, arg=shown)
    assert [request for request in asked if "/steps" not in request] == []
    assert barriers(page) == []

    # A service that goes away is waited for.
    api = service.part("api")
    shown = epoch_of(page)
    api.send_signal(signal.SIGTERM)
    page.wait_for_function(FURTHER, arg=shown)
    expect(page.locator("#connection")).to_be_hidden()

    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#state")).to_have_text("cancelled")
    expect(page.get_by_role("link", name="Download model")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)

    page.goto(f"{url}/compare?jobs={job_id},{short['id']}")
    expect(page.get_by_role("img", name=re.compile("^Curves of the jobs: .*long.*, short "))).to_be_visible()
    expect(page.locator("#fields")).to_contain_text("training.epochs")
    page.goto(f"{url}/jobs?tag=team:<i>speech</i>")
    expect(page.get_by_role("row")).to_have_count(3)
    expect(page.locator("svg.spark")).to_have_count(2)
    expect(page.get_by_role("row", name="short")).to_contain_text("succeeded")
    assert barriers(page) == []
    assert page.locator("main b, main i:not([class])").count() == 0


def test_a_file_becomes_a_model_that_is_promoted_and_asked(
    service: Service, url: str, page: Page, barriers: Callable[[Page], list[str]]
) -> None:
    page.goto(f"{url}/datasets")
    page.locator("#drop").evaluate(DROP, ["walks.csv", walks()])
    page.get_by_label("Columns to predict").select_option(["what"])
    page.get_by_role("button", name="Make the data set").click()
    page.wait_for_url("**/datasets/ds_*")
    page.get_by_role("link", name="Train on this").click()
    editor = page.get_by_role("textbox", name="Spec")
    expect(editor).to_have_value(re.compile("walks@1"))
    data = {"dataset": "walks@1", "split": {"validation": 0.25, "test": 0.25}}
    training = {"epochs": 2, "batch_size": 8}
    spec = {**SPEC, "name": "walks", "training": training, "data": data, "retrain": {"model": "walks"}}
    editor.fill(json.dumps(spec))
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/job_*")
    expect(page.locator("#state")).to_have_text("succeeded")
    expect(page.locator("#facts").get_by_role("link", name="walks")).to_have_attribute(
        "href", re.compile("^/datasets/ds_")
    )
    again = httpx.post(f"{url}/v1/jobs", json=spec).json()
    httpx.get(f"{url}/v1/jobs/{again['id']}", params={"wait": 60}, timeout=70)

    page.goto(f"{url}/models/walks")
    expect(page.locator("#alarms")).to_contain_text("Version 2 was held back.")
    page.get_by_role("button", name="Promote version 2").click()
    page.get_by_role("button", name="Promote", exact=True).click()
    expect(page.locator("#tiles")).to_contain_text("In productionversion 2")
    page.get_by_role("link", name="Try it").first.click()
    expect(page.get_by_label("speed, step 1")).not_to_be_empty()
    expect(page.locator("#source")).to_contain_text("steps of sequence w0 of the data set, which is up there.")
    page.get_by_role("button", name="Ask the model").click()
    expect(page.locator("#who")).to_have_text("walks@2")
    expect(page.locator("#answer").get_by_role("progressbar")).to_have_count(3)
    assert barriers(page) == []
