"""Schedules: batches that the service submits at set times, and the result of each slot."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

from loopline import listing
from loopline import spec as specs
from loopline.errors import BadRequest, NotFound
from loopline.http import Http
from loopline.listing import Listing
from loopline.types import Document, Short, known, moment

LOOK_SECONDS = 2.0
_TIMES = ("paused_at", "created_at", "updated_at", "due_at")


@dataclass(frozen=True, repr=False)
class Firing(Short):
    """The record of a slot, or of a run that somebody requested, with its outcome: see docs/schedules.md."""

    id: str
    outcome: str
    """`fired` until its batch has ended, then `succeeded`, `failed`, `cancelled` or `deleted`; or `waiting`, `skipped`,
    `missed`, `refused`."""
    schedule_id: str = ""
    slot: datetime | None = None
    """When it was due, in the schedule's time zone; None for a run that somebody requested."""
    reason: str | None = None
    message: str | None = None
    batch_id: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    """The number of jobs of its batch in each status."""
    created_at: datetime | None = None
    ended_at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        times = {name: moment(document.get(name)) for name in ("slot", "created_at", "ended_at")}
        return cls(**known(cls, document) | times)


@dataclass(frozen=True, repr=False)
class Schedule(Short):
    """When to submit what. `next` are its next slots, in its time zone; empty while it is paused."""

    id: str
    name: str
    cron: str = ""
    time_zone: str = "UTC"
    submit: Document = field(default_factory=dict, repr=False, hash=False)
    overlap: str = "skip"
    catch_up_seconds: int = 0
    jitter_seconds: int = 0
    only_new_data: bool = False
    next: tuple[datetime, ...] = ()
    due_at: datetime | None = None
    """When the first of these slots will be fired, with its jitter."""
    last: Firing | None = None
    paused_at: datetime | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    updated_at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        found = known(cls, document)
        coming = tuple(at for each in found.get("next", ()) if (at := moment(each)))
        last = Firing.of(document["last"]) if document.get("last") else None
        times = {name: moment(document.get(name)) for name in _TIMES}
        return cls(**found | times | {"next": coming, "last": last})


class Schedules:
    """The methods of `client.schedules`. A schedule is given by its name or id. Every method raises NotFound if the
    schedule does not exist."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Schedule]:
        """All schedules, by name, without the specs that they submit."""
        return listing.listed(self._http, "/v1/schedules", Schedule.of, key="name", page_size=page_size)

    def get(self, name: str) -> Schedule:
        """A schedule, with its next slots and the result of the newest one."""
        return Schedule.of(self._http.get_object(_path(name)))

    def set(self, schedule: Mapping[str, Any] | str | Path | specs.SpecFile, *, name: str | None = None) -> Schedule:
        """Creates or replaces a schedule, from a mapping or a YAML or JSON file. Repeating this changes nothing.

        name: default: the name in the document, else the name of the file. Raises BadRequest with every problem.
        """
        document = copy.copy(schedule) if isinstance(schedule, specs.SpecFile) else specs.read(schedule)
        try:
            named = document.value(("name",))
        except BadRequest as error:
            raise BadRequest(f'{error.message} A cron expression goes in quotes: cron: "30 2 * * *".') from None
        if name is not None and named is not None:
            document.set(("name",), name, verbatim=True)
        # The source of a mapping is no file.
        from_file = (
            specs.dataset_name(Path(document.source)) if isinstance(schedule, str | Path | specs.SpecFile) else ""
        )
        called = name or named or from_file
        if not called:
            raise BadRequest("A schedule needs a name: put `name: nightly` into it.")
        headers = {"Content-Type": document.media_type}
        return self._schedule("PUT", _path(called), headers=headers, body=document.text.encode())

    def delete(self, name: str) -> Schedule:
        """Deletes a schedule with its history, and returns it. Its batches continue."""
        found = self.get(name)
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", _path(name))
        return found

    def pause(self, name: str) -> Schedule:
        """Pauses the schedule: no slot is fired until it is resumed."""
        return self._schedule("POST", _path(name, "pause"))

    def resume(self, name: str) -> Schedule:
        """Resumes the schedule with its next slot from now."""
        return self._schedule("POST", _path(name, "resume"))

    def run(self, name: str, *, idempotency_key: str | None = None) -> Firing:
        """Fires the schedule now, even if it is paused. Two calls with the same `idempotency_key` are one run.

        Raises Conflict if its overlap is `skip` and its last batch has not ended.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return Firing.of(self._http.object_in(self._http.send("POST", _path(name, "run"), headers=headers)))

    def firings(self, name: str, *, page_size: int = listing.PAGE) -> Listing[Firing]:
        """Its firings, newest first."""
        return listing.listed(self._http, _path(name, "firings"), Firing.of, page_size=page_size)

    def begun(self, firing: Firing) -> Firing:
        """Waits until the firing no longer waits for another batch, and returns it: it has a batch, or was skipped.
        Raises NotFound if its record was deleted meanwhile."""
        while firing.outcome == "waiting":
            self._http.sleep(LOOK_SECONDS)
            newer = (each for each in self.firings(firing.schedule_id) if each.id <= firing.id)
            found = next(newer, None)
            if found is None or found.id != firing.id:
                raise NotFound(f"There is no firing {firing.id} any more.")
            firing = found
        return firing

    def _schedule(self, method: str, path: str, **request: Any) -> Schedule:
        return Schedule.of(self._http.object_in(self._http.send(method, path, **request)))


def _path(name: str, *below: str) -> str:
    return "/".join(["/v1/schedules", *(quote(part, safe="") for part in (name, *below))])
