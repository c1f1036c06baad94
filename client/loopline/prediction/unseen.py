"""Warnings about what training has not seen: the model answers, and its answer may be worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.prediction.document import Document
from loopline.prediction.given import Given
from loopline.preprocessing.fitted import Fitted

MOST_FEATURES = 10
"""That have a warning of one kind each."""
FAR: Mapping[str, tuple[float, float]] = {"standard": (-20.0, 20.0), "robust": (-100.0, 100.0), "minmax": (-2.0, 3.0)}
"""By scaling: scaled values below the first or above the second are far from those of training. Those are 20 standard
deviations, 100 interquartile ranges, and twice the range of training."""
_FITTED = {
    "standard": lambda shift, scale: f"the mean {shift:.6g} and the standard deviation {scale:.6g}",
    "robust": lambda shift, scale: f"the median {shift:.6g} and the interquartile range {scale:.6g}",
    "minmax": lambda shift, scale: f"{shift:.6g} to {shift + scale:.6g}",
}


def warnings(document: Document, given: Given) -> list[str]:
    """Sentences about sequences that `inputs.check_values` has found to have an answer."""
    return [
        *_unfinished(document),
        *_lengths_beyond(document, given),
        *_unknown_series(document, given),
        *_bounded(_without_values(document, given), "have no value in some sequences"),
        *_bounded(_without_last_targets(document, given), "have no value in the last rows"),
        *_bounded(_far_values(document, given), "have values far from those of training"),
    ]


def so_far(document: Document, given: Given, steps: int) -> list[str]:
    """Of the sentences of `warnings`, those about one sequence that may go on. Of its steps `given` has one, with the
    `farthest` value of each feature."""
    return [
        *_unfinished(document),
        *_beyond(document, given, np.array([steps], np.int64), "more"),
        *_bounded(_without_values(document, given), "have no value in some sequences"),
        *_bounded(_far_values(document, given), "have values far from those of training"),
    ]


def farthest(document: Document, one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Of each feature the one of two values, (features,) each, that is farther from training. NaN is none."""
    fitted = document.preprocessing.steps
    both = np.stack((one, other)).astype(np.float64)
    apart = np.abs(both)
    scaling = fitted.scaling
    if scaling.name in FAR and scaling.shift is not None and scaling.scale is not None:
        for place, shift, scale in zip(_numbers(fitted), scaling.shift, scaling.scale, strict=False):
            apart[:, place] = _beyond_bounds((both[:, place] - shift) / scale, scaling.name)
    apart[np.isnan(both)] = -np.inf
    found: NDArray[Any] = both[apart.argmax(axis=0), np.arange(both.shape[1])]
    return found


def _unfinished(document: Document) -> list[str]:
    if document.plain.get("complete", True):
        return []
    why = str(document.plain.get("incomplete_because") or "cut short").replace("_", " ")
    return [f"the training of this model was ended early ({why}): these are its best weights until then"]


def _bounded(sentences: Iterator[str], verb: str) -> list[str]:
    found = list(sentences)
    more = len(found) - MOST_FEATURES
    return [*found[:MOST_FEATURES], *([f"{more:,} more features {verb}"] if more > 0 else [])]


def _lengths_beyond(document: Document, given: Given) -> list[str]:
    """About sequences that are shorter or longer than any in training."""
    sizes, text = given.lengths, document.preprocessing.text
    if given.texts is not None and text is not None:
        _, sizes = text.applied(given.texts, document.preprocessing.steps.choices)
    return [*_beyond(document, given, sizes, "fewer"), *_beyond(document, given, sizes, "more")]


def _beyond(document: Document, given: Given, sizes: NDArray[np.int64], than: str) -> list[str]:
    """About sequences whose sizes are below, or above, all of training."""
    if document.lengths is None or document.forecast is not None or document.task == "next_step":
        return []
    low, high = document.lengths
    rows = np.flatnonzero(sizes < low if than == "fewer" else sizes > high)
    if not rows.size:
        return []
    most = int(sizes.min() if than == "fewer" else sizes.max())
    unit: str = "steps" if document.preprocessing.text is None else document.preprocessing.text.by
    unit = unit.removesuffix("s") if most == 1 else unit
    one = rows.size == 1
    has = "has" if one else f"have {'up to' if than == 'more' else 'down to'}"
    bounds = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    answers = "answer" if one else "answers"
    return [
        f"{given.named(rows)} {has} {most:,} {unit}, {than} than any in training ({bounds}): the {answers} may be worse"
    ]


def _unknown_series(document: Document, given: Given) -> list[str]:
    """About series that have no scaling of their own."""
    fit = None if document.forecast is None else document.forecast.fit
    by_series = None if fit is None else fit.inputs or fit.outputs
    if by_series is None:
        return []
    rows = [row for row, name in enumerate(given.ids) if name not in by_series.ids]
    if not rows:
        return []
    is_not = "is not" if len(rows) == 1 else "are not"
    return [f"{given.named(rows)} {is_not} in training, and scaled as all of training together"]


def _without_values(document: Document, given: Given) -> Iterator[str]:
    """About features without any value in a whole sequence, such as those of a dead sensor."""
    if given.texts is not None or not document.takes_gaps:
        return
    for place, feature in enumerate(document.features):
        rows = np.flatnonzero(_counts(given, ~np.isnan(given.x[:, place])) == 0)
        if rows.size:
            rests = "answer rests" if rows.size == 1 else "answers rest"
            on = "mean" if feature.words is None else "commonest word"
            yield f"{feature.shown} has no value in {given.named(rows)}: the {rests} on its {on} in training"


def _without_last_targets(document: Document, given: Given) -> Iterator[str]:
    """About series whose last rows lack what is forecast. They are filled, as in the look-backs of training."""
    if document.forecast is None:
        return
    for place, feature in enumerate(document.features):
        if feature.name not in document.forecast.targets:
            continue
        filled = np.flatnonzero(~np.isnan(given.x[:, place]))
        ends = np.cumsum(given.lengths)
        before = np.searchsorted(filled, ends)
        last = filled[np.maximum(before - 1, 0)] if filled.size else np.full(len(ends), -1)
        lacking = np.where((before > 0) & (last >= given.starts), ends - 1 - last, 0)
        rows = np.flatnonzero(lacking)
        if rows.size:
            most = int(lacking.max())
            count = (
                "last row" if most == 1 else f"last {most:,} rows" if rows.size == 1 else f"last rows (up to {most:,})"
            )
            have = "has" if most == 1 and rows.size == 1 else "have"
            yield (
                f"the {count} of {given.named(rows)} {have} no {feature.shown}: they are filled as gaps in training, "
                "and the forecast starts after them; leave them out to start it in their place"
            )


def _far_values(document: Document, given: Given) -> Iterator[str]:
    """About values that are far outside those of training, where training has recorded what it takes to say so."""
    forecast = document.forecast
    if forecast is not None and forecast.fit.inputs is None:
        last = np.cumsum(given.lengths)[:, None] - np.arange(forecast.lookback, 0, -1)
        lengths = np.full(len(given), forecast.lookback, np.int64)
        yield from _far(given, given.x[last.ravel()], lengths, document.preprocessing.steps)
    elif forecast is None and given.texts is None:
        yield from _far(given, given.x, given.lengths, document.preprocessing.steps)
    if given.static is not None and document.preprocessing.static is not None:
        once = np.ones(len(given), np.int64)
        yield from _far(given, given.static, once, document.preprocessing.static)


def _far(given: Given, x: NDArray[Any], lengths: NDArray[np.int64], fitted: Fitted) -> Iterator[str]:
    """About x (steps of all sequences, features)."""
    scaling = fitted.scaling
    if scaling.name not in FAR or scaling.shift is None or scaling.scale is None:
        return
    if fitted.choices.differences == "replace":  # the scaling is that of the differences
        return
    places = _numbers(fitted)[: len(scaling.shift)]
    shifts, scales = np.asarray(scaling.shift)[: len(places)], np.asarray(scaling.scale)[: len(places)]
    beyond = _beyond_bounds((x[:, places].astype(np.float64) - shifts) / scales, scaling.name)
    for number in np.flatnonzero((beyond > 0).any(axis=0)).tolist():
        place, far = places[number], np.flatnonzero(beyond[:, number] > 0)
        fit = _FITTED[scaling.name](shifts[number], scales[number])
        worst = x[np.nanargmax(beyond[:, number]), place]
        rows = np.unique(np.searchsorted(np.cumsum(lengths), far, side="right"))
        yield (
            f"{fitted.features[place].shown} is {worst:.6g} in {given.named(rows)}, far from training "
            f"({fit}): check its unit, because the answers may be wrong"
        )


def _beyond_bounds(scaled: NDArray[np.float64], scaling: str) -> NDArray[np.float64]:
    """How far scaled values are beyond the bounds of `FAR`; not above 0 within them."""
    low, high = FAR[scaling]
    return np.maximum(low - scaled, scaled - high)


def _counts(given: Given, marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many steps of each sequence are marked."""
    return np.asarray(np.add.reduceat(marked.astype(np.int64), given.starts), np.int64)


def _numbers(fitted: Fitted) -> list[int]:
    """The places of features that are no categories. A scaling has them first."""
    return [place for place, feature in enumerate(fitted.features) if feature.words is None]
