"""The whole graph of a model: raw data in, answers out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from loopline.prediction.document import Document
from loopline.preprocessing.fitted import Feature
from loopline.preprocessing.series import BySeries
from numpy.typing import DTypeLike

from services.training.export import answers, network, preprocessing
from services.training.export.graph import Graph, Value, Weights
from services.training.export.preprocessing import Steps

FORMAT, STATE_FORMAT = "loopline-onnx/1", "loopline-onnx/2"
"""The second one is that of a graph with a state."""
ABOUT = (
    "Raw data in, answers out: the preprocessing that was fitted is part of the graph. See docs/onnx.md of Loopline."
)


def build(document: Document, weights: Weights, dtype: DTypeLike = np.float32, targets: Sequence[str] = ()) -> bytes:
    """The file of the model with this model.json and these weights. `dtype` is the type that its raw steps need, and
    `targets` are the names of what it predicts."""
    g = Graph()
    if document.forecast is not None:
        _forecast(g, document, weights, dtype)
    elif document.task == "next_step":
        _next_step(g, document, weights)
    else:
        _sequences(g, document, weights, dtype)
    return g.model("loopline", ABOUT, _properties(document, targets))


def _sequences(g: Graph, document: Document, weights: Weights, dtype: DTypeLike) -> None:
    """Every task with one answer to all of a sequence, and tags."""
    fitted, text = document.preprocessing.steps, document.preprocessing.text
    if text is not None:
        steps, gaps = _tokens(g, fitted.choices.patch), None
    else:
        given = Steps(g.input("x", dtype, ("batch", "time", len(fitted.features))), _lengths(g))
        prepared = preprocessing.prepared(g, given, fitted, dtype)
        patch = fitted.choices.patch
        steps, gaps = preprocessing.patched(g, prepared.steps, patch, fitted.channels // patch), prepared.gaps
    static, gaps_beside = _static(g, document)
    outputs = network.answered(g, weights, document.architecture, steps, static)
    flagged = _flagged(g, steps, [each for each in (gaps, gaps_beside) if each is not None])
    classes = document.architecture.output_size
    if document.has_one_logit:
        answers.of_two_classes(g, outputs, flagged)
    elif document.task == "classification":
        answers.of_classes(g, outputs, flagged, classes)
    elif document.task == "multilabel":
        answers.of_labels(g, outputs, flagged, classes)
    elif document.task == "regression":
        scaling = document.target_scaling
        shift, scale = g.constant(scaling.shift or [0.0], np.float64), g.constant(scaling.scale or [1.0], np.float64)
        answers.of_values(g, outputs, flagged, shift, scale, ("batch", classes))
    else:
        answers.of_steps(g, outputs, flagged, classes)


def _next_step(g: Graph, document: Document, weights: Weights) -> None:
    """From a state and the next tokens to the probabilities of what comes after them, and the state then."""
    a = document.architecture
    shape = (network.states_of(a), "batch", a.hidden_size)
    steps, state = _tokens(g, a.patch), g.input("state", np.float32, shape)
    outputs, after = network.continued(g, weights, a, steps, None, state)
    answers.of_next_step(g, outputs, a.output_size)
    g.output("state_out", after, np.float32, shape)


def _tokens(g: Graph, patch: int) -> Steps:
    """The numbers of the tokens of texts."""
    steps = Steps(g.input("x", np.float32, ("batch", "time", patch)), _lengths(g))
    return preprocessing.without_padding(g, steps, np.float32)


def _lengths(g: Graph) -> Value:
    return g.input("lengths", np.int64, ("batch",))


def _static(g: Graph, document: Document) -> tuple[Value | None, Value | None]:
    """What the head reads beside the pooled steps (batch, values), and its gaps (batch, 1, 1)."""
    fitted = document.preprocessing.static
    if fitted is None or not fitted.features:
        return None, None
    dtype = preprocessing.dtype_of(fitted.scaling)
    given = g.input("static", dtype, ("batch", len(fitted.features)))
    ones = g.op("Expand", g.constant(1, np.int64), g.size(given, 0))
    prepared = preprocessing.prepared(g, Steps(g.unsqueeze(given, 1), ones), preprocessing.alone(fitted), dtype)
    return g.op("Squeeze", prepared.steps.x, g.integers(1)), prepared.gaps


def _flagged(g: Graph, steps: Steps, gaps: list[Value]) -> Value:
    """Which sequences have a gap that nothing fills: (batch,) bool. `gaps` (batch, any, 1) each."""
    if not gaps:
        return g.op("Expand", g.constant(False, np.bool_), g.size(steps.x, 0))
    found = g.op("Concat", *gaps, axis=1)
    most = g.op("ReduceMax", found, g.integers(1, 2), keepdims=0)
    return g.op("Greater", most, g.constant(0, np.float32))


# ---- forecasts


def _forecast(g: Graph, document: Document, weights: Weights, dtype: DTypeLike) -> None:
    assert document.forecast is not None  # noqa: S101
    fit, lookback, horizon = document.forecast.fit, document.forecast.lookback, document.forecast.horizon
    fitted = fit.preprocessing.steps
    given = Steps(g.input("x", dtype, ("batch", "time", len(fitted.features))), _lengths(g))
    is_by_series = fit.inputs is not None or fit.outputs is not None
    series = g.input("series", np.int64, ("batch",)) if is_by_series else None
    begun, kind = _by_series(g, given.x, fit.inputs, series, range(len(fitted.features)), dtype)
    prepared = preprocessing.prepared(g, Steps(begun, given.lengths), fitted, kind)
    read = preprocessing.last(g, prepared.steps, lookback)
    gaps = [preprocessing.last(g, Steps(prepared.gaps, given.lengths), lookback).x]
    beside = []
    if fit.known is not None:
        ahead, more = _known(g, document, Steps(begun, given.lengths), series, horizon, dtype)
        beside.append(ahead)
        gaps.append(more)
    static, more_gaps = _static(g, document)
    if static is not None and more_gaps is not None:
        beside.append(static)
        gaps.append(more_gaps)
    both = None if not beside else beside[0] if len(beside) == 1 else g.op("Concat", *beside, axis=1)
    outputs = network.answered(g, weights, document.architecture, read, both)
    _future(g, document, outputs, _flagged(g, read, gaps), series, horizon)


def _by_series(
    g: Graph, x: Value, by_series: BySeries | None, series: Value | None, columns: Sequence[int], dtype: DTypeLike
) -> tuple[Value, DTypeLike]:
    """Some columns of series, scaled by what each series has of its own; and their type now."""
    if by_series is None or series is None:
        return x, dtype
    shift, scale = (each[:, list(columns)] for each in (by_series.shift, by_series.scale))
    return preprocessing.scaled_by(g, x, shift, scale, series), np.float32


def _known(
    g: Graph, document: Document, steps: Steps, series: Value | None, horizon: int, dtype: DTypeLike
) -> tuple[Value, Value]:
    """What is known ahead of time, as the head reads it: (batch, horizon * values), and its gaps. A gap is filled by
    what was there before, also before the horizon."""
    assert document.forecast is not None  # noqa: S101
    fit = document.forecast.fit
    assert fit.known is not None  # noqa: S101
    fitted, names = fit.known.steps, [feature.name for feature in fit.preprocessing.steps.features]
    columns = [names.index(feature.name) for feature in fitted.features]
    given = g.input("known_future", dtype, ("batch", horizon, len(columns)))
    ahead, kind = _by_series(g, given, fit.inputs, series, columns, dtype)
    inside = g.unsqueeze(g.inside(steps.lengths, g.size(steps.x, 1)), 2)
    past = g.op("Where", inside, g.columns(steps.x, columns, 2), g.constant(np.nan, kind))
    whole = g.op("Concat", past, ahead, axis=1)
    missing = g.op("IsNaN", whole)
    filled = preprocessing.filled(g, whole, missing, None, fitted, kind)
    end = g.integers(np.iinfo(np.int64).max)
    filled, missing = (g.slice(each, g.integers(-horizon), end, 1) for each in (filled, missing))
    every = g.op("Expand", g.constant(horizon, np.int64), g.size(steps.x, 0))
    found = preprocessing.channels(g, Steps(filled, every), missing, fitted, kind)
    flat = g.op("Reshape", found, g.integers(0, horizon * fitted.channels))
    return flat, preprocessing.gaps(g, missing, fitted)


def _future(g: Graph, document: Document, outputs: Value, gaps: Value, series: Value | None, horizon: int) -> None:
    assert document.forecast is not None  # noqa: S101
    fit, quantiles, targets = document.forecast.fit, document.forecast.quantiles, len(document.forecast.targets)
    shape: list[int | str] = ["batch", horizon, targets]
    if quantiles:
        ordered = g.op("Reshape", outputs, g.integers(0, horizon * targets, len(quantiles)))
        outputs = g.ops("TopK", 2, ordered, g.integers(len(quantiles)), axis=2, largest=0, sorted=1)[0]
        shape.append(len(quantiles))
    outputs = g.op("Reshape", outputs, g.integers(0, *(int(each) for each in shape[1:])))
    if fit.outputs is not None and series is not None:
        tables = (g.constant(each, np.float64) for each in (fit.outputs.shift, fit.outputs.scale))
        shift, scale = (g.unsqueeze(g.op("Gather", each, series), 1) for each in tables)
    else:
        scaling = fit.target_scaling
        shift = g.constant([[scaling.shift or [0.0] * targets]], np.float64)
        scale = g.constant([[scaling.scale or [1.0] * targets]], np.float64)
    if quantiles:
        shift, scale = g.unsqueeze(shift, 3), g.unsqueeze(scale, 3)
    answers.of_values(g, outputs, gaps, shift, scale, shape)


# ---- what the file says of itself


def _properties(document: Document, targets: Sequence[str]) -> dict[str, str]:
    """Texts as they are, everything else as JSON."""
    prepared = document.preprocessing
    found: dict[str, Any] = {"features": [_feature(each) for each in prepared.steps.features]}
    if prepared.static is not None:
        found["static"] = [_feature(each) for each in prepared.static.features]
    if document.classes is not None:
        found["classes"] = document.classes
    if targets:
        found["targets"] = list(targets)
    if prepared.text is not None:
        choices = prepared.steps.choices
        read = {"max_length": choices.max_length, "cut": choices.cut, "stride": choices.stride, "patch": choices.patch}
        found |= {"features": [], "text": {**prepared.text.document(), **read}}
    if document.forecast is not None:
        names = ("lookback", "horizon", "targets", "quantiles", "calendar")
        found |= {name: value for name in names if (value := getattr(document.forecast, name))}
        if document.forecast.zoned is not None:
            found["zoned"] = document.forecast.zoned
        if document.forecast.known:
            found["known_future"] = document.forecast.known
        by_series = document.forecast.fit.inputs or document.forecast.fit.outputs
        if by_series is not None:
            found["series"] = list(by_series.ids)
    as_json = {name: json.dumps(value, ensure_ascii=False) for name, value in found.items()}
    return {"format": STATE_FORMAT if document.task == "next_step" else FORMAT, "task": document.task, **as_json}


def _feature(feature: Feature) -> dict[str, Any]:
    return {"name": feature.name, **({} if feature.words is None else {"words": list(feature.words)})}
