"""The webhooks of a tenant, and the messages to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import quote

from loopline import listing
from loopline.errors import NotFound
from loopline.http import Http
from loopline.listing import Listing
from loopline.types import Delivery, Webhook


class Webhooks:
    """The methods of `client.webhooks`. They need a key with the scope `admin`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Webhook]:
        """All webhooks of the tenant, newest first."""
        return listing.listed(self._http, "/v1/webhooks", Webhook.of, page_size=page_size)

    def get(self, webhook_id: str) -> Webhook:
        """The webhook with this id. Raises NotFound."""
        return Webhook.of(self._http.get_object(_path(webhook_id)))

    def create(
        self,
        url: str,
        *,
        events: Iterable[str] | None = None,
        only: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Webhook:
        """Creates a webhook. `webhook.secret` verifies its messages; it cannot be read again.

        events: such as `job.failed`. The default is the three ends of a job; with `only`, the end of that subject.
        only: the id of one job, batch, search or schedule. Raises Conflict if it has ended already.
        tags: send messages only about jobs that have all these tags.
        If the connection breaks, this is not retried, as in `client.keys.create`.
        """
        given = {"url": url, "only": only, "tags": dict(tags or {}), "events": [*(events or ())]}
        body = json.dumps({key: value for key, value in given.items() if value}).encode()
        headers = {"Content-Type": "application/json"}
        made = self._http.send("POST", "/v1/webhooks", headers=headers, body=body, once=True)
        return Webhook.of(self._http.object_in(made))

    def delete(self, webhook_id: str) -> None:
        """Deletes a webhook, its unsent messages and its log. Raises NotFound."""
        self.get(webhook_id)
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", _path(webhook_id))

    def rotate(self, webhook_id: str) -> Webhook:
        """Gives the webhook a new `secret`, which cannot be read again. The old secret also signs until
        `old_secret_until`. Raises NotFound. If the connection breaks, this is not retried."""
        rotated = self._http.send("POST", f"{_path(webhook_id)}/rotate", once=True)
        return Webhook.of(self._http.object_in(rotated))

    def test(self, webhook_id: str) -> Delivery:
        """Sends a test message at once. `state` and `last_error` have the result. Raises NotFound."""
        path = f"{_path(webhook_id)}/test"
        return Delivery.of(self._http.object_in(self._http.send("POST", path, once=True)))

    def deliveries(self, webhook_id: str, *, page_size: int = listing.PAGE) -> Listing[Delivery]:
        """All messages of a webhook from the last 30 days, newest first. Raises NotFound."""
        return listing.listed(self._http, f"{_path(webhook_id)}/deliveries", Delivery.of, page_size=page_size)

    def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Sends a message again, with the same id. Raises NotFound; Conflict while the webhook is disabled."""
        path = f"{_path(webhook_id)}/deliveries/{quote(delivery_id, safe='')}/redeliver"
        return Delivery.of(self._http.object_in(self._http.send("POST", path)))


def _path(webhook_id: str) -> str:
    return f"/v1/webhooks/{quote(webhook_id, safe='')}"
