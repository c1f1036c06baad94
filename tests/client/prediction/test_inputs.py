"""What a model cannot take is refused in a sentence, and what training has not seen is answered with a warning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopline import InputInvalid, load
from safetensors.numpy import load_file, save_file

from tests.client.prediction.cases import Trained

Model = Callable[[str], Trained]
NAN = float("nan")
FOUR = np.zeros((5, 4))
AHEAD = {"static": [[40.0, 1.0]], "future": np.zeros((2, 1))}
BESIDE = {"static": [[40.0, 1.0]]}


@pytest.mark.parametrize(
    ("name", "x", "more", "sentence"),
    [
        ("plain", np.zeros((5, 2)), {}, "x: it has 2 features at each step, and the model takes 3: 0, 1, 2"),
        ("plain", np.zeros(5), {}, "x has the shape (5,): give (steps, features) or (sequences, steps, features)"),
        ("plain", np.zeros((0, 4, 3)), {}, "x is empty"),
        ("plain", np.zeros((2, 0, 3)), {}, "x: it has no steps"),
        ("plain", [], {}, "x has the shape (0,)"),
        ("plain", [np.zeros((2, 3)), np.zeros((3, 4))], {}, "sequence 1: it has 4 features"),
        ("plain", [[[1.0, 2.0, 3.0]], [[1.0, 2.0]]], {}, "sequence 1: it has 2 features"),
        ("plain", [[1.0, 2.0, 3.0], [1.0]], {}, "no array of numbers"),
        ("plain", np.array([["a", "b", "c"]]), {}, "x: it has the type <U1: give numbers"),
        ("plain", np.array([[object(), 1, 2]]), {}, "x: it has Python objects"),
        ("plain", np.array([["2020-01-01"] * 3], "datetime64[D]"), {}, "x: it has the type datetime64[D]"),
        ("plain", np.ones((2, 3), complex), {}, "x: it has the type complex128"),
        ("plain", None, {}, "x has the shape ()"),
        ("plain", 7, {}, "x has the shape ()"),
        ("plain", {1, 2}, {}, "x: it has Python objects"),
        ("plain", np.full((2, 3), NAN), {}, "sequence 0: values are missing (0, 1, 2), and the model was trained"),
        ("plain", np.full((2, 3), np.inf), {}, "sequence 0: feature 0 is inf, and a network computes"),
        ("plain", np.full((2, 3), 1e300), {}, "sequence 0: feature 0 is 1e+300"),
        ("plain", np.zeros((2, 5, 3)), {"lengths": [5, 6]}, "lengths of sequence 1 is 6: give 1 to 5"),
        ("plain", np.zeros((2, 5, 3)), {"lengths": [0, 2]}, "lengths of sequence 0 is 0: give 1 to 5"),
        ("plain", np.zeros((2, 5, 3)), {"lengths": [5]}, "lengths has the shape (1,): give 2 whole numbers"),
        ("plain", [np.zeros((2, 3)), np.zeros((3, 3))], {"lengths": [2, 4]}, "lengths of sequence 1 is 4: give 1 to 3"),
        ("plain", [np.zeros((2, 3))], {"lengths": [1, 1]}, "lengths has the shape (2,): give 1 whole number"),
        ("plain", np.zeros((5, 3)), {"lengths": [5]}, "lengths are for an x of shape (sequences, steps, features)"),
        ("plain", np.zeros((5, 3)), {"static": [1.0]}, "the model reads no values of whole sequences"),
        ("plain", np.zeros((5, 3)), {"future": [[1.0]]}, "the model knows nothing ahead of time"),
        ("plain", np.zeros((5, 1)), {}, "x: it has 1 feature at each step, and the model takes 3"),
        ("forecast", np.zeros((1, 3)), {}, "the forecast reads the last 5 steps, and there is 1: give at least 5"),
        ("plain", np.zeros((2, 5, 3)), {"ids": ["a"]}, "give an id for each sequence: 2 sequences came with 1 id"),
        ("plain", ["some words"], {}, "x: it has the type <U10"),
        ("attention", FOUR, {}, "give static, 2 of each sequence: age, sex"),
        ("attention", FOUR, {"static": [1.0, 2.0, 3.0]}, "static has the shape (1, 3): give (1, 2)"),
        ("attention", FOUR + np.array([0, 0, 9, 0]), BESIDE, "`mode` is 9, and it has 3 words: give the number of a"),
        ("attention", FOUR + np.array([0, 0, 0.5, 0]), BESIDE, "`mode` is 0.5, and it has 3 words"),
        ("words", [], {}, "there is no text"),
        ("words", ["fine", 3], {}, "text 1 is of type int: give str"),
        ("words", np.zeros((5, 3)), {}, "the model takes texts: give a str, or a list of str"),
        ("forecast", np.zeros((4, 3)), {}, "sequence 0: the forecast reads the last 5 steps, and there are 4"),
        ("quantiles", np.zeros((6, 3)), {**BESIDE}, "what is known of the next 3 steps: give future, wind"),
        ("quantiles", np.zeros((40, 3)), {**BESIDE, "future": np.full((3, 1), 1e39)}, "sequence 0: `wind` is 1e+39"),
        ("quantiles", np.zeros((6, 3)), AHEAD, "future has the shape (1, 2, 1): give (1, 3, 1)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(
    trained_model: Model, name: str, x: Any, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputInvalid) as error:
        load(trained_model(name).folder).predict(x, **more)
    assert sentence in str(error.value)
    assert len(error.value.problems) >= 1


def test_lists_tensors_and_integers_are_numbers_too(trained_model: Model) -> None:
    model = load(trained_model("plain").folder)
    x = np.arange(12).reshape(4, 3)
    expected = model.predict(x.astype(np.float32)).probabilities
    tensor = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    for same in (x, x.tolist(), [x], tensor, x.astype(np.float16), x.astype(">f8"), [x.tolist()], x[::-1][::-1]):
        np.testing.assert_allclose(model.predict(same).probabilities, expected, rtol=1e-6)


def test_a_length_that_training_has_not_seen_is_answered_with_a_warning(trained_model: Model) -> None:
    model = load(trained_model("plain").folder)
    low, high = (model.card["data"]["lengths"][name] for name in ("shortest", "longest"))
    answer = model.predict(np.zeros((3, high + 2, 3)), ids=list("abc"), lengths=[high + 2, high, high + 1])
    assert answer.warnings == (
        f"sequences a and c have up to {high + 2} steps, more than any in training ({low} to {high}): the answers may "
        "be worse",
    )
    words = load(trained_model("words").folder)
    assert "words, more than any in training" in words.predict("the room " * 30).warnings[0]
    assert words.predict("the room was fine").warnings == ()


def test_a_feature_without_any_value_or_with_far_ones_is_answered_with_a_warning(trained_model: Model) -> None:
    model = load(trained_model("attention").folder)
    fitted = model.card["scaling"]
    usual = np.array([*fitted["shift"][:2], 1.0, fitted["shift"][2]])
    x = np.tile(usual, (3, 5, 1))
    x[0, 1:, 0] = np.nan  # some value is there
    more = {"static": [[50.0, 1.0]] * 3, "ids": list("abc")}
    assert model.predict(x, **more).warnings == ()
    x[:2, :, 1], x[2, :, 2] = np.nan, np.nan
    assert model.predict(x, **more).warnings == (
        "`load` has no value in sequences a and b: the answers rest on its mean in training",
        "`mode` has no value in sequence c: the answer rests on its commonest word in training",
    )
    far = np.tile(usual, (3, 5, 1))
    far[1, 2, 3] = usual[3] + 21 * fitted["scale"][2]
    far[2, 2, 3] = usual[3] - 19 * fitted["scale"][2]
    [warning] = model.predict(far, **more).warnings
    assert warning == (
        f"`drift` is {far[1, 2, 3]:.6g} in sequence b, far from training (the mean {usual[3]:.6g} and the standard "
        f"deviation {fitted['scale'][2]:.6g}): check its unit, because the answers may be wrong"
    )
    [warning] = model.predict(np.tile(usual, (5, 1)), static=[[5000.0, 1.0]]).warnings
    assert warning.startswith("`age` is 5000 in sequence 0, far from training")


def test_a_forecast_counts_the_last_rows_without_a_target(trained_model: Model) -> None:
    model = load(trained_model("forecast").folder)
    x = np.array([[5.0, 0.1, 0.1]] * 12)
    x[3, 0] = np.nan
    assert model.predict([x, x]).warnings == ()
    last, dead = x.copy(), x.copy()
    last[-2:, 0], dead[:, 0] = np.nan, np.nan
    assert model.predict([x, last, dead], ids=list("abc")).warnings == (
        "`load` has no value in sequence c: the answer rests on its mean in training",
        "the last 2 rows of sequence b have no `load`: they are filled as gaps in training, and the forecast starts "
        "after them; leave them out to start it in their place",
    )


def test_a_model_whose_training_was_ended_early_says_so(trained_model: Model, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained_model("plain").folder, tmp_path / "model"))
    card = json.loads((folder / "model.json").read_bytes())
    (folder / "model.json").write_text(json.dumps({**card, "complete": False, "incomplete_because": "time_limit"}))
    x = np.zeros((card["data"]["lengths"]["longest"], 3))
    assert load(trained_model("plain").folder).predict(x).warnings == ()
    said = "the training of this model was ended early (time limit): these are its best weights until then"
    assert load(folder).predict(x).warnings == (said,)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_an_answer_that_is_not_finite_is_refused(trained_model: Model, tmp_path: Path, backend: Any) -> None:
    folder = Path(shutil.copytree(trained_model("relu").folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["rnn.weight_ih_l0"] *= np.float32(1e10)
    save_file(weights, folder / "model.safetensors")
    x = [np.zeros((5, 2)), np.full((4, 2), -1e35), np.full((4, 2), 1e35)]
    with pytest.raises(InputInvalid, match=r"sequences? .*c: the network gives no finite number: the values are far"):
        load(folder, backend).predict(x, ids=list("abc"))
    assert len(load(folder, backend).predict(x[:1])) == 1


def test_a_text_that_is_the_name_of_a_file_is_refused(trained_model: Model, tmp_path: Path) -> None:
    model = load(trained_model("words").folder)
    (tmp_path / "new.txt").write_text("the room")
    with pytest.raises(InputInvalid, match=r"new.txt is a file: give pathlib.Path\('.*new.txt'\) for the file"):
        model.predict(str(tmp_path / "new.txt"))
    assert len(model.predict([str(tmp_path / "new.txt")])) == 1
    assert len(model.predict("room " * 2000)) == 1  # no name of a file
    assert len(model.predict("a\0b")) == 1


def test_texts_may_be_an_array(trained_model: Model) -> None:
    model = load(trained_model("words").folder)
    listed = model.predict(["the room", "awful"]).probabilities
    np.testing.assert_allclose(model.predict(np.array(["the room", "awful"])).probabilities, listed)
