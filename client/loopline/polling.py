"""Long polls: a job, a batch or a search, again after each change until it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from loopline.errors import WaitTimeout
from loopline.http import Http
from loopline.types import Document

POLL_SECONDS = 25.0
"""The service holds a poll so long at most."""
PAUSE_SECONDS = 1.0
"""Seconds between two requests. A table of a thousand jobs is long, and one of them changes all the time."""
SILENCE_SECONDS = 20.0
"""A poll without news that took so long is followed by a look whether the workers are heard of."""


class _Ending(Protocol):
    @property
    def terminal(self) -> bool: ...


T = TypeVar("T", bound=_Ending)


def changes(
    now: T,
    read: Callable[[Document], T],
    http: Http,
    path: str,
    timeout: float | None,
    late: Callable[[T], WaitTimeout],
    *,
    every: bool = True,
    pause: float = PAUSE_SECONDS,
    of_silence: Callable[[T], T | None] | None = None,
) -> Iterator[T]:
    """Yields what is at a path, and again after each change. The last one yielded has ended.

    every: False yields only about twice a minute until the end.
    pause: seconds between a change and the next request.
    of_silence: a newer one, if what no poll reports has changed. It is called after a long poll without news.
    Raises what `late` makes of the last one, if it has not ended after `timeout` seconds.
    """
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    etag = None
    while True:
        asked_at = time.monotonic()
        seconds = max(0.0, min(POLL_SECONDS, deadline - asked_at))
        document, seen = _poll(http, path, etag, seconds if etag or not every else 0.0)
        etag = seen if every else None  # without one the service holds each answer until the end
        changed = None if document is None else read(document)
        if changed is None and every and of_silence and time.monotonic() - asked_at > SILENCE_SECONDS:
            changed = of_silence(now)
        if changed is not None:
            now = changed
            yield now
        if now.terminal:
            return
        if time.monotonic() >= deadline:
            raise late(now)
        # Changes can come faster than anyone reads, and a busy service may answer before the time asked for.
        next_at = asked_at + (PAUSE_SECONDS if changed is None else pause)
        http.sleep(max(0.0, min(next_at, deadline) - time.monotonic()))


def _poll(http: Http, path: str, etag: str | None, wait: float) -> tuple[Document | None, str | None]:
    """The object at a path, unless it still has this `etag`: then None; and its etag now. Takes `wait` seconds at most.

    Without an etag the service holds the answer until the object has ended.
    """
    response = http.send(
        "GET",
        path,
        params={"wait": round(wait)} if wait >= 0.5 else None,
        headers={"If-None-Match": etag} if etag else None,
        wait_seconds=wait,
    )
    if response.status_code == 304:
        return None, etag
    return http.object_in(response), response.headers.get("ETag")
