"""Long polls: an answer waits until the resource changes."""

from __future__ import annotations

import time
from collections.abc import Callable

from werkzeug.datastructures import ETags

from api.service import Service

POLL_SECONDS, LONGEST_POLL_SECONDS = 0.05, 0.25


def wait_for_change(
    service: Service, look: Callable[[], tuple[str, bool]], seconds: float, seen: ETags
) -> tuple[str, bool]:
    """What `look` says, the tag of something and whether it has ended, once there is news or after so many seconds.

    Holds nothing between two looks: `look` opens a transaction of its own.
    """
    parked = seconds > 0 and service.waiting.acquire(blocking=False)
    deadline, pause = time.monotonic() + (seconds if parked else 0), POLL_SECONDS
    try:
        while True:
            tag, ended = look()
            news = ended or (bool(seen) and not seen.contains_weak(tag))
            left = deadline - time.monotonic()
            if news or left <= 0 or service.closing():
                return tag, ended
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
    finally:
        if parked:
            service.waiting.release()
