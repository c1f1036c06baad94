"""A class for each step: read, trained and judged over the valid steps alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from services.errors import DatasetInvalid, SpecInvalid
from services.training.data import prepare
from services.training.files import npz, suspicions
from services.training.files.npz import Arrays
from services.training.gate import paired
from services.training.loop import Run, evaluate, fit
from services.training.spec import check_data, parse
from services.training.spec.fields import CrossEntropy
from services.training.tasks import known, tags
from services.training.tasks.task import Judged
from tests.training.building import (
    check_that_it_resumes_exactly,
    document,
    events,
    make_run,
    spec_for,
    tagged,
    trained,
)


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("padding", [0, -1, -100, 2])
@pytest.mark.parametrize("axes", [2, 3])
def test_whole_numbers_as_long_as_x_are_read_as_tags_whatever_stands_in_the_padding(
    tmp_path: Path, padding: int, axes: int
) -> None:
    arrays = tagged()
    y = np.where(arrays.y == tags.PADDING, padding, arrays.y).reshape((24, 7, 1)[:axes])
    found = npz.read(written(tmp_path / "d.npz", x=arrays.x, y=y, lengths=arrays.lengths))
    np.testing.assert_array_equal(found.y, arrays.y)
    npz.write(tmp_path / "again.npz", found)
    np.testing.assert_array_equal(npz.read(tmp_path / "again.npz").y, arrays.y)
    summary = npz.summarise(found)
    steps = int(arrays.lengths.sum())
    assert (summary.target, summary.classes, summary.target_dim) == ("tags", [0, 1, 2], 3)
    assert sum(summary.class_counts or []) == steps


def test_words_are_tags_too(tmp_path: Path) -> None:
    arrays = tagged(full=True)
    words = np.array(["N", "V", "ADJ"])[arrays.y[:, :, 0]]
    found = npz.read(written(tmp_path / "d.npz", x=arrays.x, y=words))
    assert npz.summarise(found).classes == ["ADJ", "N", "V"]


def test_zeros_and_ones_are_tags_only_where_y_has_three_axes(tmp_path: Path) -> None:
    arrays = tagged(kinds=2, full=True, length=9)
    flat, deep = (written(tmp_path / f"{y.ndim}.npz", x=arrays.x, y=y) for y in (arrays.y[:, :, 0], arrays.y))
    assert npz.summarise(npz.read(flat)).target == "multilabel"
    assert npz.summarise(npz.read(deep)).target == "tags"
    (doubt,) = [each for each in suspicions.of(npz.read(flat)) if each.code == "y_as_long_as_x"]
    assert "y[:, :, None]" in doubt.message


def test_one_column_beside_one_step_is_no_tag(tmp_path: Path) -> None:
    path = written(tmp_path / "d.npz", x=np.zeros((4, 1, 2), np.float32), y=np.array([[0], [1], [2], [1]]))
    with pytest.raises(DatasetInvalid, match=r"save y\.ravel\(\) for classes"):
        npz.read(path)


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (np.full((4, 5), "a"), "shape (4, 5), and x has 3 steps"),
        (np.ones((4, 3, 1)), "holds floats"),
        (np.full((4, 3, 1), 7), "has one class only, 7: a tagger needs two"),
        (np.array([[["a"], ["b"], ["a\x1b"]]] * 4), "labels with"),
    ],
)
def test_what_cannot_be_tags_is_refused_with_a_way_out(tmp_path: Path, y: np.ndarray, sentence: str) -> None:
    with pytest.raises(DatasetInvalid) as caught:
        npz.read(written(tmp_path / "d.npz", x=np.zeros((4, 3, 2), np.float32), y=y))
    assert sentence in str(caught.value.problems)


def test_many_different_tags_may_have_been_meant_as_values() -> None:
    rng = np.random.default_rng(0)
    arrays = Arrays(
        rng.standard_normal((50, 9, 2)).astype(np.float32), np.full(50, 9), rng.integers(999, size=(50, 9, 1))
    )
    assert "many_tags" in {each.code for each in suspicions.of(arrays)}
    assert suspicions.of(tagged()) == []


@pytest.mark.parametrize("pooling", ["final", "mean", "max", "attention"])
def test_a_pooling_that_the_spec_sets_is_refused(pooling: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        spec_for(tagged(), architecture={"pooling": pooling})
    assert [problem.pointer for problem in caught.value.problems] == ["/architecture/pooling"]


def test_without_one_the_head_is_at_each_step_and_only_with_tags() -> None:
    assert spec_for(tagged()).architecture.pooling == "none"
    synthetic = npz.synthetic(20, 5, 2, 2, 0)
    with pytest.raises(SpecInvalid, match="whole sequences"):
        check_data(parse(document(architecture={"pooling": "none"})), npz.summarise(synthetic))


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_losses_of_whole_sequences_are_refused(loss: str) -> None:
    with pytest.raises(SpecInvalid, match="a class for each step: use cross_entropy"):
        spec_for(tagged(), training={"loss": loss})


def test_scaled_targets_are_for_values() -> None:
    with pytest.raises(SpecInvalid, match="is for values to predict, and here are tags: leave it out"):
        spec_for(tagged(), data={"target_scaling": "standard"})


def plain(run: Run, arrays: Arrays, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the valid steps, sequence by sequence, by torch's own module and no padding at all."""
    outputs, targets = [], []
    for row in rows:
        steps = int(arrays.lengths[row])
        hidden, _ = run.model.rnn(torch.from_numpy(arrays.x[row : row + 1, :steps]))
        outputs.append(F.linear(hidden[0], run.model.head.weight, run.model.head.bias))
        targets.append(torch.from_numpy(arrays.y[row, :steps, 0]))
    return torch.cat(outputs), torch.cat(targets)


WEIGHTED = {"name": "cross_entropy", "class_weights": [0.5, 1.0, 4.0]}


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", WEIGHTED])
def test_losses_and_metrics_are_those_of_a_plain_computation(both_ways: bool, loss: Any) -> None:
    arrays = replace(tagged(), split=np.array([0] * 16 + [1] * 8, dtype=np.int8))
    run = make_run(
        arrays,
        architecture={"bidirectional": both_ways},
        training={"loss": loss, "epochs": 2},
        data={"split": {"validation": "given"}},
    )
    trained(run)
    outputs, targets = plain(run, arrays, np.arange(16, 24))
    factors = torch.ones(3)
    if loss == WEIGHTED:
        _, seen = plain(run, arrays, np.arange(16))
        factors = torch.tensor([0.5, 1.0, 4.0]) / torch.tensor([0.5, 1.0, 4.0])[seen].mean()
    expected = (F.cross_entropy(outputs, targets, reduction="none") * factors[targets]).mean()
    assert run.data.validation is not None
    found = evaluate(run, run.data.validation)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["accuracy"] == float((outputs.argmax(dim=1) == targets).double().mean())


@pytest.mark.parametrize("bucketing", [False, True])
@pytest.mark.parametrize("batch_size", [5, 24])
def test_the_gradient_of_an_update_is_that_of_unpadded_sequences(bucketing: bool, batch_size: int) -> None:
    arrays = tagged()
    run = make_run(
        arrays,
        training={"batch_size": batch_size, "max_grad_norm": None},
        data={"bucketing": bucketing, "split": {"validation": 0.0}},
    )
    rows = run.order(1).batches[0]
    outputs, targets = plain(run, arrays, rows)
    loss = F.cross_entropy(outputs, targets)
    expected = torch.autograd.grad(loss, run.parameters)
    next(fit(run))
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    _, ((told_loss, told_norm), *_) = run.take_reports()
    assert told_loss == pytest.approx(loss.item(), rel=1e-5)
    assert told_norm == pytest.approx(norm.item(), rel=1e-4)


def test_an_epoch_is_the_same_in_micro_batches() -> None:
    """Each is weighed by its valid steps, not by its sequences."""
    whole = make_run(tagged(), training={"batch_size": 8, "epochs": 2})
    cut = make_run(tagged(), training={"batch_size": 8, "epochs": 2})
    cut.state.batches.micro = 3
    for one, other in zip(trained(whole), trained(cut), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["train_accuracy"] == pytest.approx(other["train_accuracy"], abs=0.02)


def test_balanced_weights_count_valid_steps() -> None:
    run = make_run(tagged(), training={"loss": {"name": "cross_entropy", "class_weights": "balanced"}})
    counts = torch.bincount(run.data.train.y, minlength=3)
    assert int(counts.sum()) == int(run.data.train.steps.sum())
    loss = run.spec.training.loss
    assert loss is not None
    weights = tags.TASK.class_weights(loss, run.data.train.y, 3)
    assert weights is not None
    assert (weights * counts).tolist() == pytest.approx([int(counts.sum()) / 3] * 3)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, batch_norm: bool) -> None:
    changes: dict[str, Any] = {
        "architecture": {"batch_norm": batch_norm, "head_dropout": 0.2},
        "training": {"epochs": 3, "batch_size": 5, "seed": 2},
    }
    in_second_epoch = make_run(tagged(), **changes).steps_per_epoch + 2
    check_that_it_resumes_exactly(lambda: make_run(tagged(), **changes), tmp_path, after=in_second_epoch)


def test_a_model_learns_the_tags_and_says_in_its_file_what_they_are(tmp_path: Path) -> None:
    npz.write(tmp_path / "d.npz", tagged(samples=120, length=9))
    spec = parse(document(training={"epochs": 25, "batch_size": 16, "optimizer": {"lr": 0.03}}, data={"dataset": "d"}))
    order = {
        "spec": spec.document(),
        "data": str(tmp_path / "d.npz"),
        "directory": str(tmp_path / "out"),
        "device": "cpu",
    }
    *_, last = events(order)
    assert last["result"]["metrics"]["validation_accuracy"] > 0.9
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (card["task"], card["classes"], card["spec"]["architecture"]["pooling"]) == ("tags", [0, 1, 2], "none")


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_the_gate_sums_over_sequences_to_the_metric_over_steps(metric: str) -> None:
    arrays = tagged()
    run = make_run(arrays, training={"epochs": 1})
    outputs, targets = plain(run, arrays, np.arange(24))
    scores = tags.TASK.scores(metric, CrossEntropy(), Judged(outputs.detach(), targets, steps=arrays.lengths))
    expected = {"loss": F.cross_entropy(outputs, targets).item(), **tags.TASK.metrics(outputs, targets)}
    assert len(scores.sums) == 24
    assert float(scores.value(scores.sums.sum(axis=0))) == pytest.approx(expected[metric], rel=1e-5)
    found = paired.compare(scores, scores, higher_is_better=metric != "loss", error_rate=0.05)
    assert (found.samples, found.differing, found.p_value) == (24, 0, 1.0)


def test_a_tag_may_be_missing_from_training_and_then_counts_as_wrong() -> None:
    arrays = tagged()
    y = arrays.y.copy()
    y[20, 0] = 9
    arrays = replace(arrays, y=y, split=np.array([0] * 16 + [1] * 8, dtype=np.int8))
    prepared = prepare(arrays, spec_for(arrays))
    assert prepared.classes == [0, 1, 2, 9]
    assert known.of_y(y) is tags.TASK
