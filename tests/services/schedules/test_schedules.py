"""Schedules: each slot once, whoever looks; what comes of it while a batch goes on, after downtime, with old data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.access import tenants
from services.blobs.storage import Storage
from services.datasets import versions
from services.errors import (
    IdempotencyConflict,
    Invalid,
    QuotaExceeded,
    ScheduleBusy,
    ScheduleExists,
    ScheduleInvalid,
    ScheduleNotFound,
)
from services.idempotency import Key
from services.jobs import attempts, batches, control, queries
from services.jobs.leases import Lease
from services.orm import Batch, Delivery, Firing, Job, Schedule, Webhook
from services.schedules import cron, definitions, firings
from services.schedules.definitions import Definition
from services.settings import Settings
from services.webhooks import news, subscriptions
from tests.checking import UNCHECKED_SECONDS, do_checks
from tests.conftest import received
from worker.scheduler.loop import keep_schedules

Scope = Callable[[], AbstractContextManager[Session]]
SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 3},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}
TUESDAY = datetime.fromisoformat("2026-11-24T12:00:00+00:00").timestamp()
HOUR, DAY = 3600.0, 86_400.0
NIGHTLY = Definition("30 2 * * *", SPEC)


class Clock:
    """What `schedules.clock` says: everything that schedules decide by time, they decide by it."""

    def __init__(self) -> None:
        self.now = TUESDAY

    def __call__(self, _session: Session) -> float:
        return self.now

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(f"{text}+00:00").timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(definitions, "clock", moved)
    return moved


@pytest.fixture
def make(scope: Scope, clock: Clock) -> Callable[..., Schedule]:
    """A factory of schedules; every night at 02:30 UTC unless told otherwise."""

    def made(name: str = "nightly", **changes: Any) -> Schedule:
        wanted = Definition(**{"cron": NIGHTLY.cron, "submit": SPEC, **changes})
        with scope() as session:
            return definitions.create(session, name, wanted)

    return made


def rows(engine: Engine, schedule: Schedule | None = None) -> list[Firing]:
    """Every firing, oldest first."""
    query = sa.select(Firing).order_by(Firing.id)
    with db.read_scope(engine) as session:
        return [*session.scalars(query if schedule is None else query.where(Firing.schedule_id == schedule.id))]


def outcomes_of(engine: Engine) -> list[tuple[str | None, str, str | None]]:
    """Of every firing, oldest first, its slot in UTC, its outcome and its reason."""
    return [
        (None if row.slot is None else f"{cron.local(row.slot, 'UTC'):%d %H:%M}", row.outcome, row.reason)
        for row in rows(engine)
    ]


def count(engine: Engine, table: type[Batch] | type[Job]) -> int:
    with db.read_scope(engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def finish(engine: Engine, *, fail: bool = False) -> None:
    """Let every job that waits come to its end."""
    with db.session_scope(engine) as session:
        while (job := attempts.claim(session, "default", worker="host:1", lease_seconds=60)) is not None:
            if fail:
                attempts.fail(session, Lease.of(job), "diverged", "Diverged.", retry=False)
            else:
                result = {"best_epoch": 1, "epochs": 3, "stopped_early": False, "metrics": {}}
                attempts.succeed(session, Lease.of(job), result, [])


# By the clock


def test_a_slot_is_fired_when_it_is_due_and_once(engine: Engine, make: Callable[..., Schedule], clock: Clock) -> None:
    schedule = make()
    clock.set("2026-11-25T02:29:59")
    keep_schedules(engine)
    assert rows(engine) == []
    clock.set("2026-11-25T02:30:04")
    for _ in range(3):
        keep_schedules(engine)
    [row] = rows(engine)
    assert (row.outcome, row.reason, row.tenant, row.ended_at) == ("fired", None, "default", None)
    with db.read_scope(engine) as session:
        batch = batches.get(session, row.batch_id or "")
        [job] = batches.members(session, batch.id)
        assert (batch.name, batch.schedule_id) == ("nightly 2026-11-25 02:30", schedule.id)
        assert batch.request_id == job.request_id
        assert (job.request_id or "").startswith("req_")
        coming = definitions.coming(definitions.get(session, "nightly"), 2)
    assert [f"{cron.local(slot, 'UTC'):%d %H:%M}" for slot in coming] == ["26 02:30", "27 02:30"]


def test_the_end_of_a_batch_is_written_down_with_its_counts_and_outlives_its_jobs(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make(submit={**SPEC, "matrix": {"training.epochs": [2, 3]}})
    for day, fail in ((25, False), (26, True)):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
        finish(engine, fail=fail)
        clock.now += HOUR
        keep_schedules(engine)
    first, second = rows(engine)
    assert (first.outcome, first.counts, first.message) == ("succeeded", {"succeeded": 2}, None)
    assert first.ended_at == first.created_at + HOUR
    assert (second.outcome, second.counts) == ("failed", {"failed": 2})
    assert second.message == f"2 of 2 jobs failed: `loopline batches show {second.batch_id}` says which, and why."
    with scope() as session:
        for job in batches.members(session, first.batch_id or ""):
            control.delete(session, job.id)
    keep_schedules(engine)
    assert rows(engine)[0].counts == {"succeeded": 2}


def test_a_batch_whose_jobs_were_deleted_before_anybody_looked_has_ended(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make()
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    finish(engine)
    with scope() as session:
        control.delete(session, batches.members(session, rows(engine)[0].batch_id or "")[0].id)
    keep_schedules(engine)
    [row] = rows(engine)
    assert (row.outcome, row.message) == ("deleted", "Its jobs were deleted before their end was seen.")


@pytest.mark.parametrize(
    ("zone", "since", "until", "expected"),
    [
        (
            "Europe/Berlin",
            "2026-03-28T12:00:00",
            "2026-03-30T12:00:00",
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
        ),
        (
            "Australia/Sydney",
            "2026-04-04T12:00:00",
            "2026-04-06T12:00:00",
            ["2026-04-05T02:30:00+11:00", "2026-04-06T02:30:00+10:00"],
        ),
    ],
)
def test_a_night_on_which_clocks_change_is_one_night(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, zone: str, since: str, until: str, expected: list[str]
) -> None:
    clock.set(since)
    make(time_zone=zone)
    end = datetime.fromisoformat(f"{until}+00:00").timestamp()
    while clock.now < end:
        clock.now += 1800
        keep_schedules(engine)
        finish(engine)
    assert [cron.local(row.slot or 0.0, zone).isoformat() for row in rows(engine)] == expected


def test_jitter_is_the_slots_own_and_within_its_bounds(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    schedule = make(jitter_seconds=1800)
    assert schedule.next_slot is not None
    assert schedule.due_at is not None
    assert schedule.next_slot <= schedule.due_at < schedule.next_slot + 1800
    nights = [definitions.due(schedule.id, schedule.next_slot + day * DAY, 1800) - day * DAY for day in range(50)]
    assert len(set(nights)) == 50
    assert all(schedule.next_slot <= night < schedule.next_slot + 1800 for night in nights)
    clock.now = schedule.due_at - 1
    keep_schedules(engine)
    assert rows(engine) == []
    clock.now = schedule.due_at + 30
    keep_schedules(engine)
    assert [(row.slot, row.outcome, row.reason) for row in rows(engine)] == [(schedule.next_slot, "fired", None)]


# After downtime


def test_after_downtime_the_newest_slot_is_fired_and_the_others_are_missed(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    make(cron="0 * * * *", catch_up_seconds=3 * 3600)
    clock.set("2026-11-24T18:20:00")
    keep_schedules(engine)
    assert outcomes_of(engine) == [
        ("24 13:00", "missed", "downtime"),
        ("24 14:00", "missed", "downtime"),
        ("24 15:00", "missed", "downtime"),
        ("24 16:00", "missed", "superseded"),
        ("24 17:00", "missed", "superseded"),
        ("24 18:00", "fired", "catch_up"),
    ]
    assert count(engine, Batch) == 1


def test_a_slot_that_is_too_late_is_missed_and_says_what_to_do(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    make(catch_up_seconds=0)
    make("lenient")
    clock.set("2026-11-25T02:30:59")
    keep_schedules(engine)
    assert [row.outcome for row in rows(engine)] == ["fired", "fired"]
    finish(engine)
    clock.set("2026-11-26T02:31:05")
    keep_schedules(engine)
    outcomes = [(row.outcome, row.reason) for row in rows(engine)[2:]]
    assert sorted(outcomes) == [("fired", "catch_up"), ("missed", "downtime")]
    message = next(row.message for row in rows(engine) if row.outcome == "missed")
    assert message is not None
    assert "run the schedule now" in message


def test_of_many_missed_slots_the_newest_have_rows_and_the_oldest_says_how_many_more(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    make(cron="* * * * *")
    clock.now += 3 * DAY
    keep_schedules(engine)
    found = rows(engine)
    assert len(found) == 100
    assert (found[0].message or "").endswith(" 4,220 slots before it were missed too.")
    assert [row.outcome for row in found[:-1]] == ["missed"] * 99
    assert (found[-1].outcome, found[-1].slot) == ("fired", clock.now)


def test_a_clock_that_is_set_back_fires_nothing_again(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make()
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    finish(engine)
    clock.set("2026-11-24T12:00:00")
    with scope() as session:
        definitions.pause(session, "nightly")
        definitions.resume(session, "nightly")
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    assert outcomes_of(engine) == [("25 02:30", "succeeded", None)]
    with db.read_scope(engine) as session:
        assert definitions.get(session, "nightly").next_slot == clock.now + DAY


# While a batch goes on


def test_skip_leaves_a_slot_out_while_the_batch_before_goes_on(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    make()
    for day in (25, 26):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    first, second = rows(engine)
    assert (first.outcome, second.outcome, second.reason) == ("fired", "skipped", "overlap")
    assert (second.message or "").endswith(f"({first.batch_id})")
    finish(engine)
    clock.set("2026-11-27T02:30:00")
    keep_schedules(engine)
    assert [outcome for _, outcome, _ in outcomes_of(engine)] == ["succeeded", "skipped", "fired"]


def test_queue_lets_one_slot_wait_and_fires_it_at_the_end_of_the_batch_before(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    make(overlap="queue")
    for day in (25, 26, 27):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    assert outcomes_of(engine) == [
        ("25 02:30", "fired", None),
        ("26 02:30", "skipped", "superseded"),
        ("27 02:30", "waiting", None),
    ]
    finish(engine)
    clock.now += HOUR
    keep_schedules(engine)
    keep_schedules(engine)
    assert [outcome for _, outcome, _ in outcomes_of(engine)] == ["succeeded", "skipped", "fired"]
    assert (count(engine, Batch), rows(engine)[2].message) == (2, None)
    with db.read_scope(engine) as session:
        assert batches.get(session, rows(engine)[2].batch_id or "").name == "nightly 2026-11-27 02:30"


def test_what_waits_and_is_not_right_any_more_is_refused(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make(overlap="queue")
    for day in (25, 26):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    finish(engine)
    with scope() as session:
        session.execute(sa.update(Schedule).values(submit={"training": {"epochs": -1}}))
    keep_schedules(engine)
    first, second = rows(engine)
    assert (first.outcome, second.outcome, second.reason) == ("succeeded", "refused", "spec_invalid")
    assert "/submit/training/epochs: " in (second.message or "")
    assert second.ended_at is not None


def test_replace_cancels_the_batch_before(engine: Engine, make: Callable[..., Schedule], clock: Clock) -> None:
    make(overlap="replace")
    for day in (25, 26):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    keep_schedules(engine)
    first, second = rows(engine)
    assert (first.outcome, first.counts) == ("cancelled", {"cancelled": 1})
    assert (second.outcome, second.reason) == ("fired", "replaced")
    assert (second.message or "").endswith(f"({first.batch_id})")


def test_a_slot_that_is_refused_replaces_nothing(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make(overlap="replace", submit={**SPEC, "matrix": {"training.epochs": [2, 3]}})
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    with scope() as session:
        tenants.change(session, "default", max_queued=1)
    clock.set("2026-11-26T02:30:00")
    keep_schedules(engine)
    first, second = rows(engine)
    assert (first.outcome, second.outcome, second.reason) == ("fired", "refused", "quota_exceeded")
    assert "max_queued" in (second.message or "")
    with db.read_scope(engine) as session:
        assert {job.status for job in batches.members(session, first.batch_id or "")} == {"queued"}
    with scope() as session:
        tenants.change(session, "default", max_queued=2)
    clock.set("2026-11-27T02:30:00")
    keep_schedules(engine)  # there is room for those that take the place of others
    assert rows(engine)[2].reason == "replaced"


# Data


def upload(scope: Scope, storage: Storage, content: bytes, *, wait_seconds: float | None = None) -> str:
    with scope() as session:
        file = received(storage, BytesIO(content), wait_seconds=wait_seconds)
        return versions.add(session, file, name="speech").dataset.id


def test_without_new_data_a_slot_is_skipped_unless_the_run_before_failed(
    engine: Engine,
    make: Callable[..., Schedule],
    clock: Clock,
    scope: Scope,
    storage: Storage,
    npz_bytes: Callable[..., bytes],
) -> None:
    first = upload(scope, storage, npz_bytes(1))
    make(only_new_data=True, submit={**SPEC, "data": {"dataset": "speech"}})
    for day, fail in ((25, True), (26, False), (27, False)):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
        finish(engine, fail=fail)
    second = upload(scope, storage, npz_bytes(2))
    clock.set("2026-11-28T02:30:00")
    keep_schedules(engine)
    assert [(slot, outcome, reason) for slot, outcome, reason in outcomes_of(engine)] == [
        ("25 02:30", "failed", None),
        ("26 02:30", "succeeded", None),
        ("27 02:30", "skipped", "no_new_data"),
        ("28 02:30", "fired", None),
    ]
    assert [row.datasets for row in rows(engine)] == [[first], [first], None, [second]]


def test_a_data_set_that_was_deleted_refuses_the_slot_and_the_next_one_tries_again(
    engine: Engine,
    make: Callable[..., Schedule],
    clock: Clock,
    scope: Scope,
    storage: Storage,
    npz_bytes: Callable[..., bytes],
) -> None:
    first = upload(scope, storage, npz_bytes(1))
    make(submit={**SPEC, "data": {"dataset": "speech"}}, only_new_data=True)
    with scope() as session:
        versions.delete(session, first)
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    upload(scope, storage, npz_bytes(2))
    clock.set("2026-11-26T02:30:00")
    keep_schedules(engine)
    assert outcomes_of(engine) == [("25 02:30", "refused", "spec_invalid"), ("26 02:30", "fired", None)]
    assert "/submit/data/dataset: no data set named `speech`" in (rows(engine)[0].message or "")


def test_a_data_set_that_is_being_checked_is_no_new_data_and_refuses_a_slot_that_has_no_other(
    engine: Engine,
    make: Callable[..., Schedule],
    clock: Clock,
    scope: Scope,
    storage: Storage,
    npz_bytes: Callable[..., bytes],
) -> None:
    first = upload(scope, storage, npz_bytes(1))
    make(submit={**SPEC, "data": {"dataset": "speech"}}, only_new_data=True)
    for day in (25, 26, 27, 28):
        if day == 26:
            second = upload(scope, storage, npz_bytes(2), wait_seconds=UNCHECKED_SECONDS)
        if day == 27:
            with scope() as session:
                versions.delete(session, first)
        if day == 28:
            assert do_checks(Settings(data_dir=storage.root.parent), engine) == 1
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
        finish(engine)
    assert [(outcome, reason) for _, outcome, reason in outcomes_of(engine)] == [
        ("succeeded", None),
        ("skipped", "no_new_data"),
        ("refused", "dataset_validating"),
        ("fired", None),
    ]
    assert "speech@2 is still being checked" in (rows(engine)[2].message or "")
    assert rows(engine)[3].datasets == [second]


# Changes, pauses, runs by hand


def test_what_is_set_again_changes_nothing_and_keeps_what_comes_next(
    make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    made = make()
    clock.set("2026-11-25T02:31:00")  # overdue by a minute: the slot is still to come
    with scope() as session:
        again = definitions.put(session, "nightly", NIGHTLY)
        assert (again.created, again.changed) == (False, False)
        assert (again.schedule.updated_at, again.schedule.revision) == (made.updated_at, 1)
        other = definitions.put(session, made.id, Definition("30 2 * * *", SPEC, overlap="queue", jitter_seconds=60))
        assert (other.changed, other.schedule.revision, other.schedule.next_slot) == (True, 2, made.next_slot)
        assert other.schedule.due_at == definitions.due(made.id, made.next_slot or 0.0, 60)
        moved = definitions.put(session, "nightly", Definition("0 6 * * *", SPEC))
        assert moved.schedule.next_slot == datetime.fromisoformat("2026-11-25T06:00:00+00:00").timestamp()
        assert definitions.put(session, "weekly", Definition("@weekly", SPEC)).created
        with pytest.raises(ScheduleNotFound):
            definitions.put(session, "sch_" + "0" * 26, NIGHTLY)


def test_a_pause_makes_no_rows_and_a_resume_begins_with_what_comes_then(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make(overlap="queue")
    for day in (25, 26):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    with scope() as session:
        assert definitions.pause(session, "nightly").changed
        assert not definitions.pause(session, "nightly").changed
        assert definitions.coming(definitions.get(session, "nightly"), 3) == []
        moved = definitions.put(session, "nightly", Definition("0 6 * * *", SPEC, overlap="queue")).schedule
        assert (moved.next_slot, moved.due_at) == (None, None)
    finish(engine)
    clock.set("2026-11-29T12:00:00")
    keep_schedules(engine)
    with scope() as session:
        assert definitions.resume(session, "nightly").changed
        assert not definitions.resume(session, "nightly").changed
    clock.set("2026-11-30T06:00:00")
    keep_schedules(engine)
    assert outcomes_of(engine) == [
        ("25 02:30", "succeeded", None),
        ("26 02:30", "skipped", "paused"),
        ("30 06:00", "fired", None),
    ]


def test_a_run_by_hand_obeys_the_overlap_and_not_the_pause(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make()
    with scope() as session:
        definitions.pause(session, "nightly")
        firing, replayed = firings.run(session, "nightly", request_id="mine-1")
        assert (firing.outcome, firing.reason, firing.slot, replayed) == ("fired", "run_now", None, False)
        assert batches.get(session, firing.batch_id or "").request_id == "mine-1"
        assert batches.get(session, firing.batch_id or "").name == "nightly 2026-11-24 12:00"
    with (
        pytest.raises(ScheduleBusy, match=rf"The batch {firing.batch_id} .* has not ended: wait for it"),
        scope() as session,
    ):
        firings.run(session, "nightly")
    with scope() as session:
        definitions.put(session, "nightly", Definition("30 2 * * *", SPEC, overlap="queue"))
        assert firings.run(session, "nightly")[0].outcome == "waiting"
    finish(engine)
    keep_schedules(engine)
    assert outcomes_of(engine) == [(None, "succeeded", "run_now"), (None, "fired", "run_now")]
    with scope() as session:
        definitions.put(session, "nightly", Definition("30 2 * * *", SPEC, overlap="replace"))
        assert firings.run(session, "nightly")[0].reason == "replaced"


def test_a_run_by_hand_counts_for_the_overlap_of_slots(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make()
    with scope() as session:
        firings.run(session, "nightly")
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    assert outcomes_of(engine) == [(None, "fired", "run_now"), ("25 02:30", "skipped", "overlap")]


def test_a_run_that_is_asked_for_twice_with_one_key_is_one(make: Callable[..., Schedule], scope: Scope) -> None:
    make()
    make("other")
    key = Key("default POST /v1/schedules/run", "once", "")
    with scope() as session:
        firing, _ = firings.run(session, "nightly", key=key)
    with scope() as session:
        again, replayed = firings.run(session, "nightly", key=key)
        assert (again.id, replayed) == (firing.id, True)
        with pytest.raises(IdempotencyConflict):
            firings.run(session, "other", key=key)


def test_a_run_whose_spec_is_not_right_any_more_says_where_and_leaves_no_row(
    engine: Engine, make: Callable[..., Schedule], scope: Scope
) -> None:
    make()
    with scope() as session:
        session.execute(sa.update(Schedule).values(submit={**SPEC, "training": {"epochs": -1}}))
    with pytest.raises(ScheduleInvalid) as refused, scope() as session:
        firings.run(session, "nightly")
    assert [problem.pointer for problem in refused.value.problems] == ["/submit/training/epochs"]
    assert rows(engine) == []


def test_a_deleted_schedule_leaves_its_batches(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    schedule = make()
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    with scope() as session:
        definitions.delete(session, "nightly")
        with pytest.raises(ScheduleNotFound):
            definitions.get(session, "nightly")
    assert rows(engine) == []
    with db.read_scope(engine) as session:
        [batch], _ = batches.page(session)
        assert batch.schedule_id == schedule.id
    keep_schedules(engine)


def test_every_problem_of_a_schedule_is_told_at_once(scope: Scope, clock: Clock) -> None:
    wanted = Definition("61 * * * *", {**SPEC, "training": {"epochs": -1}}, time_zone="Europe/Berln")
    with pytest.raises(ScheduleInvalid) as refused, scope() as session:
        definitions.create(session, "Nightly!", wanted)
    told = {problem.pointer: problem.detail for problem in refused.value.problems}
    assert told.keys() == {"/name", "/cron", "/time_zone", "/submit/training/epochs"}
    for changes, pointer in (
        ({"jitter_seconds": 3600, "cron": "@hourly"}, "/jitter_seconds"),
        ({"only_new_data": True}, "/only_new_data"),
        ({"submit": {**SPEC, "data": {"dataset": "nothing"}}}, "/submit/data/dataset"),
        ({"submit": {"jobs": []}}, "/submit/jobs"),
    ):
        with pytest.raises(ScheduleInvalid) as refused, scope() as session:
            definitions.create(session, "nightly", Definition(**{"cron": "@daily", "submit": SPEC, **changes}))
        assert [problem.pointer for problem in refused.value.problems] == [pointer]


def test_names_are_the_tenants_own_and_few(
    make: Callable[..., Schedule], scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    with scope() as session:
        tenants.create(session, "acme")
        theirs = definitions.create(session, "nightly", NIGHTLY, tenant="acme")
    with pytest.raises(ScheduleExists, match="PUT /v1/schedules/nightly"):
        make()
    with scope() as session:
        assert definitions.get(session, "nightly").id == made.id
        assert definitions.get(session, theirs.id, tenant="acme").id == theirs.id
        with pytest.raises(ScheduleNotFound):
            definitions.get(session, theirs.id)
    monkeypatch.setattr(definitions, "MOST", 1)
    with pytest.raises(QuotaExceeded, match="has 1 schedules and may have 1"):
        make("weekly")


def test_old_firings_are_forgotten_and_what_is_open_is_not(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    make()
    for day in (25, 26):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    clock.now += 401 * DAY
    with scope() as session:
        assert firings.forget_old(session) == 1
    assert outcomes_of(engine) == [("25 02:30", "fired", None)]


# Many at once


def test_of_many_schedulers_at_once_each_slot_is_fired_by_one(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    names = [f"model-{number}" for number in range(6)]
    for name in names:
        make(name, cron="0 * * * *", overlap=random.choice(["skip", "queue", "replace"]))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            clock.now += HOUR
            for done in [pool.submit(keep_schedules, engine) for _ in range(4)]:
                done.result()
            keep_schedules(engine)  # one that was locked is for the next pass
            finish(engine)
    keep_schedules(engine)
    found = rows(engine)
    assert len({(row.schedule_id, row.slot) for row in found}) == len(found) == 6 * 4
    assert {row.outcome for row in found} == {"succeeded"}
    assert count(engine, Batch) == 6 * 4


def test_any_course_of_things_ends_as_a_plain_model_says(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    """Slots by the hour, looks at random times, ends of batches at random: every slot has one row, no more than
    one batch goes on, and the newest slot of each look is never missed when it is in time."""
    dice = random.Random(7)
    make(cron="0 * * * *", catch_up_seconds=7200, overlap="queue")
    began = clock.now
    for _ in range(40):
        clock.now += dice.choice([600, 1800, 3600, 5 * 3600])
        if dice.random() < 0.5:
            finish(engine)
        keep_schedules(engine)
        found = rows(engine)
        due = int((clock.now - began) // HOUR)
        assert [row.slot for row in found] == [began + HOUR * (place + 1) for place in range(due)]
        if found and clock.now - (found[-1].slot or 0.0) <= 60:
            assert found[-1].outcome in {"fired", "waiting"}
        with db.read_scope(engine) as session:
            going_on = {
                job.batch_id
                for job in queries.page(session.connection(), tenant="default", limit=1000).rows
                if job.status == "queued"
            }
        assert len(going_on) <= 1
        assert sum(row.outcome == "waiting" for row in found) <= 1
        fired = [row for row in found if row.batch_id]
        assert count(engine, Batch) == len(fired) == len({row.batch_id for row in fired})
    outcomes = {row.outcome for row in rows(engine)}
    assert {"succeeded", "missed", "skipped"} <= outcomes


# Told to webhooks


def messages(engine: Engine, webhook: Webhook) -> list[tuple[str, dict[str, Any]]]:
    """Events and their data, oldest first."""
    query = sa.select(Delivery).where(Delivery.webhook_id == webhook.id).order_by(Delivery.id)
    with db.read_scope(engine) as session:
        return [(row.event, json.loads(row.payload)["data"]) for row in session.scalars(query)]


def test_webhooks_are_told_once_of_what_came_of_each_slot(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    schedule = make(overlap="queue", submit={**SPEC, "tags": {"team": "speech"}})
    with scope() as session:
        every = [event for event in news.EVENTS if event.startswith("schedule.")]
        everything = subscriptions.create(session, "https://example.com/", events=every, tenant="default")
        tagged = subscriptions.create(
            session, "https://example.com/", events=every, tags={"team": "speech"}, tenant="default"
        )
        usual = subscriptions.create(session, "https://example.com/", only=schedule.id, tenant="default")
        ends = ["job.succeeded", "batch.ended"]
        its_jobs = subscriptions.create(
            session, "https://example.com/", events=ends, only=schedule.id, tenant="default"
        )
        other = definitions.create(session, "other", NIGHTLY)
        others = subscriptions.create(session, "https://example.com/", only=other.id, tenant="default")
        definitions.pause(session, "other")
    for day in (25, 26, 27):
        clock.set(f"2026-11-{day}T02:30:00")
        keep_schedules(engine)
    finish(engine)
    with scope() as session:
        assert batches.end(session, rows(engine)[0].batch_id or "")
    keep_schedules(engine)
    clock.set("2026-11-30T12:00:00")
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(keep_schedules, engine) for _ in range(4)]:
            done.result()
    told = messages(engine, everything)
    assert [event for event, _ in told] == [
        "schedule.fired",
        "schedule.skipped",
        "schedule.ended",
        "schedule.fired",
        "schedule.missed",
    ]
    assert [data["schedule"]["name"] for _, data in told] == ["nightly"] * 5
    assert (told[2][1]["outcome"], told[2][1]["counts"]) == ("succeeded", {"succeeded": 1})
    assert (told[4][1]["missed"], told[4][1]["slot"]) == (3, "2026-11-30T02:30:00.000000Z")
    assert [event for event, _ in messages(engine, tagged)] == ["schedule.fired", "schedule.ended", "schedule.fired"]
    assert [event for event, _ in messages(engine, usual)] == ["schedule.ended", "schedule.missed"]
    assert [event for event, _ in messages(engine, its_jobs)] == ["job.succeeded", "batch.ended"]
    assert messages(engine, others) == []


def test_a_slot_that_is_refused_is_told_and_a_webhook_goes_with_its_schedule(
    engine: Engine, make: Callable[..., Schedule], clock: Clock, scope: Scope
) -> None:
    schedule = make()
    with scope() as session:
        webhook = subscriptions.create(session, "https://example.com/", only=schedule.id, tenant="default")
        with pytest.raises(ScheduleNotFound):
            subscriptions.create(session, "https://example.com/", only="sch_" + "0" * 26, tenant="default")
        with pytest.raises(Invalid, match="cannot happen"):
            subscriptions.create(
                session, "https://example.com/", events=["model.promoted"], only=schedule.id, tenant="default"
            )
        session.execute(sa.update(Schedule).values(submit={"training": {"epochs": -1}}))
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    [(event, data)] = messages(engine, webhook)
    assert (event, data["reason"], data["batch_id"]) == ("schedule.refused", "spec_invalid", None)
    with scope() as session:
        long_ago = db.now() - 30 * DAY
        session.execute(sa.update(Webhook).values(created_at=long_ago))
        session.execute(sa.update(Delivery).values(created_at=long_ago, next_at=None))
        assert subscriptions.forget_spent(session) == 0
        definitions.delete(session, "nightly")
        assert subscriptions.forget_spent(session) == 1


def test_a_schedule_that_was_set_when_names_might_hold_more_goes_on(
    engine: Engine, make: Callable[..., Schedule], clock: Clock
) -> None:
    schedule = make()
    before = SPEC | {"name": "a\u202eb", "tags": {"team\x9b": "speech"}}
    with db.session_scope(engine) as session:
        session.execute(sa.update(Schedule).where(Schedule.id == schedule.id).values(submit=before, only_new_data=True))
    clock.set("2026-11-25T02:30:00")
    keep_schedules(engine)
    [firing] = rows(engine, schedule)
    assert firing.outcome == "fired"
    with db.read_scope(engine) as session:
        [job] = session.scalars(sa.select(Job).where(Job.batch_id == firing.batch_id))
        assert (job.name, job.tags) == (before["name"], before["tags"])
