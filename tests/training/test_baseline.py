"""The plainest answers to each task: learnt from the training split alone, judged on the splits of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.training import baseline, linear, neighbour, rivals
from services.training.data import Prepared, bounded
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, evaluate
from services.training.run import finish
from tests.training.building import classes, document, events, make_run, of_many_lengths, tagged, trained, values

GIVEN = {"split": {"validation": "given", "test": "given"}}
SPLIT = np.array([0] * 12 + [1] * 6 + [2] * 6, dtype=np.int8)


def of(arrays: Arrays, **changes: Any) -> tuple[Run, dict[str, Any]]:
    """A run that has ended, and its baseline."""
    run = make_run(replace(arrays, split=SPLIT), data=GIVEN, **changes)
    trained(run)
    assert run.data.validation is not None
    assert run.data.test is not None
    parts = {"validation": run.data.validation, "test": run.data.test}
    metrics = {f"{name}_{key}": value for name, part in parts.items() for key, value in evaluate(run, part).items()}
    return run, baseline.of(run, metrics)


def all_of(found: dict[str, Any]) -> dict[str, Any]:
    """The metrics of each plain answer, by its words."""
    return {found["answer"]: found["metrics"], **found.get("others", {})}


def constant(found: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the answer that is always the same, by its words."""
    rivals = ("a linear model", neighbour.WORDS)
    return {words: metrics for words, metrics in all_of(found).items() if not words.startswith(rivals)}


def test_of_classes_it_is_the_most_frequent_one_of_training() -> None:
    y = np.array(["b"] * 7 + ["a"] * 5 + ["a", "a", "b", "a", "a", "a"] + ["a"] * 5 + ["b"])
    _, found = of(replace(classes(), y=y))
    plain = constant(found)["the most frequent class (b)"]
    assert plain["validation_accuracy"] == plain["test_accuracy"] == 1 / 6
    assert plain["test_macro_f1"] == pytest.approx((2 / 7) / 2)  # as scikit-learn has it
    assert found["metric"] == "test_accuracy"
    assert plain.keys() == {f"{s}_{m}" for s in ("validation", "test") for m in ("accuracy", "macro_f1")}


def test_of_two_classes_as_one_yes_or_no_it_is_the_same() -> None:
    y = np.array([3] * 7 + [5] * 5 + [3] * 2 + [5] * 4 + [3] * 5 + [5])
    _, found = of(replace(classes(), y=y), training={"loss": "bce"})
    assert (found["answer"], found["metrics"]["test_accuracy"]) == ("the most frequent class (3)", 5 / 6)


def test_of_labels_it_is_the_more_frequent_answer_of_each() -> None:
    y = np.tile(np.array([[1, 0, 0]]), (24, 1))
    y[20:, 1] = 1
    _, found = of(replace(classes(), y=y))
    assert found["answer"] == "the more frequent answer of each label"
    assert found["metrics"]["test_label_accuracy"] == pytest.approx(14 / 18)
    assert found["metrics"]["test_accuracy"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_of_values_it_is_the_mean_of_training_in_the_unit_of_the_data(scaling: str) -> None:
    arrays = values()
    run = make_run(replace(arrays, split=SPLIT), data={**GIVEN, "target_scaling": scaling})
    trained(run)
    found = baseline.of(run, {"test_loss": 0.0, "test_rmse": 0.0})
    errors = arrays.y[18:].astype(np.float64) - arrays.y[:12].astype(np.float64).mean(axis=0)
    [plain] = constant(found).values()
    assert plain["test_rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-5)
    assert plain["test_mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert (found["metric"], found["is_beaten"]) == ("test_rmse", True)


def test_of_tags_it_is_the_most_frequent_tag_of_the_valid_steps() -> None:
    arrays = tagged()
    run, found = of(arrays)
    valid = np.arange(7) < arrays.lengths[:, None]
    best = np.bincount(arrays.y[:12, :, 0][valid[:12]]).argmax()
    plain = constant(found)[f"the most frequent tag ({best})"]
    assert plain["test_accuracy"] == float((arrays.y[18:, :, 0][valid[18:]] == best).mean())
    assert plain["test_accuracy"] != float((arrays.y[18:, :, 0] == best).mean())
    assert run.data.task.name == "tags"


def test_a_model_that_has_learnt_something_beats_it() -> None:
    run, found = of(in_order_only(), training={"epochs": 60, "optimizer": {"name": "adam", "lr": 0.05}})
    assert run.data.test is not None
    metrics = {f"test_{name}": value for name, value in evaluate(run, run.data.test).items()}
    plain = baseline.of(run, metrics, thorough=False)
    assert (plain["is_beaten"], plain["message"]) == (True, None)
    assert plain["answer"].startswith("the most frequent class")
    assert found["others"][MEANS]["test_accuracy"] == plain["metrics"]["test_accuracy"]


def in_order_only() -> Arrays:
    """Sequences that rise or fall: their means say nothing."""
    rises = np.arange(24) % 2
    line = np.linspace(-1.0, 1.0, 6) * (2 * rises[:, None] - 1)
    x = line * np.random.default_rng(2).uniform(0.5, 1.5, (24, 1))
    return Arrays(x=x[:, :, None].astype(np.float32), lengths=np.full(24, 6, np.int64), y=rises)


MEANS, STEPS = "a linear model of the mean of each feature", "a linear model of each single step"


def by_hand(x: NDArray[Any], y: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
    """The classes by normal densities of one covariance, which is drawn towards equal variances."""
    shift, scale = x.mean(axis=0), x.std(axis=0)
    x, asked = (x - shift) / scale, (asked - shift) / scale
    kinds, counts = np.unique(y, return_counts=True)
    means = np.stack([x[y == kind].mean(axis=0) for kind in kinds])
    within = x - means[np.searchsorted(kinds, y)]
    covariance, share = within.T @ within / len(x), x.shape[1] / (x.shape[1] + len(x))
    covariance = (1 - share) * covariance + share * np.eye(x.shape[1]) * np.trace(covariance) / x.shape[1]
    apart = asked[:, None] - means
    distances = np.einsum("nkf,fg,nkg->nk", apart, np.linalg.inv(covariance), apart)
    return kinds[(np.log(counts / len(y)) - distances / 2).argmax(axis=1)]


def test_a_linear_model_of_the_means_of_sequences_is_the_baseline_where_it_is_better() -> None:
    arrays = of_many_lengths(classes())
    run, found = of(arrays, training={"epochs": 1})
    assert (found["answer"], list(found["others"])) == (MEANS, ["the most frequent class (0)", neighbour.WORDS])
    means = arrays.x.sum(axis=1, dtype=np.float64) / arrays.lengths[:, None]
    answers = by_hand(means[:12], arrays.y[:12], means[18:])
    assert found["metrics"]["test_accuracy"] == (answers == arrays.y[18:]).mean() > 0.5
    worse = baseline.of(run, {"test_loss": 9.0, "test_accuracy": 0.0})["message"]
    assert worse.startswith(f"The model does not beat its baseline: test_accuracy is 0, and {MEANS} gives ")


def test_a_linear_model_of_tags_reads_single_valid_steps() -> None:
    arrays = tagged(length=9, kinds=2)
    _, found = of(arrays, training={"epochs": 1})
    valid = np.arange(9) < arrays.lengths[:, None]
    (x, y), (asked, expected) = (
        (arrays.x[rows][valid[rows]], arrays.y[rows][valid[rows], 0]) for rows in (slice(12), slice(18, 24))
    )
    assert found["answer"] == STEPS
    assert found["metrics"]["test_accuracy"] == (by_hand(x.astype(float), y, asked) == expected).mean() > 0.8


def test_a_linear_model_of_labels_and_of_values_finds_what_the_means_say() -> None:
    given = values()
    _, found = of(given, training={"epochs": 1})
    assert found["answer"] == MEANS
    assert found["metrics"]["test_r2"] > 0.7
    _, found = of(replace(given, y=(given.y > 0).astype(np.int64)), training={"epochs": 1})
    assert found["answer"] == MEANS
    assert found["metrics"]["test_label_accuracy"] > 0.7


def test_a_linear_model_draws_nothing_and_wants_few_features() -> None:
    run, found = of(classes(), training={"epochs": 1})
    before = torch.get_rng_state()
    again = baseline.of(run, {"test_loss": 9.0, "test_accuracy": 0.0, "validation_loss": 9.0})
    assert torch.equal(torch.get_rng_state(), before)
    assert again["metrics"] == found["metrics"]
    plain = baseline.of(run, {"test_loss": 9.0, "test_accuracy": 0.0}, thorough=False)
    assert plain["answer"].startswith("the most frequent class")
    assert "others" not in plain
    assert linear.fitted(make_run(classes(features=linear.MOST_FEATURES + 1)).data) is None


def test_without_another_split_it_is_judged_on_the_training_split(tmp_path: Path) -> None:
    run = make_run(classes(), data={"split": {"validation": 0.0}})
    trained(run)
    *_, last = finish(run, tmp_path)
    found = last.result["baseline"]
    assert found["metric"] == "train_accuracy"
    assert next(iter(constant(found).values()))["train_accuracy"] == pytest.approx(1 / 3)


@pytest.fixture
def order(tmp_path: Path) -> dict[str, Any]:
    """Of a training that can learn nothing: its learning rate is next to none, and its data is noise."""
    arrays = npz.synthetic(60, 4, 2, 2, 1)
    y = (torch.arange(60) >= 45).long().numpy()
    npz.write(tmp_path / "d.npz", replace(arrays, y=y))
    changes = {"epochs": 1, "optimizer": {"name": "sgd", "lr": 1e-9}}
    spec = document(training=changes, data={"dataset": "d", "split": {"validation": 0.25, "test": 0.25}})
    return {"spec": spec, "data": str(tmp_path / "d.npz"), "directory": str(tmp_path / "out"), "device": "cpu"}


def test_a_model_that_does_not_beat_it_says_so_in_an_event_and_in_its_result(
    order: dict[str, Any], tmp_path: Path
) -> None:
    *told, last = events(order)
    found = last["result"]["baseline"]
    assert found["is_beaten"] is False
    assert found["message"].startswith("The model does not beat its baseline: test_accuracy is 0.")
    assert f"{found['answer']} gives 0." in found["message"]
    notes = [event for event in told if event["event"] == "note" and event["type"] == "baseline"]
    assert [(note["level"], note["message"]) for note in notes] == [("warning", found["message"])]
    assert json.loads((tmp_path / "out" / "model.json").read_text())["baseline"] == found


def test_random_data_is_not_warned_of_though_nothing_can_be_learnt_from_it(
    order: dict[str, Any], tmp_path: Path
) -> None:
    spec = {**order["spec"], "data": {"synthetic": {"samples": 60, "length": 4, "features": 2, "seed": 1}}}
    *told, last = events({**order, "spec": spec, "data": None})
    assert {event["type"] for event in told if event["event"] == "note"} <= {"engine"}
    assert constant(last["result"]["baseline"])


# ---- the most similar training sequence


def most_similar(arrays: Arrays, asked: slice) -> NDArray[Any]:
    """The targets of the most similar of the first 12 sequences, by hand."""
    grid = np.linspace(0, 1, neighbour.STEPS)
    points = np.stack(
        [
            [np.interp(grid * (length - 1), np.arange(length), each[:length]) for each in x.T]
            for x, length in zip(arrays.x.astype(float), arrays.lengths, strict=True)
        ]
    )  # (samples, features, steps)
    points /= points[:12].std(axis=(0, 2))[None, :, None]
    distances = np.square(points[asked, None] - points[None, :12]).sum(axis=(2, 3))
    return arrays.y[:12][distances.argmin(axis=1)]


def test_sequences_that_rise_are_most_similar_to_those_that_rise() -> None:
    _, found = of(in_order_only(), training={"epochs": 1})
    assert found["answer"] == neighbour.WORDS
    assert found["metrics"]["test_accuracy"] == 1


@pytest.mark.parametrize("kind", [classes, of_many_lengths])
def test_the_most_similar_sequence_is_found_by_its_valid_steps(kind: Callable[..., Arrays]) -> None:
    arrays = kind(classes()) if kind is of_many_lengths else kind()
    _, found = of(arrays, training={"epochs": 1})
    right = most_similar(arrays, slice(18, 24)) == arrays.y[18:]
    assert all_of(found)[neighbour.WORDS]["test_accuracy"] == right.mean()


def test_labels_are_those_of_the_most_similar_sequence() -> None:
    arrays = values()
    arrays = replace(arrays, y=(arrays.y > 0).astype(np.int64))
    _, found = of(arrays, training={"epochs": 1})
    right = most_similar(arrays, slice(18, 24)) == arrays.y[18:]
    assert all_of(found)[neighbour.WORDS]["test_label_accuracy"] == pytest.approx(right.mean())


def test_a_network_that_only_knows_classes_by_one_number_has_the_same_neighbour() -> None:
    arrays = in_order_only()
    _, found = of(arrays, training={"epochs": 1, "loss": "bce"})
    assert all_of(found)[neighbour.WORDS]["test_accuracy"] == 1


@pytest.mark.parametrize("shift", [1e4, 1e6])
def test_numbers_far_from_zero_are_compared_as_well(shift: float) -> None:
    arrays = in_order_only()
    far = replace(arrays, x=(arrays.x * shift / 1e3 + shift).astype(np.float32))
    _, found = of(far, training={"epochs": 1})
    assert all_of(found)[neighbour.WORDS]["test_accuracy"] == 1


MANY_FEATURES = neighbour.MOST_NUMBERS // neighbour.LEAST_STEPS + 1


@pytest.mark.parametrize("arrays", [values(), tagged(), classes(features=MANY_FEATURES)])
def test_values_tags_and_very_many_features_have_no_neighbour(arrays: Arrays) -> None:
    assert neighbour.fitted(make_run(arrays).data) is None


def test_many_training_sequences_are_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour, "MOST_SAMPLES", 5)
    monkeypatch.setattr(neighbour, "BATCH", 2)
    run, found = of(in_order_only(), training={"epochs": 1})
    near = neighbour.fitted(run.data)
    assert near is not None
    assert near.points.shape == (5, neighbour.STEPS)
    assert found["metrics"]["test_accuracy"] == 1


# ---- how sure an accuracy is


@pytest.mark.parametrize(
    ("share", "samples", "low", "high"),
    [(0.8, 10, 0.490, 0.943), (0.5, 100, 0.404, 0.596), (1.0, 80, 0.954, 1.0), (0.0, 20, 0.0, 0.161)],
)
def test_the_interval_of_an_accuracy_is_wilsons(share: float, samples: int, low: float, high: float) -> None:
    """As statsmodels' proportion_confint(method="wilson") has it."""
    assert rivals.wilson(share, samples) == pytest.approx((low, high), abs=5e-4)


def test_a_model_that_is_better_by_a_few_samples_may_be_no_better() -> None:
    metrics, plain = {"test_accuracy": 0.633}, {"a constant": {"test_accuracy": 0.517}}
    few = rivals.compared(metrics, plain, "test_accuracy", samples=60)
    assert not few["is_beaten"]
    assert few["message"] == (
        "The model may be no better than its baseline: test_accuracy is 0.633, which on 60 samples can mean 0.5065 "
        "to 0.7435, and a constant gives 0.517."
    )
    many = rivals.compared(metrics, plain, "test_accuracy", samples=600)
    assert (many["is_beaten"], many["message"]) == (True, None)
    assert many["interval"] == pytest.approx([0.594, 0.671], abs=1e-3)


def test_samples_of_few_groups_prove_no_more_than_so_many_samples_would() -> None:
    """Eight of ten sequences, of two people: an interval would be too narrow, and even that contains the baseline."""
    metrics, plain = {"test_accuracy": 0.8}, {"a constant": {"test_accuracy": 0.6}}
    few = rivals.compared(metrics, plain, "test_accuracy", samples=10, independent=False)
    assert (few["is_beaten"], few["interval"]) == (False, None)
    assert "0.4902 to 0.9433 or more, because they come in groups" in few["message"]
    many = rivals.compared(metrics, plain, "test_accuracy", samples=1000, independent=False)
    assert (many["is_beaten"], many["message"], many["interval"]) == (True, None, None)


def test_the_best_of_many_trials_has_a_wider_interval() -> None:
    """By the normal quantile of 1 - 0.05 / (2 * 20): 3.0233."""
    assert rivals.wilson(0.633, 60, 20) == pytest.approx((0.439, 0.792), abs=1e-3)
    metrics, plain = {"validation_accuracy": 0.65}, {"a constant": {"validation_accuracy": 0.5}}
    assert rivals.compared(metrics, plain, "validation_accuracy", samples=60)["is_beaten"]
    assert not rivals.compared(metrics, plain, "validation_accuracy", samples=60, trials=20)["is_beaten"]


@pytest.mark.parametrize("metric", ["test_loss", "test_macro_f1"])
def test_other_metrics_have_no_interval(metric: str) -> None:
    found = rivals.compared({metric: 0.6}, {"a constant": {metric: 0.5}}, metric, samples=60)
    assert found["interval"] is None
    assert found["is_beaten"] is (metric == "test_macro_f1")


def test_only_samples_that_the_model_was_not_trained_on_give_an_interval() -> None:
    run, found = of(classes())
    low, high = found["interval"]
    assert 0 <= low < high <= 1
    trained_on = {f"train_{name}": value for name, value in evaluate(run, run.data.train).items()}
    assert baseline.of(run, trained_on)["interval"] is None
    _, of_steps = of(tagged())
    assert of_steps["interval"] is None  # the steps of a sequence are not independent
    _, of_one_output = of(in_order_only(), training={"epochs": 1, "loss": "bce"})
    assert of_one_output["interval"] is not None


def test_a_plain_model_that_cannot_be_made_does_not_cost_the_trained_one(
    monkeypatch: pytest.MonkeyPatch, order: dict[str, Any]
) -> None:
    def broken(data: Prepared) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(neighbour, "fitted", broken)
    *told, last = events(order)
    notes = [event["message"] for event in told if event["event"] == "note" and event["type"] == "baseline"]
    assert notes[0] == f"The model is not compared with {neighbour.WORDS}: RuntimeError (out of order)."
    assert neighbour.WORDS not in all_of(last["result"]["baseline"])


def test_wide_sequences_are_compared_a_few_at_a_time() -> None:
    run = make_run(of_many_lengths(classes()))
    found = bounded(run.data.train, np.arange(12), 256, 3 * run.data.train.row_bytes)
    assert [len(rows) for rows in found.batches] == [3, 3, 3, 3]
    assert run.data.train.lengths is not None
    lengths = run.data.train.lengths.numpy()[np.concatenate(found.batches)]
    assert (np.diff(lengths) >= 0).all()
    assert len(bounded(run.data.train, np.arange(12), 256).batches) == 1
