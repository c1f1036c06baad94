"""Deletes, once an hour, objects that no row refers to and old cache files. Processes that died or froze leave them.

Young objects are kept, because a blob is written before the row that refers to it.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.blobs.objects import S3
from services.blobs.storage import STRAY_SECONDS, Storage
from services.blobs.transfers import LOOK_SECONDS, dataset_key
from services.datasets import versions
from services.jobs import control

CACHE_SECONDS = 24 * 3600.0
"""A data set that no job of a host has needed for so long leaves that host's folder."""


def sweep_store(engine: Engine, store: S3) -> int:
    """Delete objects that nothing refers to any more, and give up uploads that broke off; returns how many.

    Raises Unavailable when the database or the store cannot answer; the next time will do.
    """
    abandoned = store.abandon_parts(time.time() - STRAY_SECONDS)
    return abandoned + _sweep_datasets(engine, store) + _sweep_jobs(engine, store)


def sweep_cache(engine: Engine, storage: Storage, store: S3) -> int:
    """Delete what a worker's folder holds of jobs that rest or went on elsewhere, and data sets that were not needed
    lately, where the object store has them. Returns how many. Raises Unavailable."""
    idle = storage.old_jobs()
    with db.read_scope(engine) as session:
        kept = control.running(session, idle) | control.unshared(session, idle)
    unused = [sha256 for sha256 in storage.old_datasets(CACHE_SECONDS) if store.has(dataset_key(sha256))]
    return storage.sweep_cache([job_id for job_id in idle if job_id not in kept], unused, CACHE_SECONDS)


def _sweep_datasets(engine: Engine, store: S3) -> int:
    old = [found.key for found in store.list("datasets/") if _is_old(found.modified)]
    with db.read_scope(engine) as session:
        wanted = _wanted(session)
    unwanted = [key for key in old if key not in wanted]
    for key in unwanted:
        # Uploads wait for the same lock, and on SQLite every writer does: one object, and not for long.
        with db.session_scope(engine) as session:
            if key not in _wanted(session):
                store.delete([key], LOOK_SECONDS)
    return len(unwanted)


def _wanted(session: Session) -> Collection[str]:
    return {dataset_key(sha256) for sha256 in versions.hashes(session)}


def _sweep_jobs(engine: Engine, store: S3) -> int:
    folders = list(store.folders("jobs/"))
    with db.read_scope(engine) as session:
        left = control.without_row(session, folders)
        resting = control.files_of_resting(session, within_seconds=3 * STRAY_SECONDS)
    strays = [found.key for job_id in left for found in store.list(f"jobs/{job_id}/")]
    for job_id, kept in resting.items():
        found = store.list(f"jobs/{job_id}/")
        strays += [one.key for one in found if one.key not in kept and _is_old(one.modified)]
    store.delete(strays)
    return len(strays)


def _is_old(modified: float) -> bool:
    return modified < time.time() - STRAY_SECONDS
