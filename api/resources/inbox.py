"""/v1/inbox: the files in the inbox and the result of each."""

from __future__ import annotations

from flask import Response

from api import auth, openapi, schemas
from api.service import current
from services import db
from services.datasets import inbox, versions

api = openapi.blueprint("inbox", __name__, prefix="/v1/inbox", about="Files that become data sets by themselves.")


@api.get("", operation_id="listInbox", responses={200: schemas.InboxList})
def index(query: schemas.InboxQuery) -> Response:
    """List the tenant's files in the inbox with their results, newest first

    Empty if the service has no inbox (LOOPLINE_INBOX).
    """
    with db.read_scope(current().engine) as session:
        rows, more = inbox.page(session, tenant=auth.tenant(), limit=query.limit, after=query.after)
        became = versions.get_many(session, [row.dataset_id for row in rows if row.dataset_id], tenant=auth.tenant())
        found = [
            schemas.InboxFile(
                id=row.place,
                at=schemas.moment(row.at),
                dataset_id=row.dataset_id,
                dataset=None if dataset is None else f"{dataset.name}@{dataset.version}",
                error=row.error,
                warnings=[] if dataset is None else [*versions.warnings(dataset)],
            )
            for row, dataset in ((row, became.get(row.dataset_id or "")) for row in rows)
        ]
    return openapi.answer(schemas.InboxList(data=found, has_more=more))
