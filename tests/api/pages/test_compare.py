"""The page that compares jobs in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.pages import assets
from api.service import Service
from services import db
from services.jobs import attempts, progress
from services.jobs.leases import Lease
from services.training.messages import FoldProgress, as_dict
from tests.api.pages.conftest import needs_browser

pytestmark = needs_browser
Barriers = Callable[[Page], list[str]]

SCALE = """async (path) => {
  const { calmRange } = await import(path);
  const scale = calmRange([[2, 1.5, null, 1], [3, 900, 4000]]);
  return [scale.map((end) => Number(end.toFixed(3))), calmRange([[1, 1]])];
}"""


def test_jobs_are_chosen_in_the_list_and_compared(
    client: FlaskClient,
    service: Service,
    server: str,
    page: Page,
    spec: dict[str, Any],
    barriers: Callable[[Page], list[str]],
) -> None:
    for name, losses in (("slow", (3.0, 2.0)), ("fast", (3.0, 0.5))):
        client.post(
            "/v1/jobs",
            json={
                **spec,
                "name": name,
                "training": {
                    "epochs": 2,
                    "seed": int(losses[1]),
                    "optimizer": {"name": "adam", "lr": 0.0350012935154306 / losses[1]},
                },
            },
        )
        with db.session_scope(service.engine) as session:
            job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
            assert job is not None
            lease = Lease.of(job)
            progress.started(session, lease, epochs=2, steps_per_epoch=4, info={"device": "cpu"})
            for epoch, loss in enumerate(losses, 1):
                progress.record(session, lease, {"epoch": epoch, "train_loss": loss, "validation_loss": loss})
            metrics = {"validation_loss": losses[1], "test_accuracy": 1 / losses[1]}
            result = {"best_epoch": 2, "epochs": 2, "stopped_early": False, "metrics": metrics}
            attempts.succeed(session, lease, result, [])
    page.goto(f"{server}/compare")
    expect(page.get_by_role("heading", name="Nothing to compare yet")).to_be_visible()
    assert barriers(page) == []
    page.goto(f"{server}/jobs")
    for name in ("slow", "fast"):
        page.get_by_role("checkbox", name=f"Select {name} to compare").check()
    page.get_by_role("link", name="Compare 2 jobs").click()
    expect(page.get_by_role("img", name=re.compile("slow 2, fast 0.5"))).to_be_visible()
    results = page.locator("#results tbody tr")
    page.get_by_role("button", name="test accuracy").click()
    expect(results.first).to_contain_text("slow")
    page.get_by_role("button", name="test accuracy").click()
    expect(results.first).to_contain_text("fast")
    expect(page.get_by_role("columnheader", name="test accuracy")).to_have_attribute("aria-sort", "descending")
    fields = page.locator("#fields tbody tr")
    expect(fields).to_have_count(2)
    expect(fields.filter(has_text="training.optimizer.lr").get_by_title("0.0175006467577153")).to_have_text("0.0175")
    page.get_by_label("those that are the same too").check()
    expect(fields.nth(2)).to_be_visible()
    assert page.evaluate(SCALE, assets.address("scales.js")) == [[0.95, 2.05], None]
    page.get_by_role("button", name="Without outliers").click()
    expect(page.get_by_role("img", name=re.compile("slow 2, fast 0.5"))).to_be_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []
    page.get_by_role("button", name="Remove slow").click()
    expect(results).to_have_count(1)
    page.get_by_label("Add a job").fill("LO")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(results).to_have_count(2)
    page.get_by_role("button", name="Remove slow").click()
    page.get_by_label("Add a job").fill("s")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Several names contain “s”. Add one of them: ")
    assert barriers(page) == []
    page.get_by_role("alert").get_by_role("button", name="slow").click()
    expect(results).to_have_count(2)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_job_with_folds_is_judged_by_its_mean_and_spread(
    client: FlaskClient, service: Service, spec: dict[str, Any], server: str, page: Page, barriers: Barriers
) -> None:
    split = {"test": 0.0, "folds": 2}
    client.post("/v1/jobs", json=spec | {"name": "folded", "data": {**spec["data"], "split": split}})
    place = FoldProgress(number=3, folds=2, epochs=3, epochs_before=6, total_epochs=9, total_steps=36)
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test", lease_seconds=60)
        assert job is not None
        lease = Lease.of(job)
        progress.started(session, lease, epochs=9, steps_per_epoch=4, info={}, fold=as_dict(place))
        best = {"epoch": 7, "metric": "train_loss", "value": 0.001}
        progress.record(session, lease, {"epoch": 7, "fold": 3, "fold_epoch": 1, "train_loss": 0.001}, best=best)
        mean = {"validation_loss": 0.5, "validation_accuracy": 0.75}
        result = {"best_epoch": 3, "epochs": 3, "stopped_early": False, "metrics": {"train_accuracy": 0.999}}
        fold = {"best_epoch": 3, "epochs": 3, "stopped_early": False, "seed": 0, "metrics": mean}
        folds = [{**fold, "fold": each, "samples": {"train": 10, "validation": 10}} for each in (1, 2)]
        std = {"validation_loss": 0.125, "validation_accuracy": 0.25}
        attempts.succeed(session, lease, {**result, "mean": mean, "std": std, "folds": folds}, [])
    page.goto(f"{server}/jobs")
    expect(page.get_by_role("row", name="folded")).to_contain_text("0.750 ± 0.250mean validation accuracy")
    page.get_by_role("link", name="folded").click()
    tiles = page.locator("#tiles")
    expect(tiles).to_contain_text("mean validation accuracy0.750± 0.250 over 2 folds")
    expect(tiles).not_to_contain_text("train")
    page.goto(f"{server}/compare?jobs={lease.job_id}")
    row = page.locator("#results tbody tr")
    expect(row).to_contain_text("0.750 ± 0.250mean of 2 folds")
    expect(page.locator("#results thead")).not_to_contain_text("best train loss")
    assert barriers(page) == []
