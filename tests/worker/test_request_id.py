"""One id follows a job through the logs of the API, the worker, its trainer and the scheduler."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.jobs import attempts
from services.orm import Job
from services.training.spec import Spec
from tests.ports import free_port
from tests.rows import create_job
from tests.worker.watching import Process, Watch
from worker import tasks
from worker.scheduler.bell import CeleryDoorbell

Start = Callable[..., Process]
SPEC = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 2},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}
CELERY = ("worker.start", "worker.app", "--without-heartbeat")


def lines(process: Process, request_id: str) -> list[dict[str, Any]]:
    """What `grep REQUEST_ID` finds, all of it JSON."""
    return [json.loads(line) for line in process.log.read_text().splitlines() if request_id in line]


def test_grep_for_a_request_id_shows_the_life_of_its_job(start: Start, watch: Watch, bell: CeleryDoorbell) -> None:
    """A job that is submitted over HTTP and trained by the real trainer."""
    port = free_port()
    api, worker = start("api", port=port), start(*CELERY)
    with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
        sent = client.post(f"http://127.0.0.1:{port}/v1/jobs", json=SPEC, headers={"X-Request-Id": "night-7"})
    job_id = sent.json()["id"]
    bell.ring("default")
    done = watch.until(job_id, lambda job: job.status == "succeeded", 60)
    best = (done.result or {})["best_epoch"]
    assert worker.stop() == 0
    assert api.stop(30) == 0
    said = [(line["logger"], line["event"]) for line in (*lines(api, "night-7"), *lines(worker, "night-7"))]
    assert [each for each in said if "because compiled layers are not available" not in each[1]] == [
        ("api.resources.jobs", f"{job_id}: submitted to the queue default"),
        ("api.access", "POST /v1/jobs 202"),
        ("worker.attempt.supervisor", f"{job_id}: attempt 1 begins"),
        ("trainer", "training begins on cpu at step 0: 2 epochs of 1 steps"),
        ("trainer", f"training ended after 2 epochs; the best was {best}"),
        ("worker.attempt.record", f"{job_id}: attempt 1 succeeded"),
    ]
    assert {line["request_id"] for line in (*lines(api, "night-7"), *lines(worker, "night-7"))} == {"night-7"}
    of_worker = lines(worker, "night-7")
    assert {(line["job_id"], line["attempt"]) for line in of_worker} == {(job_id, 1)}


def test_the_scheduler_names_the_request_of_a_job_that_it_takes_back(
    start: Start, engine: Engine, make_spec: Callable[..., Spec], watch: Watch
) -> None:
    with db.session_scope(engine) as session:
        job = create_job(session, make_spec(), request_id="night-7")
    with db.session_scope(engine) as session:
        attempts.claim(session, "default", worker="gone:1", lease_seconds=60)
        session.execute(sa.update(Job).values(lease_until=db.now() - 100))
    scheduler = start("worker.scheduler")
    watch.until(job.id, lambda job: job.status == "queued" and job.lost == 1)
    assert scheduler.stop(5) == 0
    [line] = lines(scheduler, "night-7")
    assert (line["logger"], line["level"], line["job_id"]) == ("worker.scheduler", "warning", job.id)
    assert line["event"].startswith(f"{job.id}: its worker is lost")


def test_what_a_trainer_logs_prints_and_dies_of_is_in_the_workers_log(
    make_job: Callable[..., Job], make_slot: Callable[..., Any], caplog: Any
) -> None:
    caplog.set_level("DEBUG", logger="trainer")
    make_job(tags={"stub": "talk"})
    make_job(tags={"stub": "exit"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "trainer"]
    assert {
        ("INFO", "all is well"),
        ("WARNING", "less is well"),
        ("WARNING", "Half of it."),
        ("INFO", "one line"),
        ("INFO", "progress 2"),
        ("DEBUG", "epoch 1: train_loss 0.25"),
        ("DEBUG", "checkpoint at step 4"),
        ("INFO", "training ended after 3 epochs; the best was 3"),
        ("INFO", "Traceback: the stub gives up"),
    } <= set(said)
    [failed] = [text for level, text in said if level == "ERROR"]
    assert re.match(r"training failed: trainer_crashed: The trainer ended with exit status 7", failed)


def test_a_flood_of_printed_lines_is_no_flood_of_the_workers_log(
    make_job: Callable[..., Job], make_slot: Callable[..., Any], watch: Watch, caplog: Any
) -> None:
    job = make_job(tags={"stub": "chatter"})
    tasks.ring(make_slot(), "default")
    written = [record for record in caplog.records if record.name == "trainer"]
    assert len(written) <= len(watch.lines(job.id)) + 10
    assert watch.job(job.id).log_lines < 10_000
