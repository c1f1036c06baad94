"""The documents as pages."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect

from api.pages import guide
from tests.api.pages.conftest import needs_browser


@pytest.mark.parametrize("name", sorted(guide.documents()))
def test_every_link_and_picture_of_a_document_leads_somewhere(client: FlaskClient, name: str) -> None:
    answer = client.get("/guide" if name == guide.INDEX else f"/guide/{name}")
    assert answer.status_code == 200
    assert "Content-Security-Policy" in answer.headers
    text = answer.get_data(as_text=True)
    assert " style=" not in text
    article = text.partition("<article")[2].partition("</article>")[0]
    parts: dict[str, set[bytes]] = {}
    for link in set(re.findall(r'(?:href|src)="(/[^"]*)"', article)):
        path, _, part = link.partition("#")
        if path not in parts:
            with client.get(path) as found:
                assert found.status_code == 200, link
                parts[path] = set(re.findall(rb'id="([^"]+)"', found.get_data()))
        assert not part or part.encode() in parts[path], link


@pytest.mark.parametrize(("name", "kind"), [("curve.svg", "image/svg+xml"), ("job.png", "image/png")])
def test_a_picture_of_a_document_comes_as_what_it_is(client: FlaskClient, name: str, kind: str) -> None:
    with client.get(f"/guide/pictures/{name}") as answer:
        assert (answer.status_code, answer.mimetype) == (200, kind)
    assert client.get("/guide/pictures/page.md").status_code == 404


def test_a_search_finds_sections_and_shows_what_was_asked_as_text(client: FlaskClient) -> None:
    text = client.get("/guide?q=early stopping").get_data(as_text=True)
    links = re.findall(r'<li><a href="(/guide[^"]*)"', text)
    assert links
    assert any("early" in link for link in links[:5])
    text = client.get("/guide?q=<script>alert(1)</script>").get_data(as_text=True)
    assert "<script>alert" not in text
    assert "No page has all of these words" in text


@needs_browser
def test_the_documents_can_be_read_by_everybody(server: str, page: Page, barriers: Callable[[Page], list[str]]) -> None:
    page.goto(f"{server}/guide")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert barriers(page) == []
    page.get_by_label("Search the docs").fill("gradient")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("mark").first).to_be_visible()
    assert barriers(page) == []
    page.goto(f"{server}/guide/searches")
    expect(page.get_by_role("navigation", name="On this page")).to_be_visible()
    assert barriers(page) == []
