"""Names the numbers of an outcome: classes, columns, ids and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from loopline.prediction import answers, outcome
from loopline.prediction.answers import Answer, Classification, Forecast, Multilabel, NextStep, Tags, Values
from loopline.prediction.document import Document
from loopline.prediction.document import Forecast as ForecastOf
from loopline.prediction.errors import refused
from loopline.prediction.given import Given

Outcomes = list[tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Sequences, and what a backend says of them."""
MEDIAN = 0.5


def answer(document: Document, given: Given, found: Outcomes) -> Answer:
    """The outcomes of batches as an answer about all sequences, in their order.

    Raises InputInvalid where the network gives no finite number.
    """
    _check(document, given, found)
    said: dict[str, Any] = {"task": document.task, "ids": given.ids, "warnings": given.warnings}
    classes = document.classes or ()
    if document.task == "tagging":
        return _tags(said, classes, given, found)
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    values = np.concatenate([each for _, each in found])[order]
    if document.task == "classification":
        return Classification(**said, classes=classes, probabilities=values)
    if document.task == "multilabel":
        return Multilabel(**said, names=document.target_names, probabilities=values)
    if document.task == "regression":
        return Values(**said, names=document.target_names, values=values)
    if document.forecast is not None:
        return _forecast(said, document.forecast, given, values)
    assert document.preprocessing.text is not None, "the next step is one of a text"  # noqa: S101
    return NextStep(**said, entries=outcome.entries(document.preprocessing.text), probabilities=values)


def _tags(said: dict[str, Any], classes: tuple[answers.Label, ...], given: Given, found: Outcomes) -> Tags:
    by_sequence: dict[int, NDArray[np.float64]] = {}
    for rows, values in found:
        pieces = np.split(values, np.cumsum(given.lengths[rows])[:-1])
        by_sequence |= dict(zip(rows.tolist(), pieces, strict=True))
    times = None
    if given.times is not None:
        times = tuple(_moments(each, given) for each in np.split(given.times, np.cumsum(given.lengths)[:-1]))
    in_order = tuple(by_sequence[row] for row in range(len(given)))
    return Tags(**said, classes=classes, probabilities=in_order, times=times)


def _forecast(said: dict[str, Any], forecast: ForecastOf, given: Given, values: NDArray[np.float64]) -> Forecast:
    middle = forecast.quantiles.index(MEDIAN) if forecast.quantiles else 0
    return Forecast(
        **said,
        names=forecast.targets,
        values=values[:, :, :, middle],
        quantiles=forecast.quantiles,
        by_quantile=values if forecast.quantiles else None,
        times=None if given.ahead is None else tuple(_moments(each, given) for each in given.ahead),
    )


def _check(document: Document, given: Given, found: Outcomes) -> None:
    bad: list[int] = []
    for rows, values in found:
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            of_each = np.repeat(rows, given.lengths[rows]) if document.task == "tagging" else rows
            bad += np.unique(of_each[~finite]).tolist()
    if bad:
        raise refused(
            "the network gives no finite number: the values are far from those of training", given.named(sorted(bad))
        )


def _moments(times: NDArray[Any], given: Given) -> list[Any]:
    """Times as numbers, or as datetimes: aware ones in UTC if their zone was given, else naive ones."""
    if times.dtype.kind != "i":
        return cast("list[Any]", times.tolist())
    moments: list[datetime] = times.astype("datetime64[ns]").astype("datetime64[us]").tolist()
    return [each.replace(tzinfo=UTC) for each in moments] if given.zoned else moments
