"""No command of the pages about servers that `make test-containers` does not run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.containers import documents

SCENARIO = (Path(__file__).parent / "test_stack.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", documents.PAGES)
def test_every_command_of_the_page_is_run(page: str) -> None:
    found = documents.blocks(page)
    assert len(found) >= 4
    run = set(re.findall(rf'as_written\("{page}", "([^"]+)"\)', SCENARIO))
    assert run == set(found)
