"""The pages that are made from the code are those that the code makes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from services.searches import reading
from services.training.spec import loads, parse

ROOT = Path(__file__).parent.parent
PAGES = runpy.run_path(str(ROOT / "docs" / "tables.py"))["PAGES"]


@pytest.mark.parametrize("file", sorted(PAGES))
def test_a_page_is_what_the_code_says(file: str) -> None:
    assert (ROOT / "docs" / file).read_text() == PAGES[file](), "run `make docs`"


def test_every_make_target_is_listed_with_a_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = makefile.split(".PHONY:")[1].splitlines()[0].split()
    listed = [line.split(":")[0] for line in makefile.splitlines() if "  ## " in line]
    assert sorted(phony) == sorted(listed)


def test_the_specs_that_people_are_shown_are_valid() -> None:
    in_readme = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    shown = [in_readme, *(path.read_text() for path in (ROOT / "examples").glob("*.yaml"))]
    assert len(shown) >= 3
    for text in shown:
        document = loads(text)
        parse(reading.read(document).base if "search" in document else document)


def test_every_field_of_the_spec_has_a_meaning() -> None:
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (`\w+`) \|.*\| +\|$", page, re.MULTILINE) == []
