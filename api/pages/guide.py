"""/guide: the documents of Loopline as pages, with an index and a search. They are those that the service runs with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, Response, abort, request, send_file

from api.pages import markdown
from api.pages.site import Page, page_named, show
from services.errors import NotFound

site = Blueprint("guide", __name__)

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs"
OTHERS = {
    "README.md": "loopline",
    "ARCHITECTURE.md": "architecture",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "client/README.md": "client",
    "data/README.md": "data",
    "examples/README.md": "examples",
    "benchmarks/RESULTS.md": "measurements",
}
"""By their path, the names of documents outside of `docs/`."""
INDEX = "index"
PICTURES = {".svg": "image/svg+xml", ".png": "image/png"}
MOST_FOUND = 30
SNIPPET = 160
"""Characters that are shown around a word that was found."""


class Found(NamedTuple):
    """A part of a document that has all the words."""

    document: str
    address: str
    title: str
    before: str
    hit: str
    after: str


@cache
def documents() -> dict[str, Path]:
    """By their names in addresses. An image of a container has only some of them."""
    ours = {path.stem: path for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"}
    others = {name: ROOT / path for path, name in OTHERS.items() if (ROOT / path).is_file()}
    return {INDEX: FOLDER / "README.md", **ours, **others}


@site.get("/guide")
def index() -> Response:
    words = request.args.get("q", "").strip()[:100]
    return _shown(INDEX, words) if FOLDER.is_dir() else _missing()


@site.get("/guide/<name>")
def document(name: str) -> Response:
    if name not in documents() or name == INDEX:
        abort(404, "There is no such document; /guide lists all of them.")
    return _shown(name, "")


@site.get("/guide/pictures/<name>")
def picture(name: str) -> Response:
    if name not in _pictures():
        raise NotFound("There is no such picture.")
    path = _pictures()[name]
    return send_file(path, mimetype=PICTURES[path.suffix], max_age=3600)


def _shown(name: str, words: str) -> Response:
    title, contents, body = _rendered(name)
    found = _search(words) if words else None
    return show(_page(), title=title, contents=contents, body=body, words=words, found=found, is_index=name == INDEX)


def _missing() -> Response:
    raise NotFound("This installation has no documents.")


def _page() -> Page:
    return page_named("guide")


@cache
def _pictures() -> dict[str, Path]:
    return {path.name: path for path in sorted(FOLDER.rglob("*")) if path.suffix in PICTURES}


@cache
def _rendered(name: str) -> tuple[str, list[tuple[str, str]], str]:
    """Title, the headings of the second level with their anchors, and HTML."""
    path = documents()[name]
    text = path.read_text(encoding="utf-8")
    found = markdown.headings(text)
    title = next((title for level, title in found if level == 1), name)
    contents = [(markdown.anchor(title), title) for level, title in found if level == 2]
    body = markdown.html(text, link=lambda to: _link(path, to), picture=lambda to: _picture(path, to))
    return title, contents, body


def _link(page: Path, target: str) -> str | None:
    if target.startswith(("https://", "http://", "#")):
        return target
    place, hash_, part = target.partition("#")
    names = {path: name for name, path in documents().items()}
    name = names.get((page.parent / place).resolve())
    if name is None:
        return None
    return f"/guide{'' if name == INDEX else f'/{name}'}{hash_}{part}"


def _picture(page: Path, target: str) -> str | None:
    path = (page.parent / target).resolve()
    return f"/guide/pictures/{path.name}" if path in _pictures().values() else None


@cache
def _sections() -> list[tuple[str, str, str, str]]:
    """Of all documents: title, address of the section, its title, its words."""
    found = []
    for name, path in documents().items():
        title = _rendered(name)[0]
        address = "/guide" if name == INDEX else f"/guide/{name}"
        for heading, words in markdown.sections(path.read_text(encoding="utf-8")):
            found.append((title, f"{address}#{markdown.anchor(heading)}", heading or title, words))
    return found


def _search(words: str) -> list[Found]:
    """The sections that have all the words, those with the words in their titles first."""
    wanted = words.casefold().split()
    hits = sorted(_hits(wanted), key=lambda hit: hit[0])
    return [found for _, found in hits[:MOST_FOUND]]


def _hits(wanted: list[str]) -> Iterator[tuple[int, Found]]:
    for document_, address, title, text in _sections():
        name, folded = title.casefold(), text.casefold()
        if not all(word in name or word in folded for word in wanted):
            continue
        in_title = sum(word in name for word in wanted)
        count = sum(folded.count(word) for word in wanted)
        yield -1000 * in_title - min(count, 999), Found(document_, address, title, *_snippet(text, wanted))


def _snippet(text: str, wanted: list[str]) -> tuple[str, str, str]:
    """The text around the first of the words: before it, the word, after it."""
    for word in wanted:
        if hit := re.search(re.escape(word), text, re.IGNORECASE):
            before, after = text[: hit.start()][-SNIPPET // 2 :], text[hit.end() :][:SNIPPET]
            if len(before) < hit.start():
                before = f"… {before.partition(' ')[2]}"  # from a whole word on
            return before, hit.group(), f"{after.rpartition(' ')[0]} …" if len(after) == SNIPPET else after
    return "", "", text[:SNIPPET] + "…"
