"""Every process of the service dies at once, or its broker forgets everything: what was accepted runs all the same."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import redis
from sqlalchemy.engine import Engine

from services.blobs.storage import Storage
from services.orm import Job
from services.settings import Settings
from tests.worker.watching import Process, Watch, wait_for_death
from worker import tasks
from worker.attempt.slot import Slot
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
StartWorker = Callable[..., Process]


def test_every_worker_and_the_scheduler_die_and_new_ones_lose_nothing(
    make_job: MakeJob,
    start_worker: StartWorker,
    start: Callable[..., Process],
    bell: CeleryDoorbell,
    watch: Watch,
) -> None:
    """kill -9 every worker and the scheduler, then start new ones."""
    short = {"lease_seconds": 2.0, "renew_seconds": 0.2}
    old = [start_worker(**short), start_worker(**short), start("worker.scheduler", **short)]
    jobs = [make_job(tags={"stub": "deaf", "times": "1"}) for _ in range(2)] + [make_job()]
    for job in jobs[:2]:
        bell.ring("default")
        watch.until(job.id, lambda job: job.step == 5)
    for process in old:
        process.kill()
    for job in jobs[:2]:
        trainer = watch.job(job.id).trainer
        assert trainer is not None
        wait_for_death(trainer["pid"], 1)
    start_worker(**short)
    start("worker.scheduler", **short)
    done = [watch.until(job.id, lambda job: job.status == "succeeded") for job in jobs]
    assert [(job.attempt, job.failures) for job in done] == [(2, 0), (2, 0), (1, 0)]


def test_a_broker_that_forgets_everything_loses_no_job(
    make_job: MakeJob,
    start_worker: StartWorker,
    start: Callable[..., Process],
    bell: CeleryDoorbell,
    settings: Settings,
    watch: Watch,
) -> None:
    """FLUSHALL with 20 queued: all run."""
    jobs = [make_job(training={"epochs": 1}) for _ in range(20)]
    bell.ring("default")
    with redis.Redis.from_url(settings.broker_url) as client:
        client.flushall()
    start_worker()
    start("worker.scheduler")
    for job in jobs:
        assert watch.until(job.id, lambda job: job.status == "succeeded", 40).attempt == 1


def test_a_broker_that_is_full_refuses_bells_and_nothing_is_lost(
    make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, settings: Settings, watch: Watch
) -> None:
    """Out of memory, no eviction: the bell says that it was not rung, and a later one is heard.

    A worker that touches the broker meanwhile may end; whoever keeps it starts another.
    """
    start_worker()
    job = make_job()
    with redis.Redis.from_url(settings.broker_url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            assert not bell.ring("default")
            assert watch.job(job.id).status == "queued"
        finally:
            client.config_set("maxmemory", 0)
    start_worker()
    assert bell.ring("default")
    watch.until(job.id, lambda job: job.status == "succeeded")


def test_a_worker_that_ends_while_a_checkpoint_is_written_waits_for_it(
    engine: Engine, make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, storage: Storage, watch: Watch
) -> None:
    """SIGTERM while a checkpoint is being written: no half file is ever visible, and the job goes on from it."""
    worker, job = start_worker(), make_job(tags={"stub": "thorough", "times": "1"})
    bell.ring("default")
    watch.until(job.id, lambda job: job.step == 5)
    half = storage.job_dir(job.id) / "checkpoint-000000005.safetensors"
    ended = threading.Thread(target=worker.stop)
    ended.start()
    while not half.exists():
        assert ended.is_alive()
    assert not half.with_suffix(".json").exists()
    assert [row.step for row in watch.checkpoints(job.id)] == [4]
    ended.join()
    given = watch.job(job.id)
    assert (given.status, given.checkpoint_step, given.failures, given.lost) == ("queued", 5, 0, 0)
    assert half.with_suffix(".json").exists()


def test_a_trainer_that_the_kernel_kills_leaves_its_worker_alive(
    make_job: MakeJob,
    make_slot: Callable[..., Slot],
    watch: Watch,
    kernel_kills: Callable[[int], None],
) -> None:
    """Host out of memory kills the trainer: the reason says so, and the worker takes the next job."""
    kernel_kills(3)
    starved, after = make_job(tags={"stub": "hold"}, limits={"max_retries": 0}), make_job()
    slot = make_slot()

    def kill() -> None:
        running = watch.until(starved.id, lambda job: job.step == 1)
        assert running.trainer is not None
        kernel_kills(4)
        os.kill(running.trainer["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert tasks.ring(slot, "default") == 2
    killer.join()
    assert (watch.job(starved.id).status, watch.job(starved.id).reason) == ("failed", "out_of_memory_host")
    assert (watch.job(starved.id).message or "").startswith("The kernel killed the trainer because memory ran out")
    assert watch.job(after.id).status == "succeeded"
