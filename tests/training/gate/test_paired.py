"""Two models on the same samples: how much better, and whether it could be luck."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.training.gate.paired import EXCHANGES, Scores, compare
from services.training.gate.verdict import Before, verdict
from services.training.measures import MEASURES
from services.training.spec.fields import BCE, MAE, MSE, CrossEntropy, Gate, Huber, Loss, Retrain
from services.training.tasks import classes, known
from services.training.tasks.task import Judged


def right(hits: NDArray[np.float64]) -> Scores:
    """Of samples that are answered rightly (1) or wrongly (0)."""
    return Scores(np.stack([hits, np.ones_like(hits)], axis=1), lambda sums: sums[..., 0] / sums[..., 1])


def answers(better: int, worse: int, same: int) -> tuple[Scores, Scores]:
    """A new model that is right where the old one was wrong so many times, and the other way round."""
    new = np.array([1.0] * better + [0.0] * worse + [1.0] * same)
    old = np.array([0.0] * better + [1.0] * worse + [1.0] * same)
    return right(new), right(old)


def exactly(better: int, worse: int) -> float:
    """McNemar's exact test, one-sided."""
    n = better + worse
    return sum(math.comb(n, k) for k in range(better, n + 1)) / 2**n


@pytest.mark.parametrize(("better", "worse"), [(5, 0), (9, 2), (12, 4), (30, 20), (3, 9), (1, 0)])
def test_for_accuracy_the_p_value_is_that_of_mcnemars_exact_test(better: int, worse: int) -> None:
    found = compare(*answers(better, worse, same=100), higher_is_better=True, error_rate=0.05)
    p = exactly(better, worse)
    assert found.p_value == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / EXCHANGES) + 1 / EXCHANGES)
    assert (found.samples, found.differing) == (better + worse + 100, better + worse)
    assert found.improvement == pytest.approx((better - worse) / found.samples)


def test_the_standard_error_of_a_mean_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(3)
    new, old = rng.standard_normal(50), rng.standard_normal(50)
    found = compare(right(new), right(old), higher_is_better=True, error_rate=0.05)
    assert found.standard_error == pytest.approx((new - old).std(ddof=1) / math.sqrt(50))
    assert found.at_least == pytest.approx(found.improvement - NormalDist().inv_cdf(0.95) * found.standard_error)


def test_a_model_is_not_better_than_itself() -> None:
    new, _ = answers(10, 10, 10)
    found = compare(new, new, higher_is_better=True, error_rate=0.05)
    assert (found.improvement, found.p_value, found.differing) == (0.0, 1.0, 0)


def test_less_is_better_where_it_is_an_error() -> None:
    rng = np.random.default_rng(5)
    small, large = rng.random(40), 1.0 + rng.random(40)
    better = compare(right(small), right(large), higher_is_better=False, error_rate=0.05)
    assert better.improvement > 0
    assert better.p_value <= 2 / EXCHANGES
    worse = compare(right(large), right(small), higher_is_better=False, error_rate=0.05)
    assert worse.improvement == -better.improvement
    assert worse.p_value > 0.99


def test_of_models_that_are_equally_good_few_are_taken_for_better() -> None:
    """The exactness that the gate rests on: at most the error rate, to within what 500 rounds can show."""
    rng = np.random.default_rng(7)
    rate, passed, rounds = 0.05, 0, 500
    for _ in range(rounds):
        new, old = rng.lognormal(size=(2, 60))  # errors with a long tail, where a t-test would be off
        passed += compare(right(new), right(old), higher_is_better=False, error_rate=rate, seed=1).p_value <= rate
    assert passed / rounds <= rate + 4 * math.sqrt(rate * (1 - rate) / rounds)
    assert passed / rounds >= rate / 2  # nor is it deaf


def test_the_same_answers_give_the_same_p_value() -> None:
    new, old = answers(12, 6, 20)
    first, second = (compare(new, old, higher_is_better=True, error_rate=0.05, seed=4) for _ in range(2))
    assert first == second


LOSSES: list[tuple[Loss, str]] = [
    (CrossEntropy(), "classes"),
    (CrossEntropy(class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1), "classes"),
    (BCE(), "two"),
    (BCE(), "labels"),
    (MSE(), "values"),
    (MAE(), "values"),
    (Huber(delta=0.5), "values"),
]


@pytest.mark.parametrize(("loss", "kind"), LOSSES, ids=lambda one: one if isinstance(one, str) else one.name)
def test_sums_over_samples_make_the_metrics_that_training_reports(loss: Loss, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    columns = {"classes": 3, "two": 1, "labels": 4, "values": 2}[kind]
    outputs = torch.randn(40, columns, generator=generator)
    targets = torch.randn(40, columns, generator=generator)
    if kind == "classes":
        targets = torch.arange(40) % 3
    elif kind in ("two", "labels"):
        targets = (targets > 0).float()
    task = next(task for task in known.TASKS if task.trains_on(loss.name) and not task.of_series)
    weights = task.class_weights(loss, targets, columns)
    expected = task.metrics(outputs, targets)
    expected["loss"] = float(task.loss(loss, targets, columns)(outputs, targets))
    assert expected.keys() >= ({"accuracy", "macro_f1"} if kind != "values" else {"mae", "rmse", "r2"})
    for metric, value in expected.items():
        scores = task.scores(metric, loss, Judged(outputs, targets, weights))
        assert float(scores.value(scores.sums.sum(axis=0))) == pytest.approx(value, rel=1e-5), metric


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_exchanging_answers_is_evaluating_the_exchanged_answers(metric: str) -> None:
    """The sums are linear: what the p-value is made of is no approximation of the metric."""
    task, loss, generator = classes.TASK, CrossEntropy(), torch.Generator().manual_seed(2)
    targets = torch.arange(30) % 3
    new, old = torch.randn(2, 30, 3, generator=generator)
    swap = torch.rand(30, generator=generator) < 0.5
    mixed = torch.where(swap[:, None], old, new)
    a, b = (task.scores(metric, loss, Judged(each, targets)) for each in (new, old))
    exchanged = a.sums.sum(axis=0) - (a.sums - b.sums)[swap.numpy()].sum(axis=0)
    direct = task.scores(metric, loss, Judged(mixed, targets))
    assert float(a.value(exchanged)) == pytest.approx(float(direct.value(direct.sums.sum(axis=0))))


def test_which_metrics_point_upwards() -> None:
    up = {name for name, measure in MEASURES.items() if measure.higher_is_better}
    assert up == {"accuracy", "label_accuracy", "macro_f1", "r2"}


def test_the_table_of_worked_numbers_is_what_the_gate_decides() -> None:
    """docs/retraining.md: 400 test samples, of which both models answer 340 alike."""
    page = (Path(__file__).parents[3] / "docs" / "retraining.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([0-9.]+) \| ([0-9.]+) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for better, worse, improvement, p, decisions in rows:
        found = []
        for margin, error_rate in ((0.0, 0.05), (0.02, 0.05), (0.0, 0.01), (0.02, 0.01)):
            both = answers(int(better), int(worse), same=340)
            c = compare(*both, higher_is_better=True, error_rate=error_rate)
            gate = Gate(margin=margin, error_rate=error_rate)
            before = Before("vowels@1", None, None, has_seen=False)
            reason, _ = verdict(gate, "accuracy", c.new, Retrain(model="vowels"), before, c)
            found.append(f"`{reason}`" + (f" ({c.at_least:.3f})" if margin and c.p_value <= error_rate else ""))
        assert (improvement, p) == (f"{c.improvement:.2f}", f"{c.p_value:.2g}")
        assert decisions.split(" | ") == found
