"""The doorbell of the API: a Celery message sent by task name, so that the API imports nothing of the worker.

A lost doorbell does no harm, because the scheduler sends another one for waiting jobs. So sending must never delay a
request: it times out after 0.2 s, and after a failure the API does not try the broker again for 1 s.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from functools import lru_cache
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from services import metrics
from services.jobs.doorbell import RING

TIMEOUT_SECONDS = 0.2
PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class CeleryDoorbell:
    """Rings through the broker at `broker_url`. Making one does not connect."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("loopline-bell", broker=broker_url, set_as_current=False)  # type: ignore[no-untyped-call]
        self._app.conf.update(
            broker_connection_timeout=TIMEOUT_SECONDS,
            broker_connection_retry=False,
            broker_transport_options={
                "socket_connect_timeout": TIMEOUT_SECONDS,
                "socket_timeout": TIMEOUT_SECONDS,
                "max_retries": 0,
            },
            task_ignore_result=True,
            task_publish_retry=False,
            task_serializer="json",
        )
        # To build a message takes longer than to send it.
        self._template = lru_cache(maxsize=100)(self._built)
        self._one_at_a_time = threading.Lock()  # or sixty-four requests would each wait for a broker that is down
        self._silent_until = 0.0

    def ring(self, queue: str) -> bool:
        """Says that `queue` may have work; whether the broker took it. Never raises, never takes long.

        A connection that died while idle is noticed at once and costs a second try, no more.
        """
        with self._one_at_a_time:
            began = time.monotonic()
            if began < self._silent_until:
                metrics.BELLS.inc(result="failed")
                return False
            error = self._send(queue)
            if error and time.monotonic() - began < TIMEOUT_SECONDS / 2:
                error = self._send(queue)
            if error:
                self._silent_until = time.monotonic() + PAUSE_SECONDS
                log.warning(
                    "cannot reach the broker to notify workers of the queue %s; the scheduler will: %s", queue, error
                )
            metrics.BELLS.inc(result="failed" if error else "rung")
            return error is None

    def _send(self, queue: str) -> Exception | None:
        """What went wrong, if anything."""
        try:
            with self._app.producer_pool.acquire(block=True) as producer:
                producer.publish(**self._message(queue))
        except (OperationalError, RedisError, OSError) as error:
            return error
        return None

    def _built(self, queue: str) -> Any:
        return self._app.amqp.as_task_v2("", RING, args=[queue], ignore_result=True)

    def _message(self, queue: str) -> dict[str, Any]:
        """What `Celery.send_task` sends."""
        message, task_id = self._template(queue), str(uuid.uuid4())
        return {
            "body": message.body,
            "headers": {**message.headers, "id": task_id, "root_id": task_id},
            "exchange": "",
            "routing_key": queue,
            "serializer": "json",
            **message.properties,
            "correlation_id": task_id,
        }
