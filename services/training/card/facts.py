"""What a model card is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.training.epochs import Epoch
from services.training.measures import recorded


@dataclass(frozen=True)
class Values:
    """Some values to predict, (samples, targets) both, in the unit of the data. The first targets only."""

    names: tuple[str, ...]
    actual: Sequence[Sequence[float]]
    predicted: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Forecasted:
    """One forecast of the first target, in the unit of the data; NaN is a missing value."""

    target: str
    when: str | None
    """The time of the first step to predict, if steps have times."""
    past: Sequence[float]
    actual: Sequence[float]
    predicted: Sequence[float]
    low: Sequence[float] | None = None
    """The lowest of the quantiles."""
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Examples:
    """A few answers to a split beside what is true."""

    split: str
    values: Values | None = None
    forecasts: tuple[Forecasted, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What there is to say of a model."""

    model: Mapping[str, Any]
    """model.json"""
    epochs: Sequence[Epoch]
    """Of the run that made the model, in their order."""
    parameters: int
    samples: Mapping[str, int]
    """Of each split."""
    made_at: datetime
    has_onnx: bool
    examples: Examples | None = None

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.model["spec"]
        return found

    @property
    def split(self) -> str | None:
        """The one that judges the model."""
        return next((each for each in ("test", "validation") if each in (self.model.get("details") or {})), None)

    @property
    def details(self) -> Mapping[str, Any]:
        """Of that split."""
        found: Mapping[str, Any] = (self.model.get("details") or {}).get(self.split, {})
        return found

    @property
    def metric(self) -> str:
        """The one that the model is judged by, without the name of a split."""
        return recorded(self.model["baseline"]["metric"]).name

    @property
    def judged(self) -> float | None:
        """Its value for that split."""
        found: float | None = self.model["metrics"].get(f"{self.split}_{self.metric}")
        return found
