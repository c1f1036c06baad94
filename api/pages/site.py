"""The pages by name, and what every page has: its frame, its policy and its files.

A page is a line of `PAGES`, a template `templates/NAME.html` and a script `static/NAME.js`. It holds no data: its
script asks `/v1`, as every client does, so what a key may not see is in no page.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from flask import Blueprint, Response, redirect, render_template, request
from jinja2 import StrictUndefined
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from api import errors
from api.pages import assets

site = Blueprint("pages", __name__, template_folder="templates")
site.record_once(lambda state: setattr(state.app.jinja_env, "undefined", StrictUndefined))

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Page(NamedTuple):
    name: str
    """Of its endpoint (`pages.NAME`), its template and its script."""
    path: str
    title: str
    in_menu: bool = True
    charts: bool = False
    """Whether it draws with uPlot."""
    under: str = ""
    """The page of the menu that it belongs to, if it is in none itself."""
    has_script: bool = True
    """Whether a script draws it. Another module renders those without."""


PAGES = (
    Page("jobs", "/jobs", "Jobs"),
    Page("job", "/jobs/<job_id>", "Job", in_menu=False, charts=True, under="jobs"),
    Page("submit", "/submit", "New job", in_menu=False, under="jobs"),
    Page("compare", "/compare", "Compare", charts=True),
    Page("searches", "/searches", "Searches"),
    Page("search", "/searches/<search_id>", "Search", in_menu=False, charts=True, under="searches"),
    Page("batches", "/batches", "Batches"),
    Page("batch", "/batches/<batch_id>", "Batch", in_menu=False, charts=True, under="batches"),
    Page("schedules", "/schedules", "Schedules"),
    Page("schedule", "/schedules/<schedule>", "Schedule", in_menu=False, under="schedules"),
    Page("datasets", "/datasets", "Data sets"),
    Page("dataset", "/datasets/<dataset>", "Data set", in_menu=False, charts=True, under="datasets"),
    Page("models", "/models", "Models"),
    Page("model", "/models/<model>", "Model", in_menu=False, charts=True, under="models"),
    Page("try", "/try", "Try it", in_menu=False, charts=True, under="models"),
    Page("workers", "/workers", "Workers"),
    Page("sign-in", "/sign-in", "Sign in", in_menu=False),
    Page("guide", "/guide", "Docs", has_script=False),
)


NOWHERE = Page("nowhere", "", "Not found", in_menu=False, has_script=False)
"""For an address that nothing has."""


def page_named(name: str) -> Page:
    return next(page for page in PAGES if page.name == name)


def show(page: Page, **parts: Any) -> Response:
    """A page with `parts` for its template: those of its address, which its script reads, and those of a renderer."""
    menu = [each for each in PAGES if each.in_menu]
    html = render_template(f"{page.name}.html", page=page, menu=menu, asset=assets.address, **parts)
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = POLICY
    return assets.packed(response)


@site.get("/")
def start() -> AnyResponse:
    return redirect(PAGES[0].path)


@site.app_errorhandler(404)
def nowhere(error: NotFound) -> Response:
    """An HTML page for clients that prefer HTML, as browsers do. Other clients, and all addresses below `/v1`, get the
    problem document."""
    answer = errors.of_http(error)
    kinds = request.accept_mimetypes
    if request.path.startswith("/v1/") or kinds["text/html"] <= kinds[errors.MEDIA_TYPE]:
        return answer
    shown = show(NOWHERE)
    shown.status_code = answer.status_code
    shown.headers["Cache-Control"] = answer.headers["Cache-Control"]
    shown.vary.add("Accept")
    return shown


@site.get("/assets/<version>/<path:name>")
def asset(version: str, name: str) -> Response:
    return assets.sent(version, name)


for _page in (page for page in PAGES if page.has_script):
    site.add_url_rule(_page.path, _page.name, partial(show, _page))
