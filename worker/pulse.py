"""The sign of life of a worker, and its end when it has fallen deaf.

A thread beside the one that works tells the database every few seconds that the worker is there. It also sees a fault
that Celery has: after an outage of the broker a worker may be connected and never hear a bell again. A worker that is
idle, hears nothing, and leaves runnable jobs lying ends itself, so that whoever keeps it starts it anew.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from services import db, workers
from services.errors import Unavailable
from worker.slot import Slot

LONGEST_SECONDS = workers.SEEN_SECONDS / 4
END_SECONDS = 10.0
"""How long a worker that is told to end may take before it is killed."""

log = logging.getLogger(__name__)


class Pulse(threading.Thread):
    """Beats until `stop`. It starts no process: Linux would tie that to this thread's life.

    `end` is called, once, when the worker is found deaf.
    """

    def __init__(self, slot: Slot, end: Callable[[], None]) -> None:
        super().__init__(name="pulse", daemon=True)
        self._slot, self._end = slot, end
        self._seconds = min(slot.settings.renew_seconds, LONGEST_SECONDS)
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.beat()
                if self.is_deaf():
                    log.error(
                        "%s heard no bell for %g s while jobs wait for it: it takes itself for cut off and ends",
                        self._slot.worker,
                        self._slot.settings.stuck_seconds,
                    )
                    self._end()
                    return
            except Unavailable as error:
                log.warning("no sign of life could be given: %s", error)
            except Exception:  # the one edge: a mistake of ours must not still the pulse
                log.exception("the pulse met an unexpected error")
            self._stopped.wait(self._seconds)

    def beat(self) -> None:
        """Tell the database that this worker is there, and what it does. Raises Unavailable."""
        slot, ear = self._slot, self._slot.ear
        with db.session_scope(slot.engine) as session:
            workers.beat(
                session,
                slot.worker,
                queues=slot.settings.queue_names,
                state=workers.State.BUSY if ear.is_busy else workers.State.IDLE,
                job_id=ear.job_id,
                heard_seconds_ago=None if ear.heard_at is None else time.monotonic() - ear.heard_at,
            )

    def is_deaf(self) -> bool:
        """Whether it has been idle for long, unrung, with work for it waiting as long. Raises Unavailable."""
        slot, seconds = self._slot, self._slot.settings.stuck_seconds
        if slot.drain or slot.ear.idle_seconds() < seconds:
            return False
        with db.read_scope(slot.engine) as session:
            return workers.runnable_for(session, slot.settings.queue_names, seconds)

    def stop(self) -> None:
        """The worker ends in good order: take its sign of life away."""
        self._stopped.set()
        self.join(END_SECONDS if self.is_alive() else 0)
        try:
            with db.session_scope(self._slot.engine) as session:
                workers.gone(session, self._slot.worker)
        except Unavailable as error:
            log.warning("the end of %s could not be told: %s", self._slot.worker, error)


def end_parent(parent: int, seconds: float | None = None) -> None:
    """Tell Celery's main process, our parent, to end; kill it when it has not after `seconds` (END_SECONDS)."""
    seconds = END_SECONDS if seconds is None else seconds
    os.kill(parent, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.1)
    if os.getppid() == parent:
        log.error("Celery's main process did not end within %g s and is killed", seconds)
        os.kill(parent, signal.SIGKILL)
