"""One pass of the scheduler: it recovers lost jobs. It keeps no state, so any number of schedulers may run at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from services import db, faults, idempotency
from services.blobs.storage import STRAY_SECONDS, Storage
from services.blobs.uploads import Uploads
from services.datasets import versions
from services.jobs import attempts, batches, control, lanes, workers
from services.jobs.doorbell import Doorbell
from services.settings import Settings
from services.upkeep import leftovers


@dataclass(frozen=True)
class Pass:
    """What one pass did."""

    expired: Sequence[str]
    """Jobs taken from lost workers, or failed because they waited too long."""
    rung: Sequence[str]
    """Queues that have runnable jobs and whose bell was rung."""
    forgotten_keys: int
    ended: Sequence[str] = ()
    """Batches whose end was recorded and announced to webhooks."""


def reconcile(engine: Engine, bell: Doorbell, settings: Settings) -> Pass:
    """One pass: expire leases, forget old idempotency keys and workers, ring every queue that has runnable jobs, tell
    of batches that have ended.

    Each queue is rung once, however many jobs wait: a worker that has found a job looks for the next one after it. A
    pass that finds nothing to do writes nothing.

    Raises:
        Unavailable: the database cannot answer; the next pass will do.
    """
    expired: Sequence[str] = ()
    forgotten = 0
    with db.read_scope(engine) as session:
        silent, stale = (
            attempts.any_expired(session, grace_seconds=settings.grace_seconds),
            idempotency.any_old(session),
        )
        left = workers.any_old(session)
    if silent:
        with db.session_scope(engine) as session:
            expired = attempts.expire(session, grace_seconds=settings.grace_seconds)
    if stale:
        with db.session_scope(engine) as session:
            forgotten = idempotency.forget_old(session)
    if left:
        with db.session_scope(engine) as session:
            workers.forget_old(session)
    with db.read_scope(engine) as session:
        waiting, over = lanes.waiting(session), batches.ended(session)
    rung = [queue for queue in waiting if bell.ring(queue)]
    return Pass(expired, rung, forgotten, [batch_id for batch_id in over if _end(engine, batch_id)])


def _end(engine: Engine, batch_id: str) -> bool:
    """In a transaction of its own: each batch holds others up for no longer than it takes."""
    with db.session_scope(engine) as session:
        ended = batches.end(session, batch_id)
    if ended:
        faults.point("batch.committed")
    return ended


def sweep(engine: Engine, storage: Storage) -> int:
    """Delete files that nothing refers to any more, old rejected data sets, and lanes without jobs; for once an hour.

    Returns how many files.
    """
    with db.session_scope(engine) as session:
        lanes.close_empty(session)
        lanes.forget(session)
        versions.forget_rejected(session)
    with db.session_scope(engine) as session:
        swept = versions.sweep(session, storage)
    with db.read_scope(engine) as session:
        left = control.without_row(session, storage.old_jobs())
        ended = control.files_of_resting(session, within_seconds=3 * STRAY_SECONDS)
    for job_id in left:
        storage.remove_job(job_id)
    swept += storage.sweep_work() + Uploads(storage).sweep()
    swept += len(left) + sum(len(storage.stray_job_files(job_id, kept)) for job_id, kept in ended.items())
    return swept if storage.objects is None else swept + leftovers.sweep_store(engine, storage.objects)
