"""/v1/health: for load balancers and orchestrators."""

from __future__ import annotations

import time
from collections.abc import Mapping

import redis
from flask import Response
from redis.backoff import NoBackoff
from redis.retry import Retry

from api import auth, openapi, schemas
from api.bell import TIMEOUT_SECONDS
from api.service import Service, current
from services import db
from services.errors import LooplineError, StorageUnavailable
from services.jobs import workers

READY_SECONDS = 1.0
LOCKED_SECONDS = 30.0
BLOBS_SECONDS, BLOBS_TIMEOUT_SECONDS = 5.0, 3.0

NOT_SHOWN = "not well; ask with an API key to hear why"

api = openapi.blueprint("health", __name__, prefix="/v1/health", about="Is the service up, and can it work?")


@api.get("/live", operation_id="isLive", responses={200: schemas.Alive})
def live() -> Response:
    """Check that the process is up

    It uses neither database nor broker. Restart the process if this fails.
    """
    return openapi.answer(schemas.Alive())


@api.get("/ready", operation_id="isReady", responses={200: schemas.Ready, 503: schemas.Ready})
def ready() -> Response:
    """Check that the service can accept jobs and uploads

    It tries to write, at most once a second. 503 if the database or the folder of data sets cannot be written. If the
    broker or object store is down, or no worker takes jobs, the status is `degraded`: jobs are accepted and wait.
    """
    checks = _shown(_tried(current()))
    if not all(checks[needed] == "ok" for needed in ("database", "folder")):
        return openapi.answer(schemas.Ready(status="unavailable", checks=checks), 503, {"Retry-After": "5"})
    return openapi.answer(schemas.Ready(status="ready" if _all_well(checks) else "degraded", checks=checks))


@api.get("/working", operation_id="isWorking", responses={200: schemas.Working, 503: schemas.Working})
def working() -> Response:
    """Check that workers take jobs

    503 in three cases: a worker cannot use its GPU; jobs have waited for LOOPLINE_STUCK_SECONDS and no worker listens
    to their queue, or an idle worker does not take them; the database cannot be used.
    """
    checks = _shown(_work(current()))
    if not _all_well(checks):
        return openapi.answer(schemas.Working(status="stuck", checks=checks), 503, {"Retry-After": "5"})
    return openapi.answer(schemas.Working(status="working", checks=checks))


def _tried(service: Service) -> Mapping[str, str]:
    """What the process can do; asked by many at once, one of them tries."""
    at, checks_before = service.ready_checks
    if time.monotonic() < at + READY_SECONDS or not service.trying.acquire(blocking=not checks_before):
        return checks_before
    try:
        if service.ready_checks[0] == at:
            work = _work(service)
            if work["database"] == "ok":
                work["database"] = _writes(service)
            checks = {**work, "folder": _folder(service), "broker": _broker(service.settings.broker_url)}
            service.ready_checks = (time.monotonic(), {**checks, **_blobs(service)})
        return service.ready_checks[1]
    finally:
        service.trying.release()


def _writes(service: Service) -> str:
    try:
        wrote = db.check_writes(service.engine)
    except LooplineError as error:
        return error.message
    if wrote:
        service.wrote_at = time.monotonic()
    elif time.monotonic() > service.wrote_at + LOCKED_SECONDS:
        return f"It was locked by other writers at each look for {LOCKED_SECONDS:g} s."
    return "ok"


def _folder(service: Service) -> str:
    try:
        service.storage.check_writes()
    except OSError as error:
        return f"{service.storage.root} cannot be written: {error.strerror or type(error).__name__}."
    return "ok"


def _shown(checks: Mapping[str, str]) -> dict[str, str]:
    """The checks; to strangers no more than whether all is well, for the reasons name hosts and queues."""
    with_reasons = all(said == "ok" for said in checks.values()) or auth.is_known()
    return {what: said if with_reasons or said == "ok" else NOT_SHOWN for what, said in checks.items()}


def _all_well(checks: Mapping[str, str]) -> bool:
    return set(checks.values()) == {"ok"}


def _work(service: Service) -> dict[str, str]:
    """What the database says of itself, and of workers beside jobs that wait."""
    try:
        db.check_schema(service.engine)
        with db.read_scope(service.engine) as session:
            stuck = workers.stuck(session, service.settings.stuck_seconds)
    except LooplineError as error:
        return {"database": error.message, "workers": "not known without the database"}
    return {"database": "ok", "workers": " ".join(stuck) or "ok"}


def _broker(url: str) -> str:
    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return f"cannot be reached ({type(error).__name__})"
    finally:
        client.close()
    return "ok"


def _blobs(service: Service) -> dict[str, str]:
    """What the object store says, where one is set; asked every few seconds at most."""
    store = service.storage.objects
    if store is None:
        return {}
    at, answer = service.blobs_check
    if time.monotonic() >= at + BLOBS_SECONDS:
        try:
            store.check(BLOBS_TIMEOUT_SECONDS)
            answer = "ok"
        except StorageUnavailable as error:
            answer = error.message
        service.blobs_check = (time.monotonic(), answer)
    return {"blobs": answer}
