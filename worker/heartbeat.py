"""The heartbeat of a worker, and its end if it no longer receives messages or has lost its GPU.

A thread writes a heartbeat to the database every few seconds. It also detects a fault of Celery: after an outage of the
broker a worker may be connected and never receive a message again. An idle worker that receives nothing while runnable
jobs wait ends itself, so that its supervisor (Docker, `python -m worker`) restarts it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from services import db
from services.errors import Unavailable
from services.jobs import workers
from worker.attempt.slot import Slot
from worker.drain import Drain

LONGEST_SECONDS = workers.SEEN_SECONDS / 4
END_SECONDS = 10.0
"""How long a worker that was asked to end may take before it is killed."""

log = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Beats until `stop`. It starts no process: Linux would tie that to this thread's life.

    `end` is called, once, when the worker receives no doorbells any more, or has lost its GPU.
    """

    def __init__(self, slot: Slot, end: Callable[[], None]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._slot, self._end = slot, end
        self._seconds = min(slot.settings.renew_seconds, LONGEST_SECONDS)
        self._stopped = Drain()
        self._is_draining = self._is_ending = False

    def run(self) -> None:
        while not self._stopped:
            try:
                self.beat()
                if (reason := self.reason_to_end()) is not None:
                    log.error("worker %s ends: %s", self._slot.worker, reason)
                    self._is_ending = True
                    self._end()
                    return
            except Unavailable as error:
                log.warning("cannot write this worker's heartbeat: %s", error)
            except Exception:  # the one edge: a mistake of ours must not stop the heartbeat
                log.exception("unexpected error in the heartbeat")
            self._pause()

    def _pause(self) -> None:
        """Wait until the next heartbeat is due: at once when the worker begins to shut down."""
        flags = [self._stopped] if self._is_draining else [self._stopped, self._slot.drain]
        select.select([flag.fd for flag in flags], [], [], self._seconds)

    def reason_to_end(self) -> str | None:
        """Why this worker had better be started anew; None when it is well. Raises Unavailable."""
        if self.is_broken() and not self._slot.activity.is_busy:
            return self._slot.gpu.trouble
        if self.is_cut_off():
            seconds = self._slot.settings.stuck_seconds
            return f"it received no doorbell for {seconds:g} s while jobs wait for it"
        return None

    def beat(self) -> None:
        """Tell the database that this worker is there, and what it does. Raises Unavailable."""
        slot, activity = self._slot, self._slot.activity
        device = slot.spares.device()
        self._is_draining = bool(slot.drain)
        with db.session_scope(slot.engine) as session:
            workers.beat(
                session,
                slot.worker,
                queues=() if self._is_draining else slot.settings.queue_names,
                state=self.state(),
                job_id=activity.job_id,
                doorbell_seconds_ago=None if activity.doorbell_at is None else time.monotonic() - activity.doorbell_at,
                device=None if device is None else device.name,
                memory_bytes=None if device is None else device.memory,
            )

    def state(self) -> workers.State:
        if self.is_broken():
            return workers.State.BROKEN
        return workers.State.BUSY if self._slot.activity.is_busy else workers.State.IDLE

    def is_broken(self) -> bool:
        """Whether the GPU is gone. A trainer that holds it open may go on for long; nothing is claimed after its job,
        and then the worker ends: its fleet tests the GPU before it starts another."""
        return not self._slot.gpu.look()

    def is_cut_off(self) -> bool:
        """Whether it has been idle for long, unrung, with work for it waiting as long. Raises Unavailable."""
        slot, seconds = self._slot, self._slot.settings.stuck_seconds
        if slot.drain or slot.activity.idle_seconds() < seconds:
            return False
        with db.read_scope(slot.engine) as session:
            return workers.runnable_for(session, slot.settings.queue_names, seconds)

    def stop(self) -> None:
        """The worker ends in good order: take its sign of life away."""
        self._stopped.raise_flag()
        if self.is_alive() and not self._is_ending:  # then it waits for the main process, and that for us
            self.join(END_SECONDS)
        if not self.is_alive():
            self._stopped.close()
        try:
            with db.session_scope(self._slot.engine) as session:
                workers.remove(session, self._slot.worker)
        except Unavailable as error:
            log.warning("cannot remove worker %s from the list of workers: %s", self._slot.worker, error)


def end_parent(parent: int, seconds: float | None = None) -> None:
    """Tell Celery's main process, our parent, to end; kill it when it has not after `seconds` (END_SECONDS)."""
    seconds = END_SECONDS if seconds is None else seconds
    os.kill(parent, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.1)
    if os.getppid() == parent:
        log.error("Celery's main process did not end within %g s; killing it", seconds)
        os.kill(parent, signal.SIGKILL)
