"""Processes of a worker that die or freeze at the worst of moments, with a real broker and a real scheduler."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from services.orm import Job
from services.sqlite import driver as sqlite3
from tests.worker.watching import Process, Watch, is_alive, wait_for_death
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
StartWorker = Callable[..., Process]
SHORT: dict[str, Any] = {"lease_seconds": 2.0, "renew_seconds": 0.2}


def test_a_worker_that_dies_between_two_steps_of_its_work_is_followed_by_one_that_finishes_it(
    make_job: MakeJob,
    start_worker: StartWorker,
    start: Callable[..., Process],
    bell: CeleryDoorbell,
    data_dir: Path,
    watch: Watch,
) -> None:
    """Death between claim and start; then death between the last checkpoint and the final write."""
    points = ("supervisor.claimed", "supervisor.finishing")
    start_worker(deaths=",".join(points), **SHORT)
    start("worker.scheduler", **SHORT)
    job = make_job(tags={"stub": "linger"})
    bell.ring("default")
    done = watch.until(job.id, lambda job: job.status == "succeeded", 40)
    assert all((data_dir / f"died-at-{point}").exists() for point in points)
    assert done.trainer is not None
    assert (done.attempt, done.failures, done.trainer["resumed_from"]) == (3, 0, {"epoch": 3, "step": 12})
    assert watch.statuses(job.id) == ["queued", *["running", "queued"] * 2, "running", "succeeded"]
    assert [move.reason for move in watch.transitions(job.id)][2::2] == ["worker_lost", "worker_lost", None]


def test_a_frozen_supervisor_loses_its_trainer_and_its_job_and_lives_on_when_it_thaws(
    make_job: MakeJob,
    start_worker: StartWorker,
    start: Callable[..., Process],
    bell: CeleryDoorbell,
    engine: Engine,
    watch: Watch,
) -> None:
    """SIGSTOP of a supervisor past its lease, then SIGCONT."""
    frozen = start_worker(**SHORT)
    job = make_job(tags={"stub": "deaf", "times": "1"})
    bell.ring("default")
    running = watch.until(job.id, lambda job: job.step == 5)
    child = frozen.pool_child()
    freeze(child, engine)
    assert running.trainer is not None
    wait_for_death(running.trainer["pid"], SHORT["lease_seconds"])
    assert watch.job(job.id).attempt == 1
    other = start_worker(**SHORT)
    start("worker.scheduler", **SHORT)
    done = watch.until(job.id, lambda job: job.status == "succeeded")
    assert (done.attempt, done.worker) == (2, watch.transitions(job.id)[-1].worker)
    assert done.worker != running.worker
    os.kill(child, signal.SIGCONT)
    assert other.stop() == 0
    after = make_job()
    assert watch.until(after.id, lambda job: job.status == "succeeded").worker == running.worker
    assert is_alive(child)
    assert watch.statuses(job.id) == ["queued", "running", "queued", "running", "succeeded"]
    assert "has lost its lease: " in frozen.log.read_text()


def freeze(pid: int, engine: Engine) -> None:
    """SIGSTOP a process between its transactions: within one it would keep SQLite's lock, and everybody waiting."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        with closing(sqlite3.connect(engine.url.database or "", timeout=0.05, isolation_level=None)) as probe:
            try:
                probe.execute("BEGIN EXCLUSIVE")
                return
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02)
