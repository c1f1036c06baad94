"""What a forecast reads of the times of its steps: the calendar, which is known for the horizon too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np

from loopline.files import calendar
from loopline.prediction.document import Document, columns_of
from loopline.prediction.errors import refused
from loopline.prediction.given import Given

_EPOCH = datetime(1970, 1, 1)
_FIRST, _LAST = 1700, 2200
"""Years, between which there are nanoseconds."""
_SHOWN = 40


def with_end(document: Document, given: Given, end: Any) -> Given:
    """Series with the times of their steps, of which `end` are the last ones: a date or a time, or one for each.

    Raises InputInvalid.
    """
    if end is None:
        return given
    if document.forecast is None or document.step is None or not document.step.is_time:
        raise refused("the model knows no time between two steps: leave end out")
    last = [end] if isinstance(end, str | date | np.datetime64) else end.ravel() if isinstance(end, np.ndarray) else end
    if not isinstance(last, Sequence | np.ndarray) or len(last) != len(given):
        raise refused(f"give the time of the last step of each sequence, {len(given):,} in all", "end")
    found = [_moment(each) for each in last]
    if len(zoned := {each for _, each in found}) > 1:
        raise refused("some of these times have a zone and others have none: write all alike", "end")
    moments = np.array([moment for moment, _ in found], np.int64)[:, None]
    longest, horizon = int(given.lengths.max()), document.forecast.horizon
    every = document.step.after(moments, horizon + 1, 1 - longest)
    past, ahead = every[:, :longest], every[:, longest:]
    inside = np.arange(longest) >= longest - given.lengths[:, None]
    return replace(given, times=past[inside], ahead=ahead, zoned=zoned.pop())


def _moment(value: Any) -> tuple[int, bool]:
    """Nanoseconds since 1970 of a date or a time: as it is written, or in UTC if it has an offset; and whether it has
    one."""
    found = value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value
    try:
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, date) and not isinstance(found, datetime):
            found = datetime.combine(found, time())
        zoned = isinstance(found, datetime) and found.tzinfo is not None
        if isinstance(found, datetime) and zoned:
            found = found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        found, zoned = None, False
    if not isinstance(found, datetime) or not _FIRST <= found.year <= _LAST:
        raise refused(f"{str(value)[:_SHOWN]!r} is no date or time such as 2024-03-31 23:00", "end")
    apart = found - _EPOCH
    return ((apart.days * 86_400 + apart.seconds) * 10**6 + apart.microseconds) * 1000, zoned


def check(document: Document, given: Given) -> None:
    """Raises InputInvalid where the model reads the calendar, and steps have no times, or times of which its hours
    cannot be told."""
    forecast = document.forecast
    if forecast is None or not forecast.calendar:
        return
    if given.times is not None and given.times.dtype.kind == "i":
        _check_zone(forecast.zoned, given.zoned)
        return
    order = None if document.schema is None else document.schema.order
    table = "the times of the steps" if order is None else f"dates or times in the column `{order}`"
    raise refused(
        f"the model reads the {' and the '.join(forecast.calendar)} of each step, and the steps have no times: give "
        f"end, the time of the last step of each sequence, or a table with {table}"
    )


def _check_zone(trained: bool | None, asked: bool | None) -> None:
    """Raises InputInvalid where one of both was written with a zone and the other one was not: nobody knows how many
    hours lie between them."""
    if trained is None or asked is None or trained == asked:
        return
    if trained:
        raise refused(
            "the model was trained on times with a zone, and these have none: write them with their zone, such as "
            "2024-03-31T23:00Z or 2024-03-31T23:00+02:00"
        )
    raise refused(
        "the model was trained on times without a zone, and these have one, so their hours may be others: write them "
        "as in training, such as 2024-03-31 23:00"
    )


def with_calendar(document: Document, given: Given) -> Given:
    """Series with what the model reads of their times, as the last features, and as what is known ahead of time.

    Raises InputInvalid where they have no times.
    """
    check(document, given)
    forecast = document.forecast
    if forecast is None or not forecast.calendar or given.times is None or given.ahead is None:
        return given
    past = calendar.fourier_terms(given.times, forecast.calendar, given.x.dtype)
    ahead = calendar.fourier_terms(given.ahead, forecast.calendar, np.float64)
    future = np.empty((*ahead.shape[:2], 0)) if given.future is None else given.future
    return replace(
        given,
        x=np.concatenate((given.x, past), axis=1),
        columns=columns_of(document.features),
        future=np.concatenate((future, ahead), axis=2),
    )
