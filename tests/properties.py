"""How many examples a property-based test tries: the same few in `make test`, many random ones in `make properties`."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

TIMES = int(os.environ.get("LOOPLINE_PROPERTIES", "0"))
"""How many times as many examples, which are then random; 0: the same examples in each run."""


def examples(count: int, **others: Any) -> settings:
    """`count` examples in `make test`, and TIMES as many in `make properties`; `others` are Hypothesis's settings."""
    return settings(max_examples=count * max(1, TIMES), **others)


def profile() -> settings:
    """For all tests: without deadlines, because the machine may be busy. `make test` draws the same examples each time,
    so that no new example can fail it by chance."""
    return examples(50, deadline=None, derandomize=not TIMES)
