"""What was fitted, as operators: in the order of `loopline.preprocessing`, and with its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from loopline.files.rounding import ROUNDING
from loopline.preprocessing.choices import Choices
from loopline.preprocessing.fitted import WITH_GAPS_LEFT, Feature, Fitted
from loopline.preprocessing.scaling import QUARTILES, Scaling
from numpy.typing import DTypeLike

from services.training.export.graph import Graph, Value

FAR = 100.0
"""Scales from zero, from which on float32 would round too much of a value away before it is shifted."""


@dataclass(frozen=True)
class Steps:
    """Sequences in a graph."""

    x: Value
    """(batch, time, columns)"""
    lengths: Value
    """(batch,) int64"""


@dataclass(frozen=True)
class Prepared:
    """What the network reads."""

    steps: Steps
    """x in float32."""
    gaps: Value
    """(batch, time, 1) float32: more than 0 where a step has a missing value that nothing fills."""


def dtype_of(scaling: Scaling) -> type[np.float32] | type[np.float64]:
    """The type that numbers need until they are scaled so."""
    if scaling.shift is None or scaling.scale is None:
        return np.float32
    shift, scale = np.abs(scaling.shift), np.asarray(scaling.scale)
    return np.float64 if bool((shift > FAR * scale).any()) else np.float32


def without_padding(g: Graph, steps: Steps, dtype: DTypeLike) -> Steps:
    """With zeros behind the end of each sequence, whatever was there."""
    inside = g.unsqueeze(g.inside(steps.lengths, g.size(steps.x, 1)), 2)
    return Steps(g.op("Where", inside, steps.x, g.constant(0, dtype)), steps.lengths)


def chosen(g: Graph, steps: Steps, choices: Choices) -> Steps:
    """As `shape.chosen_steps`."""
    x, lengths = steps.x, steps.lengths
    if (most := choices.max_length) is not None:
        if choices.cut == "start":
            return _every(g, last(g, steps, most), choices.stride)
        x = g.slice(x, g.integers(0), g.integers(most), 1)
        lengths = g.op("Min", lengths, g.constant(most, np.int64))
    return _every(g, Steps(x, lengths), choices.stride)


def last(g: Graph, steps: Steps, most: int) -> Steps:
    """The last so many steps of each sequence, or as many as it has."""
    bound = g.constant(most, np.int64)
    time = g.size(steps.x, 1)
    begin = g.op("Max", g.op("Sub", steps.lengths, bound), g.constant(0, np.int64))
    places = g.op("Add", g.unsqueeze(begin, 1), g.unsqueeze(g.count(g.op("Min", time, bound)), 0))
    places = g.op("Min", places, g.op("Sub", time, g.integers(1)))
    return Steps(g.at_steps(steps.x, places), g.op("Min", steps.lengths, bound))


def _every(g: Graph, steps: Steps, stride: int) -> Steps:
    if stride == 1:
        return steps
    x = g.slice(steps.x, g.integers(0), g.integers(np.iinfo(np.int64).max), 1, stride)
    return Steps(x, g.divided_up(steps.lengths, stride))


def prepared(g: Graph, steps: Steps, fitted: Fitted, dtype: DTypeLike) -> Prepared:
    """What the network reads of raw steps of this type, before `patched`."""
    given = chosen(g, without_padding(g, steps, dtype), fitted.choices)
    missing = g.op("IsNaN", given.x)
    inside = g.inside(given.lengths, g.size(given.x, 1))
    x = filled(g, given.x, missing, inside, fitted, dtype)
    joined = channels(g, Steps(x, given.lengths), missing, fitted, dtype)
    return Prepared(without_padding(g, Steps(joined, given.lengths), np.float32), gaps(g, missing, fitted))


def alone(fitted: Fitted) -> Fitted:
    """The same for sequences of one step: all methods that fill gaps do the same there."""
    if fitted.choices.missing in WITH_GAPS_LEFT:
        return fitted
    return replace(fitted, choices=replace(fitted.choices, missing="mean"))


def gaps(g: Graph, missing: Value, fitted: Fitted) -> Value:
    """`Prepared.gaps`."""
    if fitted.choices.missing not in WITH_GAPS_LEFT:
        missing = g.op("And", missing, g.constant(False, np.bool_))
    return g.op("ReduceMax", g.cast(missing, np.float32), g.integers(2), keepdims=1)


# ---- gaps


def filled(g: Graph, x: Value, missing: Value, inside: Value | None, fitted: Fitted, dtype: DTypeLike) -> Value:
    """As `gaps.filled`; with zeros where nothing fills the gaps. `inside` (batch, time); None: a line may not be drawn
    here."""
    method = fitted.choices.missing
    if method in WITH_GAPS_LEFT:
        return g.op("Where", missing, g.constant(0, dtype), x)
    fills = [feature.fill or 0.0 for feature in fitted.features]
    if method == "mean":
        return g.op("Where", missing, g.constant(fills, dtype), x)
    if method == "forward":
        return _forward(g, x, missing, fills, dtype)
    assert inside is not None, "a forecast draws no line"  # noqa: S101
    return _line(g, x, missing, inside, fitted, fills, dtype)


def _forward(g: Graph, x: Value, missing: Value, fills: list[float], dtype: DTypeLike) -> Value:
    """The value before, and before the first one the mean."""

    def step(g: Graph, states: list[Value], inputs: list[Value]) -> list[Value]:
        return [g.op("Where", inputs[1], states[0], inputs[0])]

    begin = _of_each_row(g, x, g.constant(fills, dtype))
    return g.scan(step, [(begin, dtype)], [(x, dtype), (missing, np.bool_)])[0]


def _of_each_row(g: Graph, x: Value, values: Value) -> Value:
    """Values (columns,) for each sequence of x: (batch, columns)."""
    return g.op("Expand", values, g.op("Concat", g.size(x, 0), g.integers(1), axis=0))


def _line(
    g: Graph, x: Value, missing: Value, inside: Value, fitted: Fitted, fills: list[float], dtype: DTypeLike
) -> Value:
    """A line between the values on both sides; of categories the value before. In float64."""
    wide = g.cast(x, np.float64)
    observed = g.op("And", g.op("Not", missing), g.unsqueeze(inside, 2))
    time = g.size(x, 1)
    counted = g.unsqueeze(g.cast(g.count(time), np.float64), 0, 2)  # (1, time, 1)
    steps = g.op("Expand", counted, g.op("Shape", x))
    end = g.cast(time, np.float64)
    before, earlier = _nearest(g, wide, steps, observed, g.constant([-1.0], np.float64), fills)
    after, later = _nearest(g, wide, steps, observed, end, fills, backwards=True)
    apart = g.op("Max", g.op("Sub", after, before), g.constant(1.0, np.float64))
    share = g.op("Div", g.op("Sub", steps, before), apart)
    line = g.op("Add", earlier, g.op("Mul", g.op("Sub", later, earlier), share))
    line = g.op("Where", g.op("Less", before, g.constant(0.0, np.float64)), later, line)
    line = g.op("Where", g.op("Less", after, end), line, earlier)
    words = [feature.words is not None for feature in fitted.features]
    line = g.op("Where", g.constant(words, np.bool_), earlier, line)
    return g.op("Where", missing, g.cast(line, dtype), x)


def _nearest(
    g: Graph, x: Value, steps: Value, observed: Value, none: Value, fills: list[float], *, backwards: bool = False
) -> tuple[Value, Value]:
    """The place of the nearest value that was observed before each step, or after it, and that value. Where there is
    none it is at `none` (1,), and is the mean."""

    def step(g: Graph, states: list[Value], inputs: list[Value]) -> list[Value]:
        return [g.op("Where", inputs[2], inputs[0], states[0]), g.op("Where", inputs[2], inputs[1], states[1])]

    means = g.constant(fills, np.float64)
    begin = [_of_each_row(g, x, g.op("Expand", none, g.integers(len(fills)))), _of_each_row(g, x, means)]
    place, value = g.scan(
        step,
        [(each, np.float64) for each in begin],
        [(steps, np.float64), (x, np.float64), (observed, np.bool_)],
        backwards=backwards,
    )
    return place, value


# ---- numbers and words


def channels(g: Graph, steps: Steps, missing: Value, fitted: Fitted, dtype: DTypeLike) -> Value:
    """What is read of filled steps: numbers, one-hot words, masks, and numbers of words: (batch, time, channels)
    float32."""
    numbers = [place for place, feature in enumerate(fitted.features) if feature.words is None]
    parts = []
    if numbers:
        x = g.columns(steps.x, numbers, 2)
        parts.append(_scaled(g, _with_differences(g, x, fitted.choices.differences), steps.lengths, fitted, dtype))
    codes = []
    for place, feature in enumerate(fitted.features):
        if feature.words is None:
            continue
        code = g.columns(steps.x, [place], 2)
        if feature.embedding is None:
            parts.append(_one_hot(g, code, feature))
        else:
            codes.append(g.cast(code, np.float32))
    masks = [place for place, feature in enumerate(fitted.features) if feature.mask]
    if masks:
        parts.append(g.cast(g.columns(missing, masks, 2), np.float32))
    return g.op("Concat", *parts, *codes, axis=2)


def _one_hot(g: Graph, code: Value, feature: Feature) -> Value:
    words = g.constant(np.arange(1, len(feature.words or ()) + 1), np.int64)
    return g.cast(g.op("Equal", g.cast(code, np.int64), words), np.float32)


def _with_differences(g: Graph, x: Value, choice: str | None) -> Value:
    if choice is None:
        return x
    first, most = g.slice(x, g.integers(0), g.integers(1), 1), g.slice(x, g.integers(0), g.integers(-1), 1)
    found = g.op("Sub", x, g.op("Concat", first, most, axis=1))
    return found if choice == "replace" else g.op("Concat", x, found, axis=2)


def _scaled(g: Graph, x: Value, lengths: Value, fitted: Fitted, dtype: DTypeLike) -> Value:
    """As `scaling.scaled`, or `scaled_by_itself`: in float32."""
    scaling = fitted.scaling
    if fitted.choices.scaling_over == "per_sequence" and scaling.name != "none":
        return _by_itself(g, x, lengths, scaling.name)
    if scaling.shift is not None:
        x = g.op("Div", g.op("Sub", x, g.constant(scaling.shift, dtype)), g.constant(scaling.scale, dtype))
    return g.cast(x, np.float32)


def _by_itself(g: Graph, x: Value, lengths: Value, name: str) -> Value:
    x = g.cast(x, np.float64)
    inside = g.unsqueeze(g.inside(lengths, g.size(x, 1)), 2)
    count = g.unsqueeze(lengths, 1, 2)
    if name == "standard":
        shift = _mean(g, x, inside, count)
        apart = g.op("Sub", x, shift)
        scale = g.op("Sqrt", _mean(g, g.op("Mul", apart, apart), inside, count))
    elif name == "robust":
        ordered = g.ops(
            "TopK", 2, _or(g, inside, x, np.inf), g.size(x, 1), axis=1, largest=0, sorted=1
        )[0]  # fmt: skip
        low, shift, high = (_quantile(g, ordered, lengths, part) for part in QUARTILES)
        scale = g.op("Sub", high, low)
    else:
        shift = g.op("ReduceMin", _or(g, inside, x, np.inf), g.integers(1), keepdims=1)
        most = g.op("ReduceMax", _or(g, inside, x, -np.inf), g.integers(1), keepdims=1)
        scale = g.op("Sub", most, shift)
    least = g.op("Mul", g.op("Abs", shift), g.constant(ROUNDING, np.float64))
    scale = g.op("Where", g.op("Greater", scale, least), scale, g.constant(1.0, np.float64))
    return g.cast(g.op("Div", g.op("Sub", x, shift), scale), np.float32)


def _or(g: Graph, inside: Value, x: Value, other: float) -> Value:
    return g.op("Where", inside, x, g.constant(other, np.float64))


def _mean(g: Graph, x: Value, inside: Value, count: Value) -> Value:
    """(batch, 1, columns)"""
    total = g.op("ReduceSum", _or(g, inside, x, 0.0), g.integers(1), keepdims=1)
    return g.op("Div", total, g.cast(count, np.float64))


def _quantile(g: Graph, ordered: Value, lengths: Value, part: float) -> Value:
    """As `scaling._quantile`: (batch, 1, columns)."""
    one = g.constant(1, np.int64)
    place = g.op("Mul", g.cast(g.op("Sub", lengths, one), np.float64), g.constant(part, np.float64))
    below = g.cast(g.op("Floor", place), np.int64)
    above = g.op("Min", g.op("Add", below, one), g.op("Sub", lengths, one))
    low, high = (g.at_steps(ordered, g.unsqueeze(each, 1)) for each in (below, above))
    rest = g.unsqueeze(g.op("Sub", place, g.cast(below, np.float64)), 1, 2)
    return g.op("Add", low, g.op("Mul", g.op("Sub", high, low), rest))


# ---- patches


def patched(g: Graph, steps: Steps, size: int, width: int) -> Steps:
    """As `shape.patches`, of x (batch, time, width)."""
    if size == 1:
        return steps
    pads = g.integers(0, 0, 0, 0, size - 1, 0)
    count = g.divided_up(g.size(steps.x, 1), size)
    x = g.op("Pad", steps.x, pads, g.constant(0, np.float32))
    x = g.slice(x, g.integers(0), g.op("Mul", count, g.integers(size)), 1)
    shape = g.op("Concat", g.size(x, 0), count, g.integers(size * width), axis=0)
    return Steps(g.op("Reshape", x, shape), g.divided_up(steps.lengths, size))


def scaled_by(g: Graph, x: Value, shift: Any, scale: Any, rows: Value) -> Value:
    """x (batch, time, columns) minus the shifts and divided by the scales in these rows of tables (rows, columns)."""
    shift, scale = (g.unsqueeze(g.op("Gather", g.constant(each, np.float64), rows), 1) for each in (shift, scale))
    return g.cast(g.op("Div", g.op("Sub", g.cast(x, np.float64), shift), scale), np.float32)
