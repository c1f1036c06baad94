"""No command of the pages about servers that `make test-containers` does not run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.containers import documents

SCENARIOS = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("page", documents.PAGES)
def test_every_command_of_the_page_is_run(page: str) -> None:
    found = documents.blocks(page)
    assert found
    run = set(re.findall(rf'as_written\("{page}", "([^"]+)"\)', SCENARIOS))
    assert run == set(found)
