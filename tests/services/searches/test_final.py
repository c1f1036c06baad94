"""The final model of a search, its budget of minutes, and what is varied if a document does not say it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.blobs.storage import Storage
from services.datasets import versions
from services.errors import Invalid, SpecInvalid
from services.jobs import attempts
from services.jobs import control as job_control
from services.jobs.leases import Lease
from services.orm import Job, Search
from services.searches import advance, comparison, control, final
from services.training.messages import Selection
from services.training.spec import parse
from tests.conftest import received
from tests.services.searches.test_advance import SPEC, detail, finish, found, look

Scope = Callable[[], AbstractContextManager[Session]]
Submit = Callable[..., Search]
LR = {"training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
DATA = {"synthetic": {"samples": 400, "length": 200, "features": 2, "classes": 2}, "split": {"test": 0.2}}


@pytest.fixture
def submit(scope: Scope) -> Submit:
    """A factory of searches, committed."""

    def made(base: dict[str, Any] | None = None, **section: Any) -> Search:
        with scope() as session:
            return control.submit(session, {**(SPEC if base is None else base), "search": section}).search

    return made


def jobs(engine: Engine, search: Search) -> list[Job]:
    with db.read_scope(engine) as session:
        return [*session.scalars(sa.select(Job).where(Job.search_id == search.id).order_by(Job.id))]


def test_the_best_trial_is_trained_once_more_on_all_and_tested_once(
    engine: Engine, submit: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "worker.scheduler.searches")
    base = {**SPEC, "data": DATA, "training": {"epochs": 9, "early_stopping": {"patience": 3}}}
    search = submit(base, space=LR, trials=2)
    for loss in (0.5, 0.2):
        look(engine)
        finish(engine, loss)
    assert look(engine) == ["default"]
    assert found(engine, search).status == "running"
    *trials, model = jobs(engine, search)
    assert [trial.spec["data"]["split"]["evaluate_test"] for trial in trials] == [False, False]
    assert (model.trial, model.name, model.choices) == (None, "toy[final]", trials[1].choices)
    assert caplog.messages[-1] == f"search {search.id}: the final model is the job {model.id}"
    split, training = model.spec["data"]["split"], model.spec["training"]
    assert (split["train_on_validation"], split["test"], split["evaluate_test"]) == (True, 0.2, True)
    assert (training["epochs"], training["early_stopping"], training["keep"]) == (1, None, "last")  # the best epoch
    assert training["optimizer"]["lr"] == model.choices["training.optimizer.lr"]
    assert look(engine) == []
    with db.read_scope(engine) as session:
        assert comparison.comparison(session, session.get_one(Job, trials[0].id)) is not None
        assert comparison.comparison(session, session.get_one(Job, model.id)) is None
    finish(engine, 0.3)
    look(engine)
    told = detail(engine, search)
    assert found(engine, search).status == "succeeded"
    assert told.final is not None
    assert (told.final.job_id, told.final.status) == (model.id, "succeeded")
    assert [row.trial for row in told.rows] == [1, 2]
    assert told.counts["succeeded"] == 2


def test_folds_are_trained_as_before_and_now_tested(engine: Engine, submit: Submit) -> None:
    data = {**DATA, "split": {"test": 0.2, "folds": 3}}
    search = submit({**SPEC, "data": data}, space=LR, trials=1)
    look(engine)
    finish(engine, 0.5)
    look(engine)
    trial, model = jobs(engine, search)
    assert trial.spec["data"]["split"] == {**model.spec["data"]["split"], "evaluate_test": False}
    assert trial.spec["training"] == model.spec["training"]


def test_a_final_model_that_failed_is_made_again_after_another_trial(
    engine: Engine, submit: Submit, scope: Scope
) -> None:
    search = submit(space=LR, trials=1)
    look(engine)
    finish(engine, 0.1)
    look(engine)
    finish(engine, None)
    look(engine)
    assert found(engine, search).status == "succeeded"
    with scope() as session:
        control.add(session, search.id, 1)
    look(engine)
    finish(engine, 0.9)
    look(engine)
    assert [job.trial for job in jobs(engine, search)] == [1, None, 2, None]


def test_more_trials_make_another_final_model_only_if_another_trial_is_better(
    engine: Engine, submit: Submit, scope: Scope
) -> None:
    search = submit(space=LR, trials=1)
    for loss in (0.5, 0.5):
        look(engine)
        finish(engine, loss)
    look(engine)
    for loss, models in ((0.9, 1), (0.1, 2)):
        with scope() as session:
            control.add(session, search.id, 1)
        look(engine)
        finish(engine, loss)
        look(engine)
        assert [job.trial for job in jobs(engine, search)].count(None) == models
    finish(engine, 0.1)
    look(engine)
    assert found(engine, search).status == "succeeded"


def test_a_search_without_a_result_has_no_final_model(engine: Engine, submit: Submit) -> None:
    search = submit(space=LR, trials=1)
    look(engine)
    finish(engine, None)
    look(engine)
    assert found(engine, search).status == "failed"
    assert detail(engine, search).final is None


def test_a_cancelled_search_makes_no_final_model(engine: Engine, submit: Submit, scope: Scope) -> None:
    search = submit(space=LR, trials=2)
    look(engine)
    finish(engine, 0.5)
    with scope() as session:
        control.cancel(session, search.id)
    look(engine)
    assert found(engine, search).status == "cancelled"
    assert all(job.trial is not None for job in jobs(engine, search))


def test_no_trial_begins_after_its_minutes(engine: Engine, submit: Submit, scope: Scope) -> None:
    search = submit(space=LR, minutes=10.0, final=False)
    assert search.trials == 1000
    look(engine)
    finish(engine, 0.5)
    assert look(engine) == ["default"]
    with scope() as session:  # as if it had been submitted ten minutes ago
        session.execute(sa.update(Search).values(created_at=Search.created_at - 600.0))
    finish(engine, 0.5)
    assert look(engine) == []
    ended = found(engine, search)
    assert (ended.status, ended.made) == ("succeeded", 2)


def test_no_trial_begins_for_which_too_little_time_is_left(engine: Engine, submit: Submit, scope: Scope) -> None:
    search = submit(space=LR, minutes=10.0, final=False)
    look(engine)
    with scope() as session:
        session.execute(sa.update(Search).values(created_at=Search.created_at - 400.0))
        job = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
        assert job is not None
        session.execute(sa.update(Job).values(started_at=Job.started_at - 300.0))
        result = {"best_epoch": 1, "epochs": 3, "stopped_early": False, "metrics": {"validation_loss": 0.5}}
        attempts.succeed(session, Lease.of(job), result, [])
    assert look(engine) == []
    assert found(engine, search).status == "succeeded"


@pytest.mark.parametrize(("is_final", "more"), [(True, False), (False, True)])
def test_the_minutes_have_room_for_the_final_model(
    engine: Engine, submit: Submit, scope: Scope, is_final: bool, more: bool
) -> None:
    search = submit(space=LR, minutes=10.0, final=is_final)
    look(engine)
    with scope() as session:  # four minutes are left, and a trial takes three
        session.execute(sa.update(Search).values(created_at=Search.created_at - 360.0))
        job = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
        assert job is not None
        session.execute(sa.update(Job).values(started_at=Job.started_at - 180.0))
        result = {"best_epoch": 1, "epochs": 3, "stopped_early": False, "metrics": {"validation_loss": 0.5}}
        attempts.succeed(session, Lease.of(job), result, [])
    look(engine)
    assert (found(engine, search).made == 2, jobs(engine, search)[-1].trial is None) == (more, is_final)


def _age(scope: Scope, seconds: float = 600.0) -> None:
    """As if all searches had been submitted so much earlier, and are to be looked at now."""
    with scope() as session:
        session.execute(sa.update(Search).values(created_at=Search.created_at - seconds))
        session.execute(sa.update(Search).where(Search.due_at.is_not(None)).values(due_at=db.now()))


def test_the_first_trial_is_made_in_any_case_and_the_end_says_that_time_is_over(
    engine: Engine, submit: Submit, scope: Scope
) -> None:
    search = submit(space=LR, minutes=10.0, final=False)
    _age(scope)
    assert look(engine) == ["default"]
    finish(engine, 0.5)
    assert look(engine) == []
    ended = found(engine, search)
    assert (ended.status, ended.made) == ("succeeded", 1)
    assert ended.message == "No time was left for another trial (minutes: 10)."


@pytest.mark.parametrize("trials", [None, 5])
def test_trials_are_added_without_a_limit_once_the_time_is_over(
    engine: Engine, submit: Submit, scope: Scope, trials: int | None
) -> None:
    search = submit(space=LR, minutes=10.0, trials=trials, final=False)
    look(engine)
    finish(engine, 0.5)
    _age(scope)
    look(engine)
    with scope() as session, pytest.raises(Invalid) as caught:
        control.add(session, search.id, 1000)
    assert "at most 999," in caught.value.problems[0].detail
    with scope() as session:
        added = control.add(session, search.id, 2).search
        assert (added.trials, added.settings["minutes"], added.message) == (3, None, None)
    for _ in range(2):
        assert look(engine) == ["default"]
        finish(engine, 0.5)
    look(engine)
    ended = found(engine, search)
    assert (ended.status, ended.made, ended.message) == ("succeeded", 3, None)


def test_trials_are_added_within_the_time_that_a_cancelled_search_has_left(
    engine: Engine, submit: Submit, scope: Scope
) -> None:
    search = submit(space=LR, minutes=10.0, final=False)
    look(engine)
    with scope() as session:
        control.cancel(session, search.id)
        assert found(engine, search).message is None
        added = control.add(session, search.id, 2).search
        assert (added.trials, added.settings["minutes"]) == (3, 10.0)


def test_a_search_whose_time_is_over_is_seldom_looked_at_while_its_last_trials_run(
    engine: Engine, submit: Submit, scope: Scope
) -> None:
    search = submit(space=LR, minutes=10.0, parallel=3, trials=5, final=False)
    look(engine)
    finish(engine, 0.5)
    _age(scope)
    assert look(engine) == []
    with db.read_scope(engine) as session:
        assert advance.due(session) == []
        assert session.scalar(sa.select(sa.func.count()).where(Search.due_at > db.now())) == 1
    for _ in range(2):
        finish(engine, 0.5)
    _age(scope)
    look(engine)
    assert found(engine, search).status == "succeeded"


@pytest.mark.parametrize(
    ("end", "said"), [("fail", "The final model failed: It failed."), ("cancel", "The final model was cancelled.")]
)
def test_the_end_says_that_the_final_model_is_none_and_more_trials_make_another(
    engine: Engine, submit: Submit, scope: Scope, end: str, said: str
) -> None:
    search = submit(space=LR, trials=1)
    look(engine)
    finish(engine, 0.5)
    look(engine)
    if end == "fail":
        finish(engine, None)
    else:
        with scope() as session:
            job_control.cancel(session, jobs(engine, search)[-1].id)
    look(engine)
    ended = found(engine, search)
    assert ended.status == "succeeded"
    assert (ended.message or "").startswith(said)
    with scope() as session:
        assert control.add(session, search.id, 1).search.message is None
    for _ in range(2):
        assert look(engine) == ["default"]
        finish(engine, 0.9)
    look(engine)
    assert found(engine, search).message is None
    assert [job.trial for job in jobs(engine, search)] == [1, None, 2, None]


def test_a_final_model_that_was_refused_leaves_the_test_part_unseen_by_later_trials(
    engine: Engine, submit: Submit, scope: Scope, storage: Storage, npz_bytes: Any
) -> None:
    with scope() as session:
        versions.add(session, received(storage, BytesIO(npz_bytes())), name="small")
    search = submit({**SPEC, "data": {"dataset": "small"}}, space=LR, trials=1)
    look(engine)
    finish(engine, 0.5)
    with scope() as session:
        versions.delete(session, "small")
    look(engine)
    ended = found(engine, search)
    assert (ended.status, ended.settings["final"]) == ("succeeded", True)
    assert (ended.message or "").startswith("The final model was refused: ")
    with scope() as session:
        added = control.add(session, search.id, 1).search
        assert (added.message, added.settings["final_refused"]) == (None, False)


def test_dropout_between_layers_keeps_two_of_them(submit: Submit) -> None:
    assert "architecture.num_layers" not in submit({"data": DATA, "preset": "dropout_gru"}).settings["space"]
    assert submit({"data": DATA, "preset": "basic_gru"}).settings["space"]["architecture.num_layers"] == [1, 2]


def test_what_is_varied_is_chosen_for_the_data_and_the_spec_itself_is_the_first_trial(
    engine: Engine, submit: Submit
) -> None:
    search = submit({"data": DATA, "architecture": {"num_layers": 1}}, trials=2)
    space, base, first = (search.settings[name] for name in ("space", "base", "first"))
    assert {"training.optimizer.lr", "architecture.hidden_size", "data.patch", "architecture.pooling"} <= space.keys()
    assert "architecture.num_layers" not in space
    assert first.keys() == space.keys()
    assert search.document["data"] == DATA
    look(engine)
    [trial] = jobs(engine, search)
    assert trial.choices == first
    expected = parse(base).document()
    assert trial.spec["architecture"] == expected["architecture"]
    assert trial.spec["training"]["optimizer"] == expected["training"]["optimizer"]
    finish(engine, 0.5)
    look(engine)
    assert jobs(engine, search)[1].choices != first


def test_few_samples_are_searched_with_folds(submit: Submit) -> None:
    few = {"synthetic": {"samples": 60, "length": 20, "features": 2, "classes": 2}}
    assert submit({"data": few}).settings["base"]["data"]["split"]["folds"] == 4
    stated = submit({"data": {**few, "split": {"validation": 0.5}}})
    assert "folds" not in stated.settings["base"]["data"]["split"]


def test_a_spec_that_states_all_that_is_varied_has_to_say_what_to_vary(submit: Submit) -> None:
    stated = {
        "architecture": {"hidden_size": 8, "num_layers": 1, "head_dropout": 0.1, "pooling": "max"},
        "training": {"optimizer": "adam"},
        "data": {**DATA, "scaling": "none", "differences": None, "patch": 1},
    }
    with pytest.raises(SpecInvalid) as caught:
        submit(stated)
    assert [problem.pointer for problem in caught.value.problems] == ["/search/space"]


@pytest.mark.parametrize(
    ("data", "test"),
    [
        ({"synthetic": {"samples": 400, "length": 20, "features": 2, "classes": 2}}, 0.2),
        ({"synthetic": {"samples": 400, "length": 20, "features": 2, "classes": 2}, "split": {"test": 0.1}}, 0.1),
        ({"synthetic": {"samples": 400, "length": 20, "features": 2, "classes": 2}, "split": {"test": 0.0}}, 0.0),
        ({"synthetic": {"samples": 39, "length": 20, "features": 2, "classes": 2}}, None),
    ],
)
def test_a_test_part_is_set_aside_if_nobody_says_otherwise(submit: Submit, data: Any, test: float | None) -> None:
    search = submit({"data": data})
    assert search.settings["base"]["data"].get("split", {}).get("test") == test
    assert search.document["data"] == data


def test_no_test_part_is_set_aside_if_a_class_has_too_few_samples(
    submit: Submit, scope: Scope, storage: Storage
) -> None:
    for least, test in ((5, 0.2), (4, None)):
        file, y = BytesIO(), np.arange(60) >= least
        np.savez(file, x=np.random.default_rng(least).normal(size=(60, 5, 1)).astype(np.float32), y=y.astype(np.int64))
        file.seek(0)
        with scope() as session:
            versions.add(session, received(storage, file), name=f"least-{least}")
        search = submit({"data": {"dataset": f"least-{least}"}})
        assert search.settings["base"]["data"].get("split", {}).get("test") == test


def test_without_a_final_model_no_test_part_is_set_aside(submit: Submit) -> None:
    data = {"synthetic": {"samples": 400, "length": 20, "features": 2, "classes": 2}}
    assert "split" not in submit({"data": data}, final=False).settings["base"]["data"]


def test_a_stated_space_leaves_the_split_as_it_is(submit: Submit) -> None:
    data = {"synthetic": {"samples": 400, "length": 20, "features": 2, "classes": 2}}
    assert submit({**SPEC, "data": data}, space=LR).settings.get("base") is None


def test_the_final_model_knows_how_it_was_selected(engine: Engine, submit: Submit, scope: Scope) -> None:
    search = submit(space=LR, trials=3)
    for loss in (0.5, 0.2, None):
        look(engine)
        finish(engine, loss)
    look(engine)
    *trials, model = jobs(engine, search)
    with db.read_scope(engine) as session:
        selected = final.selection(session, session.get_one(Job, model.id))
        assert selected == Selection(search.id, 3, "validation_loss", 0.2)
        assert [final.selection(session, session.get_one(Job, trial.id)) for trial in trials] == [None] * 3
    finish(engine, 0.3)
    with scope() as session:
        control.add(session, search.id, 1)
    look(engine)
    with db.read_scope(engine) as session:
        assert len(jobs(engine, search)) == 5
        assert final.selection(session, session.get_one(Job, model.id)) == selected
