"""The scheduler's loop: it goes on when the database does not answer, and stops when told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.jobs import attempts
from services.orm import Job
from services.settings import Settings
from tests.ringing import FakeDoorbell
from tests.worker.watching import Process, Watch
from worker.scheduler import loop


def test_jobs_of_silent_workers_come_back_and_their_queue_is_rung(
    engine: Engine, make_job: Callable[..., Job], settings: Settings, watch: Watch
) -> None:
    job = make_job()
    with db.session_scope(engine) as session:
        attempts.claim(session, "default", worker="gone:1", lease_seconds=60)
        session.execute(sa.update(Job).values(lease_until=db.now() - 100))
    bell, stop = FakeDoorbell(), threading.Event()
    thread = threading.Thread(target=loop.run, args=(settings, engine, bell, stop))
    thread.start()
    watch.until(job.id, lambda job: job.status == "queued" and job.lost == 1, 5)
    watch.until(job.id, lambda _: bell.rung, 5)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_the_scheduler_waits_for_tables_and_then_works(settings: Settings, tmp_path: Path) -> None:
    engine = db.engine(f"sqlite:///{tmp_path}/late.db")
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(settings, engine, FakeDoorbell(), stop))
    thread.start()
    db.migrate(engine)
    assert thread.is_alive()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    engine.dispose()


def test_the_scheduler_stops_when_told(start: Callable[..., Process]) -> None:
    process = start("worker.scheduler")
    while b"scheduler started" not in process.log.read_bytes():
        assert process.popen.poll() is None
    assert process.stop(5) == 0
