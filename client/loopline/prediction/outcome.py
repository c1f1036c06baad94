"""From what a network gives to numbers that mean something: probabilities, and values in the unit of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loopline.prediction.document import Document, Forecast, columns_of
from loopline.prediction.given import Batch
from loopline.preprocessing.fitted import Fitted, Inputs
from loopline.preprocessing.texts import FIRST, UNKNOWN, Vocabulary
from loopline.preprocessing.tokens import LINE_BREAK, tokens

Floats = NDArray[np.float64]


class Backend(Protocol):
    """Answers about some sequences: what `outcome` gives."""

    name: str

    def outcome(self, batch: Batch) -> Floats:
        """By task: classification, probabilities (sequences, classes); multilabel, probabilities of yes (sequences,
        labels); regression, values (sequences, targets); tagging, probabilities (steps of all sequences, tags);
        forecast, values (sequences, horizon, targets, quantiles or 1); next_step, probabilities (sequences, entries of
        the vocabulary), first that of what is unknown."""
        ...


class Network(Protocol):
    def outputs(
        self, x: NDArray[np.float32], lengths: NDArray[np.int64], static: NDArray[np.float32] | None
    ) -> NDArray[np.float32]: ...


class Computed:
    """A backend that prepares sequences here, and has a network."""

    def __init__(self, name: str, document: Document, network: Network) -> None:
        self.name, self._document, self._network = name, document, network

    def outcome(self, batch: Batch) -> Floats:
        inputs = prepared(self._document, batch)
        outputs = self._network.outputs(inputs.x, inputs.lengths, inputs.static)
        return meaning(self._document, outputs, batch.ids)


# ---- what the network reads


def prepared(document: Document, batch: Batch) -> Inputs:
    """What the network reads of some sequences, x (sequences, steps, channels)."""
    if document.forecast is not None:
        return _of_series(document, document.forecast, batch)
    text = document.preprocessing.text
    if text is None or batch.texts is None:
        return document.preprocessing.applied(batch)
    if document.task == "next_step":
        flat = [read_so_far(text, each) for each in batch.texts]
        codes, lengths = np.concatenate(flat), np.array([len(each) for each in flat], np.int64)
    else:
        steps, lengths = text.applied(batch.texts, document.preprocessing.steps.choices)
        codes = steps
    x = np.zeros((len(lengths), int(lengths.max()), document.architecture.patch), np.float32)
    x[np.arange(x.shape[1]) < lengths[:, None]] = codes.reshape(-1, x.shape[2])
    return Inputs(x, lengths, document.preprocessing.static_values(batch))


def read_so_far(vocabulary: Vocabulary, text: str, *, begins: bool = True) -> NDArray[np.float32]:
    """The numbers of a text that is to go on, (steps,): a line break is read before each line, so also at first if the
    text `begins` here."""
    place = vocabulary.places()
    found: list[str] = []
    for number, line in enumerate(text.split(LINE_BREAK)):
        found += [LINE_BREAK] if begins or number else []
        found += tokens(line, vocabulary.by, lowercase=vocabulary.lowercase)
    return np.array([place.get(each, UNKNOWN) for each in found], np.float32)


def _of_series(document: Document, forecast: Forecast, batch: Batch) -> Inputs:
    fit, x, lengths = forecast.fit, batch.x_in_memory, batch.lengths
    if fit.inputs is not None:
        x = fit.inputs.scaled(x, lengths, batch.ids)
    read, _ = fit.preprocessing.steps.applied(x, lengths, batch.columns)
    last = lengths[:, None] - forecast.lookback + np.arange(forecast.lookback)
    beside = []
    if fit.known is not None and batch.future is not None:
        beside.append(_known(fit.known.steps, forecast, batch, x))
    if (static := fit.preprocessing.static_values(batch)) is not None:
        beside.append(static)
    return Inputs(
        np.take_along_axis(read, last[:, :, None], axis=1),
        np.full(len(batch), forecast.lookback, np.int64),
        np.concatenate(beside, axis=1) if beside else None,
    )


def _known(fitted: Fitted, forecast: Forecast, batch: Batch, x: NDArray[Any]) -> NDArray[np.float32]:
    """What is known of the horizon: (sequences, horizon * numbers). It is prepared with the steps before, whose values
    fill its gaps."""
    assert batch.future is not None, "inputs.py asks for it"  # noqa: S101
    names = [column.name for column in batch.columns]
    places = [names.index(name) for name in forecast.known]
    future = batch.future
    if (inputs := forecast.fit.inputs) is not None:
        shift, scale = inputs.rows(batch.ids)
        future = (future - shift[:, None, places]) / scale[:, None, places]
    whole = np.zeros((len(batch), x.shape[1] + forecast.horizon, len(places)), np.result_type(x, np.float32))
    whole[:, : x.shape[1]] = x[:, :, places]
    ahead = batch.lengths[:, None] + np.arange(forecast.horizon)
    np.put_along_axis(whole, ahead[:, :, None], future.astype(whole.dtype), axis=1)
    columns = columns_of(fitted.features)
    found, _ = fitted.applied(whole, batch.lengths + forecast.horizon, columns)
    return np.take_along_axis(found, ahead[:, :, None], axis=1).reshape(len(batch), -1)


# ---- what its outputs mean


def meaning(document: Document, outputs: NDArray[Any], ids: Sequence[str]) -> Floats:
    """Outputs of the head (rows, output_size) as `Backend.outcome` has them."""
    found = outputs.astype(np.float64)
    if document.task == "multilabel":
        return _sigmoid(found)
    if document.has_one_logit:
        yes = _sigmoid(found)
        return np.concatenate((1.0 - yes, yes), axis=1)
    if document.task == "regression":
        return document.target_scaling.undone(found)
    if document.forecast is not None:
        return _in_unit(document.forecast, found, ids)
    found = np.exp(found - found.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float64)


def _in_unit(forecast: Forecast, outputs: Floats, ids: Sequence[str]) -> Floats:
    shift, scale = forecast.fit.target_units(tuple(ids), len(forecast.targets))
    values = outputs.reshape(len(outputs), forecast.horizon, len(forecast.targets), -1)
    values = np.sort(values, axis=3)  # quantiles do not cross
    return np.asarray(values * scale[:, None, :, None] + shift[:, None, :, None], np.float64)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float64)


def entries(vocabulary: Vocabulary) -> tuple[str | None, ...]:
    """What each probability of a next step is of; None is what the vocabulary does not have."""
    return (None,) * (FIRST - UNKNOWN) + vocabulary.entries
