"""The pages of models in a browser, and asking one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.service import Service
from services import db
from services.orm import Job
from tests.api.pages.conftest import needs_browser
from tests.client.prediction.tables import walks, written

pytestmark = needs_browser

SCRIPT = "<script>document.title='run'</script>"
Barriers = Callable[[Page], list[str]]


def held_back(service: Service, job_id: str, version: int) -> None:
    """What a retraining leaves in the result of its job."""
    with db.session_scope(service.engine) as session:
        job = session.get_one(Job, job_id)
        told = {"model": "toy", "version": version, "alias": "production", "decision": "held_back"}
        said = {"message": f"It may be better by luck alone. {SCRIPT}", "warm_start": None, "gate": None, "drift": None}
        metrics = {"test_accuracy": 0.75, "validation_loss": 0.5}
        run = {"best_epoch": 1, "epochs": 1, "stopped_early": False}
        job.result = {**run, "metrics": metrics, "retrain": told | said}


def test_a_version_says_why_it_was_held_back_and_is_promoted_and_rolled_back(
    client: FlaskClient,
    service: Service,
    publish: Callable[..., str],
    walking: tuple[Any, Any],
    server: str,
    page: Page,
    barriers: Barriers,
) -> None:
    page.goto(f"{server}/models")
    expect(page.get_by_role("heading", name="No models yet")).to_be_visible()
    expect(page.get_by_role("link", name="drop a file")).to_have_attribute("href", "/datasets")
    assert barriers(page) == []
    jobs = [publish(walking[0].folder) for _ in range(2)]
    for job_id in jobs:
        client.post("/v1/models/toy/versions", json={"job": job_id, "note": SCRIPT})
    client.put("/v1/models/toy/aliases/production", json={"version": 1, "reason": SCRIPT})
    with db.session_scope(service.engine) as session:
        session.get_one(Job, jobs[0]).result = {"metrics": {"test_accuracy": 0.5, "validation_loss": 0.6}}
    held_back(service, jobs[1], 2)
    assert client.get("/v1/models/toy/versions/1").get_json()["retrain"] is None
    row = page.get_by_role("row", name="toy")
    expect(row).to_contain_text("version 1")
    expect(row).to_contain_text("held back")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []

    page.goto(f"{server}/jobs/{jobs[1]}")
    told = f"It may be better by luck alone. {SCRIPT} It is version 2 of the model toy."
    expect(page.locator("#alarms")).to_contain_text(told)
    expect(page.get_by_role("link", name="Try it").first).to_be_visible()
    expect(page.get_by_role("button", name="Register as a model")).to_have_count(0)
    assert barriers(page) == []
    page.locator("#alarms").get_by_role("link", name="toy").click()
    expect(page.locator("#alarms")).to_contain_text(
        f"Version 2 was held back. It may be better by luck alone. {SCRIPT}"
    )
    expect(page.get_by_role("img", name=re.compile("^Metric of each version: test accuracy 0.75"))).to_be_visible()
    expect(page.locator("#history")).to_contain_text(SCRIPT)
    assert barriers(page) == []
    page.emulate_media(color_scheme="light")
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    page.get_by_role("button", name="Promote version 2").click()
    asked = "Promote version 2 of toy to production (test accuracy 0.750)?"
    question = f"{asked} Version 1 is in production now (test accuracy 0.500)."
    expect(page.get_by_role("dialog")).to_contain_text(question)
    expect(page.get_by_role("dialog")).to_contain_text("It may be better by luck alone.")
    expect(page.get_by_text("It may be better by luck alone.")).to_have_count(2)
    page.get_by_label("Reason, if you like").fill("measured by hand")
    assert barriers(page) == []
    page.get_by_role("button", name="Promote", exact=True).click()
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#history li").first).to_contain_text("measured by hand")
    expect(page.locator("#tiles")).to_contain_text("In productionversion 2")
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#tiles")).to_contain_text("In productionversion 1")
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    page.set_viewport_size({"width": 390, "height": 844})
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_job_that_has_succeeded_becomes_a_model(
    ended: Callable[..., str], walking: tuple[Any, Any], server: str, page: Page, barriers: Barriers
) -> None:
    page.goto(f"{server}/jobs/{ended(walking[0].folder)}")
    page.get_by_role("button", name="Register as a model").click()
    name = page.get_by_label("Name of the model")
    name.fill("Not a name")
    page.get_by_role("button", name="Register", exact=True).click()
    expect(name).to_be_visible()
    assert barriers(page) == []
    name.fill("my-walks.2")
    name.press("Enter")
    expect(page.get_by_role("status").filter(has_text="The job is version 1 of")).to_be_visible()
    expect(page.get_by_role("button", name="Register as a model")).to_have_count(0)
    assert barriers(page) == []
    page.get_by_role("link", name="my-walks.2").click()
    page.wait_for_url("**/models/my-walks.2")
    expect(page.get_by_role("heading", name="my-walks.2")).to_be_visible()


def test_a_model_is_asked_by_a_form_and_with_a_csv(
    ended: Callable[..., str],
    walking: tuple[Any, Any],
    server: str,
    page: Page,
    barriers: Barriers,
    tmp_path: Path,
) -> None:
    job_id = ended(walking[0].folder)
    page.goto(f"{server}/jobs/{job_id}")
    page.get_by_role("link", name="Try it").click()
    for _ in range(2):
        page.get_by_role("button", name="Remove the last").click()
    page.get_by_label("second, step 1").fill("1")
    page.get_by_label("speed, step 1").fill("fast")
    page.get_by_label("weight").fill("3.5")
    page.get_by_role("button", name="Ask the model").click()
    expect(page.get_by_role("alert")).to_have_text(
        "speed, step 1: “fast” is not a number. Leave it empty if it is unknown."
    )
    expect(page.get_by_label("speed, step 1")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("speed, step 1")).to_be_focused()
    page.get_by_label("speed, step 1").fill("2.5")
    expect(page.locator("#asks [aria-invalid]")).to_have_count(0)
    page.get_by_label("mode, step 1").select_option(index=1)
    page.get_by_role("button", name="Ask the model").click()
    answer = page.locator("#answer")
    expect(answer.get_by_role("progressbar")).to_have_count(len(walking[1].classes))
    expect(page.get_by_role("alert")).to_be_hidden()
    details = json.loads((walking[0].folder / "model.json").read_text())["details"]
    split = "test" if "test" in details else "validation"
    told = f"as measured on {sum(details[split]['calibration']['count'])} answers of the {split} part."
    expect(page.locator("#trusted")).to_contain_text(told)
    expect(page.locator("#trusted")).to_contain_text(re.compile(r"a probability of [01]\.\d to [01]\.\d"))
    expect(page.locator("#curl")).to_contain_text(f"/v1/jobs/{job_id}/predict")
    expect(page.locator("#curl")).to_contain_text('"speed":2.5')
    assert barriers(page) == []
    page.get_by_label("speed, step 1").fill("fast")
    expect(answer.get_by_role("progressbar")).to_have_count(0)
    page.get_by_role("button", name="Ask the model").click()
    expect(page.get_by_role("alert")).to_contain_text("speed, step 1")
    expect(answer.get_by_role("progressbar")).to_have_count(0)

    columns = {name: values for name, values in walks().items() if name != "activity"}
    columns["walk"] = [SCRIPT if name == "w00" else name for name in columns["walk"]]
    page.get_by_label("Or drop a CSV here").set_input_files(written(columns, tmp_path / "new walks.csv"))
    expect(page.locator("#curl")).to_contain_text("--data-binary @'new walks.csv'")
    page.get_by_role("button", name="Ask the model").click()
    expect(answer.get_by_role("heading")).to_have_count(24)
    expect(answer.get_by_role("heading", name=SCRIPT)).to_be_visible()
    assert barriers(page) == []


def test_a_forecast_is_a_curve_that_goes_on_from_what_was_given(
    ended: Callable[..., str], server: str, page: Page, barriers: Barriers
) -> None:
    page.goto(f"{server}/try?job={ended('forecast')}")
    first = page.locator("#steps tbody input").first
    expect(first).to_be_visible()
    width = page.locator("#steps tbody tr").first.locator("input").count()
    cells = "\n".join("\t".join(str(step + column) for column in range(width)) for step in range(60))
    first.evaluate(
        """(cell, text) => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text/plain", text);
            cell.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}));
        }""",
        cells,
    )
    expect(page.locator("#steps tbody tr")).to_have_count(60)
    expect(page.locator("#reads")).to_contain_text("reads the last")
    page.get_by_role("button", name="Ask the model").click()
    expect(page.get_by_role("img", name=re.compile("^Forecast of ")).first).to_be_visible()
    module = page.locator("link[href*='/assets/']").first.evaluate("link => new URL('format.js', link.href).pathname")
    days, hours = ["2026-01-01 00:00:00", "2026-01-02T00:00:00"], ["2026-01-01T00:00:00", "2026-01-01T01:00:00"]
    written = "async ([module, times]) => (await import(module)).dated(times)"
    assert page.evaluate(written, [module, days]) == ["2026-01-01", "2026-01-02"]
    assert page.evaluate(written, [module, hours]) == ["2026-01-01 00:00:00", "2026-01-01 01:00:00"]
    assert barriers(page) == []
    page.goto(f"{server}/try")
    expect(page.get_by_role("heading", name="There is no model to ask")).to_be_visible()
