"""The spec: what is allowed, what is refused and in which words, and that nothing else ever comes out of it."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import SpecInvalid
from services.training.files.summary import DatasetSummary
from services.training.spec import Spec, check_data, loads, parse, stored
from services.training.spec.presets import PRESETS
from tests.properties import examples
from tests.training.building import document

ARCHITECTURE_EXAMPLE = """
name: vowels
architecture: {cell: gru, hidden_size: 128, num_layers: 2, bidirectional: true, dropout: 0.3,
               pooling: last, batch_norm: false, head_dropout: 0.5, init: default}
training: {epochs: 20, batch_size: 64, loss: cross_entropy, optimizer: {name: adam, lr: 1e-3, weight_decay: 1e-5},
           max_grad_norm: 1.0, lr_schedule: {name: constant}, early_stopping: null, precision: float32, seed: 0}
data: {dataset: japanese-vowels, split: {validation: 0.2, test: 0.0}}
limits: {max_runtime_seconds: 3600, max_retries: 2}
priority: 0
tags: {team: speech}
"""


def refused(given: dict[str, Any]) -> dict[str, str]:
    """The problems of a spec: a sentence for each pointer."""
    with pytest.raises(SpecInvalid) as caught:
        parse(given)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def summary(**changes: Any) -> DatasetSummary:
    """Ten utterances of two speakers."""
    told: dict[str, Any] = {
        "samples": 10,
        "features": 3,
        "max_length": 6,
        "min_length": 2,
        "target": "classes",
        "classes": [0, 1],
        "class_counts": [5, 5],
        "target_dim": 2,
        "given_split": None,
        "bytes": 720,
    }
    return DatasetSummary(**(told | changes))


HUGE, HUGER = pytest.param(10**400, id="10**400"), pytest.param(10**5000, id="10**5000")
REAL = {"target": "values", "classes": None, "class_counts": None, "target_dim": 1}
MANY = {"target": "multilabel", "classes": None, "class_counts": None, "target_dim": 4}
WORDS = {"classes": ["no", "yes"]}
THREE = {"classes": [0, 1, 2], "class_counts": [4, 3, 3], "target_dim": 3}


def unfit(spec: dict[str, Any], **data: Any) -> dict[str, str]:
    """The problems of a spec with its data."""
    with pytest.raises(SpecInvalid) as caught:
        check_data(parse(spec), summary(**data))
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def test_the_example_of_the_design_is_read_as_it_looks() -> None:
    spec = parse(loads(ARCHITECTURE_EXAMPLE))
    assert (spec.name, spec.queue, spec.priority, spec.tags) == ("vowels", "default", 0, {"team": "speech"})
    assert (spec.training.optimizer.lr, spec.training.optimizer.weight_decay) == (1e-3, 1e-5)
    assert spec.training.loss is not None
    assert spec.training.loss.name == "cross_entropy"
    assert spec.architecture.bidirectional is True
    assert spec.training.early_stopping is None
    assert spec.data.dataset == "japanese-vowels"
    assert (spec.data.split.validation, spec.data.split.test) == (0.2, 0.0)


def test_the_smallest_spec_gets_every_default() -> None:
    spec = parse({"architecture": {"cell": "lstm"}, "data": {"dataset": "d"}})
    assert spec.training.max_grad_norm == 1.0
    assert spec.training.loss is None  # the data decides
    assert (spec.limits.max_runtime_seconds, spec.limits.max_stall_seconds) == (3600, 600)
    assert spec.document()["architecture"]["pooling"] == "last"


def test_a_resolved_spec_is_plain_json_and_parses_to_an_equal_one() -> None:
    spec = parse(loads(ARCHITECTURE_EXAMPLE))
    assert parse(json.loads(json.dumps(spec.document(), allow_nan=False))) == spec


def test_five_mistakes_are_five_problems_at_once() -> None:
    problems = refused(
        {
            "architecture": {"cell": "gruu", "hidden_size": 0},
            "training": {"optimizer": {"lr": "fast"}, "epoch": 3},
            "data": {"dataset": "d"},
            "queue": "No Such Queue",
        }
    )
    assert problems.keys() == {
        "/architecture/cell",
        "/architecture/hidden_size",
        "/training/optimizer/lr",
        "/training/epoch",
        "/queue",
    }
    assert "rnn, lstm, gru" in problems["/architecture/cell"]
    assert "at least 1" in problems["/architecture/hidden_size"]
    assert problems["/training/optimizer/lr"] == 'must be a number; got "fast"'
    assert "did you mean `epochs`?" in problems["/training/epoch"]
    assert "small letters" in problems["/queue"]


def test_wrong_fields_do_not_hide_fields_that_do_not_go_together() -> None:
    problems = refused(
        {
            "architecture": {"cell": "gru", "dropout": 0.5, "nonlinearity": "relu", "hidden_size": "wide"},
            "training": {"optimizer": {"name": "sgd", "nesterov": True}, "seed": -1},
            "data": {"dataset": "d", "split": {"validation": 0.6, "test": 0.6}},
        }
    )
    assert problems.keys() == {
        "/architecture/dropout",
        "/architecture/nonlinearity",
        "/architecture/hidden_size",
        "/training/optimizer/nesterov",
        "/training/seed",
        "/data/split",
    }


def test_an_error_names_its_problems_as_text() -> None:
    with pytest.raises(SpecInvalid, match=r"(?s)The spec has 2 problems\..*/architecture/cell.*/data"):
        parse({"architecture": {"cell": "gruu"}})


def test_a_missing_part_says_what_to_write() -> None:
    assert refused({}) == {"/data": "this is required: say `data: {dataset: NAME}` or `data: {synthetic: {}}`"}


@pytest.mark.parametrize(
    ("change", "pointer", "word"),
    [
        ({"architecture": {"dropout": 0.3}}, "/architecture/dropout", "head_dropout"),
        ({"architecture": {"nonlinearity": "tanh"}}, "/architecture/nonlinearity", "leave it out"),
        ({"architecture": {"cell": "lstm", "nonlinearity": "relu"}}, "/architecture/nonlinearity", "lstm has its own"),
        ({"architecture": {"forget_gate_bias": 1.0}}, "/architecture/forget_gate_bias", "belongs to the lstm"),
        ({"architecture": {"init": "identity"}}, "/architecture/init", "relu"),
        ({"architecture": {"cell": "rnn", "init": "identity"}}, "/architecture/init", "relu"),
        ({"architecture": {"batch_norm": True}, "training": {"batch_size": 1}}, "/training/batch_size", "at least 2"),
        ({"training": {"optimizer": {"name": "sgd", "nesterov": True}}}, "/training/optimizer/nesterov", "momentum"),
        (
            {"training": {"on_divergence": {"rollback": False, "lr_factor": 0.1}}},
            "/training/on_divergence",
            "set rollback to true",
        ),
        ({"training": {"on_divergence": {"lr_factor": 1}}}, "/training/on_divergence/lr_factor", "less than 1"),
        ({"training": {"loss": "mse", "best_by": "accuracy"}}, "/training/best_by", "mae, rmse, r2"),
        ({"training": {"loss": "cross_entropy", "best_by": "r2"}}, "/training/best_by", "accuracy, macro_f1"),
        ({"data": {"split": {"validation": 0.5, "test": 0.5}}}, "/data/split", "something to train on"),
        ({"data": {"synthetic": {}}}, "/data", "exactly one"),
        ({"data": {"dataset": None}}, "/data", "exactly one"),
        ({"data": {"dataset": None, "synthetic": {"samples": 4, "classes": 5}}}, "/data/synthetic/classes", "samples"),
        (
            {"data": {"dataset": None, "synthetic": {"samples": 10**6, "length": 10**5, "features": 10**4}}},
            "/data/synthetic",
            "takes 4,000,000,000,000,000 bytes (1,000,000 samples x 100,000 steps x 10,000 features x 4)",
        ),
        (
            {"data": {"dataset": None, "synthetic": {}, "split": {"test": "given"}}},
            "/data/split/test",
            "say a fraction",
        ),
        ({"retrain": {"model": "m"}, "data": {"split": {"test": 0}}}, "/data/split/test", "method: content"),
        ({"retrain": {"model": "m", "promote": None}}, "/retrain/gate/against", "name what to compare with"),
        ({"retrain": {"model": "m", "promote": "latest"}}, "/retrain/promote", "name an alias"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_a_way_out(
    change: dict[str, Any], pointer: str, word: str
) -> None:
    problems = refused(document(**change))
    assert problems.keys() == {pointer}
    assert word in problems[pointer]


@pytest.mark.parametrize(
    ("loss", "data", "word"),
    [
        ("cross_entropy", REAL, "use mse, mae or huber"),
        ("cross_entropy", MANY, "use bce"),
        ("mse", WORDS, "use cross_entropy"),
        ("huber", WORDS, "use cross_entropy"),
        ("bce", REAL, "use mse"),
        ("bce", THREE, "use cross_entropy"),
    ],
)
def test_a_loss_that_does_not_fit_the_targets_is_refused_with_a_way_out(
    loss: str, data: dict[str, Any], word: str
) -> None:
    problems = unfit(document(training={"loss": loss}), **data)
    assert problems.keys() == {"/training/loss"}
    assert word in problems["/training/loss"]


@pytest.mark.parametrize(
    ("data", "loss"), [({}, "cross_entropy"), (WORDS, "cross_entropy"), (REAL, "mse"), (MANY, "bce")]
)
def test_a_loss_that_is_not_said_is_chosen_by_the_targets(data: dict[str, Any], loss: str) -> None:
    spec = check_data(parse(document()), summary(**data))
    assert spec.training.loss is not None
    assert spec.training.loss.name == loss


def test_a_loss_that_is_said_stays() -> None:
    spec = parse(document(training={"loss": {"name": "huber", "delta": 2.0}}))
    assert check_data(spec, summary(**REAL)).training is spec.training
    resolved = check_data(spec, summary(**REAL))
    assert check_data(resolved, summary(**REAL)) == resolved


@pytest.mark.parametrize(
    ("data", "loss", "expected"),
    [
        (REAL, None, "standard"),
        ({}, None, "none"),
        (MANY, None, "none"),
        ({}, "mse", "standard"),
        (MANY, "huber", "standard"),
        (MANY, "bce", "none"),
    ],
)
def test_values_to_predict_are_scaled_unless_said(data: dict[str, Any], loss: str | None, expected: str) -> None:
    training = {"loss": loss} if loss else {}
    assert check_data(parse(document(training=training)), summary(**data)).data.target_scaling == expected
    said = document(training=training, data={"target_scaling": "none"})
    assert check_data(parse(said), summary(**data)).data.target_scaling == "none"


def test_classes_and_labels_are_not_to_be_scaled() -> None:
    for data, what in (({}, "classes"), (MANY, "yes-or-no labels")):
        problems = unfit(document(data={"target_scaling": "standard"}), **data)
        assert problems == {"/data/target_scaling": f"is for values to predict, and here are {what}: leave it out"}


def test_a_spec_that_was_stored_before_targets_were_scaled_goes_without() -> None:
    resolved = check_data(parse(document()), summary(**REAL)).document()
    assert stored(resolved).data.target_scaling == "standard"
    del resolved["data"]["target_scaling"]
    old = stored(resolved)
    assert old.data.target_scaling == "none"
    assert check_data(old, summary(**REAL)) == old


def test_label_accuracy_is_for_several_labels_a_sequence() -> None:
    for loss in ({}, {"loss": "bce"}):
        check_data(parse(document(training={"best_by": "label_accuracy", **loss})), summary(**MANY))
        for other in ({}, {**MANY, "target_dim": 1}):
            problems = unfit(document(training={"best_by": "label_accuracy", **loss}), **other)
            assert problems["/training/best_by"].startswith("for this data set must be one of loss, accuracy, macro_f1")
    word = refused(document(training={"best_by": "label_accuracy", "loss": "cross_entropy"}))["/training/best_by"]
    assert word == "with cross_entropy must be one of loss, accuracy, macro_f1; got label_accuracy"


def test_a_metric_is_judged_by_the_targets_where_no_loss_is_said() -> None:
    assert unfit(document(training={"best_by": "accuracy"}), **REAL).keys() == {"/training/best_by"}
    check_data(parse(document(training={"best_by": "accuracy"})), summary())


@pytest.mark.parametrize(
    ("metric", "data", "word"),
    [
        ("accuracy", REAL, "mae, rmse, r2"),
        ("rmse", {}, "accuracy, macro_f1"),
        ("r2", MANY, "accuracy, label_accuracy, macro_f1"),
    ],
)
def test_a_gate_judges_by_a_metric_of_the_targets(metric: str, data: dict[str, Any], word: str) -> None:
    retrain = {"model": "m", "gate": {"metric": metric}}
    problems = unfit(document(retrain=retrain, data={"split": {"test": 0.2}}), **data)
    assert problems.keys() == {"/retrain/gate/metric"}
    assert word in problems["/retrain/gate/metric"]


@pytest.mark.parametrize(
    ("retrain", "pointer", "word"),
    [
        ({"model": "Bad Name"}, "/retrain/model", "1 to 100 small letters"),
        ({"model": "m", "promote": "7"}, "/retrain/promote", "must be an alias"),
        ({"model": "m", "warm_start": "m@7"}, "/retrain/warm_start", "or the number of a version"),
        ({"model": "m", "gate": {"against": "0"}}, "/retrain/gate/against", "or the number of a version"),
    ],
)
def test_names_of_models_and_aliases_are_told_apart(retrain: dict[str, Any], pointer: str, word: str) -> None:
    problems = refused(document(retrain=retrain, data={"split": {"test": 0.2}}))
    assert problems.keys() == {pointer}
    assert word in problems[pointer]


@pytest.mark.parametrize(
    ("gate", "data", "place", "told"),
    [
        ({"metric": "accuracy", "at_least": 95}, {}, "at_least", "can never be reached: accuracy is at most 1; got 95"),
        ({"at_least": 1.5}, {}, "at_least", "can never be reached: accuracy is at most 1; got 1.5"),
        ({"at_least": 1.5}, MANY, "at_least", "can never be reached: accuracy is at most 1; got 1.5"),
        ({"metric": "macro_f1", "at_least": -1}, {}, "at_least", "is always reached: macro_f1 is at least 0; got -1"),
        ({"metric": "r2", "at_least": 1.01}, REAL, "at_least", "can never be reached: r2 is at most 1; got 1.01"),
        (
            {"at_least": -0.1},
            REAL,
            "at_least",
            "can never be reached: rmse is at least 0, and this is the most that may pass; got -0.1",
        ),
        (
            {"metric": "loss", "at_least": -2},
            {},
            "at_least",
            "can never be reached: loss is at least 0, and this is the most that may pass; got -2",
        ),
        ({"margin": 5}, {}, "margin", "can never be reached: accuracy is from 0 to 1; got 5"),
    ],
)
def test_a_bar_outside_of_what_its_metric_can_be_is_refused(
    gate: dict[str, Any], data: dict[str, Any], place: str, told: str
) -> None:
    problems = unfit(document(retrain={"model": "m", "gate": gate}, data={"split": {"test": 0.2}}), **data)
    assert problems == {f"/retrain/gate/{place}": told}


@pytest.mark.parametrize(
    ("gate", "data"),
    [
        ({"at_least": 1}, {}),
        ({"metric": "macro_f1", "at_least": 0, "margin": 1}, {}),
        ({"at_least": 40, "margin": 12}, REAL),
        ({"metric": "r2", "at_least": -3, "margin": 2}, REAL),
        ({"metric": "loss", "at_least": 3.5, "margin": 2}, {}),
    ],
)
def test_a_bar_within_what_its_metric_can_be_is_taken(gate: dict[str, Any], data: dict[str, Any]) -> None:
    check_data(parse(document(retrain={"model": "m", "gate": gate}, data={"split": {"test": 0.2}})), summary(**data))


def test_a_gate_needs_test_samples_and_a_retraining_without_one_does_not() -> None:
    assert unfit(document(retrain={"model": "m"})).keys() == {"/data/split/test"}
    check_data(parse(document(retrain={"model": "m", "gate": None})), summary())
    check_data(parse(document(retrain={"model": "m", "gate": None, "promote": None})), summary())


def test_class_weights_must_be_as_many_as_the_classes() -> None:
    loss = {"name": "cross_entropy", "class_weights": [1.0, 2.0]}
    problems = unfit(document(training={"loss": loss}), **THREE)
    assert problems == {"/training/loss/class_weights": "needs one weight for each of the 3 classes; got 2"}
    check_data(parse(document(training={"loss": loss})), summary())


def test_a_wrong_class_weight_is_one_problem_at_its_own_place() -> None:
    loss = {"name": "cross_entropy", "class_weights": [1.0, "2"]}
    assert refused(document(training={"loss": loss})) == {"/training/loss/class_weights/1": 'must be a number; got "2"'}


def test_a_split_that_the_data_does_not_give_is_refused() -> None:
    split = {"validation": "given", "test": "given"}
    problems = unfit(document(data={"split": split}), given_split={"train": 5, "test": 5})
    assert problems.keys() == {"/data/split/validation"}


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    assert "/data/split" in unfit(document(data={"split": {"validation": 0.98, "stratify": False}}))


def test_a_fraction_beside_a_given_split_is_of_what_is_left() -> None:
    spec = parse(document(data={"split": {"validation": 0.25, "test": "given"}}))
    check_data(spec, summary(samples=100, given_split={"train": 10, "test": 90}))


def test_early_stopping_goes_with_any_split_for_it_may_watch_the_training_samples() -> None:
    spec = document(training={"early_stopping": {}}, data={"split": {"validation": 0.0}})
    assert check_data(parse(spec), summary()).training.early_stopping is not None


@pytest.mark.parametrize(
    ("split", "data", "places"),
    [
        ({}, {"samples": 3, "classes": [0, 1, 2], "class_counts": [1, 1, 1], "target_dim": 3}, ["validation"]),
        ({"test": 0.3}, {"samples": 3, "class_counts": [2, 1]}, ["validation"]),
        (
            {"validation": 0.1, "test": 0.1},
            {"samples": 2, "class_counts": [1, 1]},
            ["validation", "test"],
        ),
    ],
)
def test_a_fraction_that_takes_no_sample_is_refused_with_the_numbers(
    split: dict[str, Any], data: dict[str, Any], places: list[str]
) -> None:
    problems = unfit(document(data={"split": split}), **data)
    assert problems.keys() == {f"/data/split/{place}" for place in places}
    detail = problems[f"/data/split/{places[0]}"]
    assert f"each of the {len(data.get('classes', 'ab'))} classes" in detail
    assert f"of the {data['samples']} samples none is left" in detail


def test_synthetic_data_of_one_sample_a_class_has_none_to_judge_by() -> None:
    drawn = {"samples": 4, "class_counts": None, "classes": [0, 1, 2, 3], "target_dim": 4}
    assert unfit(document(), **drawn).keys() == {"/data/split/validation"}
    check_data(parse(document()), summary(**drawn | {"samples": 5}))


def test_a_small_fraction_is_enough_for_a_gate() -> None:
    retrain = {"model": "m"}
    check_data(parse(document(retrain=retrain, data={"split": {"test": 0.01, "validation": 0.01}})), summary())


@pytest.mark.parametrize("wrong", ["3", "x", True, False, 1.0, 3.5, math.nan, math.inf, None, [], {}, 1e308, 0, -1])
@pytest.mark.parametrize("place", [("training", "epochs"), ("training", "batch_size"), ("architecture", "hidden_size")])
def test_a_whole_number_is_nothing_else(place: tuple[str, str], wrong: object) -> None:
    section, key = place
    assert refused(document(**{section: {key: wrong}})).keys() == {f"/{section}/{key}"}


@pytest.mark.parametrize("wrong", ["600", True, 0, -1, 0.5, 600.0, math.inf, 10**9])
def test_a_time_without_progress_is_whole_seconds_or_null(wrong: object) -> None:
    assert refused(document(limits={"max_stall_seconds": wrong})).keys() == {"/limits/max_stall_seconds"}
    assert parse(document(limits={"max_stall_seconds": None})).limits.max_stall_seconds is None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (True, "must be a mapping; got true"),
        ({"rollback": 1}, "must be true or false; got 1"),
        ({"lr_factor": 0}, "must be greater than 0; got 0"),
        ({"lr_factor": 1.5}, "must be at most 1; got 1.5"),
        ({"at_most": 0}, "must be at least 1; got 0"),
        ({"at_most": 101}, "must be at most 100; got 101"),
        ({"at_mos": 1}, "there is no such field; did you mean `at_most`? allowed here: at_most, lr_factor, rollback"),
    ],
)
def test_what_to_do_on_divergence_is_a_mapping_within_bounds(wrong: Any, sentence: str) -> None:
    ((pointer, said),) = refused(document(training={"on_divergence": wrong})).items()
    key = next(iter(wrong)) if isinstance(wrong, dict) else ""
    assert (pointer, said) == (f"/training/on_divergence/{key}".rstrip("/"), sentence)


@pytest.mark.parametrize("wrong", ["0.1", True, math.nan, math.inf, -math.inf, [], {}, -0.1, HUGE, 1e308])
@pytest.mark.parametrize("place", ["dropout", "head_dropout"])
def test_a_fraction_is_nothing_else(place: str, wrong: object) -> None:
    assert refused(document(architecture={"num_layers": 2, place: wrong})).keys() == {f"/architecture/{place}"}


@pytest.mark.parametrize("wrong", ["1e-3", True, None, math.nan, math.inf, 0, 0.0, -1e-3, 1e308, HUGE, HUGER])
def test_a_learning_rate_is_a_number_that_one_can_learn_with(wrong: object) -> None:
    optimizer = {"name": "adam", "lr": wrong}
    assert refused(document(training={"optimizer": optimizer})).keys() == {"/training/optimizer/lr"}


@pytest.mark.parametrize("wrong", [1e39, 3.5e38, 1e-39, 1e-300])
@pytest.mark.parametrize(
    ("place", "within"),
    [
        ("max_grad_norm", lambda number: {"max_grad_norm": number}),
        ("max_grad_value", lambda number: {"max_grad_value": number}),
        ("loss/delta", lambda number: {"loss": {"name": "huber", "delta": number}}),
        ("early_stopping/min_delta", lambda number: {"early_stopping": {"min_delta": number}}),
        ("lr_schedule/div_factor", lambda number: {"lr_schedule": {"name": "one_cycle", "div_factor": number}}),
        ("lr_schedule/threshold", lambda number: {"lr_schedule": {"name": "plateau", "threshold": number}}),
        ("lr_schedule/min_lr", lambda number: {"lr_schedule": {"name": "cosine", "min_lr": number}}),
        ("optimizer/lr", lambda number: {"optimizer": {"lr": number}}),
        ("optimizer/eps", lambda number: {"optimizer": {"eps": number}}),
        ("optimizer/weight_decay", lambda number: {"optimizer": {"weight_decay": number}}),
        ("optimizer/betas/0", lambda number: {"optimizer": {"betas": [number, 0.9]}}),
        ("loss/class_weights/1", lambda number: {"loss": {"name": "cross_entropy", "class_weights": [1, number]}}),
    ],
)
def test_no_number_of_training_is_beyond_float32(
    place: str, within: Callable[[float], dict[str, Any]], wrong: float
) -> None:
    problems = refused(document(training=within(wrong)))
    assert problems.keys() == {f"/training/{place}"}
    assert f"got {wrong:g}" in problems[f"/training/{place}"]


def test_the_largest_and_the_smallest_numbers_of_float32_are_taken() -> None:
    largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
    training = parse(document(training={"max_grad_value": largest, "optimizer": {"eps": smallest}})).training
    assert (training.max_grad_value, training.optimizer.eps) == (largest, smallest)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["cosine", "plateau"])
def test_a_learning_rate_falls_to_no_more_than_it_was(name: str) -> None:
    def training(min_lr: float) -> dict[str, Any]:
        return {"optimizer": {"lr": 0.01}, "lr_schedule": {"name": name, "min_lr": min_lr}}

    told = {"/training/lr_schedule/min_lr": "must be at most optimizer.lr, which is 0.01; got 0.02"}
    assert refused(document(training=training(0.02))) == told
    parse(document(training=training(0.01)))


def test_a_whole_number_may_stand_for_a_real_one() -> None:
    assert parse(document(training={"max_grad_norm": 1})).training.max_grad_norm == 1.0


@pytest.mark.parametrize("wrong", [1, 0, "true", "yes", None])
def test_true_and_false_are_nothing_else(wrong: object) -> None:
    assert refused(document(architecture={"bidirectional": wrong})).keys() == {"/architecture/bidirectional"}


@pytest.mark.parametrize("number", [HUGE, HUGER, 2**63])
def test_numbers_out_of_all_range_are_refused_in_short_sentences(number: int) -> None:
    problems = refused(document(priority=number, training={"seed": number}))
    assert problems.keys() == {"/priority", "/training/seed"}
    assert max(map(len, problems.values())) < 150


def test_a_tag_is_told_about_as_a_tag_whatever_it_is_called() -> None:
    tags = {"test": 1, "validation": 2, "queue": "\x1b"}
    assert refused(document(tags=tags)) == {
        "/tags/test": "must be text; got 1",
        "/tags/validation": "must be text; got 2",
        "/tags/queue": (
            "must hold no control characters, marks of direction or characters without width; " + r'got "\x1b"'
        ),
    }


def test_zero_is_not_a_way_to_turn_clipping_off() -> None:
    problems = refused(document(training={"max_grad_norm": 0, "max_grad_value": 0.0}))
    assert all("null turns clipping off" in detail for detail in problems.values())
    assert problems.keys() == {"/training/max_grad_norm", "/training/max_grad_value"}
    assert parse(document(training={"max_grad_norm": None})).training.max_grad_norm is None


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\x1b[31m", "", "x" * 201, "\ud800", 3, True])
def test_a_name_is_a_line_of_text(text: object) -> None:
    problems = refused(document(name=text))
    assert problems.keys() == {"/name"}
    problems["/name"].encode()  # sayable, whatever was sent


def test_a_pointer_escapes_what_json_pointers_escape() -> None:
    assert "/training/a~1b~0c" in refused(document(training={"a/b~c": 1}))


@pytest.mark.parametrize(
    ("place", "value", "name"),
    [
        ("loss", "huber", "huber"),
        ("optimizer", "sgd", "sgd"),
        ("lr_schedule", "cosine", "cosine"),
        ("optimizer", {"lr": 0.5}, "adam"),
        ("lr_schedule", {"warmup_steps": 5}, "constant"),
    ],
)
def test_a_word_stands_for_a_mapping_with_that_name_and_no_name_for_the_usual_one(
    place: str, value: object, name: str
) -> None:
    given = document()
    given["training"][place] = value
    assert getattr(parse(given).training, place).name == name


def test_a_field_of_another_kind_of_the_same_thing_says_where_it_belongs() -> None:
    problems = refused(document(training={"optimizer": {"name": "adam", "momentum": 0.9}}))
    assert problems.keys() == {"/training/optimizer/momentum"}
    assert "it belongs to" in problems["/training/optimizer/momentum"]
    assert "sgd" in problems["/training/optimizer/momentum"]


@pytest.mark.parametrize(
    ("document", "pointer", "field"),
    [
        ({"training": {"learning_rate": 0.1}}, "/training/learning_rate", "training.optimizer.lr"),
        ({"training": {"optimizer": {"learning_rate": 0.1}}}, "/training/optimizer/learning_rate", "lr"),
        ({"architecture": {"cell": "gru", "units": 8}}, "/architecture/units", "hidden_size"),
        ({"training": {"clip": 1}}, "/training/clip", "max_grad_norm"),
    ],
)
def test_the_words_of_other_libraries_are_understood(document: dict[str, Any], pointer: str, field: str) -> None:
    found = refused({"architecture": {"cell": "gru"}} | document)
    assert found[pointer].startswith(f"there is no such field; did you mean `{field}`? allowed here: ")


@pytest.mark.parametrize(
    ("data", "pointer", "field"),
    [({"shema": {}}, "/data/shema", "schema"), ({"schema": {"targett": "y"}}, "/data/schema/targett", "target")],
)
def test_fields_are_named_as_a_client_gives_them(data: dict[str, Any], pointer: str, field: str) -> None:
    found = refused(document(data={"dataset": "walks", **data}))[pointer]
    assert f"did you mean `{field}`?" in found
    assert "schema_" not in found


def test_an_unknown_kind_lists_those_there_are() -> None:
    problems = refused(document(training={"optimizer": {"name": "lion"}, "lr_schedule": "linear"}))
    assert problems["/training/optimizer"] == 'name must be one of adam, adamw, sgd, rmsprop; got "lion"'
    assert "one_cycle, plateau" in problems["/training/lr_schedule"]


def test_a_spec_cannot_be_changed_once_made() -> None:
    spec = parse(document())
    with pytest.raises(ValueError, match="frozen"):
        spec.priority = 9


def test_a_document_is_left_as_it_was() -> None:
    given = document(training={"loss": "cross_entropy"}, preset="dropout_gru")
    before = copy.deepcopy(given)
    parse(given)
    assert given == before


def test_twenty_thousand_problems_are_told_in_short_and_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(SpecInvalid) as caught:
        parse({f"key{number}": 1 for number in range(20_000)})
    assert time.monotonic() - began < 10
    assert len(caught.value.problems) == 101
    assert "more problems" in caught.value.problems[-1].detail


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_spec_once_it_has_data(name: str) -> None:
    spec = parse({"preset": name, "data": {"dataset": "d"}})
    assert spec.preset == name
    fragment = PRESETS[name].fragment["architecture"]
    assert {key: spec.document()["architecture"][key] for key in fragment} == fragment
    assert parse(spec.document()) == spec


@pytest.mark.parametrize("name", PRESETS)
def test_any_field_overrides_its_preset(name: str) -> None:
    over: dict[str, Any] = {
        "cell": "rnn",
        "nonlinearity": "relu",
        "hidden_size": 7,
        "num_layers": 3,
        "bidirectional": True,
        "dropout": 0.1,
        "pooling": "mean",
        "batch_norm": True,
        "head_dropout": 0.2,
        "init": "identity",
        "forget_gate_bias": None,
    }
    assert over.keys() == Spec.model_fields["architecture"].annotation.model_fields.keys()  # type: ignore[union-attr]
    spec = parse({"preset": name, "architecture": over, "data": {"dataset": "d"}})
    assert spec.document()["architecture"] == over


def test_a_preset_and_one_field_keep_the_preset_around_the_field() -> None:
    architecture = parse(
        {"preset": "dropout_gru", "architecture": {"hidden_size": 9}, "data": {"dataset": "d"}}
    ).architecture
    assert (architecture.cell, architecture.num_layers, architecture.dropout) == ("gru", 2, 0.3)
    assert architecture.hidden_size == 9


def test_an_unknown_preset_lists_those_there_are() -> None:
    problems = refused({"preset": "transformer", "architecture": {"cell": "gru"}, "data": {"dataset": "d"}})
    assert problems.keys() == {"/preset"}
    assert all(name in problems["/preset"] for name in PRESETS)


FULL = {
    "name": "vowels",
    "preset": "dropout_gru",
    "architecture": {"cell": "gru", "hidden_size": 8, "num_layers": 2, "dropout": 0.3, "nonlinearity": None},
    "training": {
        "epochs": 2,
        "loss": {"name": "cross_entropy", "class_weights": [1.0, 2.0]},
        "optimizer": {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.99]},
        "lr_schedule": {"name": "plateau", "patience": 2},
        "early_stopping": {"patience": 3},
        "on_divergence": {"lr_factor": 0.1},
        "max_grad_norm": None,
    },
    "data": {"dataset": None, "synthetic": {"samples": 10}, "split": {"validation": 0.2, "test": 0.1}},
    "checkpoints": {"every_seconds": None},
    "limits": {"max_retries": 1, "max_stall_seconds": 60},
    "tags": {"a": "b"},
    "queue": "q",
    "priority": 1,
}
NASTY: list[Any] = [1e308, -0.0, 10**400, "adam", "given", "\ud800", "\0", math.nan, math.inf, "3", True]
KEYS = ["name", "cell", "lr", "epochs", "data", "loss", "optimizer", "momentum", "class_weights", "0", "", "\ud800"]
text = st.text(st.characters(), max_size=5)  # surrogates and all
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text | st.sampled_from(NASTY)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)


@st.composite
def mutations(draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    """A valid document with up to five of its places replaced, removed or joined by others."""
    changed = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(0, 5))):
        place, key = draw(st.sampled_from(list(_places(changed))))
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            place[key] = draw(json_values)
        elif change == "remove" and len(changed) > 1:
            del place[key]
        elif isinstance(place, dict):
            place[draw(st.sampled_from(KEYS) | text)] = draw(json_values)
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


@examples(120)
@given(mutations() | st.dictionaries(text, json_values, max_size=4))
def test_whatever_is_sent_is_a_spec_or_a_list_of_problems(sent: dict[str, Any]) -> None:
    outcome = spec_or_error(sent)
    if isinstance(outcome, Spec):
        assert parse(json.loads(json.dumps(outcome.document(), allow_nan=False))) == outcome
    else:
        assert outcome.problems
        assert all((problem.pointer + problem.detail).encode() for problem in outcome.problems)
        str(outcome).encode()


def spec_or_error(sent: dict[str, Any]) -> Spec | SpecInvalid:
    try:
        return parse(sent)
    except SpecInvalid as error:
        return error


def test_the_valid_document_that_is_mutated_is_valid() -> None:
    parse(FULL)


@pytest.mark.parametrize(
    ("data", "pointer", "told"),
    [
        ({"missing_mask": True}, "/data/missing_mask", "marks the gaps that data.missing fills, and refuse fills none"),
        ({"missing_mask": True, "missing": "drop"}, "/data/missing_mask", "and drop fills none"),
        ({"embedding_size": 4}, "/data/embedding_size", "set data.categories to embedding"),
        ({"scaling_over": "per_sequence"}, "/data/scaling_over", "and that is none"),
        ({"cut": "start"}, "/data/cut", "says where data.max_length cuts, and there is none"),
        ({"patch": 0}, "/data/patch", ""),
        ({"missing": "zero"}, "/data/missing", ""),
    ],
)
def test_fields_of_the_preparation_that_act_on_nothing_are_refused(
    data: dict[str, Any], pointer: str, told: str
) -> None:
    found = refused(document(data=data))
    assert list(found) == [pointer]
    assert told in found[pointer]


@pytest.mark.parametrize(
    ("spec", "changes", "pointer", "told"),
    [
        ({"data": {"patch": 2}}, {"target": "tags"}, "/data/patch", "a class for each step: leave it out"),
        ({"data": {"stride": 2}}, {"target": "tags"}, "/data/stride", "a class for each step: leave it out"),
        ({"data": {"max_length": 2}}, {"target": "tags"}, "/data/max_length", "a class for each step: leave it out"),
        (
            {},
            {"inputs": {"numbers": 3, "categories": [], "gaps": 2}},
            "/data/missing",
            "2 features have missing values",
        ),
        ({}, {"static": {"numbers": 1, "categories": [], "gaps": 1}}, "/data/missing", "1 feature has missing values"),
        ({"data": {"categories": "embedding"}}, {}, "/data/categories", "embedding is for features of words"),
        (
            {"data": {"differences": "append"}},
            {"inputs": {"numbers": 0, "categories": [4], "gaps": 0}},
            "/data/differences",
            "all features are words",
        ),
        (
            {"training": {"loss": {"name": "bce", "pos_weight": [1.0, 2.0]}}},
            {},
            "/training/loss/pos_weight",
            "needs one weight for the second class; got 2",
        ),
        (
            {"training": {"loss": {"name": "bce", "pos_weight": [1.0, 2.0]}}},
            {"target": "multilabel", "classes": None, "class_counts": None, "target_dim": 3},
            "/training/loss/pos_weight",
            "needs one weight for each of the 3 labels; got 2",
        ),
    ],
)
def test_a_preparation_that_does_not_fit_the_data_is_refused(
    spec: dict[str, Any], changes: dict[str, Any], pointer: str, told: str
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        check_data(parse(document(**spec)), summary(**changes))
    assert [problem.pointer for problem in caught.value.problems] == [pointer]
    assert told in caught.value.problems[0].detail
