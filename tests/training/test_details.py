"""The scores of each class, label and target of a result, beside formulas that count pairs by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.training import details
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, answers
from services.training.loop import details as details_of
from services.training.preprocessing.scaling import undone
from services.training.tasks import known
from tests.properties import examples
from tests.training.building import classes, document, events, make_run, tagged, trained, values

NAMES = ("a", "b", "c", "d")


def pairs_won(scores: list[float], positive: list[bool]) -> float | None:
    """AUROC pair by pair: in how many of all pairs of a positive and a negative sample the positive one is higher."""
    won = [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for mine, mine_is in zip(scores, positive, strict=True)
        for other, other_is in zip(scores, positive, strict=True)
        if mine_is and not other_is
    ]
    return sum(won) / len(won) if won else None


def counted(predicted: list[int], actual: list[int], number: int) -> dict[str, Any]:
    """Precision, recall, F1 and support of a class, sample by sample."""
    pairs = list(zip(predicted, actual, strict=True))
    hit = sum(one == other == number for one, other in pairs)
    answered, true = predicted.count(number), actual.count(number)
    precision = hit / answered if answered else None
    recall = hit / true if true else None
    f1 = None
    if answered or true:
        p, r = precision or 0.0, recall or 0.0
        f1 = 2 * p * r / (p + r) if p + r else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "support": true}


@examples(150)
@given(st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_that_are_ranked_right_and_ties_are_halves(drawn: list[tuple[float, bool]]) -> None:
    scores, positive = map(list, zip(*drawn, strict=True))
    found = details.auroc(torch.tensor(scores), torch.tensor(positive))
    expected = pairs_won(scores, positive)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@examples(150)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(-2, 2)), min_size=1, max_size=40))
def test_scores_of_classes_are_those_counted_by_hand(drawn: list[tuple[int, int, int]]) -> None:
    predicted, actual, scores = map(list, zip(*drawn, strict=True))
    ranks = torch.tensor(scores, dtype=torch.float64)
    found = details.of_classes(
        torch.tensor(predicted),
        torch.tensor(actual),
        NAMES,
        lambda number: ranks * (1 if number % 2 else -1),
        torch.full((len(drawn),), 0.5),
    )
    assert found["classes"]["name"] == list(NAMES)
    per = [counted(predicted, actual, number) for number in range(4)]
    for name in ("precision", "recall", "f1", "support"):
        for value, expected in zip(found["classes"][name], [one[name] for one in per], strict=True):
            assert value == (None if expected is None else pytest.approx(expected, abs=1e-12))
    for number, area in enumerate(found["classes"]["auroc"]):
        signed = [score * (1 if number % 2 else -1) for score in scores]
        expected = pairs_won([float(one) for one in signed], [one == number for one in actual])
        assert area == (None if expected is None else pytest.approx(expected, abs=1e-12))
    occurring = [one for one in per if one["f1"] is not None]
    for name in ("precision", "recall", "f1"):
        assert found["macro"][name] == pytest.approx(sum(one[name] or 0 for one in occurring) / len(occurring))
        mean = sum((one[name] or 0) * one["support"] for one in per) / len(drawn)
        assert found["weighted"][name] == pytest.approx(mean)
    assert found["weighted"]["recall"] == pytest.approx(sum(p == t for p, t, _ in drawn) / len(drawn))  # the accuracy
    matrix = found["confusion"]["matrix"]
    assert matrix == [[sum((t, p) == (row, col) for p, t, _ in drawn) for col in range(4)] for row in range(4)]
    largest = found["confusion"]["largest"]
    assert [one["count"] for one in largest] == sorted(
        (matrix[row][col] for row in range(4) for col in range(4) if row != col and matrix[row][col]), reverse=True
    )
    assert all(matrix[NAMES.index(one["actual"])][NAMES.index(one["predicted"])] == one["count"] for one in largest)


def test_a_class_is_ranked_by_its_probability_and_not_by_its_logit() -> None:
    outputs = torch.tensor([[5.0, 9.0], [1.0, 0.0], [2.0, 4.0], [0.0, -3.0]])
    targets = torch.tensor([1, 0, 1, 0])
    found = known.named("classes").details(outputs, targets, NAMES[:2], None)
    assert found["classes"]["auroc"] == [1.0, 1.0]  # by logits the first would be 0.0


def test_of_many_classes_only_the_largest_confusions_are_kept_and_of_very_many_those_with_most_samples() -> None:
    rng = np.random.default_rng(0)
    count = details.MOST_NAMED + 5
    actual = np.concatenate((np.arange(count), rng.integers(0, 60, 3000)))
    predicted = np.where(rng.random(len(actual)) < 0.5, actual, (actual + 1) % count)
    found = details.of_classes(
        torch.from_numpy(predicted),
        torch.from_numpy(actual),
        range(count),
        lambda number: torch.zeros(len(actual)),
        torch.ones(len(actual)),
    )
    assert found["confusion"]["matrix"] is None
    largest = found["confusion"]["largest"]
    assert len(largest) == details.LARGEST
    for one in largest:
        assert one["count"] == ((actual == one["actual"]) & (predicted == one["predicted"])).sum()
    assert found["classes"]["name"] == list(range(details.MOST_NAMED))
    assert set(found["classes"]["auroc"]) == {0.5}
    assert len(json.dumps(found)) < 200_000


def test_beyond_a_bound_nothing_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "MOST_RANKED", 7)
    outputs, targets = torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])
    found = known.named("classes").details(outputs, targets, NAMES[:2], None)
    assert found["classes"]["auroc"] == [None, None]
    assert found["macro"]["auroc"] is None
    assert found["classes"]["recall"] == [1.0, 0.0]


def test_calibration_compares_probabilities_with_what_came_true() -> None:
    said = torch.tensor([0.0, 0.05, 0.62, 0.68, 0.9, 1.0], dtype=torch.float64)
    found = details.calibration(said, torch.tensor([False, True, True, False, True, True]))
    assert found["count"] == [2, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert found["probability"] == pytest.approx([0.025, *[None] * 5, 0.65, None, None, 0.95])
    assert found["share"] == [0.5, *[None] * 5, 0.5, None, None, 1.0]
    assert found["error"] == pytest.approx((0.475 + 0.15 + 0.05) / 3)


def test_the_probability_of_an_answer_is_that_of_its_class() -> None:
    outputs, targets = torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), torch.tensor([0, 0])
    of_two = known.named("classes").details(outputs, targets, NAMES[:2], None)["calibration"]
    logits = outputs[:, 1:] - outputs[:, :1]  # the same model with one logit
    of_one = known.named("multilabel").details(logits, targets[:, None].float(), NAMES[:2], None)["calibration"]
    assert of_two["count"] == of_one["count"] == [0] * 8 + [2, 0]
    assert of_two["probability"][8] == pytest.approx(1 / (1 + np.exp(-2)))
    assert of_one["probability"][8] == pytest.approx(of_two["probability"][8])
    assert of_one["share"][8] == of_two["share"][8] == 0.5


def test_labels_are_judged_one_by_one() -> None:
    rng = np.random.default_rng(1)
    outputs = torch.from_numpy(rng.integers(-2, 3, (50, 3)) / 2.0)
    actual = torch.from_numpy(rng.integers(0, 2, (50, 3)))
    actual[:, 2] = 0
    found = details.of_labels(outputs, actual.float(), ("hot", "loud", "late"))
    for label in range(3):
        yes, true = (outputs[:, label] > 0).long().tolist(), actual[:, label].tolist()
        expected = counted(yes, true, 1)
        for name in ("precision", "recall", "f1", "support"):
            value = found["labels"][name][label]
            assert value == (None if expected[name] is None else pytest.approx(expected[name]))
        area = pairs_won(outputs[:, label].tolist(), [one == 1 for one in true])
        assert found["labels"]["auroc"][label] == (None if area is None else pytest.approx(area))
        pairs = list(zip(true, yes, strict=True))
        matrix = [[pairs.count((row, column)) for column in (0, 1)] for row in (0, 1)]
        assert found["confusion"]["of_labels"][label] == matrix
    assert found["labels"]["auroc"][2] is None
    own = known.named("multilabel").metrics(outputs, actual.float())
    assert found["macro"]["f1"] == pytest.approx(own["macro_f1"])


def of(arrays: Arrays, **changes: Any) -> tuple[Run, dict[str, Any]]:
    """A run that has ended, and the details of its validation split."""
    run = make_run(arrays, **changes)
    trained(run)
    assert run.data.validation is not None
    return run, details_of(run, run.data.validation)


def outputs_of(run: Run) -> tuple[Tensor, Tensor]:
    part = run.data.validation
    assert part is not None
    outputs, places = answers(run.model, part, run.device, "float32")
    return outputs, part.y[places]


@pytest.mark.parametrize("kind", ["classes", "bce", "tags"])
def test_a_run_tells_them_with_the_names_of_its_classes(kind: str) -> None:
    if kind == "tags":
        run, found = of(tagged(samples=40))
    else:
        arrays = classes(60, kinds=2 if kind == "bce" else 3)
        words = np.array(["calm", "busy", "wild"])[arrays.y]
        run, found = of(replace(arrays, y=words), training={"loss": kind} if kind == "bce" else {})
        assert found["classes"]["name"] == sorted(set(words))
    outputs, targets = outputs_of(run)
    if kind == "bce":
        predicted, actual = (outputs[:, 0] > 0).long(), targets[:, 0].long()
        probability = torch.sigmoid(outputs[:, 0].double())
        scores = torch.stack((1 - probability, probability), dim=1)
    else:
        predicted, actual, scores = outputs.argmax(dim=1), targets, torch.softmax(outputs.double(), dim=1)
    for number, area in enumerate(found["classes"]["auroc"]):
        assert area == pytest.approx(pairs_won(scores[:, number].tolist(), (actual == number).tolist()), abs=1e-9)
        expected = counted(predicted.tolist(), actual.tolist(), number)
        assert found["classes"]["recall"][number] == expected["recall"]
    own = run.data.task.metrics(outputs, targets)
    assert found["macro"]["f1"] == pytest.approx(own["macro_f1"])
    assert found["weighted"]["recall"] == pytest.approx(own["accuracy"])


def test_several_values_are_judged_one_by_one_in_the_unit_of_the_data() -> None:
    arrays = values(samples=40, columns=2)
    run, found = of(replace(arrays, y=arrays.y * (1.0, 100.0) + (0.0, 7.0), targets=("kw", "kvar")))
    outputs, targets = (undone(each, run.data.target_scaling).double() for each in outputs_of(run))
    errors = (outputs - targets).numpy()
    spread = np.square(targets.numpy() - targets.numpy().mean(axis=0)).sum(axis=0)
    assert found["targets"]["name"] == ["kw", "kvar"]
    np.testing.assert_allclose(found["targets"]["mae"], np.abs(errors).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["targets"]["rmse"], np.sqrt(np.square(errors).mean(axis=0)), rtol=1e-6)
    np.testing.assert_allclose(found["targets"]["r2"], 1 - np.square(errors).sum(axis=0) / spread, rtol=1e-6)
    assert details_of(*of_one_value()) is None


def of_one_value() -> tuple[Run, Any]:
    run, _ = of(values(columns=1))
    return run, run.data.validation


def test_the_result_and_the_model_have_them_of_both_splits(tmp_path: Path) -> None:
    npz.write(tmp_path / "some.npz", classes(60))
    spec = document(data={"split": {"validation": 0.25, "test": 0.25}})
    order = {"spec": spec, "data": str(tmp_path / "some.npz"), "directory": str(tmp_path / "out")}
    *_, last = events(order)
    found = last["result"]["details"]
    assert list(found) == ["validation", "test"]
    assert sum(found["test"]["classes"]["support"]) == 15
    assert found["test"]["macro"]["f1"] == pytest.approx(last["result"]["metrics"]["test_macro_f1"])
    assert json.loads((tmp_path / "out" / "model.json").read_text())["details"] == found
