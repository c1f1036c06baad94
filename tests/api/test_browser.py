"""What a real browser sends, from our own page and from those of others."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import WSGIRequestHandler, make_server

from api import origins
from tests import browsing
from tests.browsing import Browser

pytestmark = pytest.mark.skipif(
    browsing.FOUND is None and "LOOPLINE_BROWSER" not in os.environ, reason=browsing.MISSING
)

ATTACKS = {
    "fetch": "await fetch(URL, {method: 'POST', mode: 'no-cors'}).catch(() => 0)",
    "beacon": "navigator.sendBeacon(URL, 'x')",
    "form": """
        document.body.innerHTML = `<form method=post target=frame action="${URL}"></form><iframe name=frame></iframe>`;
        document.forms[0].submit()""",
    "sandbox": """
        const frame = document.createElement('iframe');
        frame.sandbox = 'allow-scripts';
        frame.srcdoc = `<script>fetch("${URL}", {method: "POST", mode: "no-cors"})</script>`;
        document.body.append(frame)""",
}
UPLOAD = """
    const form = new FormData();
    form.append('file', new Blob([Uint8Array.from(BYTES)]), 'x.npz');
    await fetch(URL, {method: 'POST', mode: 'no-cors', body: form}).catch(() => 0)"""


class Asked(NamedTuple):
    """A request that came, and what it got."""

    method: str
    path: str
    site: str
    origin: str
    status: int


class Recorder:
    """The app, which notes down every request."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.asked: queue.Queue[Asked] = queue.Queue()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, *rest: Any) -> Any:
            site, origin = environ.get("HTTP_SEC_FETCH_SITE", ""), environ.get("HTTP_ORIGIN", "")
            self.asked.put(Asked(environ["REQUEST_METHOD"], environ["PATH_INFO"], site, origin, int(status[:3])))
            return start_response(status, *rest)

        return self.app(environ, start)

    def next(self, method: str) -> Asked:
        """The next request of this method; others are passed over."""
        while (found := self.asked.get(timeout=30)).method != method:
            pass
        return found


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any, **__: Any) -> None:
        pass


class Page(BaseHTTPRequestHandler):
    """An empty page, at any address."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another page</title><body></body>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def recorder(app: Flask) -> Recorder:
    return Recorder(app)


@pytest.fixture
def port(recorder: Recorder) -> Iterator[int]:
    """Where the app is served."""
    server = make_server("127.0.0.1", 0, recorder, threaded=True, request_handler=Quiet)
    yield from _served(server)


@pytest.fixture
def other_port() -> Iterator[int]:
    """Where pages of another origin are."""
    yield from _served(ThreadingHTTPServer(("127.0.0.1", 0), Page))


def _served(server: Any) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browsing.browsing(tmp_path / "profile") as started:
        yield started


@pytest.mark.parametrize(("host", "site"), [("127.0.0.1", "same-site"), ("evil.example", "cross-site")])
def test_a_page_of_another_origin_changes_nothing(
    browser: Browser,
    recorder: Recorder,
    port: int,
    other_port: int,
    host: str,
    site: str,
    client: FlaskClient,
    queued_job: dict[str, Any],
    npz_bytes: Any,
) -> None:
    url, origin = f"http://127.0.0.1:{port}", f"http://{host}:{other_port}"
    for path in (
        queued_job["links"]["cancel"],
        "/v1/models/vowels/aliases/production/rollback",
        "/v1/schedules/nightly/run",
    ):
        for name, script in ATTACKS.items():
            browser.go(f"{origin}/{name}")
            browser.run(f"const URL = '{url}{path}'; {script}")
            shown = ("cross-site", "null") if name == "sandbox" else (site, origin)
            assert recorder.next("POST") == ("POST", path, *shown, 403), name
    browser.run(f"const URL = '{url}/v1/datasets?name=vowels', BYTES = {list(npz_bytes())}; {UPLOAD}")
    assert recorder.next("POST") == ("POST", "/v1/datasets", site, origin, 403)
    for options in (
        "{method: 'DELETE'}",
        "{method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'}",
    ):
        told = browser.run(f"return await fetch('{url}/v1/jobs', {options}).catch(error => error.name)")
        assert told == "TypeError"  # the browser asks first, with OPTIONS, and is not told yes
    assert client.get(queued_job["links"]["self"]).get_json()["status"] == "queued"
    assert client.get("/v1/datasets").get_json()["data"] == []
    assert len(client.get("/v1/jobs").get_json()["data"]) == 1


def test_without_the_rule_such_a_page_cancels_and_uploads(
    browser: Browser,
    recorder: Recorder,
    port: int,
    other_port: int,
    client: FlaskClient,
    queued_job: dict[str, Any],
    npz_bytes: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why there is the rule; and that the test above would see it go."""
    monkeypatch.setattr(origins, "SAFE_METHODS", frozenset({"GET", "POST"}))
    monkeypatch.setattr(origins, "check_reading", lambda: None)
    url = f"http://127.0.0.1:{port}"
    browser.go(f"http://evil.example:{other_port}/")
    browser.run(f"const URL = '{url}{queued_job['links']['cancel']}'; {ATTACKS['fetch']}")
    browser.run(f"const URL = '{url}/v1/datasets?name=vowels', BYTES = {list(npz_bytes())}; {UPLOAD}")
    assert [recorder.next("POST").status for _ in range(2)] == [202, 201]
    assert client.get(queued_job["links"]["self"]).get_json()["status"] == "cancelled"
    assert len(client.get("/v1/datasets").get_json()["data"]) == 1


def test_a_name_that_is_made_to_point_here_needs_a_key(
    browser: Browser, recorder: Recorder, port: int, queued_job: dict[str, Any]
) -> None:
    browser.go(f"http://evil.example:{port}/docs")  # the browser takes it for one origin with what it asks
    path = queued_job["links"]["cancel"]
    assert browser.run(f"return (await fetch('{path}', {{method: 'POST'}})).status") == 401
    assert recorder.next("POST").site in ("same-origin", "")


def test_our_own_page_tries_it(
    browser: Browser, recorder: Recorder, port: int, client: FlaskClient, queued_job: dict[str, Any]
) -> None:
    """As somebody does who opens `/docs`, unfolds cancelling, types an id and presses Execute."""
    browser.go(f"http://127.0.0.1:{port}/docs")
    browser.run(
        """
        const there = async (inside, css) => {
            for (;;) {
                const found = inside.querySelector(css);
                if (found) return found;
                await new Promise(later => setTimeout(later, 20));
            }
        };
        const operation = await there(document, '[id$="-cancelJob"]');
        (await there(operation, 'button')).click();
        (await there(operation, '.try-out button')).click();
        const id = await there(operation, 'input:not([disabled])');
        Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(id, ID);
        id.dispatchEvent(new Event('input', {bubbles: true}));
        id.dispatchEvent(new FocusEvent('focusout', {bubbles: true}));  // it waits for more to be typed, or for this
        (await there(operation, 'button.execute')).click();
        await there(operation, '.live-responses-table')
        """.replace("ID)", f"'{queued_job['id']}')")
    )
    asked = recorder.next("POST")
    assert asked == ("POST", queued_job["links"]["cancel"], "same-origin", f"http://127.0.0.1:{port}", 202)
    assert client.get(queued_job["links"]["self"]).get_json()["status"] == "cancelled"
