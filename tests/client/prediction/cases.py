"""Models of every task and cell, each trained for a moment, and what their own network answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loopline.prediction.answers import Answer
from loopline.prediction.loading import TrainedModel
from numpy.typing import NDArray

from services.training import run as runs
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, answers, in_rows
from services.training.preparing import arrays_for, prepare
from services.training.spec import check_data, parse
from services.training.windows import Windows
from tests.training.building import (
    classes,
    document,
    forecast_spec,
    hourly,
    mixed,
    of_many_lengths,
    of_texts,
    tagged,
    texts,
    trained,
    values,
)

SPLIT = {"split": {"validation": 0.2, "test": 0.3}}


@dataclass(frozen=True)
class Case:
    arrays: Callable[[], Arrays]
    changes: Mapping[str, Any]


def labelled() -> Arrays:
    arrays = of_many_lengths(classes(samples=30))
    y = np.random.default_rng(3).integers(0, 2, (30, 3)) | np.eye(3, dtype=np.int64)[arrays.y]
    return replace(arrays, y=y)


def two_classes() -> Arrays:
    return of_many_lengths(classes(samples=30, kinds=2))


def lines() -> Arrays:
    rng = np.random.default_rng(8)
    found = ["".join(rng.choice(list("abcd, "), 25)) for _ in range(30)]
    return of_texts(found, np.empty((30, 0), np.int64))


def far_values() -> Arrays:
    arrays = values(samples=30)
    return replace(arrays, y=arrays.y * 40.0 + 900.0, targets=("height", "id"))


def whole_series() -> Arrays:
    found = hourly([40, 33, 40], known=("wind",), gaps=True)
    static = np.array([[1.0, 0.0], [2.0, 1.0], [4.0, 0.0]])
    from loopline.files.sequences import Column

    return replace(found, static=static, static_columns=(Column("size"), Column("side", "category", ("e", "w"))))


CASES = {
    "plain": Case(lambda: of_many_lengths(classes(samples=30)), {"data": {"scaling": "standard"}}),
    "attention": Case(
        lambda: mixed(samples=40),
        {
            "architecture": {"cell": "lstm", "bidirectional": True, "pooling": "attention", "batch_norm": True},
            "data": {"missing": "forward", "missing_mask": True, "scaling": "standard"},
        },
    ),
    "embedded": Case(
        lambda: mixed(samples=40),
        {
            "architecture": {"cell": "rnn", "nonlinearity": "relu", "pooling": "mean", "num_layers": 2},
            "data": {
                **{"missing": "mean", "categories": "embedding", "differences": "append", "patch": 2, "stride": 2},
                **{"max_length": 6, "scaling": "robust"},
            },
        },
    ),
    "by itself": Case(
        lambda: mixed(samples=40),
        {
            "architecture": {"cell": "rnn", "pooling": "max", "bidirectional": True, "num_layers": 2},
            "data": {"missing": "linear", "scaling": "minmax", "scaling_over": "per_sequence"},
        },
    ),
    "labels": Case(labelled, {"architecture": {"pooling": "mean"}}),
    "one logit": Case(two_classes, {"training": {"loss": {"name": "bce"}}, "architecture": {"pooling": "attention"}}),
    "values": Case(
        far_values, {"architecture": {"cell": "lstm", "pooling": "final", "num_layers": 2, "bidirectional": True}}
    ),
    "tags": Case(tagged, {"architecture": {"bidirectional": True, "batch_norm": True}}),
    "relu": Case(tagged, {"architecture": {"cell": "rnn", "nonlinearity": "relu", "num_layers": 3}}),
    "words": Case(lambda: texts(60), {"architecture": {"cell": "lstm", "pooling": "max"}}),
    "next": Case(lines, {"task": {"name": "next_step", "joined": False}, "architecture": {"num_layers": 2}}),
    "forecast": Case(
        lambda: hourly([60, 50], gaps=True),
        {"data": {"differences": "append"}, "architecture": {"batch_norm": True}},
    ),
    "calendar": Case(
        lambda: hourly([100, 90], gaps=True),
        {"task": {"calendar": ["hour", "weekday", "yearday"]}, "data": {"scaling": "minmax"}},
    ),
    "quantiles": Case(
        whole_series,
        {
            "task": {"quantiles": [0.1, 0.5, 0.9]},
            "architecture": {"cell": "lstm", "pooling": "mean"},
            "data": {"scaling_over": "per_sequence", "missing_mask": True},
        },
    ),
}
FORWARDS = [
    name for name, case in CASES.items() if not case.changes.get("architecture", {}).get("bidirectional", False)
]


def made(case: Case) -> Run:
    """A run that has ended."""
    arrays = case.arrays()
    if arrays.y.ndim == 3 and arrays.y.dtype.kind == "f":
        spec = forecast_spec(arrays, **case.changes)
    else:
        changes = {**case.changes, "data": {**SPLIT, **case.changes.get("data", {})}}
        spec = check_data(parse(document(**changes)), npz.summarise(arrays))
    run = Run(spec, prepare(arrays_for(arrays, spec), spec))
    trained(run)
    return run


@dataclass(frozen=True)
class Trained:
    """A model, the data that it was trained on, and the folder that a client downloads."""

    arrays: Arrays
    run: Run
    folder: Path

    @classmethod
    def of(cls, name: str, folder: Path) -> Trained:
        return cls.of_case(CASES[name], folder)

    @classmethod
    def of_case(cls, case: Case, folder: Path) -> Trained:
        run = made(case)
        for _ in runs.finish(run, folder):
            pass
        return cls(case.arrays(), run, folder)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Of the test; of a forecast the places of first steps."""
        return self.run.data.rows["test"]

    def outputs(self) -> torch.Tensor:
        """What the network of training gives for the samples of the test, one after the other."""
        assert self.run.data.test is not None
        found, places = answers(self.run.model.eval(), self.run.data.test, self.run.device, "float32")
        return in_rows(found, places).double()

    def y(self) -> NDArray[Any]:
        return self.arrays.y[self.rows]

    def asked(self, model: TrainedModel, rows: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """Some samples, by default those of the test, as the arguments of `predict`."""
        if rows is None and isinstance(self.run.data.test, Windows):
            return self._series(model, self.run.data.test)
        arrays, rows = self.arrays, self.rows if rows is None else rows
        static = (
            None if arrays.static is None else self._numbered(arrays.static[rows], arrays.static_columns, model.static)
        )
        if arrays.texts is not None:
            return {"x": arrays.texts[rows].tolist(), "static": static}
        x = [self._numbered(arrays.x[row, : arrays.lengths[row]], arrays.columns, model.features) for row in rows]
        return {"x": x, "static": static}

    def _series(self, model: TrainedModel, part: Windows) -> dict[str, Any]:
        arrays = self.arrays
        known = [c.name for c in arrays.columns if c.name in (arrays.schema.known_future or ())]  # type: ignore[union-attr]
        columns = [[c.name for c in arrays.columns].index(name) for name in known]
        places = [(int(first) // part.longest, int(first) % part.longest) for first in part.first]
        assert arrays.groups is not None
        found: dict[str, Any] = {
            "x": [arrays.x[row, :step] for row, step in places],
            "ids": [str(arrays.groups[row]) for row, _ in places],
        }
        if model.card["forecast"].get("calendar"):
            assert arrays.times is not None
            found["end"] = [str(np.datetime64(int(arrays.times[row, step - 1]), "ns")) for row, step in places]
        if known:
            found["future"] = [arrays.x[row, step : step + part.horizon][:, columns] for row, step in places]
        if arrays.static is not None:
            rows = [row for row, _ in places]
            found["static"] = self._numbered(arrays.static[rows], arrays.static_columns, model.static)
        return found

    @staticmethod
    def _numbered(x: NDArray[Any], columns: Any, wanted: Any) -> NDArray[Any]:
        """Values whose words have the numbers that the model gives them."""
        found = np.array(x, np.float64)
        for place, (column, feature) in enumerate(zip(columns, wanted, strict=True)):
            if column.categories is None:
                continue
            numbers = [
                feature.categories.index(word) if word in feature.categories else 0 for word in column.categories
            ]
            there = ~np.isnan(found[:, place])
            found[there, place] = np.array(numbers)[found[there, place].astype(int)]
        return found


def numbers(answer: Answer) -> NDArray[np.float64]:
    """All numbers of an answer, (rows, numbers)."""
    for name in ("by_quantile", "probabilities", "values"):
        found = getattr(answer, name, None)
        if found is not None:
            flat = np.concatenate(found) if isinstance(found, tuple) else found
            return flat.reshape(len(flat), -1)
    raise AssertionError("an answer has numbers")
