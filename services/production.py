"""Settings that are unsafe in production: with `LOOPLINE_PRODUCTION=true` no process starts with them.

Each error names the variable and the remedy, and never contains the secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

SHORTEST = 12
"""Characters of a password. One that is drawn at random is longer; what people make up is guessed sooner."""

KNOWN = frozenset(
    {
        *(
            "admin",
            "broker",
            "changeme",
            "database",
            "db",
            "default",
            "example",
            "guest",
            "letmein",
            "loopline",
            "pass",
        ),
        *(
            "passwd",
            "password",
            "postgres",
            "postgresql",
            "qwerty",
            "redis",
            "root",
            "secret",
            "test",
            "user",
            "valkey",
        ),
        *("changethis", "changeit", "replaceme", "mysecretpassword", "yourpassword", "supersecret", "secretpassword"),
    }
)
"""Passwords of examples and images, in small letters and without separators."""


class Url(NamedTuple):
    """A URL, and the environment variable that gave it."""

    variable: str
    url: str


def complaints(auth: str, *, database: Url, broker: Url) -> list[str]:
    """What must be changed before this may serve others, a sentence each; none when all is well."""
    found = []
    if auth == "none":
        found.append("LOOPLINE_AUTH=none lets everybody in; set it to keys, or leave it out.")
    found += _of_database(*database)
    found += _of_password(*broker, "redis://:PASSWORD@HOST:6379/0")
    return found


def _of_database(variable: str, url: str) -> Iterator[str]:
    if url.startswith("sqlite"):
        yield f"{variable} is SQLite, which is for one machine; set it to postgresql://USER:PASSWORD@HOST/DATABASE."
        return
    yield from _of_password(variable, url, "postgresql://USER:PASSWORD@HOST/DATABASE")


def _of_password(variable: str, url: str, form: str) -> Iterator[str]:
    """At most one sentence about the password in an address."""
    way_out = f"; make one with `openssl rand -hex 24` and set {variable} to {form}."
    try:
        parts = urlsplit(url)
        password = _password(parts)
    except ValueError:
        yield f"{variable} cannot be read as an address{way_out}"
        return
    if not password:
        yield f"{variable} has no password{way_out}"
    elif _plain(password) in KNOWN | {_plain(unquote(parts.username or "")), _plain(parts.path)}:
        yield f"{variable} has a password that everybody knows{way_out}"
    elif len(password) < SHORTEST:
        yield f"{variable} has a password of fewer than {SHORTEST} characters{way_out}"


def _password(parts: SplitResult) -> str:
    return unquote(parts.password or "") or parse_qs(parts.query).get("password", [""])[0]


def _plain(text: str) -> str:
    """In small letters, without marks, and without digits at the end: `Change-Me_123` is `changeme`."""
    return "".join(filter(str.isalnum, text.lower())).rstrip("0123456789")
