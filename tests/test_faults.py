"""docs/faults.md promises something for every fault: the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "faults.md").read_text()


def rows(heading: str) -> dict[int, str]:
    """The rows of the table under a heading, by their number."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return {int(number): rest for number, rest in re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE)}


def test_every_fault_has_its_row_in_both_tables() -> None:
    assert list(rows("What happens")) == list(rows("The tests")) == list(range(1, 67))


def test_every_fault_is_shown_by_tests_that_exist() -> None:
    for number, tests in rows("The tests").items():
        named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", tests)
        assert named, number
        for path, name in named:
            assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{number}: {path}::{name}"


def test_what_an_object_store_may_cost_is_shown_by_tests_that_exist() -> None:
    section = PAGE.split("## With an object store\n")[1].split("\n## ")[0]
    named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", section)
    assert len(named) >= section.count("\n| ") - 2
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
