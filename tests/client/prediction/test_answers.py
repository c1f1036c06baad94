"""A loaded model answers as the network that was trained, in the terms of the data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loopline import load
from loopline.prediction.answers import Classification, Forecast, Multilabel, NextStep, Tags, Values

from services.training.preprocessing.scaling import undone
from services.training.tasks.forecast import Forecast as ForecastTask
from tests.client.prediction.cases import CASES, Trained, numbers
from tests.training.building import flat

BACKENDS = ("onnxruntime", "torch", "numpy")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""float32 has seven digits, and sums are in another order."""
Model = Callable[[str], Trained]


def expected(case: Trained) -> Any:
    """What the outputs of the trained network mean."""
    outputs, task = case.outputs(), case.run.data.task
    if isinstance(task, ForecastTask):
        assert case.run.data.test is not None
        targets = case.run.data.test.targets(torch.arange(len(case.run.data.test)))
        return task.unscaled(task.ordered(outputs), targets[:, -1]).numpy()
    if task.name == "values":
        return undone(outputs, case.run.data.target_scaling).numpy()
    if task.name == "multilabel":
        yes = outputs.sigmoid().numpy()
        return yes if case.run.data.classes is None else np.concatenate((1 - yes, yes), axis=1)
    return outputs.softmax(dim=1).numpy()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "next"])
def test_a_loaded_model_answers_as_the_trained_network(trained_model: Model, name: str, backend: Any) -> None:
    case = trained_model(name)
    model = load(case.folder, backend)
    answer = model.predict(**case.asked(model))
    np.testing.assert_allclose(numbers(answer), expected(case), **CLOSE)
    assert model.backend == backend


@pytest.mark.parametrize("name", ["plain", "attention", "embedded", "one logit", "words"])
def test_the_accuracy_of_training_follows_from_the_answers(trained_model: Model, name: str) -> None:
    case = trained_model(name)
    model = load(case.folder)
    answer = model.predict(**case.asked(model))
    assert isinstance(answer, Classification)
    assert np.mean(np.array(answer.labels) == case.y()) == pytest.approx(model.metrics["test_accuracy"])


def test_the_other_metrics_of_training_follow_from_the_answers(trained_model: Model) -> None:
    def asked(name: str) -> tuple[Trained, Any, Any]:
        case = trained_model(name)
        model = load(case.folder)
        return case, model.predict(**case.asked(model)), model.metrics

    case, tagged, metrics = asked("tags")
    assert isinstance(tagged, Tags)
    actual = flat(case.arrays.chosen(case.rows), case.y())[:, 0]
    found = [label for labels in tagged.labels for label in labels]
    assert np.mean(found == actual) == pytest.approx(metrics["test_accuracy"])
    case, labelled, metrics = asked("labels")
    assert isinstance(labelled, Multilabel)
    assert np.mean((labelled.probabilities > 0.5) == case.y()) == pytest.approx(metrics["test_label_accuracy"])
    case, valued, metrics = asked("values")
    assert isinstance(valued, Values)
    assert np.abs(valued.values - case.y()).mean() == pytest.approx(metrics["test_mae"], rel=1e-4)


@pytest.mark.parametrize("name", ["forecast", "calendar", "quantiles"])
def test_the_errors_of_a_forecast_are_those_of_training(trained_model: Model, name: str) -> None:
    case = trained_model(name)
    model = load(case.folder)
    answer = model.predict(**case.asked(model))
    assert isinstance(answer, Forecast)
    longest = case.arrays.x.shape[1]
    actual = [case.arrays.x[f // longest, f % longest : f % longest + 3, :1] for f in case.rows]
    errors = np.abs(answer.values - np.array(actual))
    known = ~np.isnan(errors)
    assert errors[known].mean() == pytest.approx(model.metrics["test_mae"], rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_next_step_is_that_of_the_trained_network(trained_model: Model, backend: Any) -> None:
    case = trained_model("next")
    model = load(case.folder, backend)
    answer = model.predict(["ab, c", "", "dd\nz"])
    assert isinstance(answer, NextStep)
    vocabulary = case.run.data.preprocessing.text
    assert vocabulary is not None
    places = vocabulary.places()
    for row, text in enumerate(["\nab, c", "\n", "\ndd\nz"]):
        codes = torch.tensor([[places.get(letter, 1) for letter in text]], dtype=torch.float32)[:, :, None]
        outputs, _ = case.run.model.eval().continued(codes, None, None, ())
        np.testing.assert_allclose(answer.probabilities[row], outputs[-1].softmax(0).detach().numpy(), **CLOSE)
    best = answer.likeliest(3)[0]
    assert len(best) == 3
    assert best[0][1] == max(answer.probabilities[0][1:])
    assert answer.entries[0] is None


@pytest.mark.parametrize("name", ["attention", "by itself", "tags", "words"])
def test_sequences_get_the_same_answer_alone_in_a_list_and_padded(trained_model: Model, name: str) -> None:
    case = trained_model(name)
    model = load(case.folder)
    asked = case.asked(model)
    together = numbers(model.predict(**asked))
    static = asked["static"]
    alone = [
        numbers(model.predict([x] if isinstance(x, str) else x, static=None if static is None else static[[row]]))
        for row, x in enumerate(asked["x"])
    ]
    np.testing.assert_allclose(np.concatenate(alone), together, **CLOSE)
    if not isinstance(asked["x"][0], str):
        lengths = np.array([len(x) for x in asked["x"]])
        padded = np.full((len(lengths), lengths.max(), asked["x"][0].shape[1]), np.nan)
        for row, x in zip(padded, asked["x"], strict=True):
            row[: len(x)] = x
        for x in (padded, list(padded), padded.tolist()):
            np.testing.assert_allclose(numbers(model.predict(x, lengths=lengths, static=static)), together, **CLOSE)


def test_an_attribute_of_another_task_is_refused_with_those_that_there_are() -> None:
    answer = Values(task="regression", ids=("0",), names=("load",), values=np.ones((1, 1)))
    with pytest.raises(AttributeError, match=r"task 'regression' has no 'labels'\. It has: columns, ids, names, task"):
        answer.labels  # noqa: B018
    assert copy.copy(answer).names == ("load",)
