"""What may be wrong with a data set: found in its arrays, and said in a sentence each. Imports no torch.

A suspicion rejects nothing, because each of these data sets may be what its sender wants. Most matter only with some
specs. So what was found is stored with the data set, and `spec/data_warnings.py` picks what applies to a job. Only a
sample of bounded size is read, so a large data set costs no more than a small one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from loopline.files import rounding
from numpy.typing import NDArray

from services.training.files import grouping
from services.training.files.npz import Arrays
from services.training.files.suspicion import Suspicion
from services.training.tasks import known

Floats = NDArray[Any]


_ELEMENTS = 1 << 17  # of x, and of y, that are looked at
_MOST_ROWS = 512
_FIRST_STEPS = 100_000  # sequences whose first steps are looked for in others
_WINDOWS = 64  # sequences in which they are looked for
_NAMED = 5  # features that a sentence names

LARGE = 1_000.0
"""Numbers from which on a feature saturates a network that is given it as it is."""
TINY = 1e-4
"""Of a feature's spread between sequences, what its steps within one are to vary by at least."""


def of(arrays: Arrays) -> list[Suspicion]:
    """What may be wrong with a data set, the targets first."""
    if arrays.texts is not None:
        return [*_of_targets(arrays), *_of_groups(arrays)]
    x = _sample(arrays)
    if known.of_y(arrays.y).of_series:
        return [*_of_features(x)]
    full = bool((arrays.lengths == arrays.x.shape[1]).all())
    return [
        *_of_targets(arrays),
        *_of_features(x),
        *_of_order(x),
        *(_of_padding(x) if full else ()),
        *_of_windows(arrays),
        *_of_groups(arrays),
    ]


@dataclass(frozen=True)
class _X:
    """Some whole sequences, evenly spread, as float64; of very wide ones the first features."""

    values: Floats  # (sequences, steps, features)
    valid: NDArray[np.bool_]  # (sequences, steps)
    features: int  # of the data set


def _sample(arrays: Arrays) -> _X:
    samples, length, features = arrays.x.shape
    most = max(1, _ELEMENTS // (2 * length))
    rows = _rows(samples, max(2, min(_MOST_ROWS, _ELEMENTS // (length * min(features, most)))))
    values = arrays.x[rows, :, :most].astype(np.float64)
    for place, column in enumerate(arrays.columns[:most]):
        if column.kind == "category":
            values[:, :, place] = 0.0  # numbers of words say nothing by their size
        elif (missing := np.isnan(values[:, :, place])).any():
            there = values[:, :, place][~missing]
            values[:, :, place][missing] = there.mean() if len(there) else 0.0
    return _X(values, np.arange(length) < arrays.lengths[rows][:, None], features)


def _rows(samples: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, samples - 1, min(samples, most)).astype(np.int64))


# ---- y


def _of_targets(arrays: Arrays) -> Iterator[Suspicion]:
    columns = 1 if arrays.y.ndim == 1 else arrays.y.shape[1]
    if not columns:
        return
    y = arrays.y.reshape(len(arrays.y), columns)[_rows(len(arrays.y), max(2, _ELEMENTS // columns))]
    yield from known.of_y(arrays.y).suspicions(y, arrays.x.shape[1])


# ---- x


def _of_features(x: _X) -> Iterator[Suspicion]:
    lost = rounding.lost(x.values)
    magnitude = np.abs(x.values).max(axis=(0, 1))
    if lost:
        yield Suspicion(
            "float32_x",
            "unscaled",
            f"{_features(lost)} of x {_hold(lost)} numbers as large as {magnitude[lost].max():.3g}, whose differences "
            "float32 cannot hold. Set data.scaling to standard: then they are scaled before they become float32.",
        )
    large = [int(feature) for feature in np.flatnonzero(magnitude >= LARGE) if feature not in lost]
    if large:
        yield Suspicion(
            "large_x",
            "unscaled",
            f"{_features(large)} of x {_reach(large)} {magnitude[large].max():.3g}, and numbers of this size saturate "
            "a network. Set data.scaling to standard, or leave out what is only an id.",
        )
    yield from _of_spread(x)


def _of_spread(x: _X) -> Iterator[Suspicion]:
    """Features that vary by next to nothing within a sequence, and ids."""
    if len(x.values) < 2 or x.values.shape[1] < 2:
        return
    count = x.valid.sum(axis=1)[:, None]
    masked = np.where(x.valid[:, :, None], x.values, 0.0)
    means = masked.sum(axis=1) / count  # (sequences, features)
    apart = np.where(x.valid[:, :, None], x.values - means[:, None, :], 0.0)
    within = np.sqrt((np.square(apart).sum(axis=1) / count).mean(axis=0))
    between = means.std(axis=0)
    rounded = rounding.ROUNDING * np.abs(x.values).max(axis=(0, 1))
    flat = [int(f) for f in np.flatnonzero((within > rounded) & (within < TINY * between))]
    if flat:
        yield Suspicion(
            "flat_x",
            "always",
            f"Within a sequence {_features(flat, 'feature')} of x {_vary(flat)} by less than a ten-thousandth of the "
            "differences between sequences, so a network sees constants. Subtract each sequence's first step.",
        )
    first = x.values[:, 0, :]
    constant = (within <= rounded) & (x.valid.sum(axis=1).max() > 1)
    spans = np.ptp(first, axis=0)
    rows = len(first)
    ids = [
        int(f)
        for f in np.flatnonzero(constant)
        if rows >= 20
        and (first[:, f] == np.floor(first[:, f])).all()
        and len(np.unique(first[:, f])) == rows
        and _steps_evenly(first[:, f], spans[f])
    ]
    if ids:
        yield Suspicion(
            "id_x",
            "always",
            f"{_features(ids)} of x {_is(ids)} another whole number in each sequence, and constant within it, as an id "
            "is. A network learns ids by heart: leave them out of x.",
        )


def _steps_evenly(numbers: Floats, span: float) -> bool:
    """Whether they are counted, up or down, as rows of a table are."""
    steps = np.abs(np.diff(numbers))
    return bool(span > 0 and steps.max() <= 2 * steps.min() + 2)


def _of_order(x: _X) -> Iterator[Suspicion]:
    """Axes that were swapped: steps that are as smooth along the features as only time is, and rough along time."""
    _, length, features = x.values.shape
    if length < 4 or features < 20 or features < 2 * length or not x.valid.all():
        return
    noise = 2 * length / (length - 1)
    along_time, along_features = _roughness(x.values, 1), _roughness(x.values, 2)
    if along_features < 0.2 and along_time > 0.8 * noise:
        yield Suspicion(
            "swapped_axes",
            "always",
            f"x is taken as {length} steps of {x.features} features, but changes smoothly along the features and not "
            "along the steps, as if the axes were swapped. If so, save x.transpose(0, 2, 1).",
        )


def _roughness(values: Floats, axis: int) -> float:
    """The mean squared difference of neighbours over the variance: 2 n / (n - 1) for noise, near 0 for what is smooth
    (von Neumann 1941)."""
    spread = values.var(axis=axis)
    steps = np.square(np.diff(values, axis=axis)).mean(axis=axis)
    varied = spread > 0
    return float(np.median(steps[varied] / spread[varied])) if varied.any() else 2.0


def _of_padding(x: _X) -> Iterator[Suspicion]:
    """Sequences that end, or begin, in the same step over and over, where there are no `lengths`."""
    for end, values in (("end", x.values[:, ::-1]), ("begin", x.values)):
        sequences, length, _ = values.shape
        if length < 3 or sequences < 4:
            return
        steps, counts = np.unique(values[:, 0], axis=0, return_counts=True)
        pad = steps[counts.argmax()]
        same = (values == pad).all(axis=2)  # (sequences, steps)
        runs = np.where(same.all(axis=1), length, np.argmin(same, axis=1))
        padded = (runs > 0) & (runs < length)
        kept = runs < length
        inside = np.arange(length) >= runs[:, None]
        elsewhere = (same & inside)[kept].sum() / max(1, inside[kept].sum())
        share = padded.sum() / sequences
        varied = len(np.unique(runs[kept])) > 1
        if share >= 0.25 and elsewhere <= 0.02 and varied and runs[padded].mean() >= 2:
            with_what = "zeros" if not pad.any() else "one and the same step"
            where = "" if end == "end" else ", with each sequence at the beginning of its row"
            yield Suspicion(
                "padded_x",
                "always",
                f"{share:.0%} of the sequences {end} in {with_what}, as padding does, and there are no `lengths`, so "
                f"these steps are taken as data. If they are padding save `lengths`, how long each sequence is{where}.",
            )
            return


def _of_windows(arrays: Arrays) -> Iterator[Suspicion]:
    """Sequences that share most of their steps with others, as windows that move along one series do."""
    samples, length, _ = arrays.x.shape
    if samples < 8 or length < 4:
        return
    first = _keys(arrays.x[:_FIRST_STEPS, 0, :32])
    distinct, where = np.unique(first, return_index=True)
    if len(distinct) < 0.9 * len(first):
        return  # too few different steps to know one again
    looked_at = [row for row in _rows(len(first), _WINDOWS) if arrays.lengths[row] == length]
    overlapping = sum(_overlaps(arrays, int(row), distinct, where) for row in looked_at)
    if looked_at and overlapping >= 0.5 * len(looked_at):
        yield Suspicion(
            "overlapping_windows",
            "drawn_split",
            "The sequences are overlapping windows of a series, and are split at random, so validation and test hold "
            f"steps that training has seen and look too good. {_way_out(arrays)}",
        )


def _way_out(arrays: Arrays) -> str:
    if arrays.ends is not None:
        return "Set data.split.method to time."
    return "Save a `split` array, with the latest part for both."


def _of_groups(arrays: Arrays) -> Iterator[Suspicion]:
    """Several sequences of one person, machine or day."""
    column = next((name for name, naming in grouping.columns(arrays).items() if naming), None)
    if column is None:
        return
    groups = grouping.by(arrays, column)
    sizes = np.bincount(groups.of, minlength=len(groups.names))
    repeated = np.flatnonzero(sizes > 1)
    if not len(repeated) or len(groups.names) == 1:
        return
    largest = int(sizes.argmax())
    yield Suspicion(
        "repeated_ids",
        "drawn_split",
        f"{column} {groups.names[largest]} names {sizes[largest]:,} sequences ({len(repeated):,} of the "
        f"{len(groups.names):,} names have several), and the split is random, so a model is tested on names that it "
        "was trained on. If it is for new ones, set data.split.method to group.",
    )


def _overlaps(arrays: Arrays, row: int, first: NDArray[Any], where: NDArray[Any]) -> bool:
    """Whether another sequence begins within the first three quarters of this one and goes on as it does."""
    length = arrays.x.shape[1]
    least = max(2, length // 4)
    keys = _keys(arrays.x[row, 1 : length - least + 1, :32])
    found = np.minimum(np.searchsorted(first, keys), len(first) - 1)
    for shift in np.flatnonzero(first[found] == keys):
        other, begin = int(where[found[shift]]), int(shift) + 1
        if other != row and np.array_equal(arrays.x[row, begin:], arrays.x[other, : length - begin]):
            return True
    return False


def _keys(steps: Floats) -> NDArray[np.uint64]:
    """A number for each step (..., features): the same for equal ones, and hardly ever for others."""
    bits = np.ascontiguousarray(steps, np.float64).view(np.uint64)
    factors = np.arange(1, bits.shape[-1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    mixed = (bits ^ (bits >> np.uint64(29))) * factors
    keys: NDArray[np.uint64] = mixed.sum(axis=-1, dtype=np.uint64)
    return keys


def _features(found: Sequence[int], word: str = "Feature") -> str:
    shown = ", ".join(map(str, found[:_NAMED]))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{word}{'' if len(found) == 1 else 's'} {shown}{more}"


def _hold(found: Sequence[int]) -> str:
    return "holds" if len(found) == 1 else "hold"


def _reach(found: Sequence[int]) -> str:
    return "reaches" if len(found) == 1 else "reach"


def _vary(found: Sequence[int]) -> str:
    return "varies" if len(found) == 1 else "vary"


def _is(found: Sequence[int]) -> str:
    return "is" if len(found) == 1 else "are"
