"""A real Celery worker with a real broker: signals, kills and bells. The trainer is the stub."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import uuid
from collections.abc import Callable

import pytest
import redis
from sqlalchemy.engine import Engine

from services import db
from services.blobs.storage import Storage
from services.jobs import control
from services.orm import Job
from services.settings import Settings
from tests.worker.watching import Process, Watch, wait_for_death
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
StartWorker = Callable[..., Process]


def test_a_bell_makes_a_worker_run_the_job(
    make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, watch: Watch
) -> None:
    worker, job = start_worker(), make_job()
    assert bell.ring("default")
    done = watch.until(job.id, lambda job: job.status == "succeeded")
    host, pid, token = (done.worker or "").split(":")
    assert (done.attempt, host, int(pid), len(token)) == (1, os.uname().nodename, worker.pool_child(), 6)
    assert worker.stop() == 0


def test_trainers_are_told_no_addresses(
    make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, watch: Watch
) -> None:
    start_worker()
    job = make_job()
    bell.ring("default")
    trainer = watch.until(job.id, lambda job: job.status == "succeeded").trainer
    assert trainer is not None
    assert not [name for name in trainer["environment"] if name.startswith(("LOOPLINE_", "CELERY_", "FORKED_"))]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_on_postgresql_runs_the_job(
    make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, watch: Watch
) -> None:
    worker, job = start_worker(), make_job()
    bell.ring("default")
    watch.until(job.id, lambda job: job.status == "succeeded")
    worker.stop()


def test_a_killed_trainer_is_followed_by_an_attempt_that_goes_on(
    make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, watch: Watch, storage: Storage
) -> None:
    worker, job = start_worker(), make_job(tags={"stub": "deaf", "times": "1"})
    bell.ring("default")
    running = watch.until(job.id, lambda job: job.step == 5)
    assert running.trainer is not None
    os.kill(running.trainer["pid"], signal.SIGKILL)
    done = watch.until(job.id, lambda job: job.status == "succeeded", 5)
    assert done.trainer is not None
    assert (done.attempt, done.failures, done.trainer["resumed_from"]) == (2, 1, {"epoch": 1, "step": 4})
    worker.stop()


def test_a_killed_supervisor_takes_its_trainer_along_and_the_scheduler_brings_the_job_back(
    make_job: MakeJob, start_worker: StartWorker, start: Callable[..., Process], bell: CeleryDoorbell, watch: Watch
) -> None:
    worker, job = start_worker(), make_job(tags={"stub": "deaf", "times": "1"})
    bell.ring("default")
    running = watch.until(job.id, lambda job: job.step == 5)
    assert running.trainer is not None
    os.kill(worker.pool_child(), signal.SIGKILL)
    wait_for_death(running.trainer["pid"], 1)
    start("worker.scheduler")  # the lease is 4 s
    done = watch.until(job.id, lambda job: job.status == "succeeded")
    assert (done.attempt, done.failures) == (2, 0)


def test_a_killed_worker_leaves_no_process_and_another_goes_on(
    make_job: MakeJob, start_worker: StartWorker, start: Callable[..., Process], bell: CeleryDoorbell, watch: Watch
) -> None:
    worker, job = start_worker(), make_job(tags={"stub": "deaf", "times": "1"})
    bell.ring("default")
    running = watch.until(job.id, lambda job: job.step == 5)
    child = worker.pool_child()
    worker.kill()
    assert running.trainer is not None
    for pid in (child, running.trainer["pid"]):
        wait_for_death(pid, 1)
    start_worker()
    start("worker.scheduler")
    assert watch.until(job.id, lambda job: job.status == "succeeded").attempt == 2
    assert watch.statuses(job.id) == ["queued", "running", "queued", "running", "succeeded"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, watch: Watch, number: signal.Signals
) -> None:
    worker, job = start_worker(), make_job(tags={"stub": "hold"})
    bell.ring("default")
    running = watch.until(job.id, lambda job: job.step == 1)
    assert worker.stop(8, number) == 0
    given = watch.job(job.id)
    assert (given.status, given.failures, given.lost, given.checkpoint_step) == ("queued", 0, 0, 1)
    assert running.trainer is not None
    wait_for_death(running.trainer["pid"], 1)


def test_a_job_is_cancelled_while_it_runs(
    engine: Engine, make_job: MakeJob, start_worker: StartWorker, bell: CeleryDoorbell, watch: Watch
) -> None:
    start_worker()
    job, behind = make_job(tags={"stub": "hold"}), make_job()
    bell.ring("default")
    watch.until(job.id, lambda job: job.step == 1)
    with db.session_scope(engine) as session:
        control.cancel(session, job.id)
    assert watch.until(job.id, lambda job: job.status != "running", 3).status == "cancelled"
    watch.until(behind.id, lambda job: job.status == "succeeded", 5)


def test_a_job_whose_bell_was_lost_is_rung_again_by_the_scheduler(
    make_job: MakeJob, start_worker: StartWorker, start: Callable[..., Process], watch: Watch
) -> None:
    start_worker()
    job = make_job()
    start("worker.scheduler")
    watch.until(job.id, lambda job: job.status == "succeeded")


def test_fifty_bells_for_one_job_make_one_attempt(
    make_job: MakeJob, start_worker: StartWorker, settings: Settings, watch: Watch
) -> None:
    job = make_job()
    ring_raw(settings, *[message("default")] * 50)
    start_worker()
    watch.until(job.id, lambda job: job.status == "succeeded")
    with redis.Redis.from_url(settings.broker_url) as client:
        wait_until_empty(client)
    assert watch.statuses(job.id) == ["queued", "running", "succeeded"]


def test_garbage_on_the_queue_is_ignored_and_the_worker_goes_on(
    make_job: MakeJob, start_worker: StartWorker, settings: Settings, bell: CeleryDoorbell, watch: Watch
) -> None:
    worker = start_worker()
    child = worker.pool_child()
    ring_raw(
        settings,
        message("night"),
        message(),
        message("default", "default"),
        message({"a": [None]}),
        message("default", task="worker.unknown"),
        message("default", content_type="application/x-python-serialize"),
        message("default", content_type="text/plain"),
        message("default", body="bm90IGpzb24="),
        "no JSON",
        b"\xff\xfe",
        "5",
        "[]",
        "{}",
        '{"body": 1, "properties": null}',
    )
    job = make_job()
    ring_raw(settings, message("default"))
    watch.until(job.id, lambda job: job.status == "succeeded")
    assert worker.pool_child() == child


def test_a_waiting_bell_is_not_rung_a_second_time(settings: Settings, bell: CeleryDoorbell) -> None:
    assert bell.ring("default")
    assert bell.ring("default")
    with redis.Redis.from_url(settings.broker_url) as client:
        assert client.llen("default") == 1


def test_a_bell_without_a_broker_says_so(settings: Settings) -> None:
    bell = CeleryDoorbell(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    assert not bell.ring("default")


def message(
    *arguments: object,
    task: str = "worker.ring",
    content_type: str = "application/json",
    body: str | None = None,
) -> str:
    """A Celery message as it lies in a Redis list."""
    content = json.dumps([arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    identity = str(uuid.uuid4())
    return json.dumps(
        {
            "body": body or base64.b64encode(content.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": identity, "root_id": identity, "ignore_result": True},
            "properties": {
                "correlation_id": identity,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "default"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": identity,
            },
        }
    )


def ring_raw(settings: Settings, *messages: str | bytes) -> None:
    with redis.Redis.from_url(settings.broker_url) as client:
        client.lpush("default", *messages)


def wait_until_empty(client: redis.Redis) -> None:
    deadline = time.monotonic() + 10
    while client.llen("default") or client.hlen("unacked"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
