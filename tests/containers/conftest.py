"""Whatever a test starts is taken away, and the engine is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.containers.stack import leftovers


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """What is to be done at the end of the test, last things first."""
    before = leftovers()
    with ExitStack() as stack:
        yield stack
    assert leftovers() - before == set()
