"""Keeps web pages of other origins from changing anything here.

A browser sends a page's form, or its `fetch` in the mode `no-cors`, to any address without asking that address first.
So any page that somebody visits could cancel their jobs, or upload a data set, on a service that asks for no key. Each
browser says where such a request comes from: in `Sec-Fetch-Site`, and in `Origin`. No page can change or leave out
these headers. A request that changes something is refused unless they say that our own page sent it. A program that
is no browser sends neither header.

The rule is for requests with a key as well. A page cannot add `Authorization` without asking first, but a proxy may add
the key, for whoever is logged in there.
"""

from __future__ import annotations

from flask import Flask, request

from services.errors import CrossOrigin

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OURS = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site: our own page sent the request, or the person who uses the browser. `same-site` is none of
them, because all ports of a machine are one site."""
_MOST_SHOWN = 100


def register(app: Flask) -> None:
    """Let every request of this app be checked, whatever its route."""
    app.before_request(_check)


def _check() -> None:
    """Raises CrossOrigin when a page of another origin wants to change something."""
    if request.method in SAFE_METHODS:
        return
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site in OURS or (site is None and origin is None):
        return
    if site is None and _host_of(origin or "") == request.headers.get("Host", "").lower():
        return  # older browsers, and plain HTTP to another machine: there is no Sec-Fetch-Site
    raise CrossOrigin(_sentences(origin, site))


def _host_of(origin: str) -> str | None:
    """Host and port of an origin; None for `null`, which stands for a file or a sandbox, and for what is no origin."""
    scheme, _, host = origin.lower().partition("://")
    return host if scheme in ("http", "https") and host else None


def _sentences(origin: str | None, site: str | None) -> str:
    """What was refused, and how a tool sends it. The headers are shown in ASCII: they may hold anything."""
    shown = (origin or "").encode("ascii", "replace").decode()[:_MOST_SHOWN]
    who = f"A web page of another origin ({shown})" if origin else "A web page of another origin"
    message = f"{who} sent this request, and no such page may change anything here. "
    message += "A tool that is no browser sends neither `Origin` nor `Sec-Fetch-Site`: leave both headers out."
    if site is None:
        message += " A proxy between the two must pass on the `Host` that the browser sent."
    return message
