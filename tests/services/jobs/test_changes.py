"""What a reader gets who comes back with a cursor."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from services import db
from services.errors import BadRequest, JobNotFound
from services.jobs import attempts, changes, control, events, progress
from services.jobs.changes import Cursor, News, Place
from services.jobs.events import Line
from services.jobs.leases import Lease
from services.orm import Job

INFO = {"device": "cpu", "threads": 1}


@pytest.fixture
def lease(engine: Engine, make_job: Callable[..., Job]) -> Lease:
    """Of a job with a log line, an event, and two epochs of four steps."""
    make_job(limits={"max_retries": 3})
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="test:1", lease_seconds=60)
        assert job is not None
        lease = Lease.of(job)
        progress.started(session, lease, epochs=3, steps_per_epoch=4, info=INFO)
        for epoch in (1, 2):
            progress.record_steps(session, lease, 4 * epoch - 3, [float(epoch)] * 4, [0.5] * 4)
            progress.record(session, lease, {"epoch": epoch, "train_loss": 1.0})
        events.log(session, lease, [Line("info", "Hello.")])
    return lease


def look(engine: Engine, job_id: str, cursor: Cursor) -> tuple[News, Cursor]:
    """What is new, and the cursor after it."""
    with db.read_scope(engine) as session:
        news = changes.of_job(session, job_id, cursor)
    for event in news.events:
        cursor = cursor.after_event(event)
    lines, epochs, steps = news.lines, news.epochs, news.steps.step
    return news, cursor._replace(
        revision=news.job.revision,
        line=lines[-1].number if lines else cursor.line,
        epoch=epochs[-1]["epoch"] if epochs else cursor.epoch,
        step=steps[-1] if steps else cursor.step,
    )


def test_a_reader_gets_everything_once(engine: Engine, lease: Lease) -> None:
    news, cursor = look(engine, lease.job_id, Cursor())
    assert [event.to_status for event in news.events] == ["queued", "running"]
    assert [line.text for line in news.lines] == ["Hello."]
    assert [record["epoch"] for record in news.epochs] == [1, 2]
    assert (news.steps.step, news.steps.loss) == ([1, 2, 3, 4, 5, 6, 7, 8], [1.0] * 4 + [2.0] * 4)
    assert not news.more
    again, same = look(engine, lease.job_id, Cursor.parse(str(cursor)))
    assert (again.events, again.lines, again.epochs, again.steps.step, same) == ([], [], [], [], cursor)
    with db.session_scope(engine) as session:
        progress.record_steps(session, lease, 9, [3.0], [0.5])
    later, _ = look(engine, lease.job_id, cursor)
    assert (later.steps.step, later.steps.loss, later.job.revision) == ([9], [3.0], cursor.revision + 1)


@pytest.mark.parametrize("after", range(9))
def test_the_steps_after_each_step(engine: Engine, lease: Lease, after: int) -> None:
    with db.read_scope(engine) as session:
        found = progress.steps(session, lease.job_id, first=after + 1)
    assert (found.step, found.total) == ([*range(after + 1, 9)], 8 - after)


def test_a_rollback_takes_the_reader_back(engine: Engine, lease: Lease) -> None:
    _, cursor = look(engine, lease.job_id, Cursor())
    with db.session_scope(engine) as session:
        progress.rolled_back(session, lease, epoch=1, step=4, message="Back.", data={"rollback": 1})
        progress.record_steps(session, lease, 5, [7.0] * 4, [0.5] * 4)
        progress.record_all(session, lease, [{"epoch": 2, "train_loss": 7.0}, {"epoch": 3, "train_loss": 7.0}])
    news, _ = look(engine, lease.job_id, cursor)
    assert [(event.type, event.data) for event in news.events] == [
        ("rolled_back", {"rollback": 1, "epoch": 1, "step": 4})
    ]
    assert [record["epoch"] for record in news.epochs] == [2, 3]
    assert news.steps.step == [5, 6, 7, 8]


@pytest.mark.parametrize(("place", "epochs"), [(None, [1, 2]), ({"epoch": 1, "step": 4}, [2])])
def test_another_attempt_takes_the_reader_back(
    engine: Engine, lease: Lease, place: dict[str, int] | None, epochs: list[int]
) -> None:
    _, cursor = look(engine, lease.job_id, Cursor())
    with db.session_scope(engine) as session:
        attempts.fail(session, lease, "trainer_crashed", "Again.", retry=True, retry_seconds=0)
        job = attempts.claim(session, "default", worker="test:2", lease_seconds=60)
        assert job is not None
        second = Lease.of(job)
        progress.started(session, second, epochs=3, steps_per_epoch=4, info={**INFO, "resumed_from": place})
        first = 1 if place is None else 5
        progress.record_steps(session, second, first, [7.0] * (9 - first), [0.5] * (9 - first))
        progress.record_all(session, second, [{"epoch": epoch, "train_loss": 7.0} for epoch in epochs])
    news, _ = look(engine, lease.job_id, cursor)
    assert [event.type for event in news.events] == ["status", "status", "resumed"]
    assert [record["epoch"] for record in news.epochs] == epochs
    assert news.steps.step == [*range(first, 9)]


def test_many_rows_come_in_parts(engine: Engine, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_ROWS", 2)
    with db.session_scope(engine) as session:
        events.note(session, lease, "micro_batch", "Halved.")
        progress.rolled_back(session, lease, epoch=0, step=0, message="Back.")
        progress.record(session, lease, {"epoch": 1, "train_loss": 7.0})
    cursor, epochs, found = Cursor(), [], []
    for _ in range(4):
        news, cursor = look(engine, lease.job_id, cursor)
        epochs += [(record["epoch"], record["train_loss"]) for record in news.epochs]
        found += [event.type for event in news.events]
    assert not news.more
    assert found == ["status", "status", "micro_batch", "rolled_back"]
    assert epochs == [(1, 7.0)]  # none was read before the event that forgets it


@pytest.mark.parametrize("text", ["", "1", "1-2-3-4", "1-2-3-4-5-6", "1-2-3-4-x", "1-2-3-4--5", "1-2-3-4-٣", "9" * 99])
def test_no_other_text_is_a_cursor(text: str) -> None:
    with pytest.raises(BadRequest, match="Last-Event-ID"):
        Cursor.parse(text)


def test_the_revisions_of_those_that_are_there(engine: Engine, lease: Lease, make_job: Callable[..., Job]) -> None:
    other = make_job()
    assert changes.revisions(engine, {other.id, lease.job_id, "job_none"}) == {
        other.id: 1,
        lease.job_id: look(engine, lease.job_id, Cursor())[0].job.revision,
    }
    assert changes.revisions(engine, []) == {}
    with pytest.raises(JobNotFound), db.read_scope(engine) as session:
        changes.of_job(session, other.id, Cursor(), tenant="acme")


def moves(engine: Engine, place: Place) -> tuple[list[tuple[str, str | None]], Place]:
    """The changes of state that a reader does not have, and the place after them."""
    found = changes.events_after(engine, Place.parse(str(place)))
    return [(row.job_id, row.to_status) for row, _ in found], found[-1][1] if found else place


def test_each_change_of_state_comes_once(engine: Engine, make_job: Callable[..., Job]) -> None:
    before = changes.newest(engine)
    assert moves(engine, before) == ([], before)
    first, second = make_job().id, make_job().id
    told, place = moves(engine, before)
    assert told == [(first, "queued"), (second, "queued")]
    with db.session_scope(engine) as session:
        control.cancel(session, first)
    told, after = moves(engine, place)
    assert told == [(first, "cancelled")]
    assert moves(engine, after) == ([], after)
    assert moves(engine, changes.newest(engine))[0] == []
    [(_, halfway), *rest] = changes.events_after(engine, before)
    assert [(row.job_id, row.to_status) for row, _ in rest] == moves(engine, halfway)[0]


def test_a_change_that_comes_after_a_later_one_is_not_missed(engine: Engine, make_job: Callable[..., Job]) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("one transaction writes at a time")
    place, slow, fast = changes.newest(engine), make_job().id, make_job().id
    _, place = moves(engine, place)
    never = place.missing  # ids of before this test
    with db.session_scope(engine) as session:
        control.cancel(session, slow)
        session.flush()
        with db.session_scope(engine) as other:
            control.cancel(other, fast)
        told, place = moves(engine, place)
        assert (told, len(place.missing)) == ([(fast, "cancelled")], len(never) + 1)
        fresh = changes.newest(engine)
        assert moves(engine, place)[0] == []
    told, place = moves(engine, place)
    assert (told, place.missing) == ([(slow, "cancelled")], never)
    assert moves(engine, fresh)[0] == [(slow, "cancelled")]
    assert moves(engine, place)[0] == []


def test_an_id_that_is_given_out_again_is_not_missed(engine: Engine, make_job: Callable[..., Job]) -> None:
    first, second = make_job().id, make_job().id
    with db.session_scope(engine) as session:
        control.cancel(session, second)
    place = changes.newest(engine)
    time.sleep(0.002)  # the times of events are compared, to the millisecond
    with db.session_scope(engine) as session:
        control.delete(session, second)
        control.cancel(session, first)
    told, place = moves(engine, place)
    assert told == [(first, "cancelled")]
    assert moves(engine, place)[0] == []


@pytest.mark.parametrize("text", ["", "1", "1-", "1-2-", "-1-2", "1-2-x", "1-2" + "-3" * 51, "٣-1"])
def test_no_other_text_is_a_place(text: str) -> None:
    with pytest.raises(BadRequest, match="Last-Event-ID"):
        Place.parse(text)


def test_the_running_jobs_of_some_tenants(engine: Engine, lease: Lease, make_job: Callable[..., Job]) -> None:
    make_job()
    assert [(row.id, row.tenant) for row in changes.running(engine, ["default", "acme"])] == [(lease.job_id, "default")]
    assert changes.running(engine, ["acme"]) == []
