"""The space of a search: which fields of a spec are varied, and between which values.

    training.optimizer.lr: {low: 1.0e-4, high: 1.0e-1, log: true}         a number between two bounds
    architecture.hidden_size: {low: 16, high: 256, step: 16}              a whole number, because both bounds are
    architecture.cell: [lstm, gru]                                        one of some values, any JSON
    architecture.forget_gate_bias: {values: [0.0, 1.0], when: {architecture.cell: [lstm]}}

A field with `when` is varied only if the other fields have these values. Otherwise the spec's own value counts. The
`choices` of a trial are its values by path, without the fields that are not varied in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from services.jobs.matrix import pointer_to, with_value

PLACE = "/search/space"

Choices = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether it is drawn evenly by its logarithm."""
    step: float | None = None
    """Values are `low` and so many steps above it."""

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def top(self) -> float:
        """The greatest value: `high`, or the last step that is not above it."""
        return self.high if self.step is None else self._at(self._steps)

    @property
    def corners(self) -> Sequence[Any]:
        """Those values with which a spec is tried before the search is accepted."""
        return (self.low, self.top)

    @property
    def _steps(self) -> int:
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-8)

    def values(self) -> Iterator[Any] | None:
        """All values, ascending; None if there is no end of them."""
        if self.step is None and not self.is_whole:
            return None
        return map(self._at, range(self._steps + 1))

    def _at(self, place: int) -> float:
        if self.is_whole:
            return self.low + place * (self.step or 1)
        return float(Decimal(str(self.low)) + place * Decimal(str(self.step)))  # 0.9 and not 0.8999999999999999


@dataclass(frozen=True)
class Values:
    """One of some values."""

    corners: Sequence[Any]

    def values(self) -> Iterator[Any]:
        """All values, in the order given."""
        return iter(self.corners)


@dataclass(frozen=True)
class Field:
    """A field that is varied."""

    path: str
    domain: Range | Values
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """It is varied only if each of these other fields has one of these values."""

    @property
    def pointer(self) -> str:
        """Where it is defined in the document of a search."""
        return PLACE + pointer_to([self.path])

    def is_varied(self, choices: Choices) -> bool:
        """Whether the fields before it, as chosen, let it be varied."""
        return all(
            path in choices and key_of(choices[path]) in map(key_of, allowed) for path, allowed in self.when.items()
        )


@dataclass(frozen=True)
class Space:
    """The fields of a search, each behind those that its `when` names."""

    fields: Sequence[Field]

    def __getitem__(self, path: str) -> Field:
        return next(each for each in self.fields if each.path == path)

    @property
    def is_grid(self) -> bool:
        """Whether all fields are lists of values."""
        return all(isinstance(each.domain, Values) for each in self.fields)

    @property
    def is_finite(self) -> bool:
        return all(each.domain.values() is not None for each in self.fields)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every combination of a finite space once, the last field's values changing fastest."""

        def below(at: int, choices: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if at == len(self.fields):
                yield choices
            elif self.fields[at].is_varied(choices):
                for each in self.fields[at].domain.values() or ():
                    yield from below(at + 1, {**choices, self.fields[at].path: each})
            else:
                yield from below(at + 1, choices)

        return below(0, {})

    def count(self, most: int) -> int | None:
        """How many combinations there are, counted to `most` at the furthest; None if there is no end of them."""
        return sum(1 for _ in zip(range(most), self.cells(), strict=False)) if self.is_finite else None


def spec_of(base: Mapping[str, Any], choices: Choices) -> dict[str, Any]:
    """The spec of a trial: that of the search with these values in their places."""
    spec = dict(base)
    for path, chosen in choices.items():
        spec = with_value(spec, path.split("."), chosen)
    return spec


def key_of(chosen: Any) -> str:
    """The same text for the same JSON: in Python 1, 1.0 and True are equal."""
    return json.dumps(chosen, sort_keys=True)
