"""What a dry run counts and warns of: as a run has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.training import loop
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run
from services.training.preparing import prepare
from services.training.spec import Spec, cautions, check_data, parse
from services.training.spec.effort import EVALUATION_BATCH, PACES, cheaper, effort
from tests.training.building import classes, document, forecast_spec, hourly, of_many_lengths, tagged, texts

NEXT_STEP = Arrays(
    x=texts().x, lengths=texts().lengths, y=np.empty((40, 0), np.int64), texts=texts().texts, features=()
)
FORECAST = {"name": "forecast", "lookback": 48, "horizon": 24}


def checked(arrays: Arrays, **changes: Any) -> Spec:
    return check_data(parse(document(**changes)), npz.summarise(arrays))


def said(arrays: Arrays, **changes: Any) -> list[str]:
    spec, summary = checked(arrays, **changes), npz.summarise(arrays)
    return [*cautions.of_spec(spec), *cautions.of_data(spec, summary, effort(spec, summary))]


@pytest.mark.parametrize(
    ("arrays", "spec"),
    [
        (classes(26), checked(classes(26))),
        (classes(26), checked(classes(26), training={"accumulation_steps": 3}, architecture={"bidirectional": True})),
        (of_many_lengths(classes(50)), checked(of_many_lengths(classes(50)), data={"split": {"test": 0.2}})),
        (tagged(full=True), checked(tagged(full=True), training={"bptt_steps": 3})),
        (hourly([600]), forecast_spec(hourly([600]), task=FORECAST | {"stride": 5})),
        (hourly([1200, 800]), forecast_spec(hourly([1200, 800]), task=FORECAST)),
        (
            NEXT_STEP,
            check_data(
                parse(document(task="next_step", data={"split": {"validation": 0.1, "test": 0.1}})),
                npz.summarise(NEXT_STEP),
            ),
        ),
    ],
)
def test_an_epoch_has_about_as_many_steps_as_were_counted(arrays: Arrays, spec: Spec) -> None:
    counted, run = effort(spec, npz.summarise(arrays)), Run(spec, prepare(arrays, spec))
    assert counted.steps_per_epoch == pytest.approx(run.steps_per_epoch, rel=0.1, abs=1)
    if spec.training.bptt_steps is None:  # otherwise a part counts windows
        assert counted.samples["train"] == pytest.approx(len(run.data.train), rel=0.1, abs=1)
    if arrays.texts is None:
        assert counted.need.parameters == sum(each.numel() for each in run.parameters)


def test_what_takes_longer_is_counted_as_longer() -> None:
    def seconds(samples: int = 40, **changes: Any) -> float:
        arrays = classes(samples)
        return effort(checked(arrays, **changes), npz.summarise(arrays)).seconds(PACES["cpu"])

    small = seconds()
    assert small < seconds(80)
    assert small < seconds(architecture={"hidden_size": 50})
    assert small < seconds(architecture={"num_layers": 2})
    assert small > seconds(training={"batch_size": 20})
    assert small > seconds(data={"stride": 3})


def test_evaluation_takes_as_many_samples_at_a_time_as_the_loop_does() -> None:
    assert EVALUATION_BATCH == loop.EVALUATION_BATCH


def test_folds_count_their_models() -> None:
    split = {"validation": None, "folds": 5}
    counted = effort(checked(classes(26), data={"split": split}), npz.summarise(classes(26)))
    assert (counted.epochs, counted.samples["validation"], counted.samples["train"]) == (3 * 6, 6, 20)


def test_a_small_job_on_enough_data_has_no_warning() -> None:
    assert said(classes(120)) == []


@pytest.mark.parametrize(
    ("arrays", "changes", "told"),
    [
        (classes(120), {"training": {"optimizer": {"name": "adam", "lr": 0.5}}}, "0.5, which is high for adam"),
        (classes(120), {"training": {"optimizer": {"name": "sgd", "lr": 1e-6}}}, "1e-06, which is low for sgd"),
        (
            classes(120),
            {"training": {"early_stopping": {"patience": 2}}, "data": {"split": {"validation": 0.0}}},
            "early_stopping watches the training split",
        ),
        (classes(120), {"architecture": {"hidden_size": 64}}, "parameters, and the training samples have about 1,620"),
        (classes(24), {"training": {"batch_size": 64}}, "An epoch is a single update"),
        (
            classes(120),
            {"training": {"lr_schedule": {"name": "cosine", "warmup_steps": 1000}}},
            "warmup_steps is 1,000, and the run has 69 steps",
        ),
        (classes(120, length=900), {}, "sequences of up to 900 steps, and gradients seldom reach"),
        (replace(classes(120), y=np.array([2, 2, 2] + [0, 1, 0] * 39)), {}, "fewer than 5 samples: 2 (3)."),
    ],
)
def test_what_is_rarely_meant_is_told(arrays: Arrays, changes: dict[str, Any], told: str) -> None:
    [sentence] = said(arrays, **changes)
    assert told in sentence


def test_long_sequences_may_be_cut_or_put_together() -> None:
    arrays = classes(120, length=900)
    assert said(arrays, data={"patch": 5}) == said(arrays, data={"max_length": 100}) == []


def test_many_windows_of_a_forecast_say_what_a_stride_saves() -> None:
    arrays = hourly([3000])
    spec = forecast_spec(arrays, task=FORECAST)
    sentence = cheaper(spec, effort(spec, npz.summarise(arrays)).samples)
    assert sentence is not None
    assert "about 2,029 windows" in sentence
    assert "`task.stride: 23`" in sentence  # windows that start at every hour of the day
    apart = forecast_spec(arrays, task=FORECAST | {"stride": 24})
    assert cheaper(apart, effort(apart, npz.summarise(arrays)).samples) is None
    short = forecast_spec(arrays, task=FORECAST | {"horizon": 2})  # 2 hours are a part of a day
    assert cheaper(short, effort(short, npz.summarise(arrays)).samples) is None
