"""What is promised of the web pages, in Chromium with a real service, which trains meanwhile.

- How soon a first step is on the screen after it was recorded.
- The processor time of the API with a page open, without the time that it takes anyway.
- Epochs with ten open pages beside epochs with none: ten streams, and what ten pages ask when they open. No browser
  draws them, because it would take the cores from the training.
- A curve of a million steps: from the question to the frame that shows it, and the server's part of that.
- Ten thousand rows in the list of jobs: the page's longest task while they are added and scrolled.
- What a first visit downloads, and the server's time for it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy.engine import Engine

from benchmarks.cost import databases, fill
from benchmarks.start import ROOT, command_of, free_port, service
from services import db
from services.jobs import attempts, progress, series
from services.jobs.leases import Lease
from services.orm import StepChunk
from tests import browsing

SHOWN, SHOWN_SECONDS = 20, 0.300
OPEN_SECONDS, OPEN_SHARE = 60.0, 0.01
PAGES, WINDOWS, WINDOW_SECONDS = 10, 10, 6.0
STEPS, FEW_STEPS, DRAWN_SECONDS, DRAWS = 1_000_000, 10_000, 0.200, 7
JOBS, TASK_SECONDS = 10_000, 0.050
VISIT_BYTES, VISIT_SECONDS = 150_000, 0.100
POINTS = 2000

SLOW_STEPS: dict[str, Any] = {  # a step takes about 100 ms
    "name": "slow-steps",
    "architecture": {"cell": "lstm", "hidden_size": 160, "num_layers": 2},
    "training": {"epochs": 100_000, "batch_size": 64},
    "data": {"synthetic": {"samples": 1000, "length": 100, "features": 10, "classes": 2}},
}
QUICK_STEPS = {**SLOW_STEPS, "name": "quick-steps", "architecture": {"cell": "lstm", "hidden_size": 96}}  # 30 ms
SHORT_EPOCHS: dict[str, Any] = {
    "name": "short-epochs",
    "architecture": {"cell": "lstm", "hidden_size": 96},
    "training": {"epochs": 1_000_000, "batch_size": 64},
    "data": {"synthetic": {"samples": 512, "length": 50, "features": 10, "classes": 2}},
}

WATCH = """
const drawn = () => {
  const chart = document.querySelector("#loss [role=img]");
  if (chart && !chart.getAttribute("aria-label").endsWith("nothing yet")) {
    window.shownAt = Date.now();
    window.drawnAt = performance.now();
  } else {
    requestAnimationFrame(drawn);
  }
};
requestAnimationFrame(drawn);
"""
ASKED = """(part) => {
  const found = performance.getEntriesByType("resource").filter((each) => each.name.includes(part)).at(-1);
  return found && found.responseEnd ? [found.startTime, found.responseEnd - found.requestStart] : null;
}"""
NEXT_FRAME = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"""
SCROLL = """async () => {
  const whole = document.documentElement.scrollHeight;
  let at = 0;
  for (const end = performance.now() + 6000; performance.now() < end; ) {
    await new Promise(requestAnimationFrame);
    at = (at + 400) % whole;  // as a wheel that is turned fast
    scrollTo(0, at);
  }
}"""


def rows() -> Iterator[dict[str, Any]]:
    """All of it; ten minutes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browsing.FOUND, args=browsing.PLAYWRIGHT_FLAGS)
        with running_service() as (client, folder):
            yield from shown_rows(client, folder, browser)
            yield from cost_rows("SQLite", client, browser)
            yield slowdown_row(client)
            yield from visit_rows(client)
        with tempfile.TemporaryDirectory() as made, databases(Path(made)) as urls:
            with running_service(LOOPLINE_DATABASE_URL=urls["PostgreSQL"]) as (client, _):
                yield from cost_rows("PostgreSQL", client, browser)
            for name, url in urls.items():
                yield from curve_rows(name, url, Path(made), browser)
                yield from list_rows(name, url, Path(made), browser)
        browser.close()


@contextmanager
def running_service(**settings: str) -> Iterator[tuple[httpx.Client, Path]]:
    with (
        tempfile.TemporaryDirectory() as made,
        service(Path(made), **settings) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client, Path(made)


def row(what: str, ours: str, other: str, ratio: float, at_least: float = 1.0) -> dict[str, Any]:
    return {"what": what, "ours": ours, "other": other, "ratio": ratio, "at_least": at_least}


def submitted(client: httpx.Client, spec: dict[str, Any]) -> str:
    return str(client.post("/v1/jobs", json=spec).raise_for_status().json()["id"])


def tab(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True).new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH)
    return page


@contextmanager
def training(client: httpx.Client, spec: dict[str, Any]) -> Iterator[str]:
    """A job that has made a step; cancelled afterwards."""
    job_id = submitted(client, spec)
    while not (job := client.get(f"/v1/jobs/{job_id}").json())["progress"]["step"]:
        assert not job["terminal"], job["message"]
        time.sleep(0.1)
    try:
        yield job_id
    finally:
        cancel(client, job_id)


def cancel(client: httpx.Client, job_id: str) -> None:
    client.post(f"/v1/jobs/{job_id}/cancel")
    while not client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["terminal"]:
        pass


# How soon a first step is shown


def shown_rows(client: httpx.Client, folder: Path, browser: Browser) -> Iterator[dict[str, Any]]:
    """Each page is opened while its job waits for the one before, which is cancelled then."""
    found = []
    database = sqlite3.connect(f"file:{folder}/loopline.db?mode=ro", uri=True, isolation_level=None)
    with closing(database):
        running = submitted(client, SLOW_STEPS)
        recorded_at(database, running)
        for _ in range(SHOWN):
            waiting, page = submitted(client, SLOW_STEPS), tab(browser)
            with page.expect_response(re.compile("/stream")):
                page.goto(f"{client.base_url}/jobs/{waiting}")
            client.post(f"/v1/jobs/{running}/cancel")
            recorded = recorded_at(database, waiting)
            page.wait_for_function("window.shownAt")
            found.append(page.evaluate("window.shownAt") / 1000 - recorded)
            page.context.close()
            running = waiting
        cancel(client, running)
    found.sort()
    for what, seconds in {"median": statistics.median(found), "95 of 100": found[int(0.95 * SHOWN) - 1]}.items():
        text = f"a first step is on the screen after it was recorded, of {SHOWN} jobs, {what}"
        yield row(text, f"{seconds * 1000:.0f} ms", f"{SHOWN_SECONDS * 1000:.0f} ms", SHOWN_SECONDS / seconds)


def recorded_at(database: sqlite3.Connection, job_id: str) -> float:
    """When the first step was found in the database: at most 3 ms after its commit."""
    while not database.execute("SELECT step FROM jobs WHERE id = ?", [job_id]).fetchone()[0]:
        time.sleep(0.003)
    return time.time()


# What an open page costs the API


def cost_rows(database: str, client: httpx.Client, browser: Browser) -> Iterator[dict[str, Any]]:
    processes = [one for one in psutil.Process().children(recursive=True) if command_of(one)[1:3] == ["-m", "api"]]

    def share(seconds: float = OPEN_SECONDS) -> float:
        before, began = processor_seconds(processes), time.perf_counter()
        time.sleep(seconds)
        return (processor_seconds(processes) - before) / (time.perf_counter() - began)

    with training(client, QUICK_STEPS) as job_id:
        alone, opened = share(OPEN_SECONDS / 2), {}
        for name, path in {"its page": f"/jobs/{job_id}", "the list of jobs": "/jobs"}.items():
            page = tab(browser)
            page.goto(f"{client.base_url}{path}", wait_until="load")
            page.wait_for_timeout(3000)
            first, began = step_of(client, job_id), time.perf_counter()
            found = share()
            opened[name] = found, (time.perf_counter() - began) / (step_of(client, job_id) - first)
            page.context.close()
    for name, (found, step) in opened.items():
        more = max(found - alone, 1e-4)
        what = f"processor time of the API, {database}, for {name}, open for {OPEN_SECONDS:.0f} s; "
        what += f"the job makes a step in {step * 1000:.0f} ms"
        yield row(what, f"{more:.2%} of a core", f"{OPEN_SHARE:.0%}", OPEN_SHARE / more)


def step_of(client: httpx.Client, job_id: str) -> int:
    return int(client.get(f"/v1/jobs/{job_id}").json()["progress"]["step"])


def processor_seconds(processes: Sequence[psutil.Process]) -> float:
    return float(sum(sum(one.cpu_times()[:2]) for one in processes))


# Whether open pages slow down a training


def slowdown_row(client: httpx.Client) -> dict[str, Any]:
    spans: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    with training(client, SHORT_EPOCHS) as job_id:

        def epoch() -> int:
            return int(client.get(f"/v1/jobs/{job_id}").json()["progress"]["epoch"])

        for turn in range(WINDOWS):
            with ExitStack() as stack:
                if turn % 2:
                    stack.enter_context(open_pages(client, job_id))
                time.sleep(0.5)
                first = epoch()
                time.sleep(WINDOW_SECONDS)
                spans[turn % 2 == 1].append((first + 1, epoch()))
    took = {one["epoch"]: one["seconds"] for one in all_epochs(client, job_id)}
    alone, beside = (
        min(min(took[each] for each in range(first, last)) for first, last in spans[is_open])
        for is_open in (False, True)
    )
    what = f"a training with {PAGES} open pages beside one with none: the fastest epoch"
    return row(what, f"{beside * 1000:.1f} ms", f"{alone * 1000:.1f} ms", alone / beside, 0.97)


def all_epochs(client: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    more = True
    while more:
        after = found[-1]["epoch"] if found else 0
        page = client.get(f"/v1/jobs/{job_id}/epochs", params={"limit": 10_000, "after": after}).json()
        found, more = found + page["data"], page["has_more"]
    return found


@contextmanager
def open_pages(client: httpx.Client, job_id: str) -> Iterator[None]:
    """Ten pages: what each asks when it opens, and its stream."""
    path, stop = f"/v1/jobs/{job_id}", threading.Event()
    asks = (f"/jobs/{job_id}", path, f"{path}/logs?limit=2000&after=0", f"{path}/events?limit=1000&after=0")
    asks += (f"{path}/epochs?limit=10000", f"{path}/steps?points={POINTS}&first=1")

    def follow() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            document = [own.get(ask).raise_for_status() for ask in asks][1].json()
            at = document["progress"]
            with own.stream("GET", f"{path}/stream?epoch={at['epoch']}&step={at['step']}") as answer:
                for _ in answer.iter_raw():
                    if stop.is_set():
                        return

    threads = [threading.Thread(target=follow) for _ in range(PAGES)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# What a first visit downloads


def visit_rows(client: httpx.Client) -> Iterator[dict[str, Any]]:
    with training(client, SHORT_EPOCHS) as job_id:
        for name, path in {"the list of jobs": "/jobs", "the page of a job": f"/jobs/{job_id}"}.items():
            visits = [visit(client, path, f"/v1{path}") for _ in range(5)]
            count, seconds = visits[0][0], min(each[1] for each in visits)
            what = f"a first visit of {name}: bytes, compressed, with all scripts"
            yield row(what, f"{count / 1000:.0f} kB", f"{VISIT_BYTES / 1000:.0f} kB", VISIT_BYTES / count)
            what = f"a first visit of {name}: time of all requests, one after the other"
            yield row(what, f"{seconds * 1000:.0f} ms", f"{VISIT_SECONDS * 1000:.0f} ms", VISIT_SECONDS / seconds)


def visit(client: httpx.Client, path: str, data: str) -> tuple[int, float]:
    """Bytes and seconds of a page, its files, the modules that they import, and what it asks first."""
    waiting, seen, size, began = [path, data], set[str](), 0, time.perf_counter()
    while waiting:
        if (address := waiting.pop()) in seen:
            continue
        seen.add(address)
        with client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as answer:
            text = answer.read().decode()
            size += answer.num_bytes_downloaded
        if address == path:
            waiting += re.findall(r'(?:src|href)="(/assets/[^"]+)"', text)
        elif address.endswith(".js"):
            waiting += [address.rpartition("/")[0] + name for name in re.findall(r'from "\.(/[\w./-]+)"', text)]
    return size, time.perf_counter() - began


# A curve of a million steps


def curve_rows(name: str, url: str, folder: Path, browser: Browser) -> Iterator[dict[str, Any]]:
    engine = db.engine(url)
    runs = {count: run_of(engine, count) for count in (FEW_STEPS, STEPS)}
    engine.dispose()
    with api(url, folder) as client:
        long, short, part = (
            least_seconds(client, f"/v1/jobs/{job_id}/steps?points={POINTS}{more}")
            for job_id, more in (
                (runs[STEPS], ""),
                (runs[FEW_STEPS], ""),
                (runs[STEPS], f"&first={STEPS // 3}&last={STEPS // 2}"),
            )
        )
        what = f"{POINTS:,} points of {STEPS:,} steps, {name}, beside those of {FEW_STEPS:,} steps"
        yield row(what, f"{long * 1000:.1f} ms", f"{short * 1000:.1f} ms", short / long, 0.2)
        what = f"a sixth of {STEPS:,} steps, {name}, beside all of them"
        yield row(what, f"{part * 1000:.1f} ms", f"{long * 1000:.1f} ms", long / part, 0.9)
        for what, took in zip(
            ("", "a part of "), drawn_seconds(browser, f"{client.base_url}/jobs/{runs[STEPS]}"), strict=True
        ):
            text = f"a curve of {what}{STEPS:,} steps, {name}: from the question to the frame with it"
            seconds = statistics.median(took)
            yield row(text, f"{seconds * 1000:.0f} ms", f"{DRAWN_SECONDS * 1000:.0f} ms", DRAWN_SECONDS / seconds)


def run_of(engine: Engine, count: int) -> str:
    """The id of a running job with so many recorded steps."""
    fill(engine, "default", 1)
    random, each = np.random.default_rng(0), progress.CHUNK_STEPS
    loss = (np.exp(-3 * np.arange(count) / count) + 0.1 * random.random(count)).astype("<f4")
    norm = random.lognormal(size=count).astype("<f4")
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="bench", lease_seconds=7200)
        assert job is not None
        lease = Lease.of(job)
        progress.started(session, lease, epochs=200, steps_per_epoch=count // 100, info={"device": "cpu"})
        chunks = [
            {
                "job_id": job.id,
                "first_step": first + 1,
                "last_step": min(first + each, count),
                "loss": loss[first : first + each].tobytes(),
                "grad_norm": norm[first : first + each].tobytes(),
            }
            for first in range(0, count - 1, each)
        ]
        whole = [{**chunk, "peaks": series.peaks(chunk["loss"], chunk["grad_norm"])} for chunk in chunks[:-1]]
        session.execute(sa.insert(StepChunk), [*whole, {**chunks[-1], "peaks": None}])
        records = [{"epoch": n, "train_loss": 1 / n, "validation_loss": 1.1 / n, "seconds": 9.0} for n in range(1, 101)]
        progress.record_all(session, lease, records)
        progress.record_steps(session, lease, count, [0.1], [1.0])
    return lease.job_id


@contextmanager
def api(url: str, folder: Path) -> Iterator[httpx.Client]:
    """The API alone, on a database."""
    port = free_port()
    own = {"LOOPLINE_DATA_DIR": str(folder), "LOOPLINE_PORT": str(port), "LOOPLINE_DATABASE_URL": url}
    others = {name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")}
    process = subprocess.Popen([sys.executable, "-m", "api"], cwd=ROOT, env=others | own, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while not lives(client):
                assert process.poll() is None, "the API did not start"
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def lives(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/health/live").status_code == 200
    except httpx.TransportError:
        return False


def least_seconds(client: httpx.Client, path: str, times: int = 20) -> float:
    def once() -> float:
        began = time.perf_counter()
        client.get(path).raise_for_status()
        return time.perf_counter() - began

    return min(once() for _ in range(times))


def drawn_seconds(browser: Browser, address: str) -> tuple[list[float], list[float]]:
    """From the question for the steps to the frame that shows them: of the whole run, and of a part."""
    whole, part = [], []
    for _ in range(DRAWS):
        page = tab(browser)
        page.goto(address)
        page.wait_for_function("window.drawnAt")
        asked, _ = page.evaluate(ASKED, "steps?")
        whole.append((page.evaluate("window.drawnAt") - asked) / 1000)
        box = page.locator("#loss .u-over").bounding_box()
        assert box is not None
        with page.expect_response(re.compile("last=")) as answer:
            page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 50)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50)
            page.mouse.up()
        answer.value.finished()
        page.wait_for_function(f"({ASKED})('last=')")
        part.append((page.evaluate(NEXT_FRAME) - page.evaluate(ASKED, "last=")[0]) / 1000)
        page.context.close()
    return whole, part


# Ten thousand rows


def list_rows(name: str, url: str, folder: Path, browser: Browser) -> Iterator[dict[str, Any]]:
    engine = db.engine(url)
    fill(engine, "night", JOBS)
    engine.dispose()
    with api(url, folder) as client:
        page = tab(browser)
        page.goto(f"{client.base_url}/jobs?queue=night")
        page.locator("tr[data-job]").first.wait_for()
        adding = longest_task(browser, page, lambda: add_rows(page))
        assert page.evaluate("document.querySelectorAll('tr[data-job]').length") == JOBS
        scrolling = longest_task(browser, page, lambda: page.evaluate(SCROLL))
        page.context.close()
    limit = f"{TASK_SECONDS * 1000:.0f} ms"
    for what, took in {"they are added": adding, "they are scrolled": scrolling}.items():
        text = f"{JOBS:,} rows in the list of jobs, {name}: processor time of the page's longest task while {what}"
        yield row(text, f"{took * 1000:.0f} ms", limit, TASK_SECONDS / took)


def add_rows(page: Page) -> None:
    for _ in range(50, JOBS, 100):
        page.evaluate("document.querySelector('#more button').click()")
        page.wait_for_function("!document.querySelector('#more button').disabled", polling=50)


def longest_task(browser: Browser, page: Page, act: Callable[[], object]) -> float:
    """Processor seconds of the longest task of the page's own thread, while no frame can be drawn."""
    browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline", "__metadata"])
    act()
    found = json.loads(browser.stop_tracing())["traceEvents"]
    named = [each for each in found if each["name"] == "thread_name"]
    own = {(each["pid"], each["tid"]) for each in named if each["args"]["name"] == "CrRendererMain"}
    tasks = [each for each in found if each["name"] == "RunTask" and (each["pid"], each["tid"]) in own]
    return float(max(each["tdur"] for each in tasks if "tdur" in each)) / 1e6
