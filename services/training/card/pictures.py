"""The pictures of a model card, by the names of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.training.card import charts, heat_map, svg
from services.training.card.charts import (
    FIRST,
    QUIET,
    SECOND,
    Across,
    Band,
    Bars,
    Diagonal,
    Line,
    Mark,
    Plot,
    Points,
    Upright,
)
from services.training.card.facts import Facts, Forecasted, Values
from services.training.card.names import (
    CALIBRATION,
    CONFUSION,
    FORECAST,
    GRADIENTS,
    HORIZON,
    LENGTHS,
    LOSS,
    PREDICTIONS,
)
from services.training.card.wording import are_quarters, metric_name

DECADES = 30.0
"""An axis is logarithmic if its highest value is so many times its lowest."""

LEAST_HORIZON = 3
"""Steps of a horizon that are worth a picture."""


def of(facts: Facts) -> dict[str, bytes]:
    """Each picture that there is something to show on."""
    return dict(_all(facts))


def _all(facts: Facts) -> Iterator[tuple[str, bytes]]:
    if any(epoch.get("train_loss") is not None for epoch in facts.epochs):
        yield LOSS, _losses(facts)
    if any(epoch.get("grad_norm_mean") is not None for epoch in facts.epochs):
        yield GRADIENTS, _gradients(facts)
    if (matrix := (facts.details.get("confusion") or {}).get("matrix")) is not None:
        names = [str(name) for name in facts.details["classes"]["name"]]
        title = f"Confusion, {facts.split} split"
        yield CONFUSION, heat_map.heat_map(title, matrix, names, "answer of the model", "true class")
    if (found := facts.details.get("calibration")) and found["error"] is not None:
        yield CALIBRATION, _calibration(found, f"Calibration, {facts.split} split")
    if (found := facts.details.get("lengths")) is not None:
        yield LENGTHS, _lengths(facts, found)
    if len((found := facts.details.get("horizon") or {}).get("step", ())) >= LEAST_HORIZON:
        yield HORIZON, _horizon(facts, found)
    if facts.examples is not None and facts.examples.forecasts:
        yield FORECAST, _forecasts(facts.examples.forecasts, facts.examples.split)
    if facts.examples is not None and facts.examples.values is not None:
        yield PREDICTIONS, _values(facts.examples.values, facts.examples.split)


def _losses(facts: Facts) -> bytes:
    lines = _lines(facts, {"train_loss": ("training", FIRST), "validation_loss": ("validation", SECOND)})
    return charts.figure("Loss by epoch", [_by_epoch(facts, "loss", lines)])


def _gradients(facts: Facts) -> bytes:
    marks: list[Mark] = [
        *_lines(facts, {"grad_norm_mean": ("mean of the epoch", FIRST), "grad_norm_max": ("largest", SECOND)})
    ]
    bound = facts.spec["training"]["max_grad_norm"]
    if bound is not None:
        marks.append(Across(f"clipped to {bound:g}", float(bound)))
    return charts.figure("Gradient norm before clipping, by epoch", [_by_epoch(facts, "norm", marks)])


def _lines(facts: Facts, names: Mapping[str, tuple[str, svg.Style]]) -> list[Line]:
    numbers = list(range(1, len(facts.epochs) + 1))
    columns = {name: [epoch.get(name) for epoch in facts.epochs] for name in names}
    there = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return [Line(names[name][0], numbers, values, names[name][1]) for name, values in there.items()]


def _by_epoch(facts: Facts, y_label: str, marks: Sequence[Mark]) -> Plot:
    best = facts.model["best_epoch"]
    upright = [] if best is None else [Upright(f"best epoch ({best})", best)]
    values = [y for mark in marks if isinstance(mark, Line) for y in mark.y if y is not None]
    is_wide = bool(values) and min(values) > 0 and max(values) > DECADES * min(values)
    return Plot("epoch", y_label + (" (logarithmic)" if is_wide else ""), [*marks, *upright], log=is_wide, whole_x=True)


def _calibration(found: Mapping[str, Any], title: str) -> bytes:
    total, bins = sum(found["count"]), len(found["count"])
    middles = [(place + 0.5) / bins for place in range(bins)]
    there = [place for place in range(bins) if found["count"][place]]
    marks: list[Mark] = [
        Bars("share of all answers", middles, [count / total for count in found["count"]], 1 / bins),
        Diagonal("a calibrated model"),
        Line(
            "this model",
            [found["probability"][place] for place in there],
            [found["share"][place] for place in there],
            FIRST,
        ),
    ]
    plot = Plot("probability that the model gives", "share that came true", marks, square=True, span=(0.0, 1.0))
    return charts.figure(title, [plot], height=330)


def _lengths(facts: Facts, found: Mapping[str, Any]) -> bytes:
    """A level line for each range of lengths."""
    x: list[float] = []
    y: list[float | None] = []
    for shortest, longest, value in zip(found["shortest"], found["longest"], found[facts.metric], strict=True):
        x += [shortest, longest, longest]
        y += [value, value, None]
    range_ = "a quarter of the sequences" if are_quarters(found["sequences"]) else "a range of lengths"
    marks: list[Mark] = [Line(range_, x, y, FIRST)]
    if (value := facts.judged) is not None:
        marks.append(Across(f"all sequences ({value:.3g})", value))
    name = metric_name(facts.metric)
    plot = Plot("steps of a sequence", name, marks, whole_x=True)
    return charts.figure(f"{name[0].upper()}{name[1:]} by length, {facts.split} split", [plot])


def _horizon(facts: Facts, found: Mapping[str, Any]) -> bytes:
    name, unit = "mase", "MASE"  # several targets may have several units
    if len(targets := facts.model["forecast"]["targets"]) == 1:
        name, unit = "mae", f"MAE of {targets[0]}"
    plot = Plot("steps ahead", unit, [Line("mean of all forecasts", found["step"], found[name], FIRST)], whole_x=True)
    return charts.figure(f"{name.upper()} by step ahead, {facts.split} split", [plot])


def _forecasts(found: Sequence[Forecasted], split: str) -> bytes:
    plots = [_forecast(each, number) for number, each in enumerate(found, 1)]
    return charts.figure(f"Forecasts beside the truth, {split} split", plots, columns=min(2, len(plots)))


def _forecast(found: Forecasted, number: int) -> Plot:
    ahead = list(range(1, len(found.actual) + 1))
    past = list(range(1 - len(found.past), 1))
    marks: list[Mark] = []
    if found.low is not None and found.high is not None:
        marks.append(Band("between the outermost quantiles", ahead, found.low, found.high))
    marks += [
        Upright("the last step that the model reads", 0, QUIET),
        Line("actual", [*past, *ahead], [*found.past, *found.actual], FIRST),
        Line("forecast", ahead, found.predicted, SECOND),
    ]
    title = f"{number}" if found.when is None else f"{number}: from {found.when}"
    return Plot("steps ahead", found.target, marks, title, whole_x=True)


def _values(found: Values, split: str) -> bytes:
    plots = []
    for place, name in enumerate(found.names):
        actual, predicted = ([row[place] for row in rows] for rows in (found.actual, found.predicted))
        marks: list[Mark] = [Diagonal("a perfect answer"), Points("a sample", actual, predicted, FIRST)]
        plots.append(Plot("actual", "predicted", marks, svg.shortened(name, 40), square=True))
    height = 330.0 if len(plots) < 3 else 290.0
    return charts.figure(f"Predicted against actual, {split} split", plots, columns=min(2, len(plots)), height=height)
