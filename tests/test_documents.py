"""What is built is documented, and what is documented is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from api import errors
from api.app import create_app
from services.settings import Settings
from services.webhooks import news
from tests.ringing import FakeDoorbell

HTTP = (Path(__file__).parent.parent / "docs" / "http.md").read_text(encoding="utf-8")
UNWRITTEN = {"/docs/{name}"}  # what the page is made of


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    made = create_app(Settings(data_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/x.db"), bell=FakeDoorbell())
    yield made
    made.extensions["loopline"].engine.dispose()


def routes(app: Flask) -> set[tuple[str, str]]:
    return {
        (method, re.sub(r"<(?:[^<:]+(?:\(.*\))?:)?([^>]+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith(("pages.", "cards.", "guide."))  # docs/page.md is about these
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_every_route_is_documented_and_no_other(app: Flask) -> None:
    documented = set(re.findall(r"^\| `(GET|POST|PUT|PATCH|DELETE) (\S+)` \|", HTTP, re.MULTILINE))
    assert documented == {(method, path) for method, path in routes(app) if path not in UNWRITTEN}


def test_every_query_parameter_is_mentioned(app: Flask) -> None:
    with app.app_context():
        document = app.api_doc  # type: ignore[attr-defined]
    parameters = {
        parameter["name"]
        for path in document["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] in ("query", "header")
    }
    assert {name for name in parameters if not re.search(rf"`{name}\b|[?&]{name}=", HTTP)} == set()


def test_every_problem_is_documented_with_its_status() -> None:
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", HTTP, re.MULTILINE))
    assert set(table) == errors.known_codes()
    expected = {code: str(status) for status, code in errors.HTTP_CODES.items()} | {
        error.code: str(int(errors.status_of(error))) for error in errors.answered()
    }
    assert table == expected


def test_every_event_is_documented_with_its_sentence() -> None:
    page = (Path(__file__).parent.parent / "docs" / "webhooks.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([a-z]+\.[a-z]+)` \| (.*) \|$", page, re.MULTILINE))
    assert table == {**news.EVENTS, news.TEST: "Somebody tests the webhook."}


def test_the_json_in_the_documents_is_json() -> None:
    for block in re.findall(r"```json\n(.*?)```", HTTP, re.DOTALL):
        json.loads(block)
