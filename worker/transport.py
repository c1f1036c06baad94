"""Celery's transport to Redis, made robust against foreign entries in a queue.

Kombu's own transport expects only its own messages: an entry that is not JSON, or not a message, ends the worker. Here
such an entry is dropped with a line in the log.
"""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu import transport
from kombu.transport import redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("dropped an entry of the queue that is not a message: %s: %.200s", type(error).__name__, error)
            raise Empty from error  # as when there was nothing


class Transport(redis.Transport):
    Channel = Channel


def use() -> None:
    """Let every connection of this process to a redis:// address go this way."""
    name = f"{__name__}:Transport"
    transport.TRANSPORT_ALIASES.update({"redis": name, "rediss": name})
