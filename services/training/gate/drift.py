"""How the samples of a training differ from those of another: a small profile of each, and what lies between two.

A profile holds no samples: of each feature at most ten edges, between which a tenth of its values lie, and the shares
of the targets. So a later run can compare itself with one whose data is long gone. The distance is the population
stability index, the sum of (q - p) ln(q / p) over bins; above 0.2 is commonly taken as a shift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from loopline.files.sequences import Column
from numpy.typing import NDArray

from services.training.files.npz import Arrays
from services.training.files.steps import FileSteps
from services.training.tasks import known

SHIFTED = 0.2
MOST_VALUES = 4_000_000
"""Of all features together that a sample holds, spread evenly over the sequences."""
LEAST_STEPS = 1_000
WORST = 10
"""Features that a report names."""
MOST_LABELS = 50
LEAST_SHARE = 1e-4
"""A bin that is empty on one side counts as this much: the index stays finite."""

Floats = NDArray[np.float64]
Profile = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """Some of the valid steps of some rows (steps, features), and all of their lengths and targets."""

    steps: NDArray[np.float32]
    lengths: NDArray[np.int64]
    y: NDArray[Any]
    features: tuple[Column, ...]


def sample(arrays: Arrays, rows: NDArray[np.int64]) -> Sample:
    """Of these rows."""
    if arrays.texts is not None:
        return _of_texts(arrays, arrays.texts[rows], rows)
    lengths = arrays.lengths[rows]
    most = max(LEAST_STEPS, MOST_VALUES // arrays.x.shape[2])
    places = np.unique(np.linspace(0, int(lengths.sum()) - 1, most).astype(np.int64))  # among all steps, end to end
    ends = np.cumsum(lengths)
    which = np.searchsorted(ends, places, side="right")
    at = rows[which], places - (ends - lengths)[which]
    steps = arrays.x.at(*at) if isinstance(arrays.x, FileSteps) else arrays.x[at]
    # In float32, whatever precision is kept, so that profiles of different versions can be compared.
    return Sample(steps.astype(np.float32, copy=False), lengths, _compared(arrays.y[rows]), arrays.columns)


def _compared(y: NDArray[Any]) -> NDArray[Any]:
    return y.astype(np.float32, copy=False) if y.dtype.kind == "f" else y


def _of_texts(arrays: Arrays, texts: NDArray[np.object_], rows: NDArray[np.int64]) -> Sample:
    """The characters of some texts are steps of a category, and lengths are in characters."""
    lengths = np.array([len(text) for text in texts], np.int64)
    some = np.unique(
        np.linspace(0, len(texts) - 1, max(1, int(MOST_VALUES // max(1.0, lengths.mean()))), dtype=np.int64)
    )
    joined = "".join(texts[some])[:MOST_VALUES]
    found, codes = np.unique(np.frombuffer(joined.encode("utf-32-le"), np.uint32), return_inverse=True)
    column = Column("text", "category", tuple(map(chr, found.tolist())))
    return Sample(codes.reshape(-1, 1).astype(np.float32), lengths, _compared(arrays.y[rows]), (column,))


def of_series(training: Arrays, targets: Sequence[int]) -> Sample:
    """Of the training period of series, whose targets are these features. Their values at the same steps are y."""
    taken = sample(training, np.arange(len(training)))
    y = taken.steps[:, list(targets)]
    return replace(taken, y=y[~np.isnan(y).any(axis=1)])


def profile(taken: Sample) -> Profile:
    """What a later run needs to see whether its samples are like these."""
    columns = taken.steps.astype(np.float64).T
    described = [_feature(values, column) for values, column in zip(columns, taken.features, strict=True)]
    return {
        "samples": len(taken.y),
        "length": _binned(taken.lengths.astype(np.float64)),
        "features": described,
        "targets": _targets(taken.y, taken.lengths),
    }


def between(before: Profile, now: Sample) -> dict[str, Any]:
    """What has changed since: `{"features": {"shifted", "of", "most"}, "length", "targets", "shifted"}`, distances as
    population stability indices. Numbers of features that differ in count are left out: they are other features."""
    columns = now.steps.astype(np.float64).T
    known: Sequence[Any] = before["features"]
    indices = [
        _between_features(bins, values, column)
        for bins, values, column in zip(known, columns, now.features, strict=False)
    ]
    order = sorted(range(len(indices)), key=lambda feature: -indices[feature])[:WORST]
    shifted = sum(index > SHIFTED for index in indices)
    targets = _between_targets(before["targets"], now.y, now.lengths)
    length = _index(before["length"], now.lengths.astype(np.float64))
    return {
        "features": {
            "shifted": shifted,
            "of": len(indices),
            "most": [{"feature": feature, "psi": round(indices[feature], 4)} for feature in order],
        },
        "length": round(length, 4),
        "targets": targets,
        "shifted": bool(shifted or length > SHIFTED or (targets["psi"] or 0.0) > SHIFTED),
    }


def sentence(found: Mapping[str, Any], than: str) -> str:
    """The report in words."""
    features, targets = found["features"], found["targets"]
    if not found["shifted"]:
        return f"The training samples are like those of {than}: no feature, length or target has shifted."
    parts = []
    if features["shifted"]:
        most = features["most"][0]
        parts.append(
            f"{features['shifted']} of {features['of']} features have shifted, most of all feature {most['feature']} "
            f"(PSI {most['psi']:.2f})"
        )
    if found["length"] > SHIFTED:
        parts.append(f"the lengths have shifted (PSI {found['length']:.2f})")
    if (targets["psi"] or 0.0) > SHIFTED:
        change = max(targets["shares"], key=lambda each: abs(each["now"] - each["before"]), default=None)
        shown = (
            f", most of all {change['label']}: {change['before']:.0%} before, {change['now']:.0%} now" if change else ""
        )
        parts.append(f"the targets have shifted (PSI {targets['psi']:.2f}{shown})")
    return f"The training samples differ from those of {than}: {'; '.join(parts)}."


def _feature(values: Floats, column: Column) -> dict[str, Any]:
    """A profile of one feature, without its gaps: of a category the shares of its words."""
    values = values[~np.isnan(values)]
    if column.kind != "category":
        return _binned(values)
    codes, counts = np.unique(values.astype(np.int64), return_counts=True)
    words = column.categories or ()
    shares = [round(count / len(values), 6) for count in counts.tolist()]
    return {"labels": [words[code] for code in codes.tolist()], "shares": shares}


def _between_features(before: Mapping[str, Any], values: Floats, column: Column) -> float:
    """The distance of one feature; 0 where it was a number and is a category, or the other way round."""
    if ("labels" in before) != (column.kind == "category"):
        return 0.0
    values = values[~np.isnan(values)]
    if "labels" not in before:
        return _index(before, values)
    now = _feature(values, column)
    old, new = (dict(zip(side["labels"], side["shares"], strict=True)) for side in (before, now))
    words = [*dict.fromkeys([*old, *new])]
    return _stability(*(np.array([side.get(word, 0.0) for word in words]) for side in (old, new)))


def _binned(values: Floats) -> dict[str, list[float]]:
    """The edges between tenths of the values and below the least, and the shares of values in the bins between."""
    if not len(values):
        return {"edges": [], "shares": [1.0]}
    tenths = np.quantile(values, np.linspace(0.1, 0.9, 9), method="inverted_cdf")
    edges = np.unique([np.nextafter(values.min(), -np.inf), *tenths])
    return {"edges": [float(edge) for edge in edges], "shares": [round(float(s), 6) for s in _shares(edges, values)]}


def _shares(edges: Floats, values: Floats) -> Floats:
    """Of values in each of the bins (..., edge], the last one open."""
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    shares: Floats = counts / max(1, len(values))
    return shares


def _index(bins: Mapping[str, Sequence[float]], values: Floats) -> float:
    return _stability(np.asarray(bins["shares"]), _shares(np.asarray(bins["edges"]), values))


def _stability(before: Floats, now: Floats) -> float:
    p, q = np.maximum(before, LEAST_SHARE), np.maximum(now, LEAST_SHARE)
    return float(((q - p) * np.log(q / p)).sum())


def _targets(y: NDArray[Any], lengths: NDArray[np.int64]) -> dict[str, Any]:
    if (labelled := known.of_y(y).labels(y, lengths)) is not None:
        labels, counts = np.unique(labelled, return_counts=True)
        shares = dict(zip(labels.tolist(), (counts / len(labelled)).tolist(), strict=True))
        return {"labels": [*shares], "shares": [round(share, 6) for share in shares.values()]}
    columns = y.reshape(len(y), -1).astype(np.float64).T
    return {"columns": [_binned(column) for column in columns]}


def _between_targets(before: Mapping[str, Any], y: NDArray[Any], lengths: NDArray[np.int64]) -> dict[str, Any]:
    now = _targets(y, lengths)
    if "labels" in before and "labels" in now:
        old, new = (dict(zip(side["labels"], side["shares"], strict=True)) for side in (before, now))
        labels = [*dict.fromkeys([*old, *new])]
        p, q = (np.array([side.get(label, 0.0) for label in labels]) for side in (old, new))
        changed = sorted(range(len(labels)), key=lambda place: -abs(q[place] - p[place]))[:MOST_LABELS]
        shares = [{"label": labels[i], "before": float(p[i]), "now": float(q[i])} for i in changed]
        return {"psi": round(_stability(p, q), 4), "shares": shares}
    if "columns" in before and "columns" in now and len(before["columns"]) == len(now["columns"]):
        columns = y.reshape(len(y), -1).astype(np.float64).T
        indices = [_index(bins, column) for bins, column in zip(before["columns"], columns, strict=True)]
        return {"psi": round(max(indices), 4), "shares": []}
    return {"psi": None, "shares": []}
