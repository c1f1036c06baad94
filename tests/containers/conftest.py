"""Whatever a test starts is taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """What is to be done at the end of the test, last things first."""
    with ExitStack() as stack:
        yield stack
