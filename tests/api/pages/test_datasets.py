"""The pages of data sets in a browser: a file is dropped, its schema corrected, and a data set made of it."""

from __future__ import annotations

import re
from collections.abc import Callable

from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from tests.api.pages.conftest import needs_browser

pytestmark = needs_browser

SCRIPT = "<script>document.title='run'</script>"
Barriers = Callable[[Page], list[str]]
DROP = """(place, [name, text]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([text], name, {type: "text/csv"}));
    for (const kind of ["dragover", "drop"]) place.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true}));
}"""


def walks() -> str:
    """Steps of 24 walks; what they are is in a column whose name says nothing, and another could be meant."""
    kinds, rows = ("up", "down", SCRIPT), ["walk,second,speed,label,what"]
    for walk in range(24):
        steps = range(5 + walk % 3)
        rows += [f"w{walk},{second},{walk % 3 + second / 10},{walk % 2},{kinds[walk % 3]}" for second in steps]
    return "\n".join(rows) + "\n"


def test_a_file_is_dropped_and_its_schema_corrected(
    client: FlaskClient, server: str, page: Page, barriers: Barriers
) -> None:
    page.goto(f"{server}/datasets")
    expect(page.get_by_role("heading", name="No data sets yet")).to_be_visible()
    says = ["give it with --group NAME if there is one", "(--target NAME, or data.schema.target in a spec)"]
    says += ["say --layout wide if not", "1 of 2 jobs failed: `loopline batches show batch_1` says which, and why."]
    module = page.locator("link[href*='/assets/']").first.evaluate("link => new URL('wording.js', link.href).pathname")
    assert page.evaluate("async ([module, says]) => says.map((await import(module)).inWords)", [module, says]) == [
        "give it with “Columns that name the sequence” if there is one",
        "(“Columns to predict”)",
        "say “Layout: wide” if not",
        "1 of 2 jobs failed: the batch batch_1 says which, and why.",
    ]
    gaps = [
        "line 3: `a` has 2 gaps; a job fills them",
        "the class `x` is rare",
        "line 9: `b` has 1 gap; a job fills them",
    ]
    assert page.evaluate("async ([module, gaps]) => (await import(module)).together(gaps)", [module, gaps]) == [
        "line 3: “a” has 2 gaps, line 9: “b” has 1 gap; a job fills them",
        "the class “x” is rare",
    ]
    assert barriers(page) == []
    page.locator("#drop").evaluate(DROP, [f"{SCRIPT} Walks.csv", walks()])
    target = page.get_by_label("Columns to predict")
    expect(target).to_have_values(["label"])
    expect(page.locator("#read")).to_contain_text("24 sequences of 5 to 7 steps")
    assert barriers(page) == []
    target.select_option(["speed", "what"])
    expect(page.locator("#read")).to_have_class("notice bad")
    expect(page.get_by_role("button", name="Make the data set")).to_be_disabled()
    target.select_option(["what"])
    expect(page.locator("#read")).to_have_class("notice")
    page.get_by_label("Name of the data set").fill("walks")
    page.get_by_role("button", name="Make the data set").click()

    page.wait_for_url("**/datasets/ds_*")
    [made] = client.get("/v1/datasets").get_json()["data"]
    assert (made["name"], made["schema"]["target"], made["schema"]["group"]) == ("walks", ["what"], ["walk"])
    expect(page.locator("#jobs-part")).to_contain_text("No job has used this version yet. Press Train on this")
    expect(page.locator("#schema")).to_contain_text("given")
    expect(page.locator("#classes")).to_contain_text(SCRIPT)
    expect(page.get_by_role("img", name=re.compile("^speed: from 0 to 2.6"))).to_be_visible()
    expect(page.locator("#sequences figure")).to_have_count(6)
    expect(page.get_by_role("img", name=re.compile(r"^w0: speed"))).to_be_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []
    page.get_by_role("link", name="Train on this").click()
    expect(page.get_by_role("textbox", name="Spec")).to_have_value("name: walks\ndata: {dataset: walks@1}\n")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    chosen = page.get_by_text(re.compile("fields are chosen for the data"))
    expect(page.locator("#chosen")).to_be_hidden()
    chosen.click()
    expect(page.locator("#chosen")).to_contain_text("architecture.cell")
    assert barriers(page) == []
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/job_*")
    page.locator("#facts").get_by_role("link", name="walks").click()
    expect(page.get_by_role("table", name="Jobs with this data set").get_by_role("row", name="walks")).to_contain_text(
        "queued"
    )
    page.goto(f"{server}/datasets")
    expect(page.get_by_role("row", name="walks@1")).to_contain_text("what")
    page.set_viewport_size({"width": 390, "height": 844})
    assert barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_columns_of_a_data_set_are_corrected_by_its_next_version(
    client: FlaskClient, server: str, page: Page, barriers: Barriers
) -> None:
    text = walks()
    asked = "/v1/datasets?name=steps&file=walks.csv&group=walk"
    first = client.post(asked, data=text, content_type="application/octet-stream").get_json()
    assert first["schema"]["target"] == ["label"]
    page.goto(f"{server}/datasets/{first['id']}")
    page.get_by_role("link", name="Correct the columns").click()
    expect(page.get_by_role("heading", name="Correct the columns of steps@1")).to_be_visible()
    expect(page.locator("#correcting")).to_contain_text("Choose the file of steps@1 (CSV,")
    page.locator("#drop").evaluate(DROP, ["another name.csv", text])
    expect(page.get_by_label("Name of the data set")).to_have_value("steps")
    expect(page.get_by_label("Columns that name the sequence")).to_have_values(["walk"])
    expect(page.get_by_role("button", name="Make the data set")).to_be_enabled()
    assert barriers(page) == []
    page.get_by_label("Columns to predict").select_option(["what"])
    expect(page.get_by_role("button", name="Make the data set")).to_be_enabled()
    page.get_by_role("button", name="Make the data set").click()
    page.wait_for_url("**/datasets/ds_*")
    newest = client.get("/v1/datasets/steps").get_json()
    assert (newest["version"], newest["schema"]["target"], newest["schema"]["group"]) == (2, ["what"], ["walk"])


def test_a_series_is_trained_to_forecast(client: FlaskClient, server: str, page: Page) -> None:
    hours = [f"2026-01-{day:02}T{hour:02}:00,{day + hour % 12}" for day in range(1, 29) for hour in range(24)]
    page.goto(f"{server}/datasets")
    expect(page.locator("#drop")).to_be_visible()
    page.locator("#drop").evaluate(DROP, ["load.csv", "\n".join(["time,load", *hours, ""])])
    expect(page.locator("#read")).to_contain_text("1 sequence of 672 steps, ")
    page.get_by_role("button", name="Make the data set").click()
    page.wait_for_url("**/datasets/ds_*")
    page.get_by_role("link", name="Train on this").click()
    text = "name: load\ntask: {name: forecast, horizon: 24}\ndata: {dataset: load@1}\n"
    expect(page.get_by_role("textbox", name="Spec")).to_have_value(text)
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()


def test_columns_of_unlike_sizes_have_a_strip_each(
    client: FlaskClient, server: str, page: Page, barriers: Barriers
) -> None:
    hours = [f"2026-01-{hour // 24 + 1:02}T{hour % 24:02}:00,{1000 + hour % 24},{hour % 24 % 2}" for hour in range(310)]
    asked = "/v1/datasets?name=load&file=load.csv&target=load"
    text = "\n".join(["time,load,holiday", *hours, ""])
    made = client.post(asked, data=text, content_type="application/octet-stream").get_json()
    page.goto(f"{server}/datasets/{made['id']}")
    expect(page.locator("#sequences figcaption")).to_contain_text("the last 300 of 310 steps")
    for column in ("load", "holiday"):
        expect(page.get_by_role("img", name=re.compile(f"^Sequence 1, {column}: "))).to_be_visible()
    assert barriers(page) == []
    page.get_by_label("Shows").select_option("load")
    expect(page.get_by_role("img", name=re.compile("^Sequence 1: load "))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Sequence 1, "))).to_have_count(0)
