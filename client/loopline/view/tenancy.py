"""What the commands about a tenant print: its keys, its quotas, and its webhooks."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.text import Text

from loopline import text
from loopline.types import Delivery, Identity, Key, Quota, Webhook, below
from loopline.view import table


def keys(found: Iterable[Key]) -> table.Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": key.id,
            "name": key.name or text.NOTHING,
            "scopes": ", ".join(key.scopes),
            "created": text.ago(key.created_at),
            "used": text.ago(key.last_used_at) if key.last_used_at else "never",
            "ends": Text("revoked", "red") if key.revoked_at else text.when(key.expires_at),
        }
        for key in found
    ]
    return table.Listing(rows, drop=("created", "used"), wrap=("name", "scopes", "ends"), last=("scopes",))


def webhooks(found: Iterable[Webhook]) -> table.Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": webhook.id,
            "url": text.printable(webhook.url),
            "told of": ", ".join(webhook.events) + (f" of {webhook.only}" if webhook.only else ""),
            "arrived": text.ago(webhook.delivered_at) if webhook.delivered_at else "never",
            "state": _state_of(webhook),
        }
        for webhook in found
    ]
    return table.Listing(rows, drop=("arrived",), wrap=("url", "told of"), last=("told of", "url"))


def webhook(shown: Webhook) -> RenderableType:
    rows: list[tuple[str, str | Text]] = [
        ("webhook", shown.id),
        ("url", text.printable(shown.url)),
        ("told of", ", ".join(shown.events)),
        ("only", shown.only or text.NOTHING),
        ("tags", ", ".join(f"{key}:{value}" for key, value in shown.tags.items()) or "all jobs"),
        ("created", text.when(shown.created_at)),
        ("arrived", text.when(shown.delivered_at) if shown.delivered_at else "never"),
        ("state", _state_of(shown)),
    ]
    if shown.old_secret_until:
        rows.append(("old secret", f"signs too until {text.when(shown.old_secret_until)}"))
    return table.pairs([*rows, ("because", shown.disabled_reason)] if shown.disabled_reason else rows)


def _state_of(shown: Webhook) -> Text:
    if shown.disabled_at:
        return Text("disabled", "red")
    return Text(f"failing ({shown.failures})", "yellow") if shown.failures else Text("well", "green")


def deliveries(found: Iterable[Delivery]) -> table.Listing:
    colours = {"pending": "yellow", "delivered": "green", "given_up": "red"}
    rows: list[dict[str, str | Text]] = [
        {
            "id": delivery.id,
            "event": delivery.event,
            "about": _subject(delivery),
            "created": text.ago(delivery.created_at),
            "state": Text(delivery.state.replace("_", " "), colours.get(delivery.state, "")),
            "attempts": str(delivery.attempts),
            "because": text.printable(delivery.last_error or ""),
        }
        for delivery in found
    ]
    return table.Listing(rows, drop=("created",), wrap=("event",), below=("because", "about"))


def _subject(delivery: Delivery) -> str:
    data = below(delivery.payload, "data")
    return text.printable(str(data.get("id") or data.get("model") or text.NOTHING))


def identity(shown: Identity) -> RenderableType:
    quotas = [(_QUOTAS.get(name, name), _quota(name, quota)) for name, quota in shown.quotas.items()]
    key = shown.key_id or "none is needed here"
    return table.pairs([("tenant", shown.tenant), ("key", key), ("may", ", ".join(shown.scopes)), *quotas])


_QUOTAS = {"queued": "jobs that wait", "running": "jobs that run", "bytes": "data sets"}


def _quota(name: str, quota: Quota) -> str:
    used, most = (text.size(each) if name == "bytes" else str(each) for each in (quota.used, quota.limit))
    return f"{used} of {most}" if quota.limit is not None else used
