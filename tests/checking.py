"""The part of the scheduler that checks uploads, for tests that have no scheduler."""

from __future__ import annotations

import time

from sqlalchemy.engine import Engine

from services.settings import Settings
from worker.scheduler.checks import Checks

UNCHECKED_SECONDS = 1e-4
"""No check ends in so short a time: its process has to be forked."""


def do_checks(settings: Settings, engine: Engine, seconds: float = 60.0) -> int:
    """Do the checks that are due, one after the other; how many there were."""
    checks, done, deadline = Checks(settings, engine), 0, time.monotonic() + seconds
    while checks.check_one():
        done += 1
        while checks.under_way:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    return done
