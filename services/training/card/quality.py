"""How good a model is: its metrics, and what lies behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.training.card import names as files
from services.training.card.facts import Facts
from services.training.card.markdown import block, cell, number, sentence, table
from services.training.card.wording import (
    Lines,
    Pictures,
    are_quarters,
    counted,
    metric_name,
    picture,
    span,
    split_name,
)
from services.training.measures import SPLITS

MOST_ROWS = 30
"""Of a table of classes, labels or targets."""
MOST_WRITTEN = 12
"""The most classes whose whole confusion matrix is a table too."""
MOST_CONFUSIONS = 10
KINDS = {"classes": "class", "labels": "label", "targets": "target", "horizon": "step ahead"}


def quality(facts: Facts, drawn: Pictures) -> Lines:
    found = ["## How good it is", "", *_folds(facts.model), *_metrics(facts)]
    details = facts.details
    for kind in KINDS:
        if details.get(kind):
            found += [f"### Each {KINDS[kind]} ({facts.split} split)", "", *_each(details, kind)]
    if files.HORIZON in drawn:
        found += picture("Error by step ahead", files.HORIZON)
    found += _lengths(facts, drawn) + _places(facts)
    found += _quantiles(facts) + _confusion(facts, drawn) + _calibration(facts, drawn)
    if files.FORECAST in drawn:
        found += ["### Forecasts", "", "Windows that are spread evenly over the split, not chosen.", ""]
        found += picture("Forecasts beside the truth", files.FORECAST)
    if files.PREDICTIONS in drawn:
        found += ["### Predicted against actual", "", "Samples that are spread evenly over the split, not chosen.", ""]
        found += picture("Predicted against actual", files.PREDICTIONS)
    if (sample := facts.model.get("sample")) is not None:
        found += ["### A text that it wrote", "", *block(sample["text"])]
    return found


def _metrics(facts: Facts) -> Lines:
    metrics, baseline = facts.model["metrics"], facts.model["baseline"]
    splits = [each for each in reversed(SPLITS) if any(key.startswith(f"{each}_") for key in metrics)]
    names = list(
        dict.fromkeys(
            key.removeprefix(f"{split}_") for split in splits for key in metrics if key.startswith(f"{split}_")
        )
    )
    heads = ["metric", *(head for split in splits for head in (split_name(split), "baseline"))]
    rows = []
    for each in names:
        keys = [f"{split}_{each}" for split in splits]
        cells = [cell for key in keys for cell in (metrics.get(key), baseline["metrics"].get(key))]
        rows.append([metric_name(each), *map(number, cells)])
    found = [*table(heads, rows), sentence(f"The baseline is {baseline['answer']}.")]
    for other, values in (baseline.get("others") or {}).items():
        found.append(
            sentence(f"With {other}, {metric_name(baseline['metric'])} is {number(values.get(baseline['metric']))}.")
        )
    return [*found, ""]


def _folds(model: Mapping[str, Any]) -> Lines:
    if not model.get("folds"):
        return []
    mean, std, plain = model["mean"], model["std"], model["baseline"]["metrics"]
    rows = [(metric_name(key), number(mean[key]), number(std.get(key)), number(plain.get(key))) for key in mean]
    folds = counted(len(model["folds"]), "fold")
    said = f"Mean and standard deviation of {folds}, each judged on samples that it was not trained on:"
    after = "The final model was then trained on all samples of the folds:"
    return [said, "", *table(("metric", "mean", "std", "baseline"), rows), after, ""]


def _each(details: Mapping[str, Any], kind: str) -> Lines:
    """A row for each class, label, target or step; of many classes those with the lowest F1."""
    columns = details[kind]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    kept, said = rows[:MOST_ROWS], []
    if len(rows) > MOST_ROWS and "f1" in columns:
        kept = sorted(rows, key=lambda row: -1.0 if row["f1"] is None else row["f1"])[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        said = [f"The {MOST_ROWS} {'with the lowest F1' if 'f1' in columns else 'first'} of {len(rows):,}:", ""]
    cells = [[_cell(column, value) for column, value in row.items()] for row in kept]
    cells += [_mean(each, details[each], columns) for each in ("macro", "weighted") if details.get(each)]
    return [*said, *table([KINDS[kind], *map(metric_name, list(columns)[1:])], cells)]


def _mean(which: str, values: Mapping[str, Any], columns: Mapping[str, Any]) -> list[str]:
    """The last rows of a table of classes."""
    return [f"*{which} mean*", *("" if key == "support" else number(values.get(key)) for key in list(columns)[1:])]


def _cell(column: str, value: Any) -> str:
    if column == "name":
        return cell(value)
    return f"{value:,}" if column in ("support", "step") else number(value)


def _lengths(facts: Facts, drawn: Pictures) -> Lines:
    if not (found := facts.details.get("lengths")):
        return []
    said = "has about a quarter of the sequences" if are_quarters(found["sequences"]) else "is a range of lengths"
    lines = [f"### By length ({facts.split} split)", "", f"Each row {said}.", ""]
    lines += _ranges(found, ("shortest", "longest", "sequences"), "steps")
    return lines + (picture("The metric by length", files.LENGTHS) if files.LENGTHS in drawn else [])


def _places(facts: Facts) -> Lines:
    if not (found := facts.details.get("places")):
        return []
    said = "At its first steps a model has read little of a text, so they are harder to predict."
    heads = [f"### By step of a text ({facts.split} split)", "", said, ""]
    return [*heads, *_ranges(found, ("first", "last", "steps"), "step of the text")]


def _ranges(found: Mapping[str, Any], about: tuple[str, str, str], head: str) -> Lines:
    """A table with a row for each range. `about` are the columns of its ends and of its size."""
    names = [name for name in found if name not in about and name != "is_worse"]
    rows = [
        [span(found[about[0]][place], found[about[1]][place]), f"{count:,}", *(number(found[n][place]) for n in names)]
        for place, count in enumerate(found[about[2]])
    ]
    return table([head, about[2], *map(metric_name, names)], rows)


def _confusion(facts: Facts, drawn: Pictures) -> Lines:
    found = facts.details.get("confusion") or {}
    if "matrix" not in found:
        return []
    lines = ["### What is confused", ""]
    if files.CONFUSION in drawn:
        lines += picture("Confusion matrix", files.CONFUSION)
    names = [cell(each) for each in facts.details["classes"]["name"]]
    if found["matrix"] is not None and len(names) <= MOST_WRITTEN:
        rows = [
            [each, *(f"{count:,}" for count in counts)] for each, counts in zip(names, found["matrix"], strict=True)
        ]
        return [*lines, "Rows are true classes, columns are answers.", "", *table(["", *names], rows)]
    if not found["largest"]:
        return []
    rows = [
        [cell(each["actual"]), cell(each["predicted"]), f"{each['count']:,}"]
        for each in found["largest"][:MOST_CONFUSIONS]
    ]
    return [*lines, "The most frequent confusions:", "", *table(("true class", "answer", "times"), rows, right=2)]


def _calibration(facts: Facts, drawn: Pictures) -> Lines:
    if files.CALIBRATION not in drawn:
        return []
    error = facts.details["calibration"]["error"]
    return [
        "### Calibration",
        "",
        f"The expected calibration error is {number(error)}: on average the probabilities differ by this much from the "
        "share of answers that come true. 0 is best.",
        "",
        *picture("Calibration", files.CALIBRATION),
    ]


def _quantiles(facts: Facts) -> Lines:
    if not (found := facts.details.get("quantiles")):
        return []
    rows = [(f"{q:g}", number(share)) for q, share in zip(found["quantile"], found["share_below"], strict=True)]
    heads = ("quantile", "share of actual values not above it")
    return [f"### Each quantile ({facts.split} split)", "", *table(heads, rows, right=0)]
