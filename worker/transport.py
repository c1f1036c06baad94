"""Celery's way to Redis, which survives whatever lies in a queue.

Kombu's own takes for granted that a queue holds nothing but its messages: a text that is no JSON, or JSON that is no
message, ends the worker. Here it is dropped with a line in the log.
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
