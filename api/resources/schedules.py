"""/v1/schedules: submit batches at set times, list the results, pause, run now."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, g, request
from sqlalchemy.orm import Session

from api import auth, bodies, openapi, schemas
from api.service import current
from services import db, faults
from services.errors import Problem, ScheduleInvalid
from services.idempotency import Key
from services.jobs import batches
from services.orm import Firing, Schedule
from services.schedules import cron, definitions, firings
from services.schedules.definitions import Definition

api = openapi.blueprint("schedules", __name__, prefix="/v1/schedules", about="Batches that are submitted by the clock.")

NEXT = 3
"""Slots that are told in advance."""

log = logging.getLogger(__name__)

_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        media: {
            "schema": schemas.ScheduleRequest.model_json_schema(),
            "examples": {"nightly": {"summary": "Every night", "value": schemas.SCHEDULE_EXAMPLE}},
        }
        for media in ("application/json", "application/yaml")
    },
}


@api.post(
    "",
    operation_id="createSchedule",
    request_body=_BODY,
    responses={201: schemas.Schedule, **openapi.problems(409, 413, 415)},
)
def create() -> Response:
    """Create a schedule

    The service checks `submit` as `POST /v1/batches` would, with pointers below `/submit`. 409 if the name is taken;
    use `PUT` to replace a schedule.
    """
    name, wanted = _wanted()
    with bodies.one_of_few(), db.session_scope(current().engine) as session:
        made = definitions.create(session, name, wanted, by=auth.identity().key_id, tenant=auth.tenant())
        auth.note(session, "schedule.create", made.name)
        resource = described(session, made)
    return openapi.answer(resource, 201, {"Location": resource.links.self})


@api.get("", operation_id="listSchedules", responses={200: schemas.ScheduleList})
def index(query: schemas.SchedulesQuery) -> Response:
    """List the schedules by name, without their specs"""
    with db.read_scope(current().engine) as session:
        rows, more = definitions.page(session, tenant=auth.tenant(), **query.model_dump())
        return openapi.answer(schemas.ScheduleList(data=summarised(session, rows), has_more=more))


@api.get(
    "/<schedule>",
    operation_id="getSchedule",
    responses={200: schemas.Schedule, **openapi.NOT_MODIFIED, **openapi.problems(404)},
)
def show(path: schemas.SchedulePath) -> Response:
    """Get a schedule: its next slots and the result of the last one

    `If-None-Match` works as for a job.
    """
    with db.read_scope(current().engine) as session:
        resource = described(session, definitions.get(session, path.schedule, tenant=auth.tenant()))
    tag = hashlib.sha256(resource.model_dump_json().encode()).hexdigest()[:16]
    if request.if_none_match.contains_weak(tag):
        return Response(status=304, headers={"ETag": f'W/"{tag}"'})
    return openapi.answer(resource, headers={"ETag": f'W/"{tag}"'})


@api.put(
    "/<schedule>",
    operation_id="putSchedule",
    request_body=_BODY,
    responses={200: schemas.Schedule, 201: schemas.Schedule, **openapi.problems(404, 409, 413, 415)},
)
def put(path: schemas.SchedulePath) -> Response:
    """Create or replace a schedule

    Sending an identical schedule changes nothing. The next slot stays the same unless `cron` or `time_zone` changes. A
    paused schedule stays paused. 201 for a new schedule. An id instead of a name replaces an existing one (else 404).
    """
    name, wanted = _wanted(path.schedule)
    with bodies.one_of_few(), db.session_scope(current().engine) as session:
        kept = definitions.put(session, name, wanted, by=auth.identity().key_id, tenant=auth.tenant())
        if kept.changed:
            auth.note(session, "schedule.create" if kept.created else "schedule.change", kept.schedule.name)
        resource = described(session, kept.schedule)
    return openapi.answer(resource, 201 if kept.created else 200, {"Location": resource.links.self})


@api.delete("/<schedule>", operation_id="deleteSchedule", responses={204: None, **openapi.problems(404)})
def delete(path: schemas.SchedulePath) -> Response:
    """Delete a schedule and its history

    The batches that it has submitted stay and continue.
    """
    with db.session_scope(current().engine) as session:
        gone = definitions.delete(session, path.schedule, tenant=auth.tenant())
        auth.note(session, "schedule.delete", gone.name)
    return Response(status=204)


@api.post("/<schedule>/pause", operation_id="pauseSchedule", responses={200: schemas.Schedule, **openapi.problems(404)})
def pause(path: schemas.SchedulePath) -> Response:
    """Pause a schedule

    It fires nothing until it is resumed. A slot that waits for the end of a batch is skipped. Submitted batches
    continue.
    """
    with db.session_scope(current().engine) as session:
        kept = definitions.pause(session, path.schedule, tenant=auth.tenant())
        if kept.changed:
            auth.note(session, "schedule.pause", kept.schedule.name)
        resource = described(session, kept.schedule)
    return openapi.answer(resource)


@api.post(
    "/<schedule>/resume", operation_id="resumeSchedule", responses={200: schemas.Schedule, **openapi.problems(404)}
)
def resume(path: schemas.SchedulePath) -> Response:
    """Resume a schedule, starting with the next slot from now"""
    with db.session_scope(current().engine) as session:
        kept = definitions.resume(session, path.schedule, tenant=auth.tenant())
        if kept.changed:
            auth.note(session, "schedule.resume", kept.schedule.name)
        resource = described(session, kept.schedule)
    return openapi.answer(resource)


@api.post("/<schedule>/run", operation_id="runSchedule", responses={202: schemas.Firing, **openapi.problems(404, 409)})
def run(path: schemas.SchedulePath, header: schemas.SubmitHeader) -> Response:
    """Fire a schedule now

    This works even if the schedule is paused or there is no new data. `overlap` applies: 409 if it is `skip` and the
    previous batch has not ended. The answer is the firing, with its batch unless it waits.
    """
    scope = f"{auth.tenant()} POST /v1/schedules/run"
    key = Key(scope, header.idempotency_key, "") if header.idempotency_key else None
    with bodies.one_of_few(), db.session_scope(current().engine) as session:
        firing, replayed = firings.run(session, path.schedule, key=key, request_id=g.request_id, tenant=auth.tenant())
        schedule = definitions.get(session, path.schedule, tenant=auth.tenant())
        if not replayed:
            auth.note(session, "schedule.run", schedule.name)
        members = batches.members(session, firing.batch_id) if firing.batch_id else []
        [resource] = described_firings(session, schedule, [firing])
    if not replayed:
        log.info("%s: %s by request, %s", schedule.name, firing.outcome, firing.batch_id or "no batch yet")
        faults.point("bell.due")
        for queue in sorted({job.queue for job in members}):
            current().bell.ring(queue)
    return openapi.answer(resource, 202, {"Idempotency-Replayed": "true"} if replayed else {})


@api.get(
    "/<schedule>/firings", operation_id="listFirings", responses={200: schemas.FiringList, **openapi.problems(404)}
)
def history(path: schemas.SchedulePath, query: schemas.PageQuery) -> Response:
    """List the results of a schedule's slots, newest first"""
    with db.read_scope(current().engine) as session:
        schedule = definitions.get(session, path.schedule, tenant=auth.tenant())
        rows, more = firings.history(session, schedule.id, **query.model_dump())
        data = described_firings(session, schedule, rows)
    return openapi.answer(schemas.FiringList(data=data, has_more=more))


def described(session: Session, row: Schedule) -> schemas.Schedule:
    """The schedule as clients see it."""
    [summary] = summarised(session, [row])
    return schemas.Schedule(**dict(summary), submit=row.submit)


def summarised(session: Session, rows: Sequence[Schedule]) -> list[schemas.ScheduleSummary]:
    """The schedules as lists of them have it."""
    newest = firings.latest(session, [row.id for row in rows])
    last = {row.id: described_firings(session, row, [newest[row.id]])[0] for row in rows if row.id in newest}
    return [_summarised(row, last.get(row.id)) for row in rows]


def described_firings(session: Session, schedule: Schedule, rows: Sequence[Firing]) -> list[schemas.Firing]:
    """Firings of a schedule as clients see them; of those whose batch goes on, with how its jobs stand now."""
    going_on = [row.batch_id for row in rows if row.batch_id is not None and row.counts is None]
    summaries = batches.summaries(session, going_on) if going_on else {}
    now: Mapping[str, dict[str, int]] = {
        batch_id: {str(status): number for status, number in summary.counts.items()}
        for batch_id, summary in summaries.items()
    }
    return [_described_firing(schedule, row, row.counts or now.get(row.batch_id or "")) for row in rows]


def _summarised(row: Schedule, last: schemas.Firing | None) -> schemas.ScheduleSummary:
    self = f"{api.url_prefix}/{row.name}"
    rules = [key for key in Definition.__dataclass_fields__ if key != "submit"]
    return schemas.ScheduleSummary.model_validate(
        {
            **{key: getattr(row, key) for key in ("id", "name", *rules, "created_by")},
            "next": [cron.local(slot, row.time_zone) for slot in definitions.coming(row, NEXT)],
            "due_at": None if row.due_at is None else cron.local(row.due_at, row.time_zone),
            "last": last,
            "paused_at": schemas.moment_or_none(row.paused_at),
            "created_at": schemas.moment(row.created_at),
            "updated_at": schemas.moment(row.updated_at),
            "links": {"self": self, **{verb: f"{self}/{verb}" for verb in ("firings", "run", "pause", "resume")}},
        }
    )


def _described_firing(schedule: Schedule, row: Firing, counts: Mapping[str, int] | None) -> schemas.Firing:
    batch = f"/v1/batches/{row.batch_id}" if row.batch_id else None
    return schemas.Firing.model_validate(
        {
            **{key: getattr(row, key) for key in ("id", "schedule_id", "outcome", "reason", "message", "batch_id")},
            "slot": None if row.slot is None else cron.local(row.slot, schedule.time_zone),
            "counts": counts,
            "created_at": schemas.moment(row.created_at),
            "ended_at": schemas.moment_or_none(row.ended_at),
            "links": {"schedule": f"{api.url_prefix}/{schedule.name}", "batch": batch},
        }
    )


def _wanted(address: str | None = None) -> tuple[str, Definition]:
    """The name and the definition in the body, of which the name may stand in the address instead."""
    body = bodies.wanted(schemas.ScheduleRequest, "There can be no such schedule.")
    name = address or body.name
    if name is None:
        raise ScheduleInvalid([Problem("/name", "must be given, such as `nightly`")])
    if body.name not in (None, name) and not name.startswith("sch_"):
        raise ScheduleInvalid([Problem("/name", f"is not {name[:100]}, as the address says; leave it out")])
    return name, Definition(**body.model_dump(exclude={"name"}))
