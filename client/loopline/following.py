"""Server-sent events: the messages of a stream, each once and in order, also if the connection breaks in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from loopline.errors import LooplineError, ServiceError
from loopline.http import Http, may_retry

SILENCE_SECONDS = 30.0
"""The service sends something at least every 15 seconds."""
PAUSE_SECONDS = 1.0
"""Between the end of a connection and the next one."""


class Message(NamedTuple):
    id: str
    name: str
    data: dict[str, Any]


def messages(http: Http, path: str) -> Iterator[Message]:
    """The messages of the stream at a path, until its `end`. If the connection breaks, it goes on after the last one.

    Raises the error of a service that cannot be reached for `http.retry_seconds`, or that refuses the stream.
    """
    last, lost_at = "", None
    while True:
        pause = PAUSE_SECONDS
        try:
            with http.stream(path, {"Last-Event-ID": last} if last else {}, SILENCE_SECONDS) as response:
                if response.status_code == 204:  # there is nothing after the last one, and never will be
                    return
                lost_at = None
                for message in _read(response.iter_lines()):
                    last = message.id
                    if message.name == "end":
                        return
                    yield message
        except LooplineError as error:
            lost_at = lost_at or time.monotonic()
            if not may_retry(error) or time.monotonic() - lost_at >= http.retry_seconds:
                raise
            pause = error.retry_after_seconds or PAUSE_SECONDS
        http.sleep(pause)


def _read(lines: Iterable[str]) -> Iterator[Message]:
    """The messages in lines of text (https://html.spec.whatwg.org/multipage/server-sent-events.html). Ours have their
    data on one line. A message that breaks off is left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if fields.get("data"):
            yield Message(fields.get("id", ""), fields.get("event", ""), _document(fields["data"]))
        fields = {}


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ServiceError("The service sent a message that is no JSON object.")
    return found
