"""What happens when the broker is away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local import broker
from local.launcher import _free_port
from services.blobs.storage import Storage
from services.orm import Job
from services.settings import Settings
from tests.worker.watching import Process, Watch
from worker.scheduler.bell import CeleryDoorbell


class Valkey:
    """A broker of this test alone, to be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, _free_port("127.0.0.1")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(broker.command(self.folder, self.port), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not broker.answers(self.port):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    made = Valkey(tmp_path / "valkey")
    yield made
    made.kill()


@pytest.fixture
def broker_url(valkey: Valkey) -> str:
    return f"redis://127.0.0.1:{valkey.port}/0"


def test_a_running_job_ends_and_waiting_ones_run_after_the_broker_was_away(
    valkey: Valkey,
    settings: Settings,
    storage: Storage,
    make_job: Callable[..., Job],
    start_worker: Callable[..., Process],
    start: Callable[..., Process],
    watch: Watch,
) -> None:
    worker = start_worker()
    running = make_job(tags={"stub": "hold"})
    assert CeleryDoorbell(settings).ring("default")
    watch.until(running.id, lambda job: job.step == 1)
    valkey.kill()
    (storage.job_dir(running.id) / "go").touch()
    assert watch.until(running.id, lambda job: job.status != "running").status == "succeeded"
    waiting = make_job()
    start("worker.scheduler")
    valkey.start()
    assert watch.until(waiting.id, lambda job: job.status == "succeeded", 30).attempt == 1
    assert worker.stop() == 0
