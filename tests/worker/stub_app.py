"""A real Celery worker whose trainer is the stub: `celery -A tests.worker.stub_app worker`."""

from __future__ import annotations

import sys

from worker.pool import create_app

app = create_app([sys.executable, "-m", "tests.worker.stub_trainer"])
