"""Losses against torch's own, metrics against their definitions written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from services.training.measures import MEASURES
from services.training.metrics import class_weights
from services.training.spec.fields import MSE, Training
from services.training.tasks import known
from services.training.tasks.task import Judged, Task
from tests.properties import examples

Y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])


def loss(named: Any, targets: Tensor = Y, outputs: int = 3) -> Any:
    """The loss function that a spec's `loss` means."""
    chosen = Training.model_validate({"loss": named}).loss
    assert chosen is not None
    return task(chosen.name).loss(chosen, targets, outputs)


def task(loss: str) -> Task:
    """The task that is trained with this loss."""
    return next(task for task in known.TASKS if task.trains_on(loss) and not task.of_series)


def metrics_of(
    loss: str, outputs: Tensor, targets: Tensor, scale: list[float] | None = None
) -> dict[str, float | None]:
    return task(loss).metrics(outputs, targets, scale)


def logits(columns: int = 3, rows: int = 8) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_is_torchs() -> None:
    assert torch.equal(loss("cross_entropy")(logits(), Y), torch.nn.CrossEntropyLoss()(logits(), Y))


WEIGHTED = {"name": "cross_entropy", "class_weights": [0.5, 1.0, 4.0], "label_smoothing": 0.1}


def test_class_weights_and_label_smoothing_are_torchs_over_the_training_samples() -> None:
    expected = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 4.0]), label_smoothing=0.1)
    assert float(loss(WEIGHTED)(logits(), Y)) == pytest.approx(float(expected(logits(), Y)), rel=1e-6)
    smooth = torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    assert torch.equal(loss({"name": "cross_entropy", "label_smoothing": 0.2})(logits(), Y), smooth(logits(), Y))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_a_weighted_loss_is_a_mean_over_samples_however_they_are_cut(batch: int) -> None:
    chosen = loss(WEIGHTED)
    pieces = list(zip(logits().split(batch), Y.split(batch), strict=True))
    mean = sum(float(chosen(outputs, y)) * len(y) for outputs, y in pieces) / len(Y)
    assert mean == pytest.approx(float(chosen(logits(), Y)), rel=1e-6)


def test_a_single_sample_weighs_what_its_class_does() -> None:
    plain, weighted = loss("cross_entropy"), loss({"name": "cross_entropy", "class_weights": [1.0, 2.0, 50.0]})
    mean = (4 * 1.0 + 2 * 2.0 + 2 * 50.0) / 8
    for row, weight in ((0, 1.0), (4, 2.0), (7, 50.0)):
        outputs, y = logits()[row : row + 1], Y[row : row + 1]
        assert float(weighted(outputs, y)) == pytest.approx(float(plain(outputs, y)) * weight / mean, rel=1e-6)


def test_balanced_weights_make_every_class_count_the_same() -> None:
    weights = class_weights("balanced", Y, 3)
    assert weights is not None
    assert weights.tolist() == pytest.approx([8 / (3 * 4), 8 / (3 * 2), 8 / (3 * 2)])
    per_class = torch.tensor([weights[Y[label == Y]].sum() for label in range(3)])
    assert per_class.tolist() == pytest.approx([8 / 3] * 3)


def test_only_the_ratios_of_weights_count() -> None:
    found = [class_weights([factor * weight for weight in (1.0, 2.0, 50.0)], Y, 3) for factor in (1.0, 1e-30, 1e7)]
    for weights in found:
        assert weights is not None
        assert float(weights[Y].mean()) == pytest.approx(1.0)
        assert (weights / weights[0]).tolist() == pytest.approx([1.0, 2.0, 50.0])


def test_balanced_weights_bear_a_class_without_samples() -> None:
    weights = class_weights("balanced", Y, 4)
    assert weights is not None
    assert bool(torch.isfinite(weights).all())
    assert float(weights[Y].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("mse", torch.nn.MSELoss()),
        ("mae", torch.nn.L1Loss()),
        ("huber", torch.nn.HuberLoss()),
        ({"name": "huber", "delta": 0.3}, torch.nn.HuberLoss(delta=0.3)),
        ("bce", torch.nn.BCEWithLogitsLoss()),
    ],
)
def test_the_other_losses_are_torchs(named: Any, expected: torch.nn.Module) -> None:
    targets = (logits() > 0).float()
    assert torch.equal(loss(named, targets)(logits() * 2, targets), expected(logits() * 2, targets))


def test_accuracy_and_macro_f1_of_an_example_counted_by_hand() -> None:
    predicted = torch.tensor([0, 0, 1, 2, 1, 0, 2, 2])
    found = metrics_of("cross_entropy", F.one_hot(predicted, 3).float(), Y)
    assert found["accuracy"] == 5 / 8
    # class 0: 2 hits, predicted 3, actual 4; class 1: 1, 2, 2; class 2: 2, 3, 2
    assert found["macro_f1"] == pytest.approx((4 / 7 + 2 / 4 + 4 / 5) / 3)


def test_classes_that_occur_nowhere_do_not_count_for_macro_f1() -> None:
    outputs = F.one_hot(torch.tensor([0, 1, 0, 1]), 5).float()
    assert metrics_of("cross_entropy", outputs, torch.tensor([0, 1, 0, 1]))["macro_f1"] == 1.0


def test_a_class_that_is_never_right_counts_as_zero() -> None:
    outputs = F.one_hot(torch.tensor([0, 0, 0, 0]), 2).float()
    found = metrics_of("cross_entropy", outputs, torch.tensor([0, 0, 1, 1]))
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx((2 * 2 / 6 + 0) / 2)}


@examples(60)
@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 1000))
def test_metrics_of_classes_are_their_definitions(classes: int, samples: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(samples, classes, generator=generator)
    targets = torch.randint(classes, (samples,), generator=generator)
    predicted = outputs.argmax(dim=1)
    scores = []
    for label in sorted({*predicted.tolist(), *targets.tolist()}):
        hits = int(((predicted == label) & (targets == label)).sum())
        wrong = int(((predicted == label) ^ (targets == label)).sum())
        scores.append(2 * hits / (2 * hits + wrong))
    found = metrics_of("cross_entropy", outputs, targets)
    assert found["accuracy"] == sum(a == b for a, b in zip(predicted, targets, strict=True)) / samples
    assert found["macro_f1"] == pytest.approx(np.mean(scores))


def test_one_column_under_bce_is_two_classes() -> None:
    outputs, targets = torch.tensor([[2.0], [-1.0], [3.0], [-2.0]]), torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    assert metrics_of("bce", outputs, targets) == {"accuracy": 0.5, "macro_f1": 0.5}


def test_several_yes_or_no_answers_are_right_only_together() -> None:
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    outputs = torch.tensor([[1.0, -1, 1], [-1, 1, 1], [1, -1, -1], [-1, -1, -1]])
    found = metrics_of("bce", outputs, targets)
    assert found["accuracy"] == 0.5  # samples 0 and 3 are right as a whole
    assert found["label_accuracy"] == 10 / 12
    # columns: hits 2 of 2 and 2; 1 of predicted 1, actual 2; 1 of predicted 2, actual 1
    assert found["macro_f1"] == pytest.approx((1.0 + 2 / 3 + 2 / 3) / 3)


def test_r2_of_several_targets_weighs_each_by_its_spread() -> None:
    """One r2 of all columns together, so that a column with a large spread decides it; no mean of each column's."""
    wide, narrow = torch.tensor([0.0, 100, 200, 300]), torch.tensor([0.0, 1, 2, 3])
    targets = torch.stack((wide, narrow), dim=1)
    outputs = torch.stack((wide, torch.full((4,), 1.5)), dim=1)  # the first is right, the second its mean: r2 1 and 0
    assert metrics_of("mse", outputs, targets)["r2"] == pytest.approx(1 - 5 / 50005)


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_metrics_of_values_are_their_definitions(name: str) -> None:
    outputs, targets = logits(2), torch.randn(8, 2, generator=torch.Generator().manual_seed(1)) * 3 + 5
    errors = outputs.double().numpy() - targets.double().numpy()
    spread = targets.double().numpy() - targets.double().numpy().mean(axis=0)
    found = metrics_of(name, outputs, targets)
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    assert found["r2"] == pytest.approx(1 - (errors**2).sum() / (spread**2).sum(), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_r2_of_targets_that_do_not_vary_is_undefined_whatever_their_mean_is_rounded_to(seed: int) -> None:
    value, scale = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    targets = torch.full((37, 1), value)
    assert metrics_of("mse", targets + 0.1, targets, [scale])["r2"] is None
    scores = task("mse").scores("r2", MSE(name="mse"), Judged(targets + 0.1, targets.double() * scale))
    assert not math.isfinite(float(scores.value(scores.sums.sum(axis=0))))  # nothing passes a gate by it


def test_r2_is_one_when_right_zero_when_the_mean_is_guessed_and_undefined_without_spread() -> None:
    targets = torch.tensor([[1.0], [2.0], [6.0]])
    assert metrics_of("mse", targets.clone(), targets)["r2"] == 1.0
    assert metrics_of("mse", torch.full((3, 1), 3.0), targets)["r2"] == 0.0
    assert metrics_of("mse", targets, torch.full((3, 1), 3.0))["r2"] is None


def test_nothing_has_no_metrics() -> None:
    assert metrics_of("mse", torch.zeros(0, 1), torch.zeros(0, 1)) == {}


def test_what_is_better_is_known_of_every_metric() -> None:
    names = {"accuracy", "label_accuracy", "macro_f1", "mae", "rmse", "r2"}
    labels = (logits() > 0).float()
    found = [
        metrics_of("cross_entropy", logits(), Y),
        metrics_of("bce", logits(), labels),
        metrics_of("mse", logits(), logits()),
    ]
    assert {name for each in found for name in each} == names
    assert {name for name in names if MEASURES[name].higher_is_better} == {
        "accuracy",
        "label_accuracy",
        "macro_f1",
        "r2",
    }
