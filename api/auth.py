"""Authentication and authorization: API keys, and the table from route to scope.

A request sends its key as `Authorization: Bearer ll_...`. A browser that is signed in sends the cookie of its session
instead, and with each change the token of that session, which only our own page can read.

If no key is needed (`Settings.needs_keys`), every client is the tenant `default` and may do everything. A service that
listens only on its own machine still requires a key if a request comes from elsewhere or under another host name (a
proxy, or a page whose name points here).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, cast

from flask import Flask, g, request
from sqlalchemy.orm import Session

from api import openapi, origins, rates
from api.service import current
from services.access import audit, keys, web_sessions
from services.access.keys import Identity, Scope
from services.errors import CsrfTokenWrong, Forbidden, LooplineError, Unauthorized
from services.settings import Settings, is_loopback

NO_KEY = "This service asks for an API key: send it as `Authorization: Bearer ll_...`."
NO_KEY_FROM_ELSEWHERE = (
    "Without an API key this service answers only on its own machine, at localhost or a loopback address: ask there, "
    "or send a key as `Authorization: Bearer ll_...`. Who runs the service can allow another host name with "
    "LOOPLINE_ALLOWED_HOSTS."
)
COOKIE, CSRF_HEADER = "loopline_session", "X-CSRF-Token"
NO_CSRF_TOKEN = (
    f"You are signed in with a cookie, so a change needs the header `{CSRF_HEADER}` with the token that "
    "`GET /v1/session` shows. A program sends its API key instead: `Authorization: Bearer ll_...`."
)


class Rule(StrEnum):
    """What a route asks for besides a scope."""

    OPEN = "open"
    """Nothing."""
    KEY = "key"
    """Any valid key."""


RULES: dict[str, Scope | Rule] = {
    "jobs.submit": Scope.SUBMIT,
    "jobs.dry_run": Scope.SUBMIT,
    "jobs.index": Scope.READ,
    "jobs.show": Scope.READ,
    "jobs.cancel": Scope.SUBMIT,
    "jobs.pause": Scope.SUBMIT,
    "jobs.resume": Scope.SUBMIT,
    "jobs.delete": Scope.SUBMIT,
    "jobs.epochs": Scope.READ,
    "jobs.steps": Scope.READ,
    "curves.index": Scope.READ,
    "batches.submit": Scope.SUBMIT,
    "batches.dry_run": Scope.SUBMIT,
    "batches.index": Scope.READ,
    "batches.show": Scope.READ,
    "batches.cancel": Scope.SUBMIT,
    "searches.submit": Scope.SUBMIT,
    "searches.dry_run": Scope.SUBMIT,
    "searches.index": Scope.READ,
    "searches.show": Scope.READ,
    "searches.cancel": Scope.SUBMIT,
    "searches.pause": Scope.SUBMIT,
    "searches.resume": Scope.SUBMIT,
    "searches.add": Scope.SUBMIT,
    "events.index": Scope.READ,
    "events.logs": Scope.READ,
    "streams.of_job": Scope.READ,
    "streams.of_tenant": Scope.READ,
    "checkpoints.index": Scope.READ,
    "checkpoints.download": Scope.READ,
    "models.archive": Scope.READ,
    "models.single": Scope.READ,
    "answers.download": Scope.READ,
    "predictions.of_job": Scope.PREDICT,
    "predictions.of_version": Scope.PREDICT,
    "datasets.upload": Scope.SUBMIT,
    "datasets.index": Scope.READ,
    "datasets.show": Scope.READ,
    "datasets.preview": Scope.READ,
    "datasets.delete": Scope.SUBMIT,
    "uploads.begin": Scope.SUBMIT,
    "uploads.show": Scope.SUBMIT,
    "uploads.add": Scope.SUBMIT,
    "uploads.check": Scope.SUBMIT,
    "uploads.delete": Scope.SUBMIT,
    "inbox.index": Scope.READ,
    "registry.register": Scope.SUBMIT,
    "registry.index": Scope.READ,
    "registry.show": Scope.READ,
    "registry.versions": Scope.READ,
    "registry.version": Scope.READ,
    "registry.delete": Scope.SUBMIT,
    "registry.download": Scope.READ,
    "registry.history": Scope.READ,
    "registry.promote": Scope.SUBMIT,
    "registry.rollback": Scope.SUBMIT,
    "registry.demote": Scope.SUBMIT,
    "schedules.create": Scope.SUBMIT,
    "schedules.index": Scope.READ,
    "schedules.show": Scope.READ,
    "schedules.put": Scope.SUBMIT,
    "schedules.delete": Scope.SUBMIT,
    "schedules.pause": Scope.SUBMIT,
    "schedules.resume": Scope.SUBMIT,
    "schedules.run": Scope.SUBMIT,
    "schedules.history": Scope.READ,
    "presets.index": Scope.READ,
    "workers.index": Scope.READ,
    "keys.create": Scope.ADMIN,
    "keys.index": Scope.ADMIN,
    "keys.revoke": Scope.ADMIN,
    **{
        f"webhooks.{verb}": Scope.ADMIN
        for verb in ("create", "index", "show", "delete", "rotate", "test", "deliveries", "redeliver")
    },
    "audit.index": Scope.ADMIN,
    "whoami.show": Rule.KEY,
    "sessions.create": Rule.OPEN,
    "sessions.show": Rule.KEY,
    "sessions.delete": Rule.KEY,
    "health.live": Rule.OPEN,
    "health.ready": Rule.OPEN,
    "health.working": Rule.OPEN,
    "docs.document": Rule.OPEN,
    "docs.page": Rule.OPEN,
    "docs.asset": Rule.OPEN,
    "cards.read": Scope.READ,
    **{
        f"pages.{name}": Rule.OPEN
        for name in (
            *("start", "asset", "sign-in", "jobs", "job", "submit", "compare", "workers", "try"),
            *("searches", "search", "batches", "batch", "schedules", "schedule"),
            *("datasets", "dataset", "models", "model"),
        )
    },
    **{f"guide.{name}": Rule.OPEN for name in ("index", "document", "picture")},
}
"""By endpoint, what a request needs. A route that is not here keeps the app from being made."""


def register(app: openapi.Api) -> None:
    """Asks every request who it is from, and the OpenAPI document say so; after all routes are there.

    Raises:
        RuntimeError: a route has no rule.
    """
    without = sorted({rule.endpoint for rule in app.url_map.iter_rules()} - RULES.keys())
    if without:
        raise RuntimeError(f"These routes have no rule in api/auth.py, RULES: {', '.join(without)}.")
    app.before_request(_authorize)
    app.on_document.append(lambda document: _document(app, document))


def identity() -> Identity:
    """Who the present request is from."""
    return cast(Identity, g.identity)


def tenant() -> str:
    """Whose jobs, data sets and keys the present request is about."""
    return identity().tenant


def note(session: Session, action: str, resource_id: str, who: Identity | None = None) -> None:
    """Write what the present request does into the audit, within its transaction; `who` is for an open route."""
    who = who or identity()
    actor = audit.Actor(who.tenant, who.key_id, g.request_id, request.remote_addr)
    audit.record(session, actor, action, resource_id)


def holder() -> str:
    """Whose streams are counted together: those of a key, or of an address where no key was needed."""
    return identity().key_id or request.remote_addr or "unknown"


def still_valid() -> Callable[[], object]:
    """What raises Unauthorized once the key of this request is no longer valid; for an answer that stays open."""
    if identity().key_id is None:
        return lambda: None
    keyring, text, cookie = current().keyring, _key(), request.cookies.get(COOKIE, "")
    return lambda: keyring.identity(text) if text else keyring.signed_in(cookie)


def is_known() -> bool:
    """Whether a request to an open route is authenticated; other requests get a shorter answer."""
    try:
        _authenticate()
    except LooplineError:
        return False
    return True


def _authorize() -> None:
    rule = RULES[request.endpoint] if request.endpoint else Rule.OPEN  # what has no route is nothing for anybody
    if rule is Rule.OPEN:
        return
    origins.check_reading()
    g.identity = who = _authenticate()
    if who.web_session is not None and request.method not in origins.SAFE_METHODS:
        _check_csrf_token()
    if who.key_id is not None:
        current().rates.count("key", who.key_id)
    if isinstance(rule, Scope) and not who.may(rule):
        has = ", ".join(scope for scope in Scope if scope in who.scopes)
        raise Forbidden(f"This needs an API key with the scope `{rule}`; this one has {has}.", scope=rule)


def _check_csrf_token() -> None:
    """Raises CsrfTokenWrong unless the request has the token of its session."""
    token = web_sessions.csrf_token(request.cookies[COOKIE])
    if not hmac.compare_digest(token.encode(), request.headers.get(CSRF_HEADER, "").encode()):
        raise CsrfTokenWrong(NO_CSRF_TOKEN)


def _authenticate() -> Identity:
    """Who asks. Raises Unauthorized, RateLimited after too many wrong keys, and Unavailable."""
    service = current()
    if not service.settings.needs_keys and _may_omit_key(service.settings):
        return keys.ANYBODY
    if text := _key():
        with counted_failures():
            return service.keyring.identity(text)
    if cookie := request.cookies.get(COOKIE):
        return service.keyring.signed_in(cookie)
    raise Unauthorized(NO_KEY if service.settings.needs_keys else NO_KEY_FROM_ELSEWHERE, shown=False)


@contextmanager
def counted_failures() -> Iterator[None]:
    """Counts a wrong key against the address that shows it. Raises RateLimited instead of Unauthorized after too many.

    Only those who fail are counted, so nobody who shares an address with them is kept out.
    """
    try:
        yield
    except Unauthorized:
        current().rates.count("failures", request.remote_addr or "unknown", rates.FAILURES)
        raise


def _key() -> str:
    """The key that the present request shows, or nothing."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def _may_omit_key(settings: Settings) -> bool:
    if settings.auth == "none":
        return True
    return is_loopback(request.remote_addr or "") and origins.is_ours(request.host, settings)


def _document(app: Flask, document: dict[str, Any]) -> None:
    """Says in the OpenAPI document what each operation asks for."""
    document["components"]["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, `ll_...`. None is needed while the service listens on a loopback address only.",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": f"The cookie of a browser that is signed in. A change also needs `{CSRF_HEADER}`.",
        },
    }
    for route in app.url_map.iter_rules():
        path = document["paths"].get(re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", route.rule), {})
        rule = RULES[route.endpoint]
        for operation in (path[method.lower()] for method in route.methods or () if method.lower() in path):
            if rule is Rule.OPEN:
                operation["security"] = []
                continue
            operation["security"] = [{"key": []}, {"session": []}]
            operation["description"] = f"{operation['description']}\n\n{_asks_for(rule)}".strip()
            operation["responses"] |= openapi.problems(401, 429, *([403] if isinstance(rule, Scope) else []))


def _asks_for(rule: Scope | Rule) -> str:
    if rule is Scope.PREDICT:
        return f"Asks for the scope `{rule}` or `{Scope.SUBMIT}`."
    return f"Asks for the scope `{rule}`." if isinstance(rule, Scope) else "Asks for any valid key."
