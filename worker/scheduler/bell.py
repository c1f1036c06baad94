"""The doorbell of the scheduler, sent through the Celery app that the workers run."""

from __future__ import annotations

import logging
from contextlib import suppress

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from services import metrics
from services.jobs.doorbell import RING
from services.settings import Settings

TIMEOUT_SECONDS = 2.0

log = logging.getLogger(__name__)


class CeleryDoorbell:
    """Rings a queue, unless a bell waits there already: a long backlog must not fill the broker with bells."""

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("loopline-bell", broker=settings.broker_url, set_as_current=False)
        self._app.conf.update(
            broker_connection_timeout=TIMEOUT_SECONDS,
            broker_connection_retry=False,
            broker_transport_options={
                "socket_connect_timeout": TIMEOUT_SECONDS,
                "socket_timeout": TIMEOUT_SECONDS,
                "max_retries": 0,
            },
            task_publish_retry=False,
            task_serializer="json",
        )

    def ring(self, queue: str) -> bool:
        """Tell a worker of `queue` to look; False when the broker cannot be reached."""
        try:
            with self._app.connection_for_write() as connection:
                waiting = connection.default_channel._size(queue) > 0
                if not waiting:
                    self._app.send_task(RING, args=[queue], queue=queue, connection=connection, ignore_result=True)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("cannot reach the broker to notify workers of the queue %s, will try again: %s", queue, error)
            metrics.BELLS.inc(result="failed")
            return False
        metrics.BELLS.inc(result="waiting" if waiting else "rung")
        return True

    def close(self) -> None:
        with suppress(OperationalError, RedisError, OSError):
            self._app.close()
