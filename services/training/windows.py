"""From series to windows: samples of a forecast, gathered a batch at a time from steps that are in memory once.

A window is a look-back, which the network reads, and the horizon after it, which it predicts. The parts of a split are
periods of time: each value to predict belongs to one period, and no horizon crosses a border. A look-back may reach
into the period before: that is known by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from loopline.files import calendar, grids
from loopline.preprocessing.scaling import UNSCALED, Scaling
from loopline.preprocessing.series import BySeries, Fit, Floats
from numpy.typing import NDArray
from torch import Tensor

from services.errors import DatasetInvalid, Problem
from services.training import provenance, raw
from services.training.data import TOO_LARGE, MiniBatch, Part, Prepared
from services.training.files import series as all_series
from services.training.files.npz import Arrays
from services.training.files.series import Series
from services.training.preprocessing.fitting import fit_all
from services.training.preprocessing.scaling import standard
from services.training.spec import Spec
from services.training.spec.fields import Data, Forecast, Split
from services.training.spec.tasks import calendar_of, window
from services.training.splits import split_rows
from services.training.tasks.forecast import Forecast as ForecastTask
from services.training.tasks.forecast import Units

Rows = NDArray[np.int64]
NO_ROWS: Rows = np.empty(0, np.int64)
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Windows(Part):
    """Some windows. x (steps, channels) and y (steps, targets) have all series of the data set, each as long as the
    longest; static has a row for each series, weights one for each window."""

    first: Rows = field(default_factory=lambda: NO_ROWS)
    """(windows,): the first step to predict, as an index into x."""
    longest: int = 1
    """The steps of a series in x."""
    lookback: int = 1
    horizon: int = 1
    stride: int = 1
    known: Tensor | None = None
    """(steps, values): what is known ahead of time, scaled."""
    when: NDArray[Any] | None = None
    """(windows,): the time of each first step, which is a datetime64 if it is one of the clock; or its place in the
    series."""

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device) -> Windows:
        static, weights, known = (
            None if each is None else each.to(device) for each in (self.static, self.weights, self.known)
        )
        return replace(self, x=self.x.to(device), y=self.y.to(device), static=static, weights=weights, known=known)

    @property
    def row_bytes(self) -> int:
        return self.lookback * self.x.shape[1] * self.x.element_size()

    @property
    def static_size(self) -> int:
        known = 0 if self.known is None else self.horizon * self.known.shape[1]
        return known + super().static_size

    @property
    def steps(self) -> Rows:
        return np.full(len(self), self.lookback)

    @property
    def blocks(self) -> Rows | None:
        """Windows whose first steps are within one horizon overlap, and series may move together: these windows are one
        block."""
        if self.when is None:
            return None
        numbers = self.when.astype(np.int64) if self.when.dtype.kind == "M" else self.when
        times, place = np.unique(numbers, return_inverse=True)
        apart = np.diff(times)
        per_step = apart.min() if len(apart) else 1
        return np.asarray((times[place] - times[0]) // (per_step * math.ceil(self.horizon / self.stride)), np.int64)

    def places(self, rows: Rows) -> Rows:
        return rows

    def targets(self, places: Tensor) -> Tensor:
        """Of some windows, (windows, horizon * targets + 1): the values of the horizon, and the number of the series
        (`tasks/forecast.py`)."""
        return self._targets(self._first(places))

    def pieces(self, window: list[Rows], device: torch.device) -> Iterator[MiniBatch]:
        for rows in window:
            places = torch.from_numpy(rows)
            first = self._first(places)
            past = (first[:, None] + torch.arange(-self.lookback, 0, device=first.device)).flatten()
            x = self.x.index_select(0, past).view(len(first), self.lookback, -1)
            weights = None if self.weights is None else self.weights[places.to(self.weights.device)]
            yield MiniBatch(
                _moved(x, device),
                None,
                _moved(self._targets(first), device),
                _moved_if(self._beside(first), device),
                _moved_if(weights, device),
            )

    def _first(self, places: Tensor) -> Tensor:
        return torch.from_numpy(self.first).to(self.x.device)[places.to(self.x.device)]

    def _ahead(self, values: Tensor, first: Tensor) -> Tensor:
        """Values of the horizon: (windows, horizon * values)."""
        steps = (first[:, None] + torch.arange(self.horizon, device=first.device)).flatten()
        return values.index_select(0, steps).view(len(first), -1)

    def _targets(self, first: Tensor) -> Tensor:
        series = (first // self.longest).to(self.y.dtype)
        return torch.cat((self._ahead(self.y, first), series[:, None]), dim=1)

    def _beside(self, first: Tensor) -> Tensor | None:
        """What the head reads beside the pooled look-back: (windows, values)."""
        parts = [] if self.known is None else [self._ahead(self.known, first)]
        if self.static is not None:
            parts.append(self.static.index_select(0, first // self.longest))
        return torch.cat(parts, dim=1) if parts else None


def _moved(values: Tensor, device: torch.device) -> Tensor:
    return values if values.device == device else values.pin_memory().to(device, non_blocking=True)


def _moved_if(values: Tensor | None, device: torch.device) -> Tensor | None:
    return None if values is None else _moved(values, device)


@dataclass(frozen=True)
class Forecasting(Prepared):
    """Series ready for training."""

    forecast: Mapping[str, Any] = field(default_factory=dict)
    """What model.json says of the forecast."""
    seasons: tuple[int, ...] = ()
    """Of the baselines, in steps."""

    def card(self) -> dict[str, Any]:
        return {"static_size": self.static_size, "forecast": dict(self.forecast)}


@dataclass(frozen=True)
class Period:
    """Of each series, the steps whose values a part predicts: from begin up to end, (series,) both."""

    begin: Rows
    end: Rows


def on_grid(arrays: Arrays) -> Arrays:
    """The data set with its targets among the features, and with a row for each step in time. Rows that were missing
    have no values."""
    if arrays.y.shape[2]:
        found = all_series.read(arrays)
        y = np.empty((*found.values.shape[:2], 0), np.float32)
        arrays = replace(arrays, x=found.values, features=found.columns, y=y)
    grid = grids.of(arrays.times, arrays.lengths, arrays.groups)
    if not grid.absent or arrays.times is None:
        return arrays
    x, lengths, times = grids.filled(arrays.x_in_memory, arrays.lengths, arrays.times, grid)
    return replace(arrays, x=x, lengths=lengths, times=times, y=np.empty((*x.shape[:2], 0), arrays.y.dtype))


def prepare(arrays: Arrays, spec: Spec, before: Fit | None = None) -> Forecasting:
    """Divides series into periods, prepares their steps as the spec says and finds the windows of each part.

    With `before`, a model's, the preparation is that of the model; scalings of single series are fitted anew.
    Raises DatasetInvalid when a part has no windows, or values are missing that nothing is said of.
    """
    task = spec.task
    assert isinstance(task, Forecast), "another task is prepared by data.py"  # noqa: S101
    plain = on_grid(arrays)
    arrays = all_series.with_calendar(plain, calendar_of(task))
    series = all_series.read(arrays)
    _check_gaps(series, spec.data)
    periods = periods_of(arrays, spec.data.split)
    ends = periods["train"].end
    fitted = _fit(arrays, series, spec, ends, before)
    naive = naive_errors(_target_values(series), ends, (task.season or [1])[0])
    judge = ForecastTask(
        window(task)[1], len(series.targets), task.quantiles or (), _units(arrays, series, fitted, naive)
    )
    all_windows = _windows(arrays, series, fitted, task)
    parts, left_out = {}, {}
    for name, period in periods.items():
        found, left_out[name] = _found(series, period, task, spec.data)
        row, step = found // all_windows.longest, found % all_windows.longest
        when = step if arrays.times is None else _moments(arrays.times[row, step])
        parts[name] = replace(all_windows, first=found, when=when)
    _check_parts(parts, spec, task)
    weights = _weights(arrays, parts)
    parts = {name: replace(part, weights=weights[name]) for name, part in parts.items()}
    return Forecasting(
        task=judge,
        train=parts["train"],
        validation=parts["validation"] if len(parts["validation"]) else None,
        test=parts["test"] if len(parts["test"]) else None,
        classes=None,
        preprocessing=fitted.preprocessing,
        target_scaling=fitted.target_scaling,
        input_size=all_windows.x.shape[1],
        output_size=judge.output_size,
        rows={name: part.first for name, part in parts.items()},
        left_out=left_out,
        target_names=tuple(series.columns[place].name for place in series.targets),
        sample=_sample(plain, all_windows),
        forecast=_card(series, task, fitted, arrays.zoned),
        about={**provenance.of_data(plain, None), "step": _step(arrays)},
        seasons=tuple(task.season or ()),
    )


def _moments(times: NDArray[Any]) -> NDArray[Any]:
    """Times of the clock as what they are: arrays have them in nanoseconds since 1970, and others as floats."""
    return times.astype("datetime64[ns]") if times.dtype.kind == "i" else times


def _sample(arrays: Arrays, windows: Windows) -> Arrays:
    """A few series, each with room for some windows if it is long enough."""
    least = windows.lookback + windows.horizon
    return raw.few(arrays, np.flatnonzero(arrays.lengths >= least), least + raw.MOST_STEPS)


def part_of(arrays: Arrays, rows: Rows, fitted: Fit, task: Forecast) -> Windows:
    """The windows whose first steps to predict are these (`Prepared.rows`), as a model sees them."""
    arrays = all_series.with_calendar(arrays, calendar_of(task))
    return replace(_windows(arrays, all_series.read(arrays), fitted, task), first=rows)


def units(arrays: Arrays, fitted: Fit) -> Units:
    """How a model's targets of these series were scaled."""
    series = all_series.read(arrays)
    return _units(arrays, series, fitted, np.zeros((len(series), len(series.targets))))


def training_steps(arrays: Arrays, split: Split) -> tuple[Arrays, list[int]]:
    """The steps of the training period alone, without the series that have none; and which features are targets."""
    ends = periods_of(arrays, split)["train"].end
    return _cut(arrays, arrays.x_in_memory, ends), list(all_series.read(arrays).targets)


# ---- periods


def periods_of(arrays: Arrays, split: Split) -> dict[str, Period]:
    """The period of each part in each series: with the method `time` one after the other, else whole series."""
    lengths, none = arrays.lengths, np.zeros(len(arrays), np.int64)
    if split.method != "time":
        rows = split_rows(arrays, split)
        inside = {name: np.isin(np.arange(len(arrays)), rows[name]) for name in PARTS}
        return {name: Period(none, np.where(inside[name], lengths, 0)) for name in PARTS}
    validation, test = (
        fallback if not isinstance(share, float) else share
        for share, fallback in ((split.validation, 0.2), (split.test, 0.0))
    )
    if arrays.times is None:
        second = lengths - np.rint(test * lengths).astype(np.int64)
        first = second - np.rint(validation * lengths).astype(np.int64)
    else:
        first, second = _borders(arrays.times, lengths, validation, test)
    return {
        "train": Period(none, first),
        "validation": Period(first, second),
        "test": Period(second, lengths),
    }


def _borders(times: NDArray[Any], lengths: Rows, validation: float, test: float) -> tuple[Rows, Rows]:
    """The first step of validation and of the test in each series: at the same two times in all of them."""
    inside = np.arange(times.shape[1]) < lengths[:, None]
    ordered = np.sort(times[inside])
    last = len(ordered) - round(test * len(ordered))
    found = []
    for place in (last - round(validation * len(ordered)), last):
        if place >= len(ordered):
            found.append(lengths)
        else:
            found.append((inside & (times < ordered[max(0, place)])).sum(axis=1))
    return found[0], found[1]


# ---- windows


def _found(series: Series, period: Period, task: Forecast, data: Data) -> tuple[Rows, int]:
    """The windows of a period, as the places of their first steps to predict, and how many were left out because of
    missing values."""
    lookback, horizon = window(task)
    longest = series.values.shape[1]
    found = []
    for row, (begin, end) in enumerate(zip(period.begin.tolist(), period.end.tolist(), strict=True)):
        found.append(
            row * longest + np.arange(max(lookback, begin), end - horizon + 1, task.stride or 1, dtype=np.int64)
        )
    places: Rows = np.concatenate([NO_ROWS, *found])
    if data.missing == "refuse" or not len(places):
        return places, 0
    ahead = [*series.targets, *(series.known if data.missing == "drop" else ())]
    bad = _missing_between(series, ahead, places, places + horizon)
    if data.missing == "drop":
        bad |= _missing_between(series, list(range(len(series.columns))), places - lookback, places)
    return places[~bad], int(bad.sum())


def _missing_between(series: Series, columns: list[int], begin: Rows, end: Rows) -> NDArray[np.bool_]:
    """Whether any of these columns has a gap from step `begin` up to `end`, (windows,) both."""
    gaps = np.isnan(series.values[:, :, columns]).any(axis=2).reshape(-1)
    before = np.concatenate(([0], np.cumsum(gaps)))
    found: NDArray[np.bool_] = before[end] > before[begin]
    return found


def _windows(arrays: Arrays, series: Series, fitted: Fit, task: Forecast) -> Windows:
    """The steps of all series as the network reads them; no windows yet."""
    lookback, horizon = window(task)
    longest = series.values.shape[1]
    whole = replace(arrays, x=_scaled_by_series(arrays, series.values, fitted.inputs))
    inputs = fitted.preprocessing.applied(whole)
    known = None
    if fitted.known is not None:
        columns = list(series.known)
        some = replace(
            whole,
            x=whole.x[:, :, columns],
            features=tuple(series.columns[place] for place in columns),
            static=None,
            static_columns=(),
        )
        known = torch.from_numpy(fitted.known.applied(some).x).view(len(series) * longest, -1)
    shift, scale = fitted.target_units(_ids(arrays), len(series.targets))
    y = ((_target_values(series) - shift[:, None]) / scale[:, None]).astype(np.float32, order="C")
    return Windows(
        x=torch.from_numpy(np.require(inputs.x, requirements=["C", "W"])).view(len(series) * longest, -1),
        lengths=None,
        y=torch.from_numpy(y).view(len(series) * longest, -1),
        static=None if inputs.static is None else torch.from_numpy(inputs.static),
        longest=longest,
        lookback=lookback,
        horizon=horizon,
        stride=task.stride or 1,
        known=known,
    )


def _weights(arrays: Arrays, parts: Mapping[str, Windows]) -> dict[str, Tensor | None]:
    """The weight of each window, which is that of its series, divided by the mean over the windows of training."""
    if arrays.weights is None:
        return dict.fromkeys(parts)
    weights = arrays.weights
    of = {name: weights[part.first // part.longest] for name, part in parts.items()}
    return {name: torch.from_numpy((each / of["train"].mean()).astype(np.float32)) for name, each in of.items()}


# ---- what is fitted


def _fit(arrays: Arrays, series: Series, spec: Spec, ends: Rows, before: Fit | None) -> Fit:
    data, by_series = spec.data, None
    if data.scaling_over == "per_sequence" and data.scaling != "none":
        by_series = _by_series(arrays, series.values, ends, data.scaling, _numbers(series))
    training = _cut(arrays, _scaled_by_series(arrays, series.values, by_series), ends)
    known_targets = training if by_series is None else _cut(arrays, series.values, ends)
    if data.missing == "drop":
        training = _without_gaps(training)
    if by_series is not None:
        data = data.model_copy(update={"scaling": "none", "scaling_over": "train"})
    everything = np.arange(len(training))
    known = None
    if series.known:
        some = replace(
            training,
            x=training.x[:, :, list(series.known)],
            features=tuple(series.columns[place] for place in series.known),
            static=None,
            static_columns=(),
        )
        plainer = {"differences": None, "missing_mask": False, "categories": "one_hot", "embedding_size": None}
        known = fit_all(some, everything, data.model_copy(update=plainer))
    targets, of_each = UNSCALED, None
    if spec.data.target_scaling == "standard":
        targets = _standard(known_targets, series)
        if by_series is not None:
            of_each = _by_series(arrays, _target_values(series), ends, "standard", list(range(len(series.targets))))
    if before is not None:
        wanted = before.target_scaling.shift
        kept = before.target_scaling if wanted is None or len(wanted) == len(series.targets) else targets
        return Fit(before.preprocessing, kept, before.known, by_series, of_each)
    return Fit(fit_all(training, everything, data), targets, known, by_series, of_each)


def _without_gaps(training: Arrays) -> Arrays:
    """The steps that have all values."""
    given = training.x_in_memory
    steps = given.shape[1]
    whole = ~np.isnan(given).any(axis=2) & (np.arange(steps) < training.lengths[:, None])
    if not whole.any():
        detail = "drop leaves nothing of the training period: each step has a missing value"
        raise DatasetInvalid(f"The data has too many missing values: {detail}.", [Problem("/data/missing", detail)])
    order = np.argsort(~whole, axis=1, kind="stable")
    counts = whole.sum(axis=1)
    x = np.take_along_axis(given, order[:, :, None], axis=1)
    x[np.arange(steps) >= counts[:, None]] = 0.0
    return replace(training, x=x, lengths=counts)


def _standard(training: Arrays, series: Series) -> Scaling:
    """Fitted on the targets of all training steps."""
    inside = np.arange(training.x.shape[1]) < training.lengths[:, None]
    columns = [training.x[:, :, place][inside] for place in series.targets]
    fitted = [standard(each[~np.isnan(each)][:, None]) for each in columns if (~np.isnan(each)).any()]
    if len(fitted) < len(columns):
        detail = "a target has no values in the training period: give longer series, or lower the other shares"
        raise DatasetInvalid(f"The data cannot be used as it is: {detail}.", [Problem("/data/split", detail)])
    shift, scale = ([(getattr(each, name) or [0.0])[0] for each in fitted] for name in ("shift", "scale"))
    return Scaling("standard", shift, scale)


def _by_series(arrays: Arrays, values: NDArray[Any], ends: Rows, name: str, columns: list[int]) -> BySeries:
    """Fits a scaling on the training steps of each series, and one on those of all of them."""
    shift = np.zeros((len(values) + 1, values.shape[2]))
    scale = np.ones_like(shift)
    inside = np.arange(values.shape[1]) < ends[:, None]
    for column in columns:
        shift[:, column], scale[:, column] = _spread(values[:, :, column][inside], name)
        for row, end in enumerate(ends.tolist()):
            if (~np.isnan(values[row, :end, column])).any():
                shift[row, column], scale[row, column] = _spread(values[row, :end, column], name)
    return BySeries(_ids(arrays), shift, scale)


def _spread(values: NDArray[Any], name: str) -> tuple[float, float]:
    """The shift and the scale of numbers; a constant keeps scale 1."""
    there = values[~np.isnan(values)].astype(np.float64)
    if not len(there):
        return 0.0, 1.0
    if name == "standard":
        found = standard(there[:, None])
        assert found.shift is not None  # noqa: S101
        assert found.scale is not None  # noqa: S101
        return found.shift[0], found.scale[0]
    low, middle, high = np.quantile(there, (0.25, 0.5, 0.75)) if name == "robust" else (there.min(), 0, there.max())
    shift, scale = (middle, high - low) if name == "robust" else (low, high - low)
    return float(shift), float(scale) if scale > 0 else 1.0


def _scaled_by_series(arrays: Arrays, values: NDArray[Any], by_series: BySeries | None) -> NDArray[Any]:
    return values if by_series is None else by_series.scaled(values, arrays.lengths, _ids(arrays))


def _units(arrays: Arrays, series: Series, fitted: Fit, naive: Floats) -> Units:
    return Units(*fitted.target_units(_ids(arrays), len(series.targets)), naive)


def naive_errors(values: NDArray[Any], ends: Rows, season: int) -> Floats:
    """The mean error in the training period of the forecast that repeats the value of a season before, (series,
    targets); the mean of all series for one that has no such period. `values` (series, steps, targets)."""
    found = np.full((len(values), values.shape[2]), np.nan)
    for row, end in enumerate(ends.tolist()):
        lag = season if end > season else 1
        errors = np.abs(values[row, lag:end] - values[row, : max(0, end - lag)]).astype(np.float64)
        known = ~np.isnan(errors)
        counts = known.sum(axis=0)
        sums = np.where(known, errors, 0.0).sum(axis=0)
        found[row] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    there = ~np.isnan(found)
    mean = np.where(there, found, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return np.where(there, found, mean)


# ---- helpers


def _cut(arrays: Arrays, values: NDArray[Any], ends: Rows) -> Arrays:
    """The steps of each series up to its end, zero after it; without the series that end at once."""
    rows = np.flatnonzero(ends > 0)
    longest = int(ends.max(initial=1))
    x = values[:, :longest] if len(rows) == len(values) else values[rows, :longest]
    behind = np.arange(x.shape[1]) >= ends[rows, None]
    if behind.any():
        x = np.where(behind[:, :, None], x.dtype.type(0), x)
    return replace(
        arrays,
        x=x,
        lengths=ends[rows],
        y=np.empty((*x.shape[:2], 0), np.float32),
        split=None,
        static=None if arrays.static is None else arrays.static[rows],
        weights=None if arrays.weights is None else arrays.weights[rows],
        groups=None if arrays.groups is None else arrays.groups[rows],
        ends=None,
        times=None if arrays.times is None else arrays.times[rows, : x.shape[1]],
    )


def _target_values(series: Series) -> NDArray[Any]:
    """(series, longest, targets)"""
    return series.values[:, :, list(series.targets)]


def _numbers(series: Series) -> list[int]:
    return [place for place, column in enumerate(series.columns) if column.kind != "category"]


def _ids(arrays: Arrays) -> tuple[str, ...]:
    return tuple(map(str, range(len(arrays)) if arrays.groups is None else arrays.groups.tolist()))


def _step(arrays: Arrays) -> dict[str, Any] | None:
    """The time between two steps."""
    found = grids.of(arrays.times, arrays.lengths).step
    return None if found is None else found.document()


def _card(series: Series, task: Forecast, fitted: Fit, zoned: bool | None) -> dict[str, Any]:
    lookback, horizon = window(task)
    names = [column.name for column in series.columns]
    read = calendar_of(task)
    return {
        "lookback": lookback,
        "horizon": horizon,
        "targets": [names[place] for place in series.targets],
        "known_future": [names[place] for place in series.known[: len(series.known) - len(calendar.columns(read))]],
        **({"calendar": read} if read else {}),
        **({"zoned": zoned} if read and zoned is not None else {}),
        "quantiles": task.quantiles,
        "fit": fitted.document(),
    }


def _check_gaps(series: Series, data: Data) -> None:
    """Raises DatasetInvalid where values are missing and nothing is said of them."""
    if data.missing != "refuse":
        return
    inside = np.arange(series.values.shape[1]) < series.lengths[:, None]
    gaps = [
        column.name
        for place, column in enumerate(series.columns)
        if (np.isnan(series.values[:, :, place]) & inside).any()
    ]
    if gaps:
        detail = (
            f"values of {', '.join(gaps[:10])} are missing: set data.missing to forward to repeat the value before, or "
            "to drop to leave out the windows that have gaps"
        )
        raise DatasetInvalid(f"The data cannot be used as it is: {detail}.", [Problem("/data/missing", detail)])


def _check_parts(parts: Mapping[str, Windows], spec: Spec, task: Forecast) -> None:
    """Raises DatasetInvalid where a part has no windows, or holds numbers that are too large."""
    lookback, horizon = window(task)
    problems = []
    for name, part in parts.items():
        share = getattr(spec.data.split, name, 1.0)
        if not len(part) and share not in (0.0, None):
            needs = f"{horizon:,} steps" if name != "train" else f"{lookback + horizon:,} steps"
            detail = (
                f"the {name} period has no room for a window ({needs} without missing values): lower task.horizon or "
                "task.lookback, raise the share of the part, or give longer series"
            )
            problems.append(Problem("/data/split" if name == "train" else f"/data/split/{name}", detail))
    if problems:
        raise DatasetInvalid(f"The split has an empty part: {problems[0].detail}.", problems)
    if spec.architecture.batch_norm and len(parts["train"]) < 2:
        detail = "batch_norm needs at least two training windows, and there is one"
        raise DatasetInvalid(f"{detail[0].upper()}{detail[1:]}.", [Problem("/architecture/batch_norm", detail)])
    for name, numbers, instead in (
        ("features", parts["train"].x, "data.scaling"),
        ("targets", parts["train"].y, "data.target_scaling"),
    ):
        known = numbers[~numbers.isnan()]
        if len(known) and float(known.abs().max()) >= TOO_LARGE:
            detail = f"the {name} have numbers that float32 cannot square: set {instead} to standard, or rescale them"
            raise DatasetInvalid(f"The data is too large to train on: {detail}.", [Problem("/data", detail)])
