"""Sends the messages in the outbox of webhooks, in threads of the scheduler's process, so that a receiver that hangs
delays nothing else. Any number of schedulers may run.

A sender holds a lease on its message in the database. So no message is lost if a thread or process dies, and the
process does not wait for these threads when it ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from services import db, faults
from services.errors import Unavailable
from services.settings import Settings
from services.webhooks import subscriptions
from services.webhooks.addresses import Guard
from services.webhooks.posting import SendResult, post
from services.webhooks.subscriptions import Message

LOOK_SECONDS = 1.0
MOST = 16
"""Messages that a process sends at once."""
MOST_EACH = 2
"""To one webhook."""
FORGET_SECONDS = 3600.0
FORGET_AT_ONCE = 10_000
LEAVE_SECONDS = 3.0
"""What is under way may take so long when the process ends; the rest is sent again by another."""

log = logging.getLogger(__name__)


@contextmanager
def sending(settings: Settings, engine: Engine) -> Iterator[None]:
    """Send what is due, in threads, until the block ends."""
    outbox = Outbox(settings, engine)
    thread = threading.Thread(target=outbox.run, name="outbox", daemon=True)
    thread.start()
    try:
        yield
    finally:
        outbox.stop.set()
        thread.join(LEAVE_SECONDS)
        outbox.drain(LEAVE_SECONDS)


class Outbox:
    """What one process is sending now."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._guard = Guard(settings.webhook_networks, https_only=settings.production)
        self._engine = engine
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._wake = threading.Event()
        self.stop = threading.Event()

    def run(self) -> None:
        """Look for messages every second, and whenever one was sent, until `stop` is set."""
        forget_at = time.monotonic() + FORGET_SECONDS
        while not self.stop.is_set():
            self._wake.clear()
            try:
                db.check_schema(self._engine)
                while not self.stop.is_set() and self.send_one():
                    pass
                if time.monotonic() >= forget_at:
                    with db.session_scope(self._engine) as session:
                        gone = subscriptions.forget_old(session, FORGET_AT_ONCE)
                    with db.session_scope(self._engine) as session:
                        subscriptions.forget_spent(session)
                    forget_at = time.monotonic() + (FORGET_SECONDS if gone < FORGET_AT_ONCE else 0.0)
            except Unavailable as error:
                log.warning("cannot send webhooks: %s", error)
            except Exception:
                log.exception("cannot send webhooks")
            self._wake.wait(LOOK_SECONDS)

    def send_one(self) -> bool:
        """Claim a message and send it in a thread of its own; False when none is due, or enough are under way.

        Raises:
            Unavailable: the database cannot answer.
        """
        with self._lock:
            full = [webhook for webhook, count in self._busy.items() if count >= MOST_EACH]
            if self._busy.total() >= MOST:
                return False
        with db.read_scope(self._engine) as session:
            if not subscriptions.any_due(session):
                return False
        with db.session_scope(self._engine) as session:
            message = subscriptions.claim(session, without=full)
        if message is None:
            return False
        faults.point("webhook.claimed")
        with self._lock:
            self._busy[message.webhook_id] += 1
        threading.Thread(target=self._send, args=(message,), name=message.id, daemon=True).start()
        return True

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is under way, at most so long; whether it came to that."""
        until = time.monotonic() + seconds
        while True:
            self._wake.clear()
            with self._lock:
                if not self._busy:
                    return True
            if not self._wake.wait(max(0.0, until - time.monotonic())):
                return False

    def _send(self, message: Message) -> None:
        try:
            deliver(self._engine, self._guard, message)
        except Unavailable as error:  # the lease runs out, and it is sent again
            log.warning(
                "message %s was sent, but the database cannot record it; it will be sent again: %s", message.id, error
            )
        except Exception:
            log.exception("cannot send message %s to webhook %s", message.id, message.webhook_id)
        finally:
            with self._lock:
                self._busy[message.webhook_id] -= 1
                self._busy += Counter()  # drops what is at 0
            self._wake.set()


def deliver(engine: Engine, guard: Guard, message: Message) -> None:
    """Send a claimed message and record the result. Raises Unavailable."""
    try:
        outcome = post(guard, message.url, message.secrets, message.id, message.body)
    except Exception:  # ours: it must not be sent for ever, a lease at a time
        log.exception("cannot send message %s to webhook %s", message.id, message.webhook_id)
        outcome = SendResult(None, "Something went wrong inside Loopline; the scheduler's log has the traceback.")
    faults.point("webhook.sent")
    with db.session_scope(engine) as session:
        subscriptions.record(session, message, outcome)
    if not outcome.delivered:
        log.warning(
            "cannot deliver message %s, attempt %d, to webhook %s: %s",
            message.id,
            message.attempt,
            message.webhook_id,
            outcome.error,
        )
