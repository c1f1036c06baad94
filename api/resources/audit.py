"""/v1/audit: who did what in the tenant."""

from __future__ import annotations

from flask import Response

from api import auth, openapi, schemas
from api.service import current
from services import db
from services.access import audit
from services.orm import AuditEntry

api = openapi.blueprint("audit", __name__, prefix="/v1/audit", about="Who did what.")


@api.get("", operation_id="listAudit", responses={200: schemas.AuditList})
def index(query: schemas.AuditQuery) -> Response:
    """List the changes in your tenant, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = audit.page(session, tenant=auth.tenant(), after=query.after, limit=query.limit)
    return openapi.answer(schemas.AuditList(data=[described(row) for row in rows], has_more=more))


def described(row: AuditEntry) -> schemas.AuditEntry:
    """The entry as its tenant sees it."""
    return schemas.AuditEntry(
        id=row.id,
        at=schemas.moment(row.at),
        key_id=row.key_id,
        action=row.action,
        resource_id=row.resource_id,
        request_id=row.request_id,
        remote_address=row.remote_address,
    )
