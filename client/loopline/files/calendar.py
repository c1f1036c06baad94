"""The calendar of a series: features of the time of a step, which are known for every step, the coming ones too.

A feature is the place of a time within a day, a week or a year, as Fourier terms: the sine and the cosine of this share
of a turn, and of some multiples of it. So the end of a day is near the beginning of the next one, and few numbers are
read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from loopline.files.grids import Step
from loopline.files.sequences import Column

ORDERS: Mapping[str, int] = {"hour": 3, "weekday": 3, "yearday": 2}
"""By the name of a feature, in this order: the order of its Fourier series, so how many pairs of a sine and a cosine it
has. Three pairs of a week tell all of its days apart."""
_HOUR = 3600 * 10**9
_DAY = 24 * _HOUR
_THURSDAY = 3
"""The weekday of 1 January 1970, from Monday on."""
_YEAR = 31_557_600 * 10**9
_PERIODS = {"hour": _DAY, "weekday": 7 * _DAY, "yearday": _YEAR}
"""After which a feature begins anew, in nanoseconds."""
_ENOUGH = 3
"""Periods that a series needs, so that the first of them can train and the last of them can test."""


def suggested(step: Step | None, steps: int, columns: Iterable[str] = (), stride: int = 1) -> list[str]:
    """The features that differ from step to step, and begin anew often enough to be learnt, for a series of so many
    steps. Of steps of numbers, or of unknown ones, there are none. Nor is there one with the name of one of these
    columns, or one that windows which are `stride` steps apart show in part only."""
    if step is None or not step.is_time:
        return []
    apart = step.usual * _YEAR / 12 if step.in_months else step.usual
    differs = {
        "hour": not step.in_months and step.usual % _DAY != 0,
        "weekday": not step.in_months and step.usual % (7 * _DAY) != 0,
        "yearday": not step.in_months or step.usual % 12 != 0,
    }
    taken = set(columns)
    return [
        name
        for name in ORDERS
        if differs[name] and steps * apart >= _ENOUGH * _PERIODS[name]
        if name not in taken and not skips(step, name, stride)
    ]


def skips(step: Step | None, name: str, stride: int) -> bool:
    """Whether windows that are so many steps apart never begin at some hours of a day, or of a week, at which other
    steps are.

    What is repeated every `d` seconds comes, in time, to all places of a period that are gcd(d, period) apart: every
    7 hours to each hour of a day, every 12 hours to two of them. Places within an hour count as one.
    """
    if step is None or not isinstance(step.usual, int) or step.in_months or name == "yearday":
        return False
    period = _PERIODS[name]
    return math.gcd(step.usual * stride, period) > max(math.gcd(step.usual, period), _HOUR)


def in_order(names: Iterable[str]) -> list[str]:
    """Each of these features once, in the order of ORDERS."""
    wanted = set(names)
    return [name for name in ORDERS if name in wanted]


def columns(names: Sequence[str]) -> tuple[Column, ...]:
    """What `fourier_terms` gives: `calendar.hour.sin1`, `calendar.hour.cos1`, `calendar.hour.sin2` and so on."""
    return tuple(Column(f"calendar.{name}.{term.__name__}{turns}") for name, turns, term in _terms(names))


def fourier_terms(times: NDArray[np.int64], names: Sequence[str], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """These features (..., columns) of times (...), in nanoseconds since 1970. A column is computed in float64, which
    tells the seconds of a year apart, and kept as `dtype`."""
    terms = list(_terms(names))
    found = np.empty((*times.shape, len(terms)), dtype)
    shares = {name: _share(times, name) for name in names}
    for place, (name, turns, term) in enumerate(terms):
        found[..., place] = term(shares[name] * (2 * np.pi * turns))
    return found


def _terms(names: Sequence[str]) -> Iterator[tuple[str, int, np.ufunc]]:
    """The name, the turns in a period, and the function of each column."""
    for name in names:
        for turns in range(1, ORDERS[name] + 1):
            yield name, turns, np.sin
            yield name, turns, np.cos


def _share(times: NDArray[np.int64], name: str) -> NDArray[np.float64]:
    """The share of a day or a year that has passed, or of a week in whole days, in [0, 1)."""
    if name == "hour":
        return np.asarray(times % _DAY / _DAY)
    if name == "weekday":
        return np.asarray((times // _DAY + _THURSDAY) % 7 / 7)
    years: NDArray[Any] = times.astype("datetime64[ns]").astype("datetime64[Y]")
    begin, end = ((years + each).astype("datetime64[D]").astype(np.int64) for each in (0, 1))
    return np.asarray((times / _DAY - begin) / (end - begin))
