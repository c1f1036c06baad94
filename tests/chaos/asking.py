"""Asks the API over HTTP, and writes down every answer that no fault explains."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from tests.chaos.servers import MARKERS

TIMEOUT_SECONDS = 6.0
AGAIN_SECONDS = 0.3
TRY_AGAIN = frozenset({409, 429, 502, 503, 504})
"""Answers after which a client is right to send the same again (409: the first one is still being worked on)."""


class NoAnswer(Exception):
    """The connection could not be made, broke, or stayed silent."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


class Caller:
    """Speaks to the API, from one thread."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.unexpected: list[str] = []
        """Answers that no fault explains: 500, 4xx, secrets, another job for the same key."""
        self.requests: dict[str, int] = {}
        self.took: list[float] = []
        """Seconds of every request that was accepted, without those before it that were not."""
        self.stopped = threading.Event()

    def until_accepted(self, method: str, path: str, body: bytes, key: str | None = None) -> Any:
        """Send until it is accepted, with one key: the key is what makes it safe. Returns the body of the answer; None
        if it was refused, or if the caller was stopped meanwhile."""
        headers = {"Idempotency-Key": key} if key else {}
        while not self.stopped.is_set():
            began = time.monotonic()
            answer = self.attempt(method, path, body, "application/json", headers)
            if answer is not None and 200 <= answer.status < 300:
                self.took.append(time.monotonic() - began)
                return answer.body
            if answer is not None and answer.status not in TRY_AGAIN and answer.status != 500:
                return None
            self.stopped.wait(AGAIN_SECONDS)
        return None

    def attempt(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        media: str = "application/json",
        headers: dict[str, str] | None = None,
        *,
        refusable: bool = False,
    ) -> Answer | None:
        """An answer, or None where there was none. Answers that no fault explains are written down."""
        try:
            answer = self.ask(method, path, body, media, headers)
        except NoAnswer:
            self._count("no answer")
            return None
        self._count(str(answer.status))
        expected = answer.status < 400 or answer.status in TRY_AGAIN - {409} or (refusable and answer.status == 409)
        in_flight = answer.status == 409 and "idempotency" in str(answer.body)
        if not expected and not in_flight:
            self.unexpected.append(f"{method} {path}: {answer.status} {str(answer.body)[:500]}")
        return answer

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        media: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            sent = {**({"Content-Type": media} if body else {}), **(headers or {})}
            connection.request(method, path, body or None, sent)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer from error
        finally:
            connection.close()
        if any(marker in text for marker in MARKERS):
            self.unexpected.append(f"a secret in the answer to {method} {path}: {text[:300]}")
        try:
            return Answer(response.status, json.loads(text))
        except ValueError:
            return Answer(response.status, {"text": text})

    def _count(self, what: str) -> None:
        self.requests[what] = self.requests.get(what, 0) + 1
