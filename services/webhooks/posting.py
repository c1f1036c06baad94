"""Sends one webhook message once: signed as in Standard Webhooks, to a checked address, within 15 s.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. Signing is three lines here,
and the specification's own library, which receivers verify with, verifies them in the tests: so neither judges itself.

Plain `http.client` over a socket of ours: it follows no redirect, keeps no connection, knows no proxy, and there is
nothing between the address that was judged and the one that is connected to.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import io
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from secrets import token_bytes
from typing import Any

from services.errors import AddressRefused
from services.text import clean
from services.webhooks.addresses import Address, Guard, Place

MARK = "whsec_"
CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 15.0
MAX_ANSWER_BYTES = 64 * 1024
"""Of an answer no more is read."""
KEPT = 1000
"""Characters of an answer that are kept in the log of deliveries."""


@dataclass(frozen=True)
class SendResult:
    """The result of one try to send a message."""

    status: int | None
    """What the receiver answered; None when it did not."""
    error: str | None
    """Why it was not delivered, in a sentence; None when it was."""
    answer: str = ""
    """The beginning of what the receiver said."""
    retry_after: float | None = None
    """Seconds that the receiver asked for."""

    @property
    def delivered(self) -> bool:
        return self.error is None


def new_secret() -> str:
    """What a receiver verifies with: `whsec_` and 32 random bytes."""
    return MARK + base64.b64encode(token_bytes(32)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature` for a message that is sent at `timestamp`, seconds since 1970."""
    key = base64.b64decode(secret.removeprefix(MARK))
    signed = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def post(guard: Guard, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> SendResult:
    """Send a message, signed with each of the secrets, and return the result. A receiver cannot cause an
    exception. Only a 2xx is a delivery."""
    deadline = time.monotonic() + TOTAL_SECONDS
    try:
        place, addresses = guard.check(url)
        with _connected(place, addresses, deadline) as wire:
            return _ask(place, wire, secrets, message_id, body)
    except AddressRefused as error:
        return SendResult(None, f"Nothing was sent: {error.message}")
    except TimeoutError:
        return SendResult(None, "The receiver did not answer in time (5 s to connect, 15 s in all).")
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an answer that is not HTTP
        return SendResult(None, f"The receiver could not be asked: {clean(str(error) or type(error).__name__, 300)}.")


def _ask(place: Place, wire: _Wire, secrets: Sequence[str], message_id: str, body: bytes) -> SendResult:
    timestamp = int(time.time())
    connection = http.client.HTTPConnection(place.host, place.port)
    connection.sock = wire
    connection.request(
        "POST",
        place.target,
        body,
        {
            "Host": place.authority,
            "Content-Type": "application/json",
            "User-Agent": "Loopline-Webhooks/1",
            "Connection": "close",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
        },
    )
    with connection.getresponse() as response:
        answer = _piece(response)
        after = response.headers.get("Retry-After", "")
        return SendResult(
            response.status,
            _complaint(response.status),
            answer,
            float(after) if after.isascii() and after.isdigit() and len(after) < 10 else None,
        )


def _complaint(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The receiver answered {status}: redirects are not followed; make a webhook with the address it names."
    return f"The receiver answered {status}."


def _piece(response: http.client.HTTPResponse) -> str:
    """The beginning of the answer. Its status has decided: what goes wrong from here on changes nothing."""
    kept, read = b"", 0
    try:
        while read < MAX_ANSWER_BYTES and (chunk := response.read1(8192)):
            kept, read = (kept + chunk)[: 4 * KEPT], read + len(chunk)
    except (OSError, http.client.HTTPException, ValueError):
        pass
    return clean(kept.decode("utf-8", "replace"), KEPT)


class _Wire:
    """A socket as `http.client` uses one, all of whose waits together end at a deadline: a receiver that sends a byte
    now and then gains nothing by it."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline

    def __enter__(self) -> _Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def encrypt(self, host: str) -> None:
        self._socket = _tls().wrap_socket(self.ready(), server_hostname=host, do_handshake_on_connect=False)
        self.ready().do_handshake()  # type: ignore[attr-defined]

    def ready(self) -> socket.socket:
        """The socket, for one wait that ends in time."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket

    def sendall(self, data: Any) -> None:
        self.ready().sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """By `http.client` before the answer is read; the block that made it closes it."""


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.ready().recv_into(buffer)


def _connected(place: Place, addresses: Sequence[Address], deadline: float) -> _Wire:
    """A connection to the first of these addresses that takes one."""
    until = min(deadline, time.monotonic() + CONNECT_SECONDS)
    trouble: OSError = TimeoutError()
    for address in addresses:
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            wire = _Wire(socket.create_connection((str(address), place.port), timeout=left), deadline)
        except OSError as error:
            trouble = error
            continue
        try:
            if place.scheme == "https":
                wire.encrypt(place.host)
        except BaseException:
            wire.__exit__()
            raise
        return wire
    raise trouble


@cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the system's certificates takes 20 ms."""
    return ssl.create_default_context()
