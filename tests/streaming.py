"""Server-sent events, for tests: what a browser makes of the bytes of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx


class Message(NamedTuple):
    id: str
    name: str
    data: Any


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """The messages of a stream; comments and `retry` are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Message(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


@contextmanager
def following(url: str, after: str | None = None, **given: Any) -> Iterator[Iterator[Message]]:
    """The messages of the stream at a URL, as they come; after the one with the id `after`."""
    headers = {**given.pop("headers", {}), **({} if after is None else {"Last-Event-ID": after})}
    with httpx.stream("GET", url, headers=headers, timeout=30, **given) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        yield messages(response.iter_lines())
