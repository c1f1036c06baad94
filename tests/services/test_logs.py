"""Log lines: readable or JSON, with what is bound in each, and neither forged nor telling secrets."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from services import logs
from services.settings import Settings

Write = Callable[[str], logging.Logger]
log = logging.getLogger("somebody")
FORGED = "x\n2026-01-01 [info] all is well\r\x1b[2J\u2028\x9b31m"
PASSWORD = "h:u/s@h"  # as nobody should choose it
KEY = "5ec2e7" * 10


@pytest.fixture
def configured(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], Callable[[], list[str]]]]:
    """Logging as a process of the service has it, in a form; reads what was written since."""
    before, level = logging.root.handlers[:], logging.root.level

    def configure(form: str) -> Callable[[], list[str]]:
        logs.configure(Settings(log_format=form))  # type: ignore[arg-type]
        return lambda: capsys.readouterr().err.splitlines()

    yield configure
    logging.root.handlers[:] = before
    logging.root.setLevel(level)
    logs.unbind()


Configured = Callable[[str], Callable[[], list[str]]]


def test_what_is_bound_stands_in_every_line_of_its_thread_and_of_no_other(configured: Configured) -> None:
    read = configured("json")
    logs.bind(request_id="req_1")
    log.info("first")
    other = threading.Thread(target=log.info, args=("another thread",))
    other.start()
    other.join()
    logs.bind(request_id="req_2")
    log.info("second")
    logs.unbind()
    log.info("after")
    lines = [json.loads(line) for line in read()]
    assert [(line["event"], line.get("request_id")) for line in lines] == [
        ("first", "req_1"),
        ("another thread", None),
        ("second", "req_2"),
        ("after", None),
    ]


def test_what_is_known_of_an_attempt_ends_with_it(configured: Configured) -> None:
    read = configured("json")
    with logs.about(job_id="job_1", attempt=2, request_id=None):
        log.info("within")
    log.info("after")
    within, after = (json.loads(line) for line in read())
    assert (within["job_id"], within["attempt"], "request_id" in within) == ("job_1", 2, False)
    assert "job_id" not in after


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_text_cannot_leave_its_line(configured: Configured, form: str) -> None:
    read = configured(form)
    logs.bind(request_id=FORGED)
    log.info("client said %s", FORGED, extra={"path": FORGED})
    try:
        raise RuntimeError(FORGED)
    except RuntimeError:
        log.exception("it failed")
    first, second, *traceback = read()
    assert not any(logs.CONTROLS.search(line) for line in (first, second, *traceback))
    assert "all is well" in first
    assert all(line.startswith("    ") for line in traceback)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "text",
    [
        f"cannot connect to postgresql://me:{PASSWORD}@db:5432/loopline now",
        f"redis://:{PASSWORD}@cache/0: no answer",
        "{'Authorization': 'Bearer h:u/s@h'}".replace(PASSWORD, "hushhush.h-u_s"),
        "Basic aHVzaDpodXNoaHVzaA== was sent",
        f"connection failed: host=db user=me password={PASSWORD} dbname=x",
        f"the key ll_{'0' * 26}_{KEY} was revoked",
        f"{{'aws_secret_access_key': '{PASSWORD}', 'a': 1}}",
    ],
)
def test_no_line_holds_a_secret(configured: Configured, form: str, text: str) -> None:
    """In a message, in what stands beside it, and in a traceback."""
    read = configured(form)
    log.info("%s", text, extra={"beside": text, "within": {"deep": [text]}})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("it failed")
    written = "\n".join(read())
    assert "RuntimeError" in written
    assert not any(secret in written for secret in (PASSWORD, KEY, "hushhush", "aHVzaDpodXNo"))
    assert written.count(logs.HIDDEN) >= 4
    if form == "json":
        assert all(json.loads(line) for line in written.splitlines())


def test_what_is_no_secret_stays(configured: Configured) -> None:
    read = configured("console")
    log.info("GET http://127.0.0.1:8080/v1/jobs?x=1 took 3 ms; mail me@here.example; basic training, bearer of news")
    [line] = read()
    assert logs.HIDDEN not in line
    assert "http://127.0.0.1:8080/v1/jobs?x=1" in line
    assert "me@here.example" in line
