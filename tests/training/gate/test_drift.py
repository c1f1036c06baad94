"""How samples differ from those of an earlier training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from services.training.files.npz import Arrays
from services.training.gate import drift
from tests.training.building import classes, of_many_lengths, values


def every(arrays: Arrays) -> Any:
    return np.arange(len(arrays.x))


def report(before: Arrays, now: Arrays) -> dict[str, Any]:
    profile = json.loads(json.dumps(drift.profile(drift.sample(before, every(before)))))  # as it lies in a file
    return drift.between(profile, drift.sample(now, every(now)))


def test_samples_of_one_kind_have_not_drifted() -> None:
    found = report(classes(600, seed=1), classes(600, seed=2))
    assert not found["shifted"]
    assert found["features"]["of"] == 3
    assert drift.sentence(found, "vowels@3").startswith("The training samples are like those of vowels@3")


def test_a_feature_that_moved_is_named() -> None:
    now = classes(600, seed=2)
    now.x[:, :, 1] += 2.0
    found = report(classes(600, seed=1), now)
    assert found["shifted"]
    assert (found["features"]["shifted"], found["features"]["most"][0]["feature"]) == (1, 1)
    assert "1 of 3 features have shifted, most of all feature 1 (PSI" in drift.sentence(found, "vowels@3")


def test_labels_that_became_frequent_are_named() -> None:
    before, now = classes(600), classes(600)
    now.y[:] = np.where(np.arange(600) < 480, 2, np.arange(600) % 3)
    found = report(before, now)
    assert found["targets"]["shares"][0] == {
        "label": 2,
        "before": pytest.approx(1 / 3),
        "now": pytest.approx(0.8667, abs=0.01),
    }
    assert "most of all 2: 33% before, 87% now" in drift.sentence(found, "vowels@3")


def test_a_label_that_is_new_counts_and_the_distance_stays_finite() -> None:
    now = classes(600)
    now.y[:100] = 9
    found = report(classes(600), now)
    assert found["targets"]["psi"] > drift.SHIFTED
    assert {"label": 9, "before": 0.0, "now": pytest.approx(1 / 6, abs=1e-6)} in found["targets"]["shares"]


def test_values_and_lengths_drift_too() -> None:
    before, now = values(600), values(600)
    now.y[:, 1] += 3.0
    assert report(before, now)["targets"]["psi"] > drift.SHIFTED
    shorter = report(values(600, length=20), of_many_lengths(values(600, length=20)))
    assert shorter["length"] > drift.SHIFTED
    assert "the lengths have shifted" in drift.sentence(shorter, "x@1")


def test_other_targets_cannot_be_compared_and_features_can() -> None:
    found = report(values(100), classes(100))
    assert found["targets"] == {"psi": None, "shares": []}


def test_a_constant_feature_and_few_values_are_no_trouble() -> None:
    flat = classes(60)
    flat.x[:, :, 0] = 1.0
    flat.x[:, :, 1] = np.where(flat.x[:, :, 1] > 0, 1.0, 0.0)
    assert not report(flat, flat)["shifted"]
    moved = classes(60)
    moved.x[:, :, 0] = 2.0
    assert report(flat, moved)["features"]["most"][0]["feature"] == 0


def test_padding_is_no_value() -> None:
    """Every step of a sample is one of its valid steps, spread over all sequences."""
    arrays = of_many_lengths(classes(40, length=30))
    arrays.x[:] = np.where(arrays.x == 0.0, np.float32(np.nan), arrays.x)
    taken = drift.sample(arrays, every(arrays))
    assert len(taken.steps) == arrays.lengths.sum()
    assert np.isfinite(taken.steps).all()


def test_a_profile_of_much_data_is_made_of_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_VALUES", 600)
    monkeypatch.setattr(drift, "LEAST_STEPS", 100)
    arrays = classes(500, length=20)
    assert len(drift.sample(arrays, every(arrays)).steps) == 200
