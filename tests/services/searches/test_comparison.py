"""Trials that are stopped early: what they are compared with, how they end, and what others learn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.errors import SpecInvalid
from services.jobs import attempts, events, progress
from services.jobs import control as jobs
from services.jobs.leases import Lease
from services.orm import Delivery, Job, Search
from services.searches import control, queries, trials
from services.searches.comparison import Answer, comparison
from services.searches.trials import State
from services.webhooks import subscriptions
from tests.ringing import FakeDoorbell
from worker.scheduler import searches

Scope = Callable[[], AbstractContextManager[Session]]
Submit = Callable[..., Search]
SPEC: dict[str, Any] = {
    "name": "toy",
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 10},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}
SPACE: dict[str, Any] = {"training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.fixture
def submit(scope: Scope) -> Submit:
    """A factory of searches, committed, all of whose trials are jobs."""

    def made(*, space: dict[str, Any] | None = None, base: dict[str, Any] | None = None, **more: Any) -> Search:
        document = {
            **SPEC,
            **(base or {}),
            "search": {"space": space or SPACE, "trials": 8, "parallel": 8, "final": False, **more},
        }
        with scope() as session:
            return control.submit(session, document).search

    return made


def claim(engine: Engine) -> Job:
    searches.look(engine, FakeDoorbell())
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="here:1", lease_seconds=60)
        assert job is not None
        return job


def reach(engine: Engine, job: Job, epoch: int, loss: float | None, metric: str = "validation_loss") -> Answer:
    """Let an attempt at a trial reach a rung."""
    with db.session_scope(engine) as session:
        compared = comparison(session, job)
        assert compared is not None
        assert epoch in compared.rungs
        record = {"epoch": epoch, metric: loss}
        progress.record(session, Lease.of(job), record)
        answer = compared.answer(session, record)
        if answer.goes_on:
            events.note(session, Lease.of(job), events.Type.RUNG, answer.message, data={"epoch": epoch})
        return answer


def succeed(engine: Engine, job: Job, loss: float) -> None:
    with db.session_scope(engine) as session:
        result = {"metrics": {"validation_loss": loss}, "best_epoch": 1, "epochs": 10, "stopped_early": False}
        attempts.succeed(session, Lease.of(job), result, [])


def prune(engine: Engine, job: Job, message: str | None = None) -> Job:
    with db.session_scope(engine) as session:
        return attempts.pruned(session, Lease.of(job), message, result={"complete": False, "metrics": {}}, files=[])


def rungs_of(engine: Engine, job: Job) -> Sequence[int] | None:
    with db.read_scope(engine) as session:
        compared = comparison(session, job)
        return None if compared is None else compared.rungs


def detail(engine: Engine, search: Search) -> queries.Detail:
    with db.read_scope(engine) as session:
        return queries.detail(session, queries.get(session, search.id))


def test_a_trial_is_compared_with_those_that_reached_the_same_epoch(engine: Engine, submit: Submit) -> None:
    submit(stop_early="asha")
    one, two, three = claim(engine), claim(engine), claim(engine)
    assert rungs_of(engine, one) == (1, 3)
    assert reach(engine, one, 1, 0.5).message == (
        "The trial goes on after epoch 1 of 10. Its best validation_loss until then is 0.5. Trials are compared from 3 "
        "on that have got there."
    )
    assert reach(engine, two, 1, 0.4).goes_on
    assert reach(engine, two, 3, 0.9).goes_on  # nobody else is there
    answer = reach(engine, three, 1, 0.45)
    assert (answer.goes_on, answer.value) == (False, 0.45)
    assert answer.message == (
        "The search stopped this trial early, after epoch 1 of 10. Its best validation_loss until then is 0.45. It is "
        "number 2 of the 3 trials that have got there, and the best one goes on."
    )
    undefined = reach(engine, claim(engine), 1, None)
    assert (undefined.goes_on, undefined.value) == (False, None)
    assert undefined.message.endswith("Its best validation_loss until then is not defined, so it cannot be compared.")


def test_a_trial_counts_once_and_is_asked_about_later_rungs_alone(engine: Engine, submit: Submit) -> None:
    submit(metric="accuracy", stop_early="asha")
    one, two = claim(engine), claim(engine)
    assert reach(engine, one, 1, 0.5, "validation_accuracy").goes_on
    with db.session_scope(engine) as session:
        attempts.give_back(session, Lease.of(one))
        again = attempts.claim(session, "default", worker="here:2", lease_seconds=60)
        assert again is not None
    while again.id != one.id:  # the others are before it
        with db.session_scope(engine) as session:
            again = attempts.claim(session, "default", worker="here:2", lease_seconds=60)
            assert again is not None
    assert rungs_of(engine, again) == (3,)
    with db.session_scope(engine) as session:  # it resumes from before the rung and comes there again
        progress.started(session, Lease.of(again), epochs=10, steps_per_epoch=2, info={})
        progress.record(session, Lease.of(again), {"epoch": 1, "validation_accuracy": 0.5})
    assert "compared from 3 on" in reach(engine, two, 1, 0.6, "validation_accuracy").message
    assert "number 3 of the 3 trials" in reach(engine, claim(engine), 1, 0.4, "validation_accuracy").message
    assert reach(engine, again, 3, 0.1, "validation_accuracy").goes_on


def test_the_median_is_of_complete_trials(engine: Engine, submit: Submit) -> None:
    submit(stop_early="median")
    for loss in (0.1, 0.2, 0.3, 0.4):
        job = claim(engine)
        assert reach(engine, job, 1, loss).goes_on
        succeed(engine, job, loss)
    running, last, other = claim(engine), claim(engine), claim(engine)
    early = reach(engine, running, 1, 9.0)
    assert early.goes_on
    assert early.message.endswith("is 9. Trials are compared from 5 complete ones on.")
    assert reach(engine, last, 1, 0.5).goes_on
    succeed(engine, last, 0.5)
    worse = reach(engine, other, 1, 0.31)
    assert not worse.goes_on
    assert worse.message.endswith("until then is 0.31. It is worse than 0.3, the median of 5 complete trials.")
    best = reach(engine, claim(engine), 1, 0.3)
    assert best.goes_on
    nobody = reach(engine, running, 3, 9.0)
    assert nobody.message.endswith("No complete trial has a value there.")


def test_a_trial_that_was_stopped_early_is_cancelled_with_a_sentence_and_its_weights(
    engine: Engine, submit: Submit, scope: Scope
) -> None:
    with scope() as session:
        subscriptions.create(session, "https://example.org/", events=["job.cancelled"], tenant="default")
    search = submit(trials=2)
    one, two = claim(engine), claim(engine)
    reach(engine, one, 1, 0.1)
    reach(engine, two, 1, 0.7)
    ended = prune(engine, two, "The search stopped this trial early, after epoch 1 of 10.")
    assert (ended.status, ended.reason) == ("cancelled", "pruned")
    assert ended.message is not None
    assert ended.message.startswith("The search stopped this trial early, after epoch 1 of 10.")
    assert ended.result == {"complete": False, "metrics": {}}
    with db.read_scope(engine) as session:
        [delivery] = session.query(Delivery).all()
        assert "The search stopped this trial early" in delivery.payload
    succeed(engine, one, 0.1)
    searches.look(engine, FakeDoorbell())
    found = detail(engine, search)
    assert {name: count for name, count in found.counts.items() if count} == {"succeeded": 1, "pruned": 1}
    assert [(row.status, row.value) for row in found.rows] == [("succeeded", 0.1), ("pruned", None)]
    assert found.rows[1].message == ended.message
    assert found.best is not None
    assert found.best.trial == 1
    with db.read_scope(engine) as session:
        known = queries.get(session, search.id)
        assert known.status == "succeeded"
        assert queries.summaries(session, [known])[search.id].counts == found.counts
        _, second = trials.history(session, known)
        assert (second.state, second.value, second.reports) == (State.PRUNED, None, {1: 0.7})


def test_a_cancellation_that_was_asked_for_is_one_on_request(engine: Engine, submit: Submit) -> None:
    submit()
    job = claim(engine)
    with db.session_scope(engine) as session:
        jobs.cancel(session, job.id)
    ended = prune(engine, job, "The search stopped this trial early.")
    assert (ended.status, ended.reason) == ("cancelled", "cancelled_by_user")
    assert ended.message == "The job was cancelled on request; submit it again to run it."


def test_importance_ranks_trials_that_were_stopped_early_behind_the_complete_ones(
    engine: Engine, submit: Submit
) -> None:
    """Nine of ten are stopped, so nothing would be said without them."""
    search = submit(trials=10, parallel=10, stop_early="asha")
    claimed = [claim(engine) for _ in range(10)]
    best, *others = sorted(claimed, key=lambda job: job.choices["training.optimizer.lr"] if job.choices else 0.0)
    reach(engine, best, 1, 0.0)
    for place, job in enumerate(others):
        goes_on = reach(engine, job, 1, None if place == 8 else 0.1 * (place + 1)).goes_on
        assert goes_on is (place == 0)  # of two nobody is stopped
        prune(engine, job)
    succeed(engine, best, 5.0)
    [field] = detail(engine, search).importance
    assert (field.path, field.trials) == ("training.optimizer.lr", 10)
    assert field.share > 0.99


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({}, "median"),
        ({"stop_early": "asha"}, "asha"),
        ({"stop_early": None}, None),
        ({"algorithm": "grid", "space": {"training.batch_size": [2, 4]}, "trials": 2}, None),
        ({"algorithm": "grid", "space": {"training.batch_size": [2, 4]}, "trials": 2, "stop_early": "asha"}, "asha"),
        ({"base": {"data": {**SPEC["data"], "split": {"folds": 2}}}}, None),
        ({"base": {"data": {**SPEC["data"], "split": {"folds": 2}}}, "stop_early": None}, None),
    ],
)
def test_trials_are_stopped_early_unless_it_is_a_grid_or_has_folds(
    more: dict[str, Any], rule: str | None, submit: Submit, engine: Engine
) -> None:
    search = submit(**more)
    assert search.settings["stop_early"] == (rule and {"rule": rule, "first_rung": 1, "factor": 3})
    assert rungs_of(engine, claim(engine)) == (rule and (1, 3))


def test_folds_and_stopping_early_do_not_go_together(submit: Submit) -> None:
    with pytest.raises(SpecInvalid) as error:
        submit(base={"data": {**SPEC["data"], "split": {"folds": 2}}}, stop_early="asha")
    [problem] = error.value.problems
    assert problem.pointer == "/search/stop_early"
    assert problem.detail.startswith("must be null with data.split.folds")


def test_rungs_are_the_same_epochs_even_if_the_number_of_epochs_is_varied(engine: Engine, submit: Submit) -> None:
    search = submit(space={"training.epochs": {"low": 5, "high": 81}})
    assert search.settings["stop_early"]["first_rung"] == 9
    for _ in range(4):
        job = claim(engine)
        assert rungs_of(engine, job) == tuple(each for each in (9, 27) if 2 * each <= job.spec["training"]["epochs"])


def test_a_job_of_no_search_has_no_rungs(engine: Engine, make_job: Callable[..., Job]) -> None:
    assert rungs_of(engine, make_job()) is None


def test_a_trial_is_compared_by_its_best_epoch_until_then(engine: Engine, submit: Submit) -> None:
    submit(stop_early="asha")
    one, two, three = claim(engine), claim(engine), claim(engine)
    for job, losses in ((one, (0.9, 0.2, 0.8)), (two, (0.9, 0.3, 0.25)), (three, (0.9, 0.1, 0.9))):
        with db.session_scope(engine) as session:
            for epoch, loss in enumerate(losses[:2], 1):
                progress.record(session, Lease.of(job), {"epoch": epoch, "validation_loss": loss})
    assert reach(engine, one, 3, 0.8).value == 0.2
    assert reach(engine, two, 3, 0.25).value == 0.25
    best = reach(engine, three, 3, 0.9)
    assert (best.goes_on, best.value) == (True, 0.1)
    with db.session_scope(engine) as session:  # a later epoch does not count at an earlier rung
        progress.record(session, Lease.of(one), {"epoch": 4, "validation_loss": 0.01})
    fourth = claim(engine)
    with db.session_scope(engine) as session:
        for epoch in (1, 2):
            progress.record(session, Lease.of(fourth), {"epoch": epoch, "validation_loss": 0.05})
    assert reach(engine, fourth, 3, 0.7).goes_on


def test_the_spec_itself_is_trained_to_its_end(engine: Engine, scope: Scope) -> None:
    with scope() as session:
        control.submit(session, {"data": {"synthetic": {"samples": 400, "features": 2}}, "search": {"parallel": 2}})
    assert rungs_of(engine, claim(engine)) is None
    assert rungs_of(engine, claim(engine))
