"""Trials: each number once, whoever looks; what they are told to wait for; how a search ends and goes on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, faults
from services.access import tenants
from services.blobs.storage import Storage
from services.datasets import versions
from services.errors import IdempotencyConflict, IllegalMove, Invalid, QuotaExceeded, SearchNotFound
from services.idempotency import Key
from services.jobs import attempts, workers
from services.jobs import control as jobs
from services.jobs.leases import Lease
from services.orm import Delivery, Job, Search
from services.searches import advance, control, queries
from services.searches.advance import Did
from services.searches.queries import Detail
from services.webhooks import subscriptions
from tests import forking
from tests.conftest import received
from tests.ringing import FakeDoorbell
from worker.scheduler import searches

Scope = Callable[[], AbstractContextManager[Session]]
SPEC: dict[str, Any] = {
    "name": "toy",
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 3},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}
SPACE: dict[str, Any] = {
    "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "architecture.cell": ["lstm", "gru"],
}


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.fixture
def submit(scope: Scope) -> Callable[..., Search]:
    """A factory of searches, committed."""

    def made(*, space: dict[str, Any] | None = None, base: dict[str, Any] | None = None, **more: Any) -> Search:
        document = {**SPEC, **(base or {}), "search": {"space": space or SPACE, "trials": 4, "final": False, **more}}
        with scope() as session:
            return control.submit(session, document, request_id="req_1").search

    return made


def look(engine: Engine) -> list[str]:
    """What a look of the scheduler does; the queues that it rings."""
    bell = FakeDoorbell()
    searches.look(engine, bell)
    return bell.rung


def found(engine: Engine, search: Search) -> Search:
    with db.read_scope(engine) as session:
        return queries.get(session, search.id)


def detail(engine: Engine, search: Search) -> Detail:
    with db.read_scope(engine) as session:
        return queries.detail(session, queries.get(session, search.id))


def trials(engine: Engine, search: Search) -> list[tuple[int, str]]:
    """Number and status of each trial."""
    return [(row.trial, row.status) for row in detail(engine, search).rows]


def finish(engine: Engine, loss: float | None = 0.5, *, reason: str = "diverged") -> str:
    """Let the job that waits first come to its end: with a loss, or failing without one."""
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
        assert job is not None
        if loss is None:
            attempts.fail(session, Lease.of(job), reason, "It failed.", retry=False)
        else:
            result = {"best_epoch": 1, "epochs": 3, "stopped_early": False, "metrics": {"validation_loss": loss}}
            attempts.succeed(session, Lease.of(job), result, [])
        return job.id


def run(engine: Engine, losses: list[float]) -> None:
    for loss in losses:
        look(engine)
        finish(engine, loss)
    look(engine)


# One after the other


def test_a_search_makes_its_trials_one_after_the_other_and_ends(engine: Engine, submit: Callable[..., Search]) -> None:
    search = submit()
    assert look(engine) == ["default"]
    assert trials(engine, search) == [(1, "queued")]
    assert look(engine) == []
    run(engine, [0.5, 0.2, 0.9, 0.4])
    ended = found(engine, search)
    assert (ended.status, ended.made, ended.due_at) == ("succeeded", 4, None)
    told = detail(engine, search)
    assert [row.value for row in told.rows] == [0.5, 0.2, 0.9, 0.4]
    assert [row.best_so_far for row in told.rows] == [0.5, 0.2, 0.2, 0.2]
    assert told.best is not None
    assert (told.best.trial, told.best.value) == (2, 0.2)
    assert told.best.choices == told.rows[1].choices
    with db.read_scope(engine) as session:
        job = session.get_one(Job, told.rows[1].job_id)
        assert (job.name, job.trial, job.search_id, job.request_id) == ("toy[2]", 2, search.id, "req_1")
        assert job.spec["training"]["optimizer"]["lr"] == job.choices["training.optimizer.lr"]
        assert ended.ended_at == max(session.scalars(sa.select(Job.finished_at)))
    assert look(engine) == []


def test_so_many_trials_go_on_as_parallel_says(engine: Engine, submit: Callable[..., Search]) -> None:
    search = submit(parallel=3)
    assert look(engine) == ["default"] * 3
    finish(engine)
    assert look(engine) == ["default"]
    assert trials(engine, search) == [(1, "succeeded"), (2, "queued"), (3, "queued"), (4, "queued")]


@pytest.mark.parametrize(
    ("queues", "base", "wanted", "parallel"),
    [
        ([], {}, {}, 1),
        (["default", "night,default", "night"], {}, {}, 2),
        (["default", "night,default", "night"], {"queue": "night"}, {}, 2),
        (["default"], {}, {}, 1),
        (["default"] * 3, {"queue": "night"}, {}, 1),
        (["default"] * 9, {}, {}, 4),
        (["default"] * 9, {}, {"parallel": 1}, 1),
    ],
)
def test_by_default_a_trial_goes_on_for_each_worker_of_the_queue(
    scope: Scope,
    submit: Callable[..., Search],
    queues: list[str],
    base: dict[str, Any],
    wanted: dict[str, Any],
    parallel: int,
) -> None:
    with scope() as session:
        for number, each in enumerate(queues):
            beat(session, f"worker:{number}", each.split(","), workers.State.BUSY)
        beat(session, "worker:broken", ["default", "night"], workers.State.BROKEN)
        beat(session, "worker:shutting-down", [], workers.State.BUSY)
    assert submit(base=base, **wanted).parallel == parallel


def beat(session: Session, name: str, queues: list[str], state: workers.State) -> None:
    workers.beat(session, name, queues=queues, state=state, job_id=None, doorbell_seconds_ago=None)


def test_the_choices_are_those_of_the_history_whoever_makes_them(engine: Engine, submit: Callable[..., Search]) -> None:
    losses = [0.1 * (n % 5 + 1) for n in range(12)]
    first, again = submit(trials=12, seed=7), None
    run(engine, losses)
    again = submit(trials=12, seed=7)
    run(engine, losses)
    one, two = detail(engine, first), detail(engine, again)
    assert [row.choices for row in one.rows] == [row.choices for row in two.rows]
    assert len(one.importance) == 2


def test_many_schedulers_make_each_trial_once(engine: Engine, submit: Callable[..., Search]) -> None:
    mine = [submit(trials=6, parallel=6, algorithm="random", seed=seed) for seed in range(2)]
    with ThreadPoolExecutor(4) as pool:
        rung = [queue for queues in pool.map(lambda _: look(engine), range(4)) for queue in queues]
    while any(len(trials(engine, search)) < 6 for search in mine):
        rung += look(engine)
    for search in mine:
        assert trials(engine, search) == [(number, "queued") for number in range(1, 7)]
    assert len(rung) == 12


def test_a_scheduler_that_is_overtaken_makes_nothing(engine: Engine, submit: Callable[..., Search]) -> None:
    search = submit()
    suggested = advance._suggested

    def overtaken(*given: Any) -> Any:
        advance._suggested = suggested
        assert advance.advance(engine, search.id).did == Did.MADE
        finish(engine)
        return suggested(*given)

    advance._suggested = overtaken
    try:
        assert advance.advance(engine, search.id).did == Did.NOTHING
    finally:
        advance._suggested = suggested
    assert trials(engine, search) == [(1, "succeeded")]


@pytest.mark.parametrize(("point", "made"), [("trial.written", 0), ("transaction.committed", 1), ("bell.due", 1)])
def test_a_scheduler_that_is_killed_has_made_a_trial_or_none(
    database_url: str, point: str, made: int, submit: Callable[..., Search], engine: Engine
) -> None:
    search = submit(trials=1)
    code = (
        "import os, signal, sys\n"
        "from services import db, faults\n"
        "from tests.ringing import FakeDoorbell\n"
        "from worker.scheduler import searches\n"
        "faults.arm(sys.argv[1], lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "searches.look(db.engine(sys.argv[2]), FakeDoorbell())\n"
    )
    url = engine.url.render_as_string(hide_password=False)
    done = forking.run([sys.executable, "-c", code, point, url])
    assert done.returncode == -signal.SIGKILL
    assert len(trials(engine, search)) == found(engine, search).made == made
    look(engine)
    assert trials(engine, search) == [(1, "queued")]
    finish(engine)
    look(engine)
    assert found(engine, search).status == "succeeded"


# Trials without a result


def test_a_combination_that_no_spec_allows_is_counted_and_not_tried_again(
    engine: Engine, submit: Callable[..., Search]
) -> None:
    space = {"architecture.cell": ["gru", "lstm"], "architecture.forget_gate_bias": [0.5]}
    search = submit(space=space, algorithm="grid", trials=None)
    assert look(engine) == ["default"]
    finish(engine)
    look(engine)
    assert (found(engine, search).status, found(engine, search).made) == ("succeeded", 2)
    told = detail(engine, search)
    assert [(row.trial, row.status) for row in told.rows] == [(1, "refused"), (2, "succeeded")]
    assert "forget_gate_bias" in (told.rows[0].message or "")
    assert (told.counts["refused"], told.counts["succeeded"]) == (1, 1)


def test_a_search_pauses_itself_when_everything_is_refused(
    engine: Engine, submit: Callable[..., Search], storage: Storage, npz_bytes: Any, scope: Scope
) -> None:
    with scope() as session:
        versions.add(session, received(storage, BytesIO(npz_bytes())), name="small")
    search = submit(base={"data": {"dataset": "small"}}, trials=40)
    with scope() as session:
        versions.delete(session, "small")
    assert look(engine) == []
    paused = found(engine, search)
    assert (paused.status, paused.made) == ("paused", advance.MOST_FAILED)
    assert "no data set" in (paused.message or "")


@pytest.mark.parametrize("reason", ["diverged", "trainer_crashed"])
def test_a_search_pauses_itself_when_its_jobs_keep_failing(
    engine: Engine, submit: Callable[..., Search], scope: Scope, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(advance, "MOST_FAILED", 3)
    search = submit(trials=40, algorithm="random")
    for loss in (None, None, 0.5, None, None, None):
        look(engine)
        finish(engine, loss, reason=reason)
    assert look(engine) == []
    paused = found(engine, search)
    assert (paused.status, paused.made) == ("paused", 6)
    why = "The last 3 trials failed or were refused, so the search was paused. The last one: It failed."
    assert (paused.message or "").startswith(why)
    with scope() as session:
        control.resume(session, search.id)
    for _ in range(3):  # those before it was resumed count no more
        assert look(engine) == ["default"]
        finish(engine, None, reason=reason)
    assert look(engine) == []
    assert found(engine, search).status == "paused"


def test_trials_that_go_on_are_not_counted_among_those_that_failed(
    engine: Engine, submit: Callable[..., Search], scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "MOST_FAILED", 2)
    search = submit(trials=4, parallel=2, algorithm="random")
    look(engine)
    finish(engine, None)
    look(engine)
    assert trials(engine, search) == [(1, "failed"), (2, "queued"), (3, "queued")]
    finish(engine, None)
    assert look(engine) == []
    assert (found(engine, search).status, trials(engine, search)[2]) == ("paused", (3, "queued"))


def test_a_grid_makes_all_its_combinations(
    engine: Engine, submit: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "MOST_FAILED", 2)
    search = submit(space={"architecture.hidden_size": [4, 5, 6]}, algorithm="grid", trials=None)
    for loss in (None, None, 0.5):
        look(engine)
        finish(engine, loss)
    look(engine)
    assert found(engine, search).status == "succeeded"


def test_trials_can_be_added_to_a_search_whose_last_ones_failed(
    engine: Engine, submit: Callable[..., Search], scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "MOST_FAILED", 2)
    search = submit(trials=2)
    for _ in range(2):
        look(engine)
        finish(engine, None)
    look(engine)
    assert found(engine, search).status == "failed"
    with scope() as session:
        control.add(session, search.id, 1)
    assert look(engine) == ["default"]


def test_a_search_whose_trials_all_fail_has_failed(engine: Engine, submit: Callable[..., Search]) -> None:
    search = submit(trials=2)
    for _ in range(2):
        look(engine)
        finish(engine, None)
    look(engine)
    assert found(engine, search).status == "failed"
    assert detail(engine, search).best is None


def test_a_result_that_is_not_finite_is_no_value(engine: Engine, submit: Callable[..., Search]) -> None:
    search = submit(trials=1)
    look(engine)
    job_id = finish(engine, 0.5)
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(result={"metrics": {"validation_loss": None}}))
    look(engine)
    assert (found(engine, search).status, detail(engine, search).best) == ("succeeded", None)


def test_with_folds_the_mean_over_them_is_the_value(engine: Engine, submit: Callable[..., Search]) -> None:
    search = submit(trials=1)
    look(engine)
    job_id = finish(engine, 0.5)
    result = {"metrics": {"validation_loss": None, "test_loss": 0.1}, "mean": {"validation_loss": 0.3}}
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(result=result))
    assert [row.value for row in detail(engine, search).rows] == [0.3]


def test_a_search_waits_while_the_quota_is_used_up(engine: Engine, submit: Callable[..., Search], scope: Scope) -> None:
    with scope() as session:
        tenants.change(session, "default", max_queued=1)
    first, second = submit(trials=1), submit(trials=1)
    look(engine)
    waiting = found(engine, second)
    assert (waiting.status, waiting.made) == ("running", 0)
    assert "max_queued" in (waiting.message or "")
    finish(engine)
    with scope() as session:
        session.execute(sa.update(Search).values(due_at=db.now()))
    assert look(engine) == ["default"]
    assert (found(engine, first).status, found(engine, second).message) == ("succeeded", None)


def test_trials_keep_to_the_version_with_which_the_search_began(
    engine: Engine, submit: Callable[..., Search], storage: Storage, npz_bytes: Any, scope: Scope
) -> None:
    with scope() as session:
        old = versions.add(session, received(storage, BytesIO(npz_bytes())), name="small").dataset
    search = submit(base={"data": {"dataset": "small"}}, trials=1)
    with scope() as session:
        versions.add(session, received(storage, BytesIO(npz_bytes(seed=1))), name="small")
    look(engine)
    with db.read_scope(engine) as session:
        [job] = session.scalars(sa.select(Job).where(Job.search_id == search.id))
    assert (job.dataset_id, job.requested["data"]["dataset"]) == (old.id, "small@1")


# What clients do


def test_pausing_and_resuming_takes_the_trials_along(
    engine: Engine, submit: Callable[..., Search], scope: Scope
) -> None:
    search = submit()
    look(engine)
    with scope() as session:
        assert control.pause(session, search.id).status == "paused"
        assert control.pause(session, search.id).revision == control.pause(session, search.id).revision
    assert trials(engine, search) == [(1, "paused")]
    assert look(engine) == []
    with scope() as session:
        assert control.resume(session, search.id).status == "running"
        assert control.queues(session, search.id) == ["default"]
    assert trials(engine, search) == [(1, "queued")]


def test_cancelling_ends_at_once_or_when_the_last_trial_has_ended(
    engine: Engine, submit: Callable[..., Search], scope: Scope
) -> None:
    idle, busy = submit(), submit()
    look(engine)
    with scope() as session:
        running = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
        assert running is not None
    first, second = (idle, busy) if running.search_id == busy.id else (busy, idle)
    with scope() as session:
        assert control.cancel(session, first.id).status == "cancelled"
        cancelling = control.cancel(session, second.id)
        assert (cancelling.status, cancelling.cancel_requested) == ("running", True)
        with pytest.raises(IllegalMove, match="is being cancelled"):
            control.pause(session, second.id)
    assert look(engine) == []
    with scope() as session:
        attempts.cancelled(session, Lease.of(running))
    look(engine)
    ended = found(engine, second)
    assert (ended.status, trials(engine, second)) == ("cancelled", [(1, "cancelled")])
    assert ended.ended_at is not None
    with scope() as session, pytest.raises(IllegalMove, match="has ended"):
        control.resume(session, first.id)


def test_added_trials_let_an_ended_search_go_on(engine: Engine, submit: Callable[..., Search], scope: Scope) -> None:
    search = submit(trials=1)
    run(engine, [0.5])
    assert found(engine, search).status == "succeeded"
    key = Key("default add", "k", "2")
    with scope() as session:
        assert control.add(session, search.id, 2, key=key).search.trials == 3
    with scope() as session:
        assert control.add(session, search.id, 2, key=key).replayed
        with pytest.raises(IdempotencyConflict):
            control.add(session, search.id, 3, key=Key("default add", "k", "3"))
    going_on = found(engine, search)
    assert (going_on.status, going_on.ended_at, going_on.trials) == ("running", None, 3)
    run(engine, [0.4, 0.3])
    assert [row.value for row in detail(engine, search).rows] == [0.5, 0.4, 0.3]
    with scope() as session, pytest.raises(Invalid) as caught:
        control.add(session, search.id, 998)
    assert caught.value.problems[0].pointer == "/more"


def test_a_trial_that_was_deleted_is_not_made_again(
    engine: Engine, submit: Callable[..., Search], scope: Scope
) -> None:
    search = submit(trials=2)
    look(engine)
    job_id = finish(engine)
    with scope() as session:
        jobs.delete(session, job_id)
    look(engine)
    assert trials(engine, search) == [(2, "queued")]


def test_a_search_is_submitted_once_and_seen_by_its_tenant(engine: Engine, scope: Scope) -> None:
    document = {**SPEC, "search": {"space": SPACE}}
    key = Key("default POST /v1/searches", "k", "f")
    with scope() as session:
        made = control.submit(session, document, key=key).search
    with scope() as session:
        again = control.submit(session, document, key=key)
        assert (again.search.id, again.replayed, again.search.document) == (made.id, True, document)
        tenants.create(session, "acme")
        for act in (control.cancel, control.pause, control.resume, queries.get):
            with pytest.raises(SearchNotFound):
                act(session, made.id, tenant="acme")
        with pytest.raises(SearchNotFound):
            control.add(session, made.id, 1, tenant="acme")
        assert queries.page(session, tenant="acme") == ([], False)
        assert [row.id for row in queries.page(session, tenant="default")[0]] == [made.id]


def test_a_tenant_has_so_many_searches_at_once(
    scope: Scope, submit: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MOST_GOING_ON", 1)
    first = submit()
    with pytest.raises(QuotaExceeded):
        submit()
    with scope() as session:
        control.cancel(session, first.id)
    submit()


def test_the_end_is_announced_once(engine: Engine, submit: Callable[..., Search], scope: Scope) -> None:
    with scope() as session:
        subscriptions.create(session, "https://example.com/", events=["search.ended"], tenant="default")
    submit(trials=1)
    run(engine, [0.25])
    look(engine)
    with db.read_scope(engine) as session:
        [message] = session.scalars(sa.select(Delivery))
    assert '"best":{"trial":1,' in message.payload
    assert '"value":0.25' in message.payload


def test_a_look_reads_indexes_alone(engine: Engine) -> None:
    statement = advance.due_statement().compile(engine, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            # Without rows all indexes of jobs cost the same. The transaction is rolled back.
            connection.execute(sa.text("DROP INDEX ix_jobs_search_id_trial, ix_jobs_batch_going_on"))
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(str(row[-1]) for row in connection.execute(sa.text(f"{explain} {statement}")))
    assert "ix_searches_due_at" in plan
    assert "ix_jobs_search_going_on" in plan


def test_a_search_that_cannot_be_advanced_keeps_no_other_waiting(
    engine: Engine, submit: Callable[..., Search], scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = submit(), submit()
    with scope() as session:
        session.execute(sa.update(Search).where(Search.id == broken.id).values(settings={"space": {}}))
    assert look(engine) == ["default"]
    assert f"cannot make a trial of the search {broken.id}" in caplog.text
    assert trials(engine, whole) == [(1, "queued")]
