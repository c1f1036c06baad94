"""/metrics of the API as it is served: two processes, one listener, exact sums; and a log line a request."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import forking
from tests.ports import free_port
from tests.scraping import Scrape, scrape, scrape_when_up

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Api:
    """`python -m api` with metrics, in a folder of its own."""

    process: subprocess.Popen[bytes]
    url: str
    port: int
    folder: Path

    def scrape(self) -> Scrape:
        return scrape(self.port)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def text(self) -> str:
        return (self.folder / "log").read_text()

    def lines(self, **having: Any) -> list[dict[str, Any]]:
        """The log's lines in which these stand."""
        found = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in found if having.items() <= line.items()]

    def awaited(self, **having: Any) -> dict[str, Any]:
        """The first such line: an answer may arrive before its line is written."""
        deadline = time.monotonic() + 10
        while not (found := self.lines(**having)):
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)
        return found[0]


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Api]:
    """An API that is up, until the end of the context."""
    port, metrics_port = free_port(), free_port()
    environment = {
        **os.environ,
        "LOOPLINE_DATA_DIR": str(folder),
        "LOOPLINE_BROKER_URL": "redis://:broker-secret@127.0.0.1:1/0",
        "LOOPLINE_PORT": str(port),
        "LOOPLINE_METRICS_PORT": str(metrics_port),
        "TMPDIR": str(folder),
        **settings,
    }
    with (folder / "log").open("wb") as log:
        process = forking.Popen([sys.executable, "-m", "api"], cwd=ROOT, env=environment, stderr=log)
    try:
        api = Api(process, f"http://127.0.0.1:{port}", metrics_port, folder)
        transport = httpx.HTTPTransport(retries=10)  # with growing pauses, about 25 s
        with httpx.Client(transport=transport) as client:
            assert client.get(f"{api.url}/v1/presets").status_code == 200
        scrape_when_up(metrics_port)
        yield api
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Starts an API that no other test uses."""
    with ExitStack() as started:
        yield lambda **settings: started.enter_context(serving(tmp_path, **settings))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for the tests of this module that look only at their own requests."""
    with serving(tmp_path_factory.mktemp("api")) as started:
        yield started


def until_counted(api: Api, number: int, **labels: str) -> Scrape:
    """The scrape in which so many requests stand, each being counted when its answer has gone out."""
    deadline = time.monotonic() + 10
    while (found := api.scrape()).total("loopline_http_requests_total", **labels) < number:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_the_sums_of_both_processes_are_exact(start: Callable[..., Api], spec: dict[str, Any]) -> None:
    api = start()

    def once(_: int) -> None:
        with httpx.Client() as client:  # a connection each: the processes share them out
            assert client.get(f"{api.url}/v1/jobs/job_0000000000000000000000000a").status_code == 404
            assert client.post(f"{api.url}/v1/jobs", json=spec).status_code == 202

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(once, range(100)))
    found = until_counted(api, 100, method="POST")
    by_process = {path.name for path in api.folder.glob("loopline-metrics-*/counter_*.db")}
    assert {f"counter_{child.pid}.db" for child in api.children()} <= by_process  # both have counted something
    labels = {"method": "GET", "route": "/v1/jobs/<job_id>"}
    assert found.value("loopline_http_requests_total", status="404", **labels) == 100
    assert found.value("loopline_http_request_seconds_count", **labels) == 100
    assert found.value("loopline_http_requests_total", method="POST", route="/v1/jobs", status="202") == 100
    assert found.value("loopline_jobs_submitted_total", queue="default") == 100
    assert found.value("loopline_bells_total", result="failed") == 100
    assert {dict(labels).get("route") for _, labels in found.samples} <= {
        *("/v1/jobs", "/v1/jobs/<job_id>", "/v1/presets", None)
    }


def test_a_process_that_dies_takes_no_count_along(start: Callable[..., Api]) -> None:
    api = start()
    for _ in range(20):
        httpx.get(f"{api.url}/v1/workers")
    until_counted(api, 20, route="/v1/workers")
    before = {child.pid for child in api.children()}
    for child in api.children():
        child.kill()
    for _ in range(20):
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            assert client.get(f"{api.url}/v1/workers").status_code == 200
    assert until_counted(api, 40, route="/v1/workers").total("loopline_http_requests_total", route="/v1/workers") == 40
    assert before.isdisjoint(child.pid for child in api.children())


def test_a_scrape_bears_a_file_that_a_process_has_only_just_created(api: Api) -> None:
    [folder] = api.folder.glob("loopline-metrics-*")
    httpx.get(f"{api.url}/v1/workers")
    (folder / f"counter_{os.getpid()}.db").touch()
    assert until_counted(api, 1, route="/v1/workers").total("loopline_http_requests_total", route="/v1/workers") == 1


def test_the_end_leaves_neither_listener_nor_folder(start: Callable[..., Api]) -> None:
    api = start()
    assert len(list(api.folder.glob("loopline-metrics-*"))) == 1
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(30) == 0
    assert list(api.folder.glob("loopline-metrics-*")) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are over may linger
        probe.bind(("127.0.0.1", api.port))


def test_what_clients_invent_makes_no_series(api: Api) -> None:
    for number in range(30):
        httpx.request(f"MADE{number}", f"{api.url}/invented/{number}?and={number}")
    found = until_counted(api, 30, route="(none)")
    series = [dict(labels) for name, labels in found.samples if name == "loopline_http_requests_total"]
    assert {line["method"] for line in series if line["route"] == "(none)"} == {"(other)"}
    assert len([line for line in series if line["route"] == "(none)"]) == 1


# Log lines


def test_every_request_has_one_line_with_what_it_was_and_its_id(api: Api, spec: dict[str, Any]) -> None:
    answer = httpx.post(f"{api.url}/v1/jobs?token=hush", json={}, headers={"X-Request-Id": "night-7"})
    line = api.awaited(logger="api.access", request_id="night-7")
    assert (line["event"], line["level"]) == ("POST /v1/jobs 400", "info")
    assert (line["method"], line["route"], line["path"], line["status"]) == ("POST", "/v1/jobs", "/v1/jobs", 400)
    assert line["bytes"] == len(answer.content)
    assert 0 < line["milliseconds"] < 60_000
    job = httpx.post(f"{api.url}/v1/jobs", json=spec, headers={"X-Request-Id": "night-8"}).json()["id"]
    httpx.get(f"{api.url}/v1/jobs/{job}", headers={"X-Request-Id": "night-9"})
    assert api.awaited(request_id="night-9")["route"] == "/v1/jobs/<job_id>"
    mine = api.lines(request_id="night-8")
    assert [line.get("job_id") for line in mine if "submitted" in line["event"]] == [job]
    # Every logger that speaks while the request is answered.
    assert any("cannot reach the broker to notify workers" in line["event"] for line in mine)
    assert len([line for line in mine if line["logger"] == "api.access"]) == 1


def test_probes_that_are_answered_well_are_told_at_debug_only(api: Api) -> None:
    assert httpx.get(f"{api.url}/v1/health/live").status_code == 200
    httpx.get(f"{api.url}/v1/presets", headers={"X-Request-Id": "last"})
    api.awaited(request_id="last")
    assert api.lines(route="/v1/health/live") == []


def test_no_client_can_forge_a_line(api: Api) -> None:
    """Encoded line ends, a terminal's escapes, an id that is none, bytes that are no text."""
    raw = (
        b'GET /v1/%0A%1b[2J{"event":"forged"}?a=%0Ab HTTP/1.1\r\nHost: x\r\nX-Request-Id: a b\r\n'
        b"X-Other: \xff\xfe\r\nAuthorization: Bearer hush-hush-7\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", httpx.URL(api.url).port or 0), timeout=10) as connection:
        connection.sendall(raw)
        assert connection.recv(100).startswith(b"HTTP/1.1 404")
    line = api.awaited(logger="api.access", path='/v1/%0A%1b[2J{"event":"forged"}')
    assert line["status"] == 404
    assert line["request_id"].startswith("req_")
    assert api.lines(event="forged") == []  # and every line was JSON
    assert "hush" not in api.text()


def test_the_log_of_a_terminal_is_one_line_a_request(start: Callable[..., Api]) -> None:
    api = start(LOOPLINE_LOG_FORMAT="console")
    httpx.get(f"{api.url}/v1/%0Aforged", headers={"X-Request-Id": "night-7"})
    deadline = time.monotonic() + 10
    while "night-7" not in api.text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    [line] = [line for line in api.text().splitlines() if "forged" in line]
    assert "GET /v1/%0Aforged 404" in line
    assert "request_id=night-7" in line


def test_no_password_is_in_the_log_of_a_service_that_reaches_nothing(start: Callable[..., Api], spec: Any) -> None:
    api = start(LOOPLINE_LOG_LEVEL="debug")
    for path in ("/v1/health/ready", "/v1/health/working", "/v1/jobs"):
        httpx.get(f"{api.url}{path}", headers={"Authorization": "Bearer hush-hush-7"})
    httpx.post(f"{api.url}/v1/jobs", json=spec, headers={"X-Request-Id": "last"})
    api.awaited(logger="api.access", request_id="last")
    assert "cannot reach the broker to notify workers" in api.text()
    assert "broker-secret" not in api.text()
    assert "hush" not in api.text()
