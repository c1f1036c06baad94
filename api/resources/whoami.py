"""/v1/whoami: the tenant and key of the request."""

from __future__ import annotations

from flask import Response

from api import auth, openapi, schemas
from api.service import current
from services import db
from services.access import tenants
from services.access.keys import Scope
from services.access.tenants import Use
from services.orm import Tenant

api = openapi.blueprint("whoami", __name__, prefix="/v1/whoami", about="Who asks.")


@api.get("", operation_id="whoAmI", responses={200: schemas.Identity})
def show() -> Response:
    """Get your tenant: what the key may do, and what the tenant uses of its quotas"""
    who = auth.identity()
    with db.read_scope(current().engine) as session:
        found = quotas(tenants.get(session, auth.tenant()), tenants.use(session, auth.tenant()))
    scopes = [scope.value for scope in Scope if scope in who.scopes]
    return openapi.answer(
        schemas.Identity.model_validate({"tenant": who.tenant, "key_id": who.key_id, "scopes": scopes, "quotas": found})
    )


def quotas(tenant: Tenant, use: Use) -> schemas.Quotas:
    """What the tenant has, beside what it may have."""
    return schemas.Quotas(
        queued=schemas.Quota(used=use.queued, limit=tenant.max_queued),
        running=schemas.Quota(used=use.running, limit=tenant.max_running),
        bytes=schemas.Quota(used=use.bytes, limit=tenant.max_bytes),
    )
