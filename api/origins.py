"""Keeps web pages of other origins away.

A browser sends a page's form, or its `fetch` in the mode `no-cors`, to any address without asking that address first.
So any page that somebody visits could cancel their jobs, or upload a data set, on a service that asks for no key. Each
browser says where such a request comes from: in `Sec-Fetch-Site`, and in `Origin`. No page can change or leave out
these headers. A request that changes something is refused unless they say that our own page sent it. A program that
is no browser sends neither header.

The rule is for requests with a key as well. A page cannot add `Authorization` without asking first, but a proxy may add
the key, for whoever is logged in there.

What a page of another origin reads it cannot see, but it could hold streams and long polls open. So without a key it
may not read either. A link that a person follows is no such request.

A page can also let its own host name point at our address; then it is no other origin. So without a key only names of
this machine are answered, and those of `Settings.allowed_hosts`.
"""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

from flask import Flask, request

from api.service import current
from services.errors import CrossOrigin
from services.settings import Settings, is_loopback

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OURS = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site: our own page sent the request, or the person who uses the browser. `same-site` is none of
them, because all ports of a machine are one site."""
_MOST_SHOWN = 100


def register(app: Flask) -> None:
    """Let every request of this app be checked, whatever its route."""
    app.before_request(_check)


def check_reading() -> None:
    """Raises CrossOrigin when a page of another origin reads without a key; a change was checked before."""
    if "Authorization" in request.headers or request.headers.get("Sec-Fetch-Mode") == "navigate":
        return
    if request.method in SAFE_METHODS and not _is_ours():
        raise CrossOrigin(_sentences("may read here without a key"))


def is_ours(host: str, settings: Settings) -> bool:
    """Whether a `Host` names this machine, or is one that the settings allow."""
    return is_loopback(_name(host)) or _is_allowed(host, settings)


def _check() -> None:
    """Raises CrossOrigin when a page of another origin wants to change something."""
    if request.method not in SAFE_METHODS and not _is_ours():
        raise CrossOrigin(_sentences("may change anything here"))


def _is_ours() -> bool:
    """Whether our own page sent the request, or no page at all."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site in OURS or (site is None and origin is None):
        return True
    host = _host_of(origin or "")
    if site is None and host == request.headers.get("Host", "").lower():
        return True  # older browsers, and plain HTTP to another machine: there is no Sec-Fetch-Site
    return host is not None and _is_allowed(host, current().settings)


def _is_allowed(host: str, settings: Settings) -> bool:
    """Whether the settings name it, with or without its port."""
    return bool(settings.allowed_host_names & {host.lower(), _name(host)})


def _name(host: str) -> str:
    """A host without its port; nothing where it cannot be read."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def _host_of(origin: str) -> str | None:
    """Host and port of an origin; None for `null`, which stands for a file or a sandbox, and for what is no origin."""
    scheme, _, host = origin.lower().partition("://")
    return host if scheme in ("http", "https") and host else None


def _sentences(what: str) -> str:
    """What was refused, and how a tool sends it. The headers are shown in ASCII: they may hold anything."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    shown = (origin or "").encode("ascii", "replace").decode()[:_MOST_SHOWN]
    who = f"A web page of another origin ({shown})" if origin else "A web page of another origin"
    message = f"{who} sent this request, and no such page {what}. "
    message += "A tool that is no browser sends neither `Origin` nor `Sec-Fetch-Site`: leave both headers out."
    if site is None:
        message += " A proxy between the two must pass on the `Host` that the browser sent."
    return f"{message} Who runs the service can allow the host of an origin with LOOPLINE_ALLOWED_HOSTS."
