"""The scheduler: `python -m worker.scheduler`. It recovers lost jobs, every few seconds.

It keeps no state. Each pass reads the database, fires due schedules, takes back jobs whose lease has expired, and
notifies the workers of queues with waiting jobs. Any number may run, and one may die without harm. Threads of its
process send webhook messages, read the inbox, check large uploads and make the trials of searches.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, logs, metrics
from services.blobs import storage
from services.errors import Unavailable
from services.jobs import control
from services.jobs.doorbell import Doorbell
from services.orm import Firing, Schedule
from services.schedules import firings, ledger
from services.settings import Settings
from services.starting import exit_on_error
from services.upkeep.census import Census
from services.upkeep.reconciler import reconcile, sweep
from worker.scheduler import checks, inbox, outbox, searches
from worker.scheduler.bell import CeleryDoorbell

SWEEP_SECONDS = 3600.0

log = logging.getLogger("worker.scheduler")


def run(settings: Settings, engine: Engine, bell: Doorbell, stop: threading.Event) -> None:
    """Reconcile every `settings.reconcile_seconds` until `stop` is set; a database that is away is tried again."""
    sweep_at = time.monotonic() + SWEEP_SECONDS
    while not stop.is_set():
        try:
            db.check_schema(engine)  # the API brings it up to date, and may not have come to that yet
            keep_schedules(engine)  # first, so that the same pass rings for what they submit
            done = reconcile(engine, bell, settings)
            log_expired(engine, done.expired)
            for batch_id in done.ended:
                log.info("batch %s has ended", batch_id)
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + SWEEP_SECONDS
                log.info("deleted %d files that nothing refers to", sweep(engine, storage.from_settings(settings)))
                with db.session_scope(engine) as session:
                    firings.forget_old(session)
        except Unavailable as error:
            log.warning("cannot look for lost jobs, will try again: %s", error)
        stop.wait(settings.reconcile_seconds)


def keep_schedules(engine: Engine) -> None:
    """Write down which batches of schedules have ended, fire what has waited for that, then what is due.

    Each in a transaction of its own, after a look that takes no lock. What is wrong with one keeps neither the others
    nor the leases of jobs waiting: it is logged, and tried again at the next pass.
    """
    steps: Sequence[tuple[Callable[[Session], Sequence[Any]], Callable[[Session, Any], Sequence[Firing]]]] = (
        (firings.ended, firings.end),
        (firings.waiting, firings.fire_waiting),
        (firings.due, firings.fire),
    )
    try:
        for look, act in steps:
            with db.read_scope(engine) as session:
                found = look(session)
            for each in found:
                _keep(engine, act, each)
    except Unavailable as error:
        log.warning("cannot process schedules, will try again: %s", error)


def _keep(engine: Engine, act: Callable[[Session, Any], Sequence[Firing]], found: Any) -> None:
    try:
        with db.session_scope(engine) as session:
            done = [(session.get_one(Schedule, firing.schedule_id).name, firing) for firing in act(session, found)]
    except Unavailable:
        raise
    except Exception:  # a defect that shows with one schedule must not stop the others, nor the process
        log.exception("cannot process a schedule (%s)", found)
        return
    for name, firing in done:
        detail = firing.message or firing.batch_id
        log.info("schedule %s (%s): %s, %s", name, firing.schedule_id, firing.outcome, detail)


def log_expired(engine: Engine, expired: Sequence[str]) -> None:
    """A line for each job that was moved, which carries the id of the request that submitted it. Raises Unavailable."""
    if expired:
        with db.read_scope(engine) as session:
            moved = control.get_many(session, expired)
        for job in moved:
            with logs.about(job_id=job.id, attempt=job.attempt, request_id=job.request_id):
                log.warning("%s: its worker is lost, or it waited too long; its status is now %s", job.id, job.status)


def main() -> None:
    with exit_on_error("Loopline's scheduler"):
        _main(Settings())


def _main(settings: Settings) -> None:
    logs.configure(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine = db.engine(settings.database_url)
    log.info("scheduler started, one pass every %g s", settings.reconcile_seconds)
    with metrics.alone(settings, Census(engine, stuck_seconds=settings.stuck_seconds)):
        metrics.expect(settings.queue_names)
        ledger.expect_counts()
        with (
            outbox.sending(settings, engine),
            inbox.watching(settings, engine),
            checks.checking(settings, engine),
            searches.advancing(engine, CeleryDoorbell(settings)),
        ):
            run(settings, engine, CeleryDoorbell(settings), stop)
    engine.dispose()
