"""Predictions of a running service while its worker trains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loopline import Client

from tests.system.conftest import Service
from tests.system.test_local import LONG, TINY, wait_until

ASKERS, EACH = 4, 25
X = [[[0.1 * step, -0.2] for step in range(length)] for length in (5, 2, 9)]


def test_answers_stay_the_same_while_a_worker_trains(start: Callable[..., Service], tmp_path: Path) -> None:
    """No request fails, and the trainer comes on."""
    service = start(tmp_path / "var")
    url = service.url()
    with Client(url) as client:
        trained = client.submit(TINY).wait(timeout=60)
        assert trained.status == "succeeded"

        def asked() -> Any:
            with Client(url, retry_seconds=0) as asking:  # a failed request is an error
                return asking.predict(trained.id, X).raw

        quiet = asked()
        assert len(quiet["rows"]) == 3
        job = client.submit(LONG)
        wait_until(lambda: job.refresh().progress.epoch > 0)
        begun = job.progress.epoch
        came_on = threading.Event()

        def ask(_: int) -> list[Any]:
            found = [asked() for _ in range(EACH)]
            while not came_on.is_set():
                found.append(asked())
            return found

        with ThreadPoolExecutor(ASKERS) as pool:
            asking = [pool.submit(ask, asker) for asker in range(ASKERS)]
            try:
                wait_until(lambda: job.refresh().progress.epoch > begun + 1)
            finally:
                came_on.set()
            for one in asking:
                for answer in one.result(60):
                    assert answer == quiet
        assert job.refresh().status == "running"
        job.cancel()
        wait_until(lambda: job.refresh().status == "cancelled")
    assert service.stop() == 0
