"""Long polls: an answer waits until the resource changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from flask import Response, request
from werkzeug.datastructures import ETags

from api.service import Service, current

POLL_SECONDS, LONGEST_POLL_SECONDS = 0.05, 0.25


class Seen(NamedTuple):
    """What one look at a resource says."""

    tag: str
    """Another one whenever a client can see a change."""
    ended: bool
    again_seconds: int = 2
    """The next look may come after so many seconds, unless it has ended."""

    @property
    def headers(self) -> dict[str, str]:
        """What makes the next poll cheap: the tag to send, and when to come."""
        return {"ETag": f'W/"{self.tag}"', **({} if self.ended else {"Retry-After": str(self.again_seconds)})}


def not_modified(look: Callable[[], Seen], seconds: float) -> Response | None:
    """The answer 304 if the resource still has the tag that the request names; None if it is to be sent.

    Waits for news so many seconds at most. Holds nothing between two looks: `look` opens a transaction of its own.
    """
    if not (seconds or request.if_none_match):
        return None
    seen = _news(current(), look, seconds, request.if_none_match)
    return Response(status=304, headers=seen.headers) if request.if_none_match.contains_weak(seen.tag) else None


def _news(service: Service, look: Callable[[], Seen], seconds: float, known: ETags) -> Seen:
    parked = seconds > 0 and service.waiting.acquire(blocking=False)
    deadline, pause = time.monotonic() + (seconds if parked else 0), POLL_SECONDS
    try:
        while True:
            seen = look()
            news = seen.ended or (bool(known) and not known.contains_weak(seen.tag))
            left = deadline - time.monotonic()
            if news or left <= 0 or service.closing():
                return seen
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
    finally:
        if parked:
            service.waiting.release()
