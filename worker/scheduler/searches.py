"""Makes the trials of searches, in a thread of the scheduler. Any number of schedulers may run.

A look costs two indexes. Optuna is imported at the first trial, so a service without searches never pays for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from services import db, faults
from services.errors import Unavailable
from services.jobs.doorbell import Doorbell
from services.searches import advance
from services.searches.advance import Did

LOOK_SECONDS = 0.5
LEAVE_SECONDS = 3.0
"""A suggestion that is under way when the process ends may take so long; the next scheduler makes the same one."""

log = logging.getLogger(__name__)


@contextmanager
def advancing(engine: Engine, bell: Doorbell) -> Iterator[None]:
    """Make trials when they are due, in a thread, until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(engine, bell, stop), name="searches", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LEAVE_SECONDS)


def _run(engine: Engine, bell: Doorbell, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            db.check_schema(engine)
            look(engine, bell, stop)
        except Unavailable as error:
            log.warning("cannot make trials of searches, will try again: %s", error)
        except Exception:
            log.exception("cannot look for searches that are due")
        stop.wait(LOOK_SECONDS)


def look(engine: Engine, bell: Doorbell, stop: threading.Event | None = None) -> None:
    """Do once what is due of each search, as often as there is more to do of it.

    What is wrong with one search does not keep the others waiting: it is logged, and tried again at the next look.

    Raises:
        Unavailable: the database cannot answer.
    """
    with db.read_scope(engine) as session:
        found = advance.due(session)
    for search_id in found:
        try:
            while (stop is None or not stop.is_set()) and _advance(engine, bell, search_id):
                pass
        except Unavailable:
            raise
        except Exception:
            log.exception("cannot make a trial of the search %s", search_id)


def _advance(engine: Engine, bell: Doorbell, search_id: str) -> bool:
    """Whether there may be more to do."""
    step = advance.advance(engine, search_id)
    what = f"trial {step.trial}" if step.trial else "the final model"
    if step.did == Did.MADE and step.job is not None:
        log.info("search %s: %s is the job %s", search_id, what, step.job.id)
        faults.point("bell.due")
        bell.ring(step.job.queue)
    elif step.did == Did.REFUSED:
        log.info("search %s: %s was refused: %s", search_id, what, step.message)
    elif step.did == Did.WAITS:
        log.info("search %s: %s has to wait: %s", search_id, what, step.message)
    elif step.did == Did.PAUSED:
        log.info("search %s was paused: %s", search_id, step.message)
    elif step.did == Did.ENDED:
        log.info("search %s has ended: %s", search_id, step.message)
    return step.did in (Did.MADE, Did.REFUSED)
