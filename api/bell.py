"""The doorbell of the API: a Celery message sent by task name, so that the API imports nothing of the worker.

A lost doorbell does no harm, because the scheduler sends another one for waiting jobs. So sending must never delay a
request: it times out after 0.2 s, and after a failure the API does not try the broker again for 1 s. One thread of a
process sends at a time. It takes along the doorbells of all who come meanwhile, and nobody waits for it. When they
keep coming, a thread that does nothing else goes on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import Counter
from functools import cached_property, lru_cache
from typing import Any

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.messaging import Producer
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from services import metrics
from services.jobs.doorbell import RING

TIMEOUT_SECONDS = 0.2
PAUSE_SECONDS = 1.0
MOST_AT_ONCE = 64
"""Doorbells of a queue in one command. A worker that gets one goes on until the queue is empty, so these are enough."""
MOST_ROUNDS = 3
"""A thread that sends takes along so often what has come meanwhile; then it leaves that to a thread of its own."""
ID = "00000000-0000-0000-0000-000000000000"
"""Of a message that is not sent."""

log = logging.getLogger(__name__)


class CeleryDoorbell:
    """Rings through the broker at `broker_url`. Making one does not connect."""

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._app = Celery("loopline-bell", set_as_current=False)  # type: ignore[no-untyped-call]
        # To build a message takes longer than to send it.
        self._template = lru_cache(maxsize=100)(self._built)
        self._lock = threading.Lock()
        self._due: Counter[str] = Counter()
        """How many doorbells of each queue are to be sent."""
        self._is_sending = False
        self._silent_until = 0.0

    def ring(self, queue: str) -> bool:
        """Says that `queue` may have work. False: the message could not be sent. True: the broker took it, or another
        thread is about to send it. Never raises, never takes long.

        A connection that died while idle is noticed at once and costs a second try, no more.
        """
        with self._lock:
            self._due[queue] += 1
            if self._is_sending:
                return True
            self._is_sending = True
        result = True
        try:
            for _ in range(MOST_ROUNDS):
                due = self._taken()
                if not due:
                    return result
                result = self._rung(due) and result
            self._hand_over()
        except BaseException:
            self._is_sending = False  # or nobody would send any more
            raise
        return result

    def _hand_over(self) -> None:
        """Others ring all the time: a thread of its own sends what is due, until nothing is."""
        if due := self._taken():
            try:
                threading.Thread(target=self._go_on, args=(due,), name="bell", daemon=True).start()
            except RuntimeError as error:  # no more threads
                self._is_sending = False
                log.warning("cannot notify workers of some queues; the scheduler will: %s", error)

    def _go_on(self, due: Counter[str]) -> None:
        try:
            while due:
                self._rung(due)
                due = self._taken()
        except BaseException:
            self._is_sending = False
            raise

    def _taken(self) -> Counter[str]:
        """What is to be sent now. If that is nothing, the next thread that comes sends."""
        with self._lock:
            due, self._due = self._due, Counter()
            self._is_sending = bool(due)
            return due

    def _rung(self, due: Counter[str]) -> bool:
        began = time.monotonic()
        is_silent = began < self._silent_until
        error = None if is_silent else self._send(due)
        if error and time.monotonic() - began < TIMEOUT_SECONDS / 2:
            error = self._send(due)
        if error:
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            queues = ", ".join(sorted(due))
            log.warning(
                "cannot reach the broker to notify workers of the queue %s; the scheduler will: %s", queues, error
            )
        failed = is_silent or error is not None
        for _ in range(due.total()):
            metrics.BELLS.inc(result="failed" if failed else "rung")
        return not failed

    def _send(self, due: Counter[str]) -> Exception | None:
        """What went wrong, if anything."""
        try:
            for queue, times in due.items():
                template = self._template(queue)
                messages = (template.replace(ID, str(uuid.uuid4())) for _ in range(min(times, MOST_AT_ONCE)))
                self._connection.send_command("LPUSH", queue, *messages)
                self._connection.read_response()
        except (RedisError, OSError) as error:
            return error
        except Exception as error:
            log.exception("cannot make or send a doorbell")
            return error
        return None

    @cached_property
    def _connection(self) -> Any:
        """The one connection of the thread that sends. It connects when it is used, and again after an error."""
        pool = redis.ConnectionPool.from_url(
            self._broker_url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        return pool.make_connection()

    def _built(self, queue: str) -> str:
        """What `Celery.send_task` puts into Redis, with `ID` for each of its ids. kombu makes it, in memory."""
        task = self._app.amqp.as_task_v2(ID, RING, args=[queue], ignore_result=True)
        connection: Any = Connection("memory://")  # type: ignore[no-untyped-call]
        producer: Any = Producer(connection)  # type: ignore[no-untyped-call]
        with connection, producer:
            how = {"exchange": "", "routing_key": queue, "serializer": "json"}
            producer.publish(task.body, headers=task.headers, **how, **task.properties)
            message = producer.channel._get(queue)
        message["properties"]["delivery_tag"] = ID
        return json.dumps(message)
