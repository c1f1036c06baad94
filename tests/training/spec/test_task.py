"""The task of a spec: what fits a data set, what a forecast leaves to it, and what is refused with a way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.errors import SpecInvalid
from services.training import checkpoint
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.spec import Spec, check_data, parse, stored
from services.training.spec.fields import Forecast
from services.training.spec.footprint import footprint
from tests.training.building import classes, document, forecast_spec, hourly, tagged, values, without_rows

LABELS = Arrays(x=classes().x, lengths=classes().lengths, y=np.arange(48).reshape(24, 2) % 2)
WORDS = Arrays(x=classes().x, lengths=classes().lengths, y=np.array(["a", "b", "c"])[classes().y])


TIME = {"split": {"method": "time"}}


def checked(arrays: Arrays, **changes: Any) -> Spec:
    return check_data(parse(document(**changes)), npz.summarise(arrays))


def refused(arrays: Arrays, **changes: Any) -> dict[str, str]:
    with pytest.raises(SpecInvalid) as caught:
        checked(arrays, **changes)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def forecast(**fields: Any) -> dict[str, Any]:
    return {"task": {"name": "forecast", **fields}, "data": {"missing": "forward", "split": {"method": "time"}}}


@pytest.mark.parametrize(
    ("arrays", "loss", "name"),
    [
        (classes(), None, "classification"),
        (classes(), "mse", "regression"),
        (LABELS, None, "classification"),
        (values(), None, "regression"),
        (tagged(), None, "tagging"),
    ],
)
def test_without_a_task_it_is_what_the_targets_are_and_is_written_down(arrays: Arrays, loss: Any, name: str) -> None:
    found = checked(arrays, training={"loss": loss})
    assert found.document()["task"] == {"name": name}
    again = check_data(stored(found.document()), npz.summarise(arrays))
    assert again == found
    assert checked(arrays, training={"loss": loss}, task=name) == found


def test_a_spec_without_a_task_has_the_checkpoints_that_it_had_before_there_were_tasks() -> None:
    found = checked(classes()).document()
    before = {key: value for key, value in found.items() if key != "task"}
    assert checkpoint.essence(found) == checkpoint.essence(before)
    forecasting = forecast_spec(hourly([60])).document()
    assert checkpoint.essence(forecasting)["task"]["horizon"] == 3


def test_regression_takes_whole_numbers_as_values() -> None:
    found = checked(classes(), task="regression")
    assert found.training.loss is not None
    assert (found.training.loss.name, found.data.target_scaling) == ("mse", "standard")


@pytest.mark.parametrize(
    ("arrays", "changes", "pointer", "told"),
    [
        (classes(), {"task": "tagging"}, "/task", "tagging needs a class for each step, and the targets of this"),
        (values(), {"task": "classification"}, "/task", "set task to regression"),
        (tagged(), {"task": "regression"}, "/task", "set task to tagging"),
        (
            WORDS,
            {"task": "regression"},
            "/task",
            "regression needs numbers, and the targets of this data set are words",
        ),
        (classes(), {"task": "classification", "training": {"loss": "mse"}}, "/training/loss", "task to regression"),
        (classes(), {"task": "regression", "training": {"loss": "bce"}}, "/training/loss", "use mse, mae or huber"),
        (values(), {"training": {"loss": "pinball"}}, "/training/loss", "quantiles of a forecast: set task.quantiles"),
        (classes(), forecast(), "/task", "a forecast needs a column of numbers with a value for each step"),
        (hourly([60]), {}, "/task", "its next steps can be forecast: set task to {name: forecast, horizon: 24}"),
        (hourly([60]), {"task": "classification"}, "/task", "its next steps can be forecast"),
        (hourly([60], target=()), {}, "/task", "names no target column: upload the file with --target NAME"),
        (hourly([60], target=()), {}, "/task", "one series of 60 steps, so name a column of numbers to forecast"),
        (hourly([60, 50], target=()), {}, "/task", "2 sequences, so name a column with a class or a value for each"),
        (hourly([60], target=()), forecast(), "/task", "does not say which column of numbers to forecast"),
        (hourly([60], known=("load",)), forecast(), "/task", "load is to be forecast, so it cannot be known ahead"),
        (hourly([20]), forecast(lookback=18, horizon=4), "/task", "18 + 4 steps (lookback and horizon) is longer than"),
        (hourly([60]), forecast(quantiles=[0.9, 0.5]), "/task/quantiles", "must rise, each one once"),
        (hourly([60]), forecast(quantiles=[0.1, 0.9]), "/task/quantiles", "must have 0.5, the median"),
        (
            hourly([60]),
            forecast(quantiles=[0.5]) | {"training": {"loss": "mse"}},
            "/training/loss",
            "mse knows no quantiles: use pinball",
        ),
        (hourly([60]), forecast() | {"training": {"loss": "bce"}}, "/training/loss", "use mse, mae, huber"),
        (
            hourly([60]),
            forecast() | {"training": {"best_by": "r2"}},
            "/training/best_by",
            "loss, mase, smape, mae, rmse",
        ),
        (hourly([60]), forecast() | {"architecture": {"pooling": "none"}}, "/architecture/pooling", ""),
    ],
)
def test_a_task_that_does_not_fit_is_refused_with_a_way_out(
    arrays: Arrays, changes: dict[str, Any], pointer: str, told: str
) -> None:
    found = refused(arrays, **changes)
    assert list(found) == [pointer]
    assert told in found[pointer]


@pytest.mark.parametrize(
    ("data", "pointer", "told"),
    [
        ({"split": {"method": "random"}}, "/data/split/method", "use time, or group to test on other series"),
        ({"split": {"method": "content"}}, "/data/split/method", "overlap"),
        ({"split": {"method": "time", "test": "given"}}, "/data/split/test", "the data set marks whole series"),
        ({"missing": "linear"}, "/data/missing", "which a forecast must not know: use forward"),
        ({"patch": 2}, "/data/patch", "a forecast reads single steps: leave it out"),
        ({"stride": 2}, "/data/stride", "task.stride says how far apart windows are"),
        ({"max_length": 9}, "/data/max_length", "task.lookback says how many steps are read"),
    ],
)
def test_what_would_let_a_forecast_know_the_future_or_do_nothing_is_refused(
    data: dict[str, Any], pointer: str, told: str
) -> None:
    asked = forecast()
    asked["data"] = {**asked["data"], **data}
    found = refused(hourly([60]), **asked)
    assert list(found) == [pointer]
    assert told in found[pointer]


def test_missing_rows_are_refused_with_the_first_gap_unless_the_spec_says_how_to_fill_them() -> None:
    arrays = without_rows(hourly([60]), 31, 32, 40)
    asked = forecast()
    found = checked(arrays, **asked)
    assert found.data.missing == "forward"
    asked["data"] = {"split": {"method": "time"}}
    told = refused(arrays, **asked)["/data/missing"]
    assert "the step of a from 1970-01-02 06:00:00 to 1970-01-02 09:00:00 is 3 hours, and most are 1 hour" in told
    assert "set it to forward to add the 3 missing rows and repeat the value before there" in told


HOUR = 3_600_000_000_000


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (np.arange(60) // 31 * HOUR // 2, "1 step is no multiple of 1 hour: bring the rows to equal steps"),
        (np.arange(60) // 31 * HOUR * 999, "the series of a lacks 999 rows and has only 60"),
        (np.cumsum(np.arange(60) % 4) * HOUR, "the usual one: only 15 of 59 are 3 hours: bring the rows"),
    ],
)
def test_steps_that_no_rows_make_equal_are_refused_with_the_reason(after: Any, told: str) -> None:
    arrays = hourly([60])
    assert arrays.times is not None
    arrays.times[0] += after
    assert told in refused(arrays, **forecast())["/task"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text", "use classification for texts with labels, or next_step"),
    ],
)
def test_names_that_are_no_tasks_are_refused_with_a_sentence(name: str, told: str) -> None:
    for task in (name, {"name": name}):
        with pytest.raises(SpecInvalid) as caught:
            parse(document(task=task))
        (problem,) = caught.value.problems
        assert problem.pointer == "/task"
        assert problem.detail.startswith(f"{name} ")
        assert told in problem.detail


def test_an_unknown_task_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse(document(task="translate"))
    assert "must be one of classification, regression, tagging, forecast" in caught.value.problems[0].detail


@pytest.mark.parametrize(
    ("steps", "fields", "window"),
    [
        (2000, {}, (168, 24, [24, 168])),
        (100, {}, (25, 24, [24, 168])),
        (2000, {"horizon": 100}, (300, 100, [24, 168])),
        (2000, {"season": 12}, (36, 12, [12])),
        (2000, {"season": []}, (3, 1, [])),
        (2000, {"lookback": 7, "horizon": 2, "season": [3, 5]}, (7, 2, [3, 5])),
    ],
)
def test_a_forecast_takes_from_the_data_what_its_spec_leaves_out(
    steps: int, fields: dict[str, Any], window: tuple[int, int, list[int]]
) -> None:
    arrays = hourly([steps])
    asked = document(task={"name": "forecast", **fields})
    del asked["data"]["split"]
    found = check_data(parse(asked), npz.summarise(arrays))
    assert isinstance(found.task, Forecast)
    assert (found.task.lookback, found.task.horizon, found.task.season) == window
    assert found.data.scaling == "standard"
    assert (found.data.split.method, found.data.split.validation, found.data.split.test) == ("time", 0.15, 0.15)
    assert check_data(stored(found.document()), npz.summarise(arrays)) == found


def test_what_a_spec_says_goes_before_the_defaults_of_a_forecast() -> None:
    asked = document(task="forecast", data={"scaling": "none", "split": {"method": "given"}})
    del asked["data"]["split"]["validation"]
    asked["training"] = {"epochs": 3, "optimizer": "sgd", "early_stopping": None}
    found = parse(asked)
    assert (found.data.scaling, found.data.split.method, found.data.split.test) == ("none", "given", None)
    training = found.training
    assert (training.epochs, training.optimizer.lr, training.early_stopping) == (3, 0.01, None)
    assert (training.batch_size, training.lr_schedule.name, found.architecture.hidden_size) == (32, "cosine", 5)
    assert parse({**asked, "architecture": {"cell": "gru"}}).architecture.hidden_size == 64
    assert parse(found.document()) == found
    with pytest.raises(SpecInvalid) as caught:
        parse({**asked, "training": 5})
    assert [problem.pointer for problem in caught.value.problems] == ["/training"]
    others = parse(document(architecture={"cell": "gru"})).training
    assert (others.batch_size, others.lr_schedule.name, others.early_stopping) == (4, "constant", None)


@pytest.mark.parametrize(
    ("steps", "fields", "stride"),
    [
        (8191, {}, 1),  # 8,000 windows
        (8192, {}, 5),  # 2, 3 and 4 have a factor in common with a day
        (17_520, {}, 5),
        (17_520, {"season": []}, 3),
        (17_520, {"stride": 1}, 1),
        (90_000, {"horizon": 6}, 5),  # at most 6, which has a factor in common
    ],
)
def test_a_long_series_is_cut_into_about_as_many_windows_as_are_enough(
    steps: int, fields: dict[str, Any], stride: int
) -> None:
    found = checked(hourly([steps]), task={"name": "forecast", "lookback": 168, "horizon": 24, **fields}, data=TIME)
    assert isinstance(found.task, Forecast)
    assert found.task.stride == stride


def test_the_memory_of_a_forecast_is_that_of_its_steps_and_of_a_batch_of_windows() -> None:
    arrays = hourly([5000], known=("wind",))
    spec = forecast_spec(arrays, task={"name": "forecast", "lookback": 100, "horizon": 24})
    needed = footprint(spec, npz.summarise(arrays))
    assert needed.data == 4 * 5000 * (3 + 3 + 12)  # the file, and prepared with hour and weekday
    assert needed.parameters == sum(p.numel() for p in network_of(spec, arrays).parameters())


def network_of(spec: Spec, arrays: Arrays) -> Any:
    from services.training.loop import network
    from services.training.preparing import prepare

    return network(spec.architecture, prepare(arrays, spec))
