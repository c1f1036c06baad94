"""One request to the service: sent, retried where that cannot do harm, and its refusals turned into errors.

Every request of this client is safe to repeat, except creating keys and webhooks, rotating a secret, testing a webhook
and a rollback. Reads change nothing. Cancelling, pausing, deleting, uploading and promoting have the same result
twice as once. Submitting carries an Idempotency-Key. So the client retries if the connection breaks, and after the
answers 429, 502, 503 and 504, with growing pauses or after the `Retry-After` that was asked for.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import stamina

from loopline.errors import (
    BadRequest,
    Conflict,
    LooplineError,
    NotAllowed,
    NotFound,
    Problem,
    ServiceError,
    ServiceUnreachable,
)

CONNECT_SECONDS = 5.0
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
MOST_BYTES = 64 << 20
"""The largest answer that is accepted. A hundred jobs with the longest specs are smaller."""
MOST_PAGES = 10_000
LEAST_BYTES = 4096
"""The smallest number of bytes that a download must receive per timeout."""
ON_THE_WAY = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers about the transfer of a body, which do not apply once the body has been read."""
RETRIED_CODES = frozenset({"idempotency_in_flight"})
KINDS: dict[int, type[LooplineError]] = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 409: Conflict, 410: NotFound}

T = TypeVar("T")
Body = bytes | Callable[[], Iterator[bytes]]
Params = Mapping[str, str | int | float | None]


class Sender(Protocol):
    """As much of `httpx.Client` as is used here."""

    def stream(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any],
        headers: Mapping[str, str],
        content: bytes | Iterator[bytes] | None,
        timeout: httpx.Timeout,
    ) -> AbstractContextManager[httpx.Response]: ...

    def close(self) -> None: ...


class Way(Protocol):
    """How a client sends requests and pauses."""

    def sender(self, **options: Any) -> Sender: ...

    def sleep(self, seconds: float) -> None: ...

    def attempts(self, retries: Any) -> Iterator[Any]:
        """The attempts of a retry context of stamina, with pauses between them."""


class Blocking:
    """The thread waits. `bridge.Awaiting` is the other way."""

    def sender(self, **options: Any) -> Sender:
        return httpx.Client(**options)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def attempts(self, retries: Any) -> Iterator[Any]:
        return iter(retries)


class Http:
    """A connection to one service. It retries requests for `retry_seconds`; 0 turns retries off."""

    def __init__(
        self, base_url: str, api_key: str | None, *, timeout: float, retry_seconds: float, way: Way | None = None
    ) -> None:
        self.base_url = checked_url(base_url)
        self.timeout = timeout
        self.retry_seconds = retry_seconds
        headers = {"Accept": "application/json", "User-Agent": f"loopline/{version('loopline')}"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        is_local = _is_loopback(self.base_url.host)
        self._way = way or Blocking()
        self._client = self._way.sender(
            base_url=self.base_url,
            headers=headers,
            trust_env=not is_local,
            # Reading the system's certificates takes 20 ms, and here none is looked at: without any, TLS would fail.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_local and self.base_url.scheme == "http" else True,
        )

    def close(self) -> None:
        self._client.close()

    def sleep(self, seconds: float) -> None:
        self._way.sleep(seconds)

    def get_object(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """The JSON object at a path."""
        return self.object_in(self.send("GET", path, params=params))

    def pages(self, path: str, params: Params, *, key: str = "id") -> Iterator[dict[str, Any]]:
        """Iterates over a list, page by page. `key` is the field whose last value is sent as `after`."""
        after: Any = params.get("after")
        for _ in range(MOST_PAGES):
            page = self.get_object(path, {**params, "after": after})
            entries = page.get("data") or []
            if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
                raise self._strange("a list holds something else than objects")
            yield from entries
            if not page.get("has_more") or not entries:
                return
            before, after = after, entries[-1].get(key)
            if not isinstance(after, str | int) or after == before:
                raise self._strange(f"a list goes on and on with the same `{key}`")

        raise self._strange(f"a list has more than {MOST_PAGES:,} pages")

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        wait_seconds: float = 0.0,
        expected: int = 200,
        once: bool = False,
    ) -> httpx.Response:
        """Sends one request and returns its answer if the status is 2xx, 304 or `expected`.

        `wait_seconds` is added to the time that an answer may take. `once` turns retries off.
        Raises ServiceUnreachable, or the error that `error_in` returns for the answer.
        """

        def one() -> httpx.Response:
            with self._open(method, path, params, headers, body, wait_seconds, expected) as response:
                return self._read(response)

        return one() if once else self._retrying(one)

    def download(self, path: str, target: Path, on_bytes: Callable[[int, int | None], None] | None = None) -> None:
        """Writes the answer to a GET into a file. If the connection breaks, it starts again from the beginning."""

        def once() -> None:
            with self._open("GET", path, None, {"Accept": "*/*"}, None) as response, target.open("wb") as file:
                length = response.headers.get("Content-Length", "")
                done, looked, had = 0, time.monotonic(), 0
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    done += len(chunk)
                    if time.monotonic() > looked + self.timeout:
                        if done < had + LEAST_BYTES:
                            raise ServiceUnreachable(
                                f"{self.base_url} sends next to nothing: {done - had} bytes in {self.timeout:g} s."
                            )
                        looked, had = time.monotonic(), done
                    if on_bytes:
                        on_bytes(done, int(length) if length.isascii() and length.isdigit() else None)

        self._retrying(once)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], silence_seconds: float) -> Iterator[httpx.Response]:
        """The answer to a GET, whose body is still to be read. Nothing may come for `silence_seconds`.

        Raises as `send`, also while the body is read.
        """
        accepted = {"Accept": "text/event-stream", **headers}
        with self._open("GET", path, None, accepted, None, wait_seconds=silence_seconds) as response:
            yield response

    def _retrying(self, once: Callable[[], T]) -> T:
        deadline = time.monotonic() + self.retry_seconds

        def pause(error: Exception) -> bool | float:
            """Whether to try again; a number is the pause in seconds."""
            if not may_retry(error) or time.monotonic() >= deadline:
                return False
            asked = error.retry_after_seconds if isinstance(error, LooplineError) else None
            if asked is None:
                return True
            return asked if time.monotonic() + asked <= deadline else False

        timeout = self.retry_seconds if self.retry_seconds > 0 else None
        attempts = stamina.retry_context(
            pause, attempts=None, timeout=timeout, wait_initial=0.1, wait_max=2.0, wait_jitter=0.1
        )
        for attempt in self._way.attempts(attempts):
            with attempt:
                return once()
        raise AssertionError("stamina raises what the last attempt raised")

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str] | None,
        body: Body | None,
        wait_seconds: float = 0.0,
        expected: int = 200,
    ) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(
            self.timeout, connect=min(CONNECT_SECONDS, self.timeout), read=self.timeout + wait_seconds
        )
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            with self._client.stream(
                method,
                path,
                params=given,
                headers=dict(headers or {}),
                content=body() if callable(body) else body,
                timeout=timeout,
            ) as response:
                if not (response.is_success or response.status_code in {304, expected}):
                    raise self.error_in(self._read(response))
                yield response
        except httpx.DecodingError:
            raise self._strange("its body is not compressed as it says") from None
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(f"{self.base_url} did not answer in time ({_reason(error)}).") from error
        except httpx.TransportError as error:
            raise ServiceUnreachable(f"Nothing answers at {self.base_url} ({_reason(error)}).") from error

    def _read(self, response: httpx.Response) -> httpx.Response:
        """Reads the body of an answer, within the timeout and MOST_BYTES, and returns the whole answer.

        httpx's own timeout restarts with each byte. Raises ServiceUnreachable, ServiceError.
        """
        deadline, body = time.monotonic() + self.timeout, bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise self._strange(f"it has more than {MOST_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise ServiceUnreachable(f"{self.base_url} did not answer in time (its answer does not end).")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in ON_THE_WAY]
        return httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)

    def _strange(self, what: str) -> ServiceError:
        return ServiceError(f"What answers at {self.base_url} does not speak Loopline: {what}.")

    def object_in(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON object of an answer. Raises ServiceError for any other body: it is not Loopline's."""
        document = _json(response)
        if not isinstance(document, dict):
            raise ServiceError(
                f"What answers at {self.base_url} does not speak Loopline: {response.request.method} "
                f"{response.request.url.path} gave {_described(response)}.",
                status=response.status_code,
            )
        return document

    def error_in(self, response: httpx.Response) -> LooplineError:
        """The error for an answer, made from its problem document (RFC 9457) if it has one."""
        status = response.status_code
        if response.has_redirect_location:
            where = response.headers["Location"]
            return ServiceError(
                f"{self.base_url} redirects to {where}; use the address it redirects to.", status=status
            )
        problem = _problem_document(response)
        if problem is None and status in RETRIED_STATUSES:
            message = f"The service behind {self.base_url} is away (HTTP {status})."
            return ServiceUnreachable(message, status=status, retry_after_seconds=_retry_after(response))
        if problem is None:
            return ServiceError(
                f"What answers at {self.base_url} does not speak Loopline: {response.request.method} "
                f"{response.request.url.path} gave {_described(response)}.",
                status=status,
            )
        kind = KINDS.get(status, BadRequest if status < 500 and status != 429 else ServiceError)
        message = str(problem.get("detail") or problem.get("title") or f"The service answered {status}.")
        code, request_id = _text(problem.get("code")), _text(problem.get("request_id"))
        errors = problem.get("errors")
        errors = errors if isinstance(errors, list) else []
        if kind is ServiceError and request_id:
            message = f"{message} (HTTP {status}, request {request_id})"
        return kind(
            message,
            status=status,
            code=code,
            problems=[_problem(each) for each in errors if isinstance(each, dict)],
            request_id=request_id,
            retry_after_seconds=_retry_after(response),
        )


def checked_url(text: str) -> httpx.URL:
    """The URL of a service. Raises BadRequest if it is not an http URL."""
    try:
        url = httpx.URL(text.strip().rstrip("/"))
    except httpx.InvalidURL as error:
        raise BadRequest(f"The address {text!r} cannot be read: {error}.") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadRequest(f"The address of the service begins with http:// or https://; {text!r} does not.")
    return url


def _is_loopback(host: str) -> bool:
    """Whether requests to this host must bypass the proxy of the environment."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_header(text: str) -> bool:
    """Whether a text can be the value of a header."""
    return text.isascii() and text.isprintable()


def may_retry(error: Exception) -> bool:
    """Whether a request that ended so may be sent again."""
    if isinstance(error, ServiceUnreachable):
        return True
    return isinstance(error, LooplineError) and (error.status in RETRIED_STATUSES or error.code in RETRIED_CODES)


def _retry_after(response: httpx.Response) -> float | None:
    """The pause in seconds, as the service sends it. For a date it is None, and the client uses its own pauses."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _problem_document(response: httpx.Response) -> dict[str, Any] | None:
    document = _json(response)
    return document if isinstance(document, dict) and ("title" in document or "detail" in document) else None


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


def _json(response: httpx.Response) -> Any:
    """The body as JSON; None if it is not JSON. (Python's parser would also accept NaN.)"""
    try:
        return response.json(parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def _problem(entry: Mapping[str, Any]) -> Problem:
    return Problem(str(entry.get("pointer") or ""), str(entry.get("detail") or ""))


def _described(response: httpx.Response) -> str:
    media_type = response.headers.get("Content-Type", "").partition(";")[0] or "nothing"
    return f"HTTP {response.status_code} with {media_type}"


def _reason(error: Exception) -> str:
    """The operating system's message without its number; httpx's class name if there is none."""
    text = str(error) or type(error).__name__
    return text.partition("] ")[2] if text.startswith("[Errno") else text
