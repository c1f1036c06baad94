"""What would help after a search: more trials while they find better values, more data where training samples are
answered much better than others."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from services.searches import advice
from services.training.measures import recorded

LOSS, ACCURACY = recorded("validation_loss"), recorded("validation_accuracy")


def best_so_far(values: list[float]) -> list[float]:
    return [*itertools.accumulate(values, min)]


@pytest.mark.parametrize(
    ("values", "trial", "late"),
    [
        ([5, 4, 3, 3, 3, 3, 3, 3, 1], 9, True),
        ([5, 4, 3, 3, 3, 3, 3, 3, 2.99], 9, False),  # by a trifle
        ([5, 1, 3, 3, 3, 3, 3, 3, 3], 2, False),
    ],
)
def test_a_late_best_trial_asks_for_more_trials(values: list[float], trial: int, late: bool) -> None:
    assert advice.is_late(best_so_far(values), trial, LOSS) is late


def test_where_the_first_trials_all_failed_the_first_value_is_late() -> None:
    assert advice.is_late([None] * 8 + [0.5], 9, LOSS)


@pytest.mark.parametrize(
    ("on_trained", "on_others", "measure", "is_better"),
    [
        (0.99, 0.8, ACCURACY, True),
        (0.82, 0.8, ACCURACY, False),
        (0.7, 0.8, ACCURACY, False),
        (0.1, 0.5, LOSS, True),
        (0.45, 0.5, LOSS, False),
        (0.002, 0.003, LOSS, False),  # next to nothing
    ],
)
def test_a_gap_is_a_much_better_answer_on_training_samples(
    on_trained: float, on_others: float, measure: Any, is_better: bool
) -> None:
    assert advice.is_much_better(on_trained, on_others, measure) is is_better


def test_a_share_is_compared_rather_than_a_loss_and_a_mean_of_folds_rather_than_one() -> None:
    record = {"train_loss": 0.1, "validation_loss": 0.4, "train_accuracy": 0.9, "validation_accuracy": 0.5}
    assert advice.pair(record, {}) == (("train_accuracy", 0.9), ("validation_accuracy", 0.5))
    assert advice.pair(record, {"validation_accuracy": 0.7}) == (("train_accuracy", 0.9), ("validation_accuracy", 0.7))
    of_values = {"train_loss": 0.1, "validation_loss": 0.4, "train_rmse": 1.0, "validation_rmse": 2.0}
    assert advice.pair(of_values, {}) == (("train_loss", 0.1), ("validation_loss", 0.4))
    assert advice.pair({"train_loss": None, "validation_loss": math.nan}, {}) is None
    assert advice.pair({}, {}) is None


def test_where_nothing_is_left_to_gain_no_data_is_asked_for() -> None:
    assert advice.about_data(("train_accuracy", 1.0), ("validation_accuracy", 1.0)) == []
    [said] = advice.about_data(("train_accuracy", 0.9), ("validation_accuracy", 0.88))
    assert said.startswith("More data of this kind will hardly help either: ")
    [said] = advice.about_data(("train_loss", 0.2), ("validation_loss", 0.9))
    assert said.startswith("More data would probably help: train_loss is 0.2 and validation_loss 0.9 for the best")
