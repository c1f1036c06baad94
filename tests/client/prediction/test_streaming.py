"""A session answers after each step what the model answers about the whole sequence until there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopline import InputInvalid, load
from loopline.prediction.answers import Classification, NextStep, Tags
from safetensors.numpy import load_file, save_file

from tests.client.prediction.cases import FORWARDS, Case, Trained, numbers
from tests.training.building import classes, mixed, tagged

Model = Callable[[str], Trained]
CLOSE = {"rtol": 2e-4, "atol": 1e-5}


def check(case: Trained, sequences: int = 4) -> None:
    """Compares every step of some sequences."""
    model = load(case.folder)
    asked = case.asked(model)
    for row, x in enumerate(asked["x"][:sequences]):
        static = None if asked["static"] is None else asked["static"][row]
        session = model.stream(static=static)
        whole = None if static is None else static[None]
        for step in range(1, len(x) + 1):
            expected = numbers(model.predict([x[:step]], static=whole))
            np.testing.assert_allclose(numbers(session.push(x[step - 1]))[-1], expected[-1], **CLOSE)
        assert session.steps == len(x)


@pytest.mark.parametrize(
    "name", [name for name in FORWARDS if name not in ("forecast", "calendar", "quantiles", "words", "next")]
)
def test_each_answer_is_that_about_the_steps_so_far(trained_model: Model, name: str) -> None:
    check(trained_model(name))


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("pooling", ["last", "final", "mean", "max", "attention"])
def test_all_cells_and_poolings_are_carried_from_step_to_step(tmp_path: Any, cell: str, pooling: str) -> None:
    changes = {
        "architecture": {"cell": cell, "pooling": pooling, "num_layers": 2},
        "training": {"epochs": 1},
        "data": {"missing": "forward", "differences": "append", "scaling": "standard", "missing_mask": True},
    }
    check(Trained.of_case(Case(lambda: mixed(samples=30), changes), tmp_path), sequences=2)


def test_tags_come_step_by_step(tmp_path: Any) -> None:
    case = Trained.of_case(Case(tagged, {"data": {"scaling": "standard"}}), tmp_path)
    check(case)
    answer = load(case.folder).stream().push([0.0, 1.0])
    assert isinstance(answer, Tags)
    assert [len(labels) for labels in answer.labels] == [1]


def test_texts_come_in_pieces(trained_model: Model) -> None:
    model = load(trained_model("words").folder)
    session = model.stream()
    np.testing.assert_allclose(numbers(session.push("")), numbers(model.predict("")), **CLOSE)
    for piece, text in (("the room", "the room"), (" was great", "the room was great"), ("!", "the room was great!")):
        np.testing.assert_allclose(numbers(session.push(piece)), numbers(model.predict(text)), **CLOSE)
    following = load(trained_model("next").folder)
    session = following.stream()
    for piece, text in (("", ""), ("a", "a"), ("b, ", "ab, "), ("\nc", "ab, \nc")):
        answer = session.push(piece)
        assert isinstance(answer, NextStep)
        np.testing.assert_allclose(numbers(answer), numbers(following.predict(text)), **CLOSE)


def test_what_cannot_be_answered_before_the_end_is_refused(trained_model: Model, tmp_path: Any) -> None:
    for name, sentence in (
        ("attention", "the model reads each sequence backwards too"),
        ("forecast", "a forecast reads the last 5 steps anew each time"),
    ):
        with pytest.raises(InputInvalid, match=sentence):
            load(trained_model(name).folder).stream()
    for number, (data, sentence) in enumerate(
        (
            ({"missing": "linear"}, "with a line to the next value"),
            ({"missing": "mean", "scaling": "standard", "scaling_over": "per_sequence"}, "scales each sequence by all"),
            ({"missing": "mean", "max_length": 3, "cut": "start"}, "the model reads the last 3 steps anew"),
        )
    ):
        changes = {"training": {"epochs": 1}, "data": data}
        case = Trained.of_case(Case(lambda: mixed(samples=30), changes), tmp_path / str(number))
        with pytest.raises(InputInvalid, match=sentence):
            load(case.folder).stream()


def test_a_step_that_does_not_fit_is_refused_and_changes_nothing(trained_model: Model) -> None:
    model = load(trained_model("plain").folder)
    session, other = model.stream(), model.stream()
    session.push([1.0, 2.0, 3.0])
    for step, sentence in (
        ([1.0, 2.0], "the step: it has 2 features"),
        ([[1.0, 2.0, 3.0]], r"the step has the shape \(1, 3\)"),
        ([1.0, float("nan"), 3.0], "values are missing"),
        ("abc", "it has the type"),
    ):
        with pytest.raises(InputInvalid, match=sentence):
            session.push(step)
    other.push([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(numbers(session.push(np.ones(3))), numbers(other.push(np.ones(3))))
    with pytest.raises(InputInvalid, match="the next piece of a text is a str, and this is int"):
        load(trained_model("words").folder).stream().push(3)


def test_a_step_without_a_finite_answer_is_refused_and_changes_nothing(trained_model: Model, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained_model("relu").folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["rnn.weight_ih_l0"] *= np.float32(1e10)
    save_file(weights, folder / "model.safetensors")
    model = load(folder, "numpy")
    session, other = model.stream(), model.stream()
    for one in (session, other):
        one.push([0.5, 1.0])
    with pytest.raises(InputInvalid, match="no finite number"):
        session.push([1e35, 1e35])
    assert session.steps == 1
    np.testing.assert_array_equal(numbers(session.push([1.0, 0.0])), numbers(other.push([1.0, 0.0])))


def longer_only(warnings: tuple[str, ...]) -> list[str]:
    """Without that a sequence is short, because it goes on."""
    return [warning for warning in warnings if "fewer than any in training" not in warning]


def test_the_warnings_are_those_about_the_steps_so_far(tmp_path: Path) -> None:
    changes = {"data": {"missing": "forward", "scaling": "standard"}, "training": {"epochs": 1}}
    model = load(Trained.of_case(Case(lambda: mixed(samples=30), changes), tmp_path).folder)
    high = model.card["data"]["lengths"]["longest"]
    x = np.tile([0.0, np.nan, 1.0, np.nan], (high + 2, 1))
    x[2, 0], x[3, 0], x[4, 1], x[4, 3] = -900.0, 800.0, 40.0, np.nan
    for static, first in (([50.0, 1.0], 2), ([5000.0, np.nan], 3)):
        session = model.stream(static=static)
        found = [session.push(step).warnings for step in x]
        wanted = [longer_only(model.predict([x[:end]], static=[static]).warnings) for end in range(1, len(x) + 1)]
        assert list(map(list, found)) == wanted
        assert [len(each) for each in found] == [
            first,
            first,
            *[first + 1] * 2,
            *[first] * (high - 4),
            *[first + 1] * 2,
        ]
        assert "`pulse` is -900 in sequence 0, far from training" in found[-1][-1 if first == 2 else -2]


def test_the_value_farthest_beyond_the_bounds_is_told_where_they_are_not_alike_on_both_sides(tmp_path: Path) -> None:
    changes = {"data": {"scaling": "minmax"}, "training": {"epochs": 1}}
    model = load(Trained.of_case(Case(lambda: classes(samples=30), changes), tmp_path).folder)
    scaling = model.card["scaling"]
    x = np.tile(np.array(scaling["shift"]), (5, 1))
    for step, scaled in enumerate((0.5, -2.5, 2.9, -2.2)):
        x[step, 0] += scaled * scaling["scale"][0]
    session = model.stream()
    for step in x:
        answer = session.push(step)
    [found], [wanted] = (
        [each for each in warnings if "far from training" in each]
        for warnings in (answer.warnings, model.predict(x).warnings)
    )
    assert found == wanted
    assert f"is {x[1, 0]:.6g} in sequence 0" in wanted


def test_a_sequence_that_gets_longer_than_those_of_training_is_answered_with_a_warning(trained_model: Model) -> None:
    model = load(trained_model("plain").folder)
    high = model.card["data"]["lengths"]["longest"]
    session = model.stream()
    answers = [session.push(np.zeros(3)) for _ in range(high + 1)]
    assert answers[-2].warnings == ()
    assert f"sequence 0 has {high + 1} steps, more than any in training" in answers[-1].warnings[0]
    assert isinstance(answers[-1], Classification)
    words = load(trained_model("words").folder)
    session = words.stream()
    assert session.push("the room ").warnings == ()
    assert session.push("the room " * 20).warnings == words.predict("the room " * 21).warnings != ()
