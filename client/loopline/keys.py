"""The API keys of a tenant."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

from loopline import listing
from loopline.http import Http
from loopline.listing import Listing
from loopline.types import Key


class Keys:
    """The methods of `client.keys`. They need a key with the scope `admin`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Key]:
        """All API keys of the tenant, newest first, including revoked ones."""
        return listing.listed(self._http, "/v1/keys", Key.of, page_size=page_size)

    def create(self, scopes: Iterable[str], *, name: str | None = None, expires_days: float | None = None) -> Key:
        """Creates an API key of the tenant. `key.key` is the key itself; it cannot be read again.

        scopes: any of `read`, `submit` and `admin`. If the connection breaks, this is not retried, because the first
        request may have created a key that nobody saw.
        """
        wanted = {"scopes": [*scopes], "name": name, "expires_days": expires_days}
        body = json.dumps(wanted).encode()
        headers = {"Content-Type": "application/json"}
        return Key.of(self._http.object_in(self._http.send("POST", "/v1/keys", headers=headers, body=body, once=True)))

    def revoke(self, key_id: str) -> Key:
        """Revokes an API key of the tenant and returns it. It stops working within a few seconds. Raises NotFound."""
        return Key.of(self._http.object_in(self._http.send("DELETE", f"/v1/keys/{quote(key_id, safe='')}")))
