"""/v1/health: for load balancers and orchestrators."""

from __future__ import annotations

import redis
from flask import Response
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine

from api import openapi, schemas
from api.bell import PATIENCE_SECONDS
from api.service import current
from services import db
from services.errors import LooplineError

api = openapi.blueprint("health", __name__, prefix="/v1/health", about="Is the service up, and can it work?")


@api.get("/live", operation_id="isLive", responses={200: schemas.Alive})
def live() -> Response:
    """Is the process up?

    Touches neither database nor broker: restart the process when this fails.
    """
    return openapi.answer(schemas.Alive())


@api.get("/ready", operation_id="isReady", responses={200: schemas.Ready, 503: schemas.Ready})
def ready() -> Response:
    """Can it take jobs?

    503 while the database cannot be used. A broker that is down is `degraded`: jobs are accepted and wait.
    """
    service = current()
    checks = {"database": _database(service.engine), "broker": _broker(service.settings.broker_url)}
    if checks["database"] != "ok":
        return openapi.answer(schemas.Ready(status="unavailable", checks=checks), 503, {"Retry-After": "5"})
    return openapi.answer(schemas.Ready(status="ready" if checks["broker"] == "ok" else "degraded", checks=checks))


def _database(engine: Engine) -> str:
    try:
        db.check_schema(engine)
    except LooplineError as error:
        return error.message
    return "ok"


def _broker(url: str) -> str:
    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=PATIENCE_SECONDS,
        socket_timeout=PATIENCE_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return f"cannot be reached ({type(error).__name__})"
    finally:
        client.close()
    return "ok"
