"""/v1/webhooks: addresses that receive the events of the tenant's jobs, batches, searches, schedules and models."""

from __future__ import annotations

import json
from typing import Any

from flask import Response

from api import auth, bodies, openapi, schemas
from api.service import current
from services import db
from services.errors import RateLimited
from services.orm import Delivery, Webhook
from services.settings import Settings
from services.webhooks import posting, subscriptions
from services.webhooks.addresses import Guard

api = openapi.blueprint(
    "webhooks",
    __name__,
    prefix="/v1/webhooks",
    about="Being told what happens to jobs, batches, searches, schedules and models.",
)

_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": schemas.WebhookRequest.model_json_schema()}},
}


@api.post(
    "",
    operation_id="createWebhook",
    request_body=_BODY,
    responses={201: schemas.NewWebhook, **openapi.problems(404, 409, 413, 415)},
)
def create() -> Response:
    """Create a webhook of your tenant

    Only this answer contains the secret that verifies messages. With `only` the webhook is for one schedule, or for one
    job, batch or search (409 if that has ended). Once that has ended, it is deleted a week after its last
    message.
    """
    wanted = bodies.wanted(schemas.WebhookRequest, "There can be no such webhook.")
    service = current()
    _guard(service.settings).check(wanted.url)  # before the transaction: a name server may take its time
    with db.session_scope(service.engine) as session:
        asked = wanted.model_dump(exclude={"url"})
        made = subscriptions.create(session, wanted.url, **asked, tenant=auth.tenant())
        auth.note(session, "webhook.create", made.id)
    return openapi.answer(schemas.NewWebhook(**described(made).model_dump(), secret=made.secret), 201)


@api.get("", operation_id="listWebhooks", responses={200: schemas.WebhookList})
def index(query: schemas.PageQuery) -> Response:
    """List the webhooks of your tenant, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = subscriptions.page(session, tenant=auth.tenant(), **query.model_dump())
    return openapi.answer(schemas.WebhookList(data=[described(row) for row in rows], has_more=more))


@api.get("/<webhook_id>", operation_id="getWebhook", responses={200: schemas.Webhook, **openapi.problems(404)})
def show(path: schemas.WebhookPath) -> Response:
    """Get a webhook"""
    with db.read_scope(current().engine) as session:
        return openapi.answer(described(subscriptions.get(session, path.webhook_id, tenant=auth.tenant())))


@api.delete("/<webhook_id>", operation_id="deleteWebhook", responses={204: None, **openapi.problems(404)})
def delete(path: schemas.WebhookPath) -> Response:
    """Delete a webhook, its unsent messages and its log"""
    with db.session_scope(current().engine) as session:
        subscriptions.delete(session, path.webhook_id, tenant=auth.tenant())
        auth.note(session, "webhook.delete", path.webhook_id)
    return Response(status=204)


@api.post(
    "/<webhook_id>/rotate", operation_id="rotateWebhook", responses={200: schemas.NewWebhook, **openapi.problems(404)}
)
def rotate(path: schemas.WebhookPath) -> Response:
    """Give a webhook a new secret, which only this answer contains

    For 24 hours messages are also signed with the old secret, so that the receiver can switch.
    """
    with db.session_scope(current().engine) as session:
        row = subscriptions.rotate(session, path.webhook_id, tenant=auth.tenant())
        auth.note(session, "webhook.rotate", row.id)
    return openapi.answer(schemas.NewWebhook(**described(row).model_dump(), secret=row.secret))


@api.post("/<webhook_id>/test", operation_id="testWebhook", responses={200: schemas.Delivery, **openapi.problems(404)})
def test(path: schemas.WebhookPath) -> Response:
    """Send `webhook.test` at once and return the result

    This takes 20 seconds at most. The message is not retried. If it arrives, a disabled webhook is enabled again.
    """
    service = current()
    # It holds a thread as a long poll does, so both together are kept to as many.
    if not service.waiting.acquire(blocking=False):
        raise RateLimited("Too much is waited for at once; try again in a few seconds.", retry_after_seconds=5)
    try:
        with db.session_scope(service.engine) as session:
            message = subscriptions.begin_test(session, path.webhook_id, tenant=auth.tenant())
            auth.note(session, "webhook.test", path.webhook_id)
        guard = _guard(service.settings)
        outcome = posting.post(guard, message.url, message.secrets, message.id, message.body)
        with db.session_scope(service.engine) as session:
            subscriptions.record(session, message, outcome)
            row = subscriptions.get_delivery(session, path.webhook_id, message.id, tenant=auth.tenant())
    finally:
        service.waiting.release()
    return openapi.answer(described_delivery(row))


@api.get(
    "/<webhook_id>/deliveries",
    operation_id="listDeliveries",
    responses={200: schemas.DeliveryList, **openapi.problems(404)},
)
def deliveries(path: schemas.WebhookPath, query: schemas.PageQuery) -> Response:
    """List the messages of a webhook and their results, newest first"""
    with db.read_scope(current().engine) as session:
        rows, more = subscriptions.deliveries(session, path.webhook_id, tenant=auth.tenant(), **query.model_dump())
    return openapi.answer(schemas.DeliveryList(data=[described_delivery(row) for row in rows], has_more=more))


@api.post(
    "/<webhook_id>/deliveries/<delivery_id>/redeliver",
    operation_id="redeliver",
    responses={202: schemas.Delivery, **openapi.problems(404, 409)},
)
def redeliver(path: schemas.DeliveryPath) -> Response:
    """Send a message again, with the same id

    It is sent within seconds, even if it had arrived before. 409 if the webhook is disabled.
    """
    with db.session_scope(current().engine) as session:
        row = subscriptions.redeliver(session, path.webhook_id, path.delivery_id, tenant=auth.tenant())
        auth.note(session, "webhook.redeliver", row.id)
    return openapi.answer(described_delivery(row), 202)


def described(row: Webhook) -> schemas.Webhook:
    """The webhook as its tenant sees it."""
    return schemas.Webhook(
        id=row.id,
        url=row.url,
        events=row.events,
        only=row.only,
        tags=row.tags,
        created_at=schemas.moment(row.created_at),
        delivered_at=schemas.moment_or_none(row.delivered_at),
        failures=row.failures,
        disabled_at=schemas.moment_or_none(row.disabled_at),
        disabled_reason=row.disabled_reason,
        old_secret_until=schemas.moment(row.old_secrets[0]["until"]) if row.old_secrets else None,
    )


def described_delivery(row: Delivery) -> schemas.Delivery:
    """The message as its tenant sees it."""
    ended = "delivered" if row.delivered_at is not None else "given_up"
    return schemas.Delivery(
        id=row.id,
        webhook_id=row.webhook_id,
        job_id=row.job_id,
        event=row.event,
        state=ended if row.next_at is None else "pending",
        attempts=row.attempts,
        created_at=schemas.moment(row.created_at),
        attempted_at=schemas.moment_or_none(row.attempted_at),
        next_at=schemas.moment_or_none(row.next_at),
        delivered_at=schemas.moment_or_none(row.delivered_at),
        last_status=row.last_status,
        last_error=row.last_error,
        last_answer=row.last_answer,
        payload=json.loads(row.payload),
    )


def _guard(settings: Settings) -> Guard:
    """Which addresses a webhook may have."""
    return Guard(settings.webhook_networks, https_only=settings.production)
