"""The Celery task that a doorbell starts: claim jobs and run them."""

from __future__ import annotations

import logging

from services import db
from services.errors import SchemaMismatch, Unavailable
from worker.attempt.slot import Slot
from worker.attempt.supervisor import claims, supervise

PAUSES = (0.5, 2.0)
"""Seconds before a database that did not answer is asked again, for the sake of what a claim may have taken there."""

log = logging.getLogger(__name__)


def ring(slot: Slot, queue: object) -> int:
    """Claim the best runnable job of the queue and supervise it to its end, until none is left. Returns how many.

    The message is only a hint: it names a queue, never a job. What is no queue of this worker is ignored. A database
    that cannot answer, or has a schema that this code does not know, ends it: the scheduler rings again for what waits.
    """
    if not isinstance(queue, str) or queue not in slot.settings.queue_names:
        log.warning(
            "ignored a notification for the queue %.100r: this worker listens to %s", queue, slot.settings.queues
        )
        return 0
    slot.activity.begin()
    try:
        return _work_off(slot, queue)
    finally:
        slot.activity.end()


def _work_off(slot: Slot, queue: str) -> int:
    attempts = 0
    for pause in (*PAUSES, 0.0):
        try:
            db.check_schema(slot.engine)
            for claimed in claims(slot, queue):
                supervise(slot, claimed)
                attempts += 1
            break
        except Unavailable as error:
            log.warning("cannot claim a job from the queue %s: %s", queue, error)
            if isinstance(error, SchemaMismatch) or slot.drain.wait(pause):
                break
    return attempts
