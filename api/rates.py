"""Rate limits: requests per fixed window, counted in the broker's Redis for all processes together.

A count is `INCR` and `EXPIRE` on `loopline:limit:<what>:<who>:<window>`: one round trip, no script. If Redis
does not answer within 0.2 s, it is not asked for a few seconds, and each process counts its own requests. So no request
fails, and none waits long, while the broker is down.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.bell import TIMEOUT_SECONDS
from services.errors import RateLimited

PREFIX = "loopline:limit:"
PAUSE_SECONDS = 5.0
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}

log = logging.getLogger(__name__)


class Rate(NamedTuple):
    """At most so many in so many seconds."""

    most: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Rate | None:
        """`200 per 10 seconds`, as `Settings.rate_limit` has it; None for `none`."""
        found = re.fullmatch(r"(\d+) per (?:(\d+) )?(second|minute|hour)s?", text)
        return cls(int(found[1]), int(found[2] or 1) * _SECONDS[found[3]]) if found else None


FAILURES = Rate(10, 60)
"""Wrong keys that one address may show."""


class Rates:
    """Counts against `rate`; without one only what brings its own. Making it does not connect."""

    def __init__(self, broker_url: str, rate: Rate | None, *, clock: Callable[[], float] = time.time) -> None:
        self._rate, self._clock = rate, clock
        self._redis = redis.Redis.from_url(
            broker_url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._silent_until = 0.0
        self._own: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, what: str, who: str, rate: Rate | None = None) -> None:
        """One more of `what` by `who`.

        Raises:
            RateLimited: there were too many in this window; it says when the next one begins.
        """
        rate = rate or self._rate
        if rate is None:
            return
        at = self._clock()
        window = int(at // rate.seconds)
        if self._counted(f"{PREFIX}{what}:{who}:{window}", rate.seconds) > rate.most:
            wait = max(1, math.ceil((window + 1) * rate.seconds - at))
            raise RateLimited(
                f"There were more than {rate.most} requests in {rate.seconds} s; go on in {wait} s.",
                retry_after_seconds=wait,
            )

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    def _counted(self, key: str, seconds: int) -> int:
        if time.monotonic() >= self._silent_until:
            try:
                with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.incr(key)
                    pipeline.expire(key, 2 * seconds)
                    return int(pipeline.execute()[0])
            except (redis.RedisError, OSError) as error:
                self._silent_until = time.monotonic() + PAUSE_SECONDS
                log.warning("cannot count requests in the broker, this process counts its own: %s", error)
        return self._counted_here(key)

    def _counted_here(self, key: str) -> int:
        with self._lock:
            if len(self._own) > 10_000:  # windows that are over; those that are not begin anew, which lets more through
                self._own.clear()
            self._own[key] = self._own.get(key, 0) + 1
            return self._own[key]
