"""The page of one job in a browser, with what the database holds. test_stories.py has real trainings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.pages import assets
from api.service import Service
from services import db
from services.jobs import attempts, events, progress
from services.jobs.events import Line
from services.jobs.leases import Lease
from services.orm import Job
from tests.api.pages.conftest import needs_browser
from worker.attempt import oom

pytestmark = needs_browser

SCRIPT = "<script>document.title='run'</script>"
Barriers = Callable[[Page], list[str]]


NUMBERS = [0.90625, 0.15625, 0.84375, -0.90625, 2.5005, 0.0012345, 1.00005, 1234.5, 0.1, 0.999951]
"""The first four lie exactly between two numbers of four digits."""


HEARD = """async (path) => {
  const { Curves } = await import(path);
  const curves = new Curves("job_1");
  for (let first = 1; first < 100_000; first += 500) {
    const step = Array.from({ length: 500 }, (_, index) => first + index);
    const loss = step.map((each) => (each === 43_210 ? 99 : each === 71_000 ? -9 : 5 - each / 100_000));
    curves.addSteps({ step, loss, grad_norm: step.map((each) => (each === 50_000 ? 7 : null)), fold: null });
  }
  const { step, loss, grad_norm } = curves.steps;
  const all = step.map((each, index) => [each, loss[index], grad_norm[index]]);
  return [step, all.filter(([each, one, norm]) => norm || one > 9 || one < 0)];
}"""


def test_a_page_rounds_a_number_as_the_service_does(server: str, page: Page) -> None:
    page.goto(f"{server}/sign-in")
    script = (
        "async ([path, values]) => { const made = await import(path); return values.map((one) => made.number(one)); }"
    )
    shown = page.evaluate(script, [assets.address("format.js"), NUMBERS])
    assert [float(each.replace(",", "")) for each in shown] == [float(f"{value:.4g}") for value in NUMBERS]


def test_a_page_that_hears_of_many_steps_thins_them_out_by_itself(server: str, page: Page) -> None:
    page.goto(f"{server}/jobs")
    steps, far = page.evaluate(HEARD, assets.address("curves.js"))
    assert 1000 < len(steps) <= 4000
    assert (steps[0], steps[-1]) == (1, 100_000)
    assert steps == sorted(set(steps))
    assert far == [[43_210, 99, None], [50_000, 4.5, 7], [71_000, -9, None]]


def test_the_curves_follow_a_run_and_zooming_asks_for_the_part(
    service: Service, running_job: Lease, server: str, page: Page, barriers: Barriers
) -> None:
    loss, norm = [5 - step / 5000 for step in range(20_000)], [0.5] * 20_000
    loss[12_344], norm[7_000] = 9.0, 3.0
    with db.session_scope(service.engine) as session:
        progress.started(session, running_job, epochs=4, steps_per_epoch=10_000, info={"device": "cpu"})
        progress.record_steps(session, running_job, 1, loss, norm)
        for epoch in (1, 2):
            record = {"epoch": epoch, "train_loss": 1.5, "validation_loss": 2.5 / epoch, "lr": 0.1, "seconds": 2.0}
            progress.record(session, running_job, record, best={"epoch": 1, "metric": "validation_loss", "value": 2.5})
        events.log(session, running_job, [Line("output", SCRIPT)])
    page.goto(f"{server}/jobs/{running_job.job_id}")
    expect(page.get_by_text("epoch 2 of 4; step 20,000")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile(r"^Loss: .*validation 1\.25$"))).to_be_visible()
    expect(page.get_by_text("clipped at 1")).to_be_visible()
    expect(page.locator("#tail")).to_contain_text(SCRIPT)
    legend = page.locator("#loss .u-legend")
    expect(legend).not_to_contain_text("–")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []

    page.locator("#loss .u-over").hover()
    expect(legend).to_contain_text(re.compile(r"training, smoothed\d"))
    box = page.locator("#loss .u-over").bounding_box()
    assert box is not None
    with page.expect_request(re.compile(r"/steps\?.*last=")) as asked:
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.65, box["y"] + 50)
        page.mouse.up()
    first, last = (int(number) for number in re.findall(r"(?:first|last)=(\d+)", asked.value.url))
    assert 11_500 < first < last < 13_500
    expect(page.get_by_role("button", name="Show the whole run")).to_be_visible()

    with db.session_scope(service.engine) as session:
        progress.record(session, running_job, {"epoch": 3, "train_loss": 1.0, "validation_loss": 0.5})
    expect(page.get_by_role("img", name=re.compile(r"^Loss: .*validation 0\.5"))).to_be_visible()
    page.get_by_role("button", name="Show the whole run").click()
    page.get_by_role("button", name="Steps").click()
    page.get_by_role("group", name="Scale of the loss").get_by_role("button", name="Logarithmic").click()
    expect(page.locator("#loss .u-legend")).to_contain_text(re.compile("^step"))


def test_a_run_that_no_longer_improves_says_so_while_it_runs(
    service: Service, running_job: Lease, server: str, page: Page, barriers: Barriers
) -> None:
    def record(epochs: range) -> None:
        best = {"epoch": 12, "metric": "validation_loss", "value": 2.5}
        with db.session_scope(service.engine) as session:
            for epoch in epochs:
                progress.record(session, running_job, {"epoch": epoch, "train_loss": 1.5}, best=best)

    with db.session_scope(service.engine) as session:
        progress.started(session, running_job, epochs=40, steps_per_epoch=4, info={"device": "cpu"})
    record(range(1, 24))
    page.goto(f"{server}/jobs/{running_job.job_id}")
    expect(page.get_by_text("epoch 23 of 40")).to_be_visible()
    expect(page.locator("#alarms")).not_to_contain_text("has not improved")
    record(range(24, 25))
    told = (
        "The validation loss has not improved for 12 epochs. The result keeps the weights of the best epoch, so far 12."
    )
    expect(page.locator("#alarms")).to_contain_text(f"{told} Early stopping would end such a run")
    assert barriers(page) == []


def test_the_tiles_of_a_result_begin_with_the_test_and_name_the_baseline(
    service: Service, trained_job: str, server: str, page: Page
) -> None:
    with db.session_scope(service.engine) as session:
        job = session.get_one(Job, trained_job)
        job.best = {"epoch": 1, "metric": "validation_loss", "value": 0.5}
        metrics = {"train_accuracy": 0.875, "validation_accuracy": 0.75, "test_accuracy": 0.625, "test_macro_f1": 0.25}
        base = {"answer": "the most frequent class (3)", "metrics": {"test_accuracy": 0.375}, "metric": "test_accuracy"}
        run = {"best_epoch": 1, "epochs": 1, "stopped_early": False}
        job.result = {**run, "metrics": metrics, "baseline": base | {"is_beaten": True, "message": None}}
    page.goto(f"{server}/jobs/{trained_job}")
    told = "test accuracy0.625baseline 0.375: the most frequent class (3)best validation loss0.500epoch 1test macro F1"
    expect(page.locator("#tiles")).to_contain_text(told)
    expect(page.locator("#tiles > div")).to_have_count(6)


def test_a_job_that_failed_says_why_and_what_to_do(
    service: Service, running_job: Lease, server: str, page: Page, barriers: Barriers
) -> None:
    with db.session_scope(service.engine) as session:
        attempts.fail(session, running_job, "diverged", f"The loss is not finite. {SCRIPT}", retry=False)
    page.goto(f"{server}/jobs/{running_job.job_id}")
    alarm = page.get_by_role("alert")
    expect(alarm).to_contain_text(f"The job failed. The loss is not finite. {SCRIPT}")
    expect(alarm.get_by_role("link", name="run it again with changes")).to_be_visible()
    assert barriers(page) == []
    alarm.get_by_role("link", name="its log and events").click()
    expect(page.get_by_role("tab", name="Log and events")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#events")).to_contain_text("running → failed")
    assert barriers(page) == []
    page.get_by_role("tab", name="Log and events").press("ArrowRight")
    expect(page.locator("#spec-text")).to_contain_text('"max_grad_norm": 1')
    assert barriers(page) == []


def test_a_crash_is_one_sentence_and_the_rest_opens(
    service: Service, running_job: Lease, server: str, page: Page, barriers: Barriers
) -> None:
    killed = f"The trainer was killed by signal 9. {oom.WHAT_TO_DO}"
    with db.session_scope(service.engine) as session:
        attempts.fail(session, running_job, "trainer_crashed", killed, retry=True)
    page.goto(f"{server}/jobs/{running_job.job_id}")
    alarm = page.locator("#alarms .notice").first
    expect(alarm).to_contain_text("is tried again: The trainer was killed by signal 9.")
    cause = alarm.get_by_text("journalctl")
    expect(cause).to_be_hidden()
    assert barriers(page) == []
    alarm.get_by_text("more", exact=True).click()
    expect(cause).to_be_visible()
    assert barriers(page) == []


def test_an_attempt_that_begins_again_says_so_while_it_runs(
    service: Service, running_job: Lease, server: str, page: Page
) -> None:
    with db.session_scope(service.engine) as session:
        progress.record(session, running_job, {"epoch": 1, "train_loss": 1.0, "validation_loss": 0.5})
        attempts.lose(session, running_job, "The worker was lost.")
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="test:2", lease_seconds=60)
        assert job is not None
        progress.started(session, Lease.of(job), epochs=3, steps_per_epoch=4, info={"device": "cpu", "threads": 1})
    page.goto(f"{server}/jobs/{running_job.job_id}")
    again = page.locator("#alarms").get_by_text("Attempt 2 begins again at the first step: there is no checkpoint.")
    expect(again).to_be_visible()
    with db.session_scope(service.engine) as session:
        progress.record(session, Lease.of(job), {"epoch": 1, "train_loss": 1.0, "validation_loss": 0.4})
    expect(page.locator("#tiles")).to_contain_text("epoch 1 of 3")
    expect(again).to_be_visible()


def test_a_model_is_shown_with_its_card_and_pictures(
    trained_job: str, server: str, page: Page, barriers: Barriers
) -> None:
    page.goto(f"{server}/jobs/{trained_job}#model")
    expect(page.get_by_role("link", name="Download model")).to_be_visible()
    expect(page.locator("#card h1")).to_have_text("vowels")
    expect(page.locator("#checkpoints")).to_contain_text("best so far")
    assert barriers(page) == []
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the job").click()
    page.wait_for_url(f"{server}/jobs")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()


CARD = f"""# A model {SCRIPT}

![Loss](loss.svg) ![elsewhere](https://evil.example/x.svg) ![up](../../x.svg)

[good](https://example.com/) [bad](javascript:alert(1)) [file](model.json)

| a | b |
| --- | ---: |
| 1 | <img src=x onerror=alert(1)> |
"""


def test_a_card_has_no_html_of_its_own_and_no_pictures_from_elsewhere(
    client: FlaskClient, service: Service, running_job: Lease, put: Callable[..., Any]
) -> None:
    with db.session_scope(service.engine) as session:
        files = [put(running_job.job_id, "README.md", CARD.encode()), put(running_job.job_id, "loss.svg", b"<svg/>")]
        attempts.succeed(session, running_job, {"metrics": {}}, files)
    answer = client.get(f"/jobs/{running_job.job_id}/card")
    article = answer.get_data(as_text=True).partition("<article")[2]
    assert re.findall(r"<img [^>]*src=\"([^\"]*)\"", article) == [f"/v1/jobs/{running_job.job_id}/model/loss.svg"]
    assert re.findall(r"href=\"([^\"]*)\"", article) == ["https://example.com/"]
    assert "<script" not in article
    assert "style=" not in article
    assert '<td class="number">&lt;img src=x onerror=alert(1)&gt;</td>' in article
    assert client.get("/jobs/job_00000000000000000000000000/card").status_code == 404


PLACES = (
    ('{"a": {"b": [1, {"c": "x}"}]}, "d": 2}', "/a/b/1/c", '"x}"'),
    ('{"a": {"b": [1, {"c": "x}"}]}, "d": 2}', "/d", "2"),
    ('{"a": {"b": 1}}', "/a/missing", '"a":'),
    ('{"a~b": {"c/d": 7}}', "/a~0b/c~1d", "7"),
    ('{"a": 1, "b":', "/a", "1"),
    ("a: 1", "/a", None),
)


def test_a_problem_is_found_in_the_text_of_a_spec(server: str, page: Page) -> None:
    page.goto(f"{server}/workers")
    script = f"""async ([text, pointer]) => {{
        const {{ located }} = await import("/assets/{assets.digest()}/pointers.js");
        const place = located(text, pointer);
        return place && text.slice(...place).trim();
    }}"""
    for text, pointer, found in PLACES:
        assert page.evaluate(script, [text, pointer]) == found


def test_an_id_of_the_address_stays_one_part_of_a_path(server: str, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(server)))
    page.route("**/v1/jobs/**", lambda route: route.abort())
    with page.expect_request("**/v1/jobs/**"):
        page.goto(f"{server}/jobs/job_x%3Flimit=1%23y")
    page.evaluate(
        """async (address) => {
          const { Curves } = await import(address);
          await new Curves("job_x?y").part(1, 2).catch(() => {});
        }""",
        assets.address("curves.js"),
    )
    paths = [url.partition("?")[0] for url in asked if url.startswith("/v1/jobs/")]
    assert {path.split("/")[3] for path in paths} == {"job_x%3Flimit%3D1%23y", "job_x%3Fy"}
    assert "/v1/jobs/job_x%3Fy/steps" in paths
