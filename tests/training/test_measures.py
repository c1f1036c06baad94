"""The one table of metrics, and who takes it from there."""

from __future__ import annotations

import math

import pytest

from api.schemas import Epoch
from services.training import measures
from services.training.measures import MEASURES
from services.training.spec.fields import Gate, Training
from worker.attempt.record import SHOWN


def test_the_spec_takes_every_metric_and_no_other() -> None:
    for name in MEASURES:
        assert Training.model_validate({"best_by": name}).best_by == name
        assert Gate.model_validate({"metric": name}).metric == name
    with pytest.raises(ValueError, match="best_by"):
        Training.model_validate({"best_by": "auc"})


def test_each_kind_of_answer_has_one_default_among_its_metrics() -> None:
    assert [measures.default(answers) for answers in ("classes", "labels", "values")] == [
        "accuracy",
        "accuracy",
        "rmse",
    ]
    assert measures.judging("classes") == ("accuracy", "macro_f1")
    assert measures.judging("labels") == ("accuracy", "label_accuracy", "macro_f1")
    assert measures.judging("values") == ("mae", "rmse", "r2")


def test_better_is_more_or_less_by_more_than_the_margin() -> None:
    assert MEASURES["accuracy"].is_better(0.9, 0.8, 0.05)
    assert not MEASURES["accuracy"].is_better(0.9, 0.9)
    assert MEASURES["rmse"].is_better(0.8, 0.9, 0.05)
    assert not MEASURES["rmse"].is_better(0.88, 0.9, 0.05)
    assert not MEASURES["loss"].is_better(math.nan, 0.9)


def test_a_recorded_number_is_of_the_metric_after_its_split() -> None:
    assert measures.recorded("validation_macro_f1") is MEASURES["macro_f1"]
    assert measures.recorded("rmse") is MEASURES["rmse"]
    with pytest.raises(KeyError):
        measures.recorded("grad_norm_mean")


def test_the_api_documents_every_metric_of_an_epoch() -> None:
    properties = Epoch.model_json_schema()["properties"]
    assert {f"{split}_{name}" for split in ("train", "validation") for name in MEASURES} <= properties.keys()


def test_the_log_shows_the_losses_and_the_default_metrics() -> None:
    names = ("loss", "perplexity", "accuracy", "mase", "rmse")
    shown = tuple(f"{split}_{name}" for name in names for split in ("train", "validation"))
    assert SHOWN[: len(shown)] == shown
