"""Lets code that blocks run in an event loop: where it would wait for the network, the loop goes on.

The code runs in a greenlet. Where it has to wait, it hands an awaitable to the greenlet of the event loop, which awaits
it and hands back the result. SQLAlchemy does the same for asyncio. If the task is cancelled, the error is raised there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx

try:
    from greenlet import getcurrent, greenlet
except ImportError:
    raise ImportError('AsyncClient needs greenlet: pip install "loopline[async]"') from None

T = TypeVar("T")


class _Worker(greenlet):  # type: ignore[misc]  # greenlet has no types
    """Runs a function in `run`. Other libraries have greenlets too."""


async def run(call: Callable[[], T]) -> T:
    """The result of a function, in which `awaited` may be called."""
    worker = _Worker(call)
    worker.gr_context = getcurrent().gr_context
    given: Any = worker.switch()
    while not worker.dead:
        try:
            value = await given
        except BaseException:  # noqa: BLE001  (the function handles it, or raises it again)
            given = worker.throw(*sys.exc_info())
        else:
            given = worker.switch(value)
    result: T = given
    return result


def awaited(awaitable: Awaitable[T]) -> T:
    """The result of an awaitable, within `run`."""
    worker = getcurrent()
    if not isinstance(worker, _Worker) or worker.parent is None:
        if isinstance(awaitable, Coroutine):
            awaitable.close()  # else Python warns that nobody awaited it
        raise RuntimeError("This needs the event loop of its AsyncClient: call a method of the client, and await it.")
    result: T = worker.parent.switch(awaitable)
    return result


class Awaiting:
    """How an AsyncClient sends requests and pauses: see `http.Blocking`."""

    def sleep(self, seconds: float) -> None:
        awaited(asyncio.sleep(seconds))

    def attempts(self, retries: Any) -> Iterator[Any]:
        found = aiter(retries)
        with suppress(StopAsyncIteration):
            while True:
                yield awaited(anext(found))

    def sender(self, **options: Any) -> Sender:
        return Sender(httpx.AsyncClient(**options))


class Sender:
    """As much of `httpx.Client` as is needed, on `httpx.AsyncClient`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    def close(self) -> None:
        awaited(self._client.aclose())

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any],
        headers: Mapping[str, str],
        content: bytes | Iterator[bytes] | None,
        timeout: httpx.Timeout,
    ) -> Iterator[httpx.Response]:
        body = content if content is None or isinstance(content, bytes) else _each(content)
        request = self._client.build_request(method, url, params=params, headers=headers, content=body, timeout=timeout)
        answer = awaited(self._client.send(request, stream=True))
        arriving = _Arriving(answer)
        try:
            yield httpx.Response(answer.status_code, headers=answer.headers, stream=arriving, request=request)
        finally:
            arriving.close()


class _Arriving(httpx.SyncByteStream):
    """The body of an answer, as it arrives."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self._parts: Any = None

    def __iter__(self) -> Iterator[bytes]:
        self._parts = self._answer.aiter_raw()
        with suppress(StopAsyncIteration):
            while True:
                yield awaited(anext(self._parts))

    def close(self) -> None:
        if self._parts is not None:
            awaited(self._parts.aclose())
            self._parts = None
        awaited(self._answer.aclose())


async def _each(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
