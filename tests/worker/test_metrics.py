"""/metrics of a worker: Celery's main process and its pool child count together, whatever becomes of the child."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from services.blobs.storage import Storage
from services.orm import Job
from services.settings import Settings
from tests.ports import free_port
from tests.scraping import Scrape, scrape_when_up
from tests.worker.watching import Process, Watch
from worker.scheduler.bell import CeleryDoorbell

Start = Callable[..., Process]
MakeJob = Callable[..., Job]


def until(port: int, condition: Callable[[Scrape], bool], seconds: float = 15) -> Scrape:
    deadline = time.monotonic() + seconds
    while not condition(found := scrape_when_up(port)):
        assert time.monotonic() < deadline, found.samples
        time.sleep(0.02)
    return found


def folders(settings: Settings) -> list[Path]:
    return list(settings.data_dir.glob("loopline-metrics-*"))


def test_a_worker_shows_what_it_trains_and_counts_what_it_did(
    start_worker: Start, make_job: MakeJob, watch: Watch, bell: CeleryDoorbell, settings: Settings, storage: Storage
) -> None:
    port = free_port()
    worker = start_worker(metrics_port=port)
    job = make_job(tags={"stub": "discuss"})
    bell.ring("default")
    found = until(port, lambda found: found.value("loopline_worker_epoch", device="cpu") == 1)
    assert found.value("loopline_worker_loss", device="cpu", kind="train") == 0.25
    assert found.value("loopline_worker_loss", device="cpu", kind="validation") == 0.5
    assert found.value("loopline_gpu_memory_bytes", device="cpu", kind="reserved") == 30
    until(port, lambda found: found.value("loopline_heartbeats_total", result="renewed") is not None)
    (storage.job_dir(job.id) / "go").touch()
    watch.until(job.id, lambda job: job.status == "succeeded")
    found = until(port, lambda found: found.total("loopline_runs_total", outcome="succeeded") == 1)
    found = until(port, lambda found: math.isnan(found.value("loopline_worker_epoch", device="cpu") or 0))
    assert found.value("loopline_attempts_total", queue="default") == 1
    assert found.total("loopline_runs_total") == 1
    assert found.value("loopline_runs_total", queue="default", outcome="failed", reason="diverged") == 0
    assert len(folders(settings)) == 1
    assert worker.stop() == 0
    assert folders(settings) == []


def test_a_pool_child_that_is_killed_leaves_its_counts_and_no_gauge(
    start_worker: Start, make_job: MakeJob, watch: Watch, bell: CeleryDoorbell
) -> None:
    port = free_port()
    worker = start_worker(metrics_port=port)
    job = make_job(tags={"stub": "hold"})
    bell.ring("default")
    until(port, lambda found: found.value("loopline_worker_loss", device="cpu", kind="step") == 1.0)
    child = worker.pool_child()
    os.kill(child, signal.SIGKILL)
    found = until(port, lambda found: "loopline_worker_loss" not in found.families)
    assert found.value("loopline_attempts_total", queue="default") == 1
    assert watch.job(job.id).status == "running"  # nobody has taken it back yet


TWO_WORKERS = """
import signal, subprocess, sys
from services import metrics
from services.settings import Settings

celery = ["worker.start", "tests.worker.stub_app", "--without-heartbeat"]
with metrics.shared(Settings()):
    both = [subprocess.Popen([sys.executable, "-m", *celery]) for _ in range(2)]
    signal.signal(signal.SIGTERM, lambda *_: [one.terminate() for one in both])
    sys.exit(max(one.wait() for one in both))
"""


def test_two_workers_of_one_parent_count_into_one_folder_that_it_serves(
    start: Start, make_job: MakeJob, watch: Watch, bell: CeleryDoorbell, settings: Settings, storage: Storage
) -> None:
    """As under a process that starts a worker for each GPU: the port is the parent's alone, the sums are of all."""
    port = free_port()
    parent = start("tests.worker.run", TWO_WORKERS, metrics_port=port)
    held = [make_job(tags={"stub": "hold"}) for _ in range(2)]
    for job in held:
        bell.ring("default")
        watch.until(job.id, lambda job: job.step >= 1)
    found = until(port, lambda found: found.total("loopline_attempts_total") == 2)
    steps = [labels for name, labels in found.samples if name == "loopline_worker_loss"]
    assert len({pid for labels in steps for key, pid in labels if key == "pid"}) == 2  # each shows its own
    for job in held:
        (storage.job_dir(job.id) / "go").touch()
        watch.until(job.id, lambda job: job.status == "succeeded")
    found = until(port, lambda found: found.total("loopline_runs_total", outcome="succeeded") == 2)
    assert found.total("loopline_run_seconds_count") == 2
    assert "cannot listen" not in parent.log.read_text()
    assert parent.stop(30) == 0
    assert folders(settings) == []
