"""Pages as a browser shows them: Debian's Chromium, driven by Playwright, and the app in this process.

server      the address of the app; a test writes into its database what the page is to show
ended       makes a job with a model and a result
page        an empty tab; the test fails if a page logs an error, or breaks the policy
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from api.service import Service
from services import db
from services.access import keys
from services.orm import Job
from tests import browsing

needs_browser = pytest.mark.skipif(
    browsing.FOUND is None and "LOOPLINE_BROWSER" not in os.environ, reason=browsing.MISSING
)

PATIENCE_MILLISECONDS = 60_000
"""How long a page may take, on a machine that does other things too."""


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture
def server(app: Flask) -> Iterator[str]:
    made = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browsing.FOUND, args=browsing.PLAYWRIGHT_FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of a reader in Berlin."""
    context = browser.new_context(locale="en-GB", timezone_id="Europe/Berlin", viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    tab, errors = context.new_page(), list[str]()
    tab.on("console", lambda message: errors.append(_shown(message)) if _is_error(message) else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert errors == []


QUIETLY = ("responded with a status of 401", "responded with a status of 422", "net::ERR_")
"""Chromium logs a wrong key, a refused spec, and a service that is away, as if the page had made a mistake."""


def _is_error(message: ConsoleMessage) -> bool:
    return message.type == "error" and not any(part in message.text for part in QUIETLY)


def _shown(message: ConsoleMessage) -> str:
    return f"{message.text} ({message.location.get('url')})"


@pytest.fixture
def ended(service: Service, publish: Callable[..., str]) -> Callable[..., str]:
    """`publish`, with a whole result as jobs have it."""

    def make(name: str | Path) -> str:
        job_id = publish(name)
        with db.session_scope(service.engine) as session:
            result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {"validation_loss": 0.5}}
            session.get_one(Job, job_id).result = result
        return job_id

    return make


@pytest.fixture
def make_key(app: Flask) -> Callable[..., str]:
    """Makes the text of a key with these scopes, for a service that asks for keys."""

    def make(*scopes: str) -> str:
        with db.session_scope(app.extensions["loopline"].engine) as session:
            return keys.create(session, "default", scopes).text

    return make


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()


@pytest.fixture(scope="session")
def barriers() -> Callable[[Page], list[str]]:
    """What axe finds in a page as it stands, in its present colours: what keeps somebody from reading or using it."""
    axe = Axe()

    def find(tab: Page) -> list[str]:
        found = axe.run(tab).response["violations"]
        return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html']}" for each in found]

    return find
