"""What holds for every page: its policy, its files, its size. No browser is needed."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from loopline import files
from loopline.files.schema import Schema

from api.pages import assets
from api.pages.site import PAGES, Page

TEMPLATES = assets.STATIC.parent / "templates"
SCRIPTS = sorted(path for path in assets.STATIC.glob("*.js"))
MOST_BYTES = 150_000
"""That a first visit downloads."""
A_JOB = "job_" + "0" * 26


def address(page: Page) -> str:
    return re.sub("<[a-z_]+>", "some", page.path.replace("<job_id>", A_JOB))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs_only_our_own_files(client: FlaskClient, page: Page) -> None:
    answer = client.get(address(page))
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    text = answer.get_data(as_text=True)
    for link in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert re.match(r"/(?!/)|#", link), link
    assert page.title in text
    assert [name for name in re.findall(r'href="(/[a-z]+)"', text) if client.get(name).status_code != 200] == []


def test_no_template_has_a_script_or_a_style_within_it() -> None:
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son[a-z]+=|javascript:", text), path.name
        assert "|safe" not in text.replace(" ", ""), path.name


def test_the_pages_speak_of_no_option_of_the_command() -> None:
    texts = {path.name: path.read_text() for path in TEMPLATES.glob("*.html")}
    assert [name for name, text in texts.items() if re.search(r"[\s(>]--[a-z]", text)] == []
    commands = {name for name, text in texts.items() if re.search(r"<code[^>]*>loopline ", text)}
    assert commands == {"base.html", "schedules.html"}  # where no page does the same
    columns = re.search(r"COLUMNS = {(.*?)}", (assets.STATIC / "wording.js").read_text(), re.DOTALL)
    assert columns is not None
    known = {name.replace("_", "-") for name in re.findall(r"^  (\w+):", columns.group(1), re.MULTILINE)}
    readers = Path(files.__file__).parent.glob("*.py")
    named = {name for path in readers for name in re.findall(r'"[^"\n]*--([a-z-]+)', path.read_text())}
    assert named
    assert named <= known


def test_the_form_of_a_data_set_has_each_field_of_a_schema() -> None:
    """Correcting a data set sends what was said of its columns before, which would else be lost."""
    found = re.search(r"FIELDS = \[(.*?)^\];", (assets.STATIC / "datasets.js").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    assert {"layout", *re.findall(r'\["(\w+)"', found.group(1))} == {field.name for field in fields(Schema)}


def test_no_script_reads_html_or_code_from_text() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|cssText"
    for path in SCRIPTS:
        assert re.findall(forbidden, path.read_text(encoding="utf-8")) == [], path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_first_visit_downloads_little(client: FlaskClient, page: Page) -> None:
    """With every module that its scripts import."""
    packed = {"Accept-Encoding": "gzip"}
    answer = client.get(address(page), headers=packed)
    total, text = len(answer.data), gzip.decompress(answer.data).decode()
    waiting = [*re.findall(r'(?:src|href)="(/assets/[^"]+)"', text)]
    seen: set[str] = set()
    while waiting:
        if (path := waiting.pop()) in seen:
            continue
        seen.add(path)
        asset = client.get(path, headers=packed)
        assert asset.status_code == 200, path
        assert asset.headers["Cache-Control"] == assets.FOR_GOOD
        total += len(asset.data)
        if path.endswith(".js"):
            code = assets.assets()[path.split("/", 3)[3]].content.decode()
            waiting += [path.rpartition("/")[0] + name[1:] for name in re.findall(r'from "(\./[\w./-]+)"', code)]
    assert total < MOST_BYTES, f"{total} bytes"


def test_every_page_has_its_template_and_its_script() -> None:
    for page in PAGES:
        assert (TEMPLATES / f"{page.name}.html").is_file()
        assert (assets.STATIC / f"{page.name}.js").is_file() is page.has_script


def test_an_asset_of_another_version_is_not_kept(client: FlaskClient) -> None:
    answer = client.get("/assets/0123456789abcdef/style.css")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    for missing in ("nothing.css", "../site.py", "vendor/vendored.json", "vendor/uplot/LICENSE"):
        assert client.get(f"/assets/{assets.digest()}/{missing}").status_code == 404


def test_an_address_that_nothing_has_is_a_page_for_browsers_alone(client: FlaskClient) -> None:
    browsers = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    for path in ("/nowhere", "/guide/nothing"):
        page = client.get(path, headers=browsers)
        assert (page.status_code, page.mimetype, page.headers["Cache-Control"]) == (404, "text/html", "no-store")
        assert "Content-Security-Policy" in page.headers
        assert "There is no page at this address" in page.text
    for path, headers in (("/nowhere", {}), ("/nowhere", {"Accept": "*/*"}), ("/v1/nowhere", browsers)):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


def test_what_others_wrote_is_listed_with_version_hash_and_licence() -> None:
    vendor = assets.STATIC / "vendor"
    listed = json.loads((vendor / "vendored.json").read_text())
    for package in listed:
        assert all(package[key] for key in ("name", "version", "home", "licence"))
        assert any(name.endswith("LICENSE") for name in package["files"])
    hashes = {name: digest for package in listed for name, digest in package["files"].items()}
    there = {path for path in vendor.rglob("*") if path.is_file() and path.name != "vendored.json"}
    assert {
        path.relative_to(vendor).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in there
    } == hashes


def test_the_first_address_leads_to_the_jobs(client: FlaskClient) -> None:
    assert client.get("/").headers["Location"] == "/jobs"


def test_dark_is_the_same_by_choice_and_by_the_system() -> None:
    """The style sheet has these colours twice, because scripts read them one by one for the charts."""
    style = assets.assets()["style.css"].content.decode()
    found = re.findall(r":root[^{]*{\s*color-scheme: dark;([^}]*)}", style)
    assert len(found) == 2
    assert found[0].split() == found[1].split()
