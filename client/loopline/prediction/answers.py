"""Answers: numbers with the names of the data.

Each task has one table (`columns`), which CSV files, JSON rows and services send as it is:

| task | a row is | columns |
| --- | --- | --- |
| classification | a sequence | `id`, `label`, `probability`; `probability_CLASS` of each class |
| multilabel | a sequence | `id`; of each label `LABEL`, true or false, and `probability_LABEL` |
| regression | a sequence | `id`, and each target |
| tagging | a step | `id`, `step` from 1 on, `time` if steps have times, `label`, `probability` |
| forecast | a step ahead | `id`, `step` from 1 on, `time` if steps have times; of each `TARGET`, and `TARGET_qQ` |
| next_step | a likely next entry | `id`, `rank` from 1 on, `entry`, `probability` |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
Label = int | str
LIKELIEST = 10
"""Entries of a next step that have rows."""
NEEDS_PYARROW = 'This needs pyarrow: pip install "loopline[predict]".'
NEEDS_PANDAS = "A data frame needs pandas: pip install pandas."


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of some sequences, in the order in which they were given."""

    task: str
    ids: tuple[str, ...]
    """Of the sequences; numbers from 0 on where they have no names."""
    warnings: tuple[str, ...] = ()
    """What makes the answer less sure, in sentences."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getattr__(self, name: str) -> Any:
        # Without it a type checker would refuse `answer.labels`: which task a model has is known when it is loaded.
        if name.startswith("_"):
            raise AttributeError(name)
        own = ", ".join(sorted(each for each in {*vars(self), *vars(type(self))} if not each.startswith("_")))
        raise AttributeError(f"An answer of the task {vars(self).get('task')!r} has no {name!r}. It has: {own}.")

    def columns(self) -> dict[str, Sequence[Any]]:
        """The table of the task, by column."""
        raise NotImplementedError

    def rows(self) -> Iterator[dict[str, Any]]:
        """The table of the task, row by row: plain Python values."""
        columns = self.columns()
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON: `task`, `warnings`, and `rows`."""
        return {"task": self.task, "warnings": list(self.warnings), "rows": [_plain(row) for row in self.rows()]}

    def to_arrow(self) -> pa.Table:
        """The table of the task. Raises ImportError without pyarrow."""
        try:
            import pyarrow as pa
        except ImportError:
            raise ImportError(NEEDS_PYARROW) from None
        return pa.table({name: pa.array(values) for name, values in self.columns().items()})

    def to_pandas(self) -> Any:
        """The table of the task as a pandas.DataFrame. Raises ImportError without pyarrow or pandas."""
        if find_spec("pandas") is None:
            raise ImportError(NEEDS_PANDAS)
        return self.to_arrow().to_pandas()


@dataclass(frozen=True, kw_only=True)
class Classification(Answer):
    classes: tuple[Label, ...]
    probabilities: Floats = field(repr=False)
    """(sequences, classes)"""

    @property
    def labels(self) -> list[Label]:
        """The most probable class of each sequence."""
        return [self.classes[place] for place in self.probabilities.argmax(axis=1).tolist()]

    def columns(self) -> dict[str, Sequence[Any]]:
        each = {f"probability_{label}": self.probabilities[:, n].tolist() for n, label in enumerate(self.classes)}
        best = self.probabilities.max(axis=1).tolist()
        return {"id": self.ids, "label": self.labels, "probability": best, **each}


@dataclass(frozen=True, kw_only=True)
class Multilabel(Answer):
    names: tuple[str, ...]
    probabilities: Floats = field(repr=False)
    """(sequences, labels): of yes."""

    @property
    def labels(self) -> list[list[str]]:
        """Of each sequence, the labels with a probability above one half."""
        return [[name for name, yes in zip(self.names, row, strict=True) if yes > 0.5] for row in self.probabilities]

    def columns(self) -> dict[str, Sequence[Any]]:
        found: dict[str, Sequence[Any]] = {"id": self.ids}
        for place, name in enumerate(self.names):
            found[_column(name, found)] = (self.probabilities[:, place] > 0.5).tolist()
            found[_column(f"probability_{name}", found)] = self.probabilities[:, place].tolist()
        return found


@dataclass(frozen=True, kw_only=True)
class Values(Answer):
    names: tuple[str, ...]
    """Of the targets."""
    values: Floats = field(repr=False)
    """(sequences, targets), in the unit of the data."""

    def columns(self) -> dict[str, Sequence[Any]]:
        found: dict[str, Sequence[Any]] = {"id": self.ids}
        for place, name in enumerate(self.names):
            found[_column(name, found)] = self.values[:, place].tolist()
        return found


@dataclass(frozen=True, kw_only=True)
class Tags(Answer):
    classes: tuple[Label, ...]
    probabilities: tuple[Floats, ...] = field(repr=False)
    """Of each sequence: (steps, tags)."""
    times: tuple[list[Any], ...] | None = field(default=None, repr=False)
    """Of each sequence: the time of each step."""

    @property
    def labels(self) -> list[list[Label]]:
        """The most probable tag of each step of each sequence."""
        return [[self.classes[place] for place in each.argmax(axis=1).tolist()] for each in self.probabilities]

    def columns(self) -> dict[str, Sequence[Any]]:
        sizes = [len(each) for each in self.probabilities]
        times = {} if self.times is None else {"time": [time for each in self.times for time in each]}
        return {
            "id": [name for name, size in zip(self.ids, sizes, strict=True) for _ in range(size)],
            "step": [step for size in sizes for step in range(1, size + 1)],
            **times,
            "label": [label for each in self.labels for label in each],
            "probability": [value for each in self.probabilities for value in each.max(axis=1).tolist()],
        }


@dataclass(frozen=True, kw_only=True)
class Forecast(Answer):
    names: tuple[str, ...]
    """Of the targets."""
    values: Floats = field(repr=False)
    """(sequences, horizon, targets), in the unit of the data; of quantiles the median."""
    quantiles: tuple[float, ...] = ()
    by_quantile: Floats | None = field(default=None, repr=False)
    """(sequences, horizon, targets, quantiles)"""
    times: tuple[list[Any], ...] | None = field(default=None, repr=False)
    """Of each sequence: the time of each step of the horizon, if steps have times."""

    def columns(self) -> dict[str, Sequence[Any]]:
        horizon = self.values.shape[1]
        found: dict[str, Sequence[Any]] = {
            "id": [name for name in self.ids for _ in range(horizon)],
            "step": [step for _ in self.ids for step in range(1, horizon + 1)],
        }
        if self.times is not None:
            found["time"] = [time for each in self.times for time in each]
        for place, name in enumerate(self.names):
            found[_column(name, found)] = self.values[:, :, place].ravel().tolist()
            for number, quantile in enumerate(self.quantiles):
                assert self.by_quantile is not None, "quantiles have values"  # noqa: S101
                values = self.by_quantile[:, :, place, number].ravel().tolist()
                found[_column(f"{name}_q{quantile:g}", found)] = values
        return found


@dataclass(frozen=True, kw_only=True)
class NextStep(Answer):
    entries: tuple[str | None, ...] = field(repr=False)
    """The characters or words that the model knows, after None, which is any other."""
    probabilities: Floats = field(repr=False)
    """(texts, entries)"""

    def likeliest(self, most: int = LIKELIEST) -> list[list[tuple[str, float]]]:
        """Of each text, the entries that most probably come next, and their probabilities."""
        found = []
        for row in self.probabilities:
            order = np.argsort(-row, kind="stable")[: most + 1].tolist()
            named = [(self.entries[place], float(row[place])) for place in order]
            found.append([(entry, share) for entry, share in named if entry is not None][:most])
        return found

    def columns(self) -> dict[str, Sequence[Any]]:
        all_rows = [
            (name, rank, entry, share)
            for name, each in zip(self.ids, self.likeliest(), strict=True)
            for rank, (entry, share) in enumerate(each, 1)
        ]
        names = ("id", "rank", "entry", "probability")
        return {name: [row[place] for row in all_rows] for place, name in enumerate(names)}


def words(values: Sequence[Any]) -> Sequence[Any]:
    """Values of a column as a CSV has them: true and false as JSON says it, and times in words."""
    if values and isinstance(values[0], bool):
        return [("false", "true")[value] for value in values]
    if values and hasattr(values[0], "isoformat"):
        return [value.isoformat() for value in values]
    return values


def _column(name: str, taken: dict[str, Sequence[Any]]) -> str:
    """A name of a column that is free: a target may be called `id`."""
    while name in taken:
        name += "_"
    return name


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """With times in words, because JSON has none."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
