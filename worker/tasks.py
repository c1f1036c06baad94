"""What a doorbell makes a worker do."""

from __future__ import annotations

import logging

from services import db
from services.errors import Unavailable
from worker.supervisor import Slot, claim, supervise

log = logging.getLogger(__name__)


def ring(slot: Slot, queue: object) -> int:
    """Claim the best runnable job of the queue and supervise it to its end, until none is left. Returns how many.

    The message is only a hint: it names a queue, never a job. What is no queue of this worker is ignored. A database
    that cannot answer, or has a schema that this code does not know, ends it: the scheduler rings again for what waits.
    """
    if not isinstance(queue, str) or queue not in slot.settings.queue_names:
        log.warning("a doorbell for %.100r is ignored: this worker listens to %s", queue, slot.settings.queues)
        return 0
    attempts = 0
    try:
        db.check_schema(slot.engine)
        while not slot.drain and (claimed := claim(slot, queue)) is not None:
            supervise(slot, claimed)
            attempts += 1
    except Unavailable as error:
        log.warning("nothing was claimed from %s: %s", queue, error)
    return attempts
