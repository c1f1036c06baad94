"""What was fitted for series whose next steps are forecast, and how it is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.preprocessing.fitted import Preprocessing
from loopline.preprocessing.scaling import Scaling

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BySeries:
    """Shifts and scales of each series, (series + 1, columns): its own, and at last those for an unknown one."""

    ids: tuple[str, ...]
    shift: Floats
    scale: Floats

    def rows(self, ids: tuple[str, ...]) -> tuple[Floats, Floats]:
        """Those of series with these ids."""
        place = {name: number for number, name in enumerate(self.ids)}
        chosen = [place.get(name, len(self.ids)) for name in ids]
        return self.shift[chosen], self.scale[chosen]

    def scaled(self, values: NDArray[Any], lengths: NDArray[np.int64], ids: tuple[str, ...]) -> NDArray[np.float32]:
        """Values (series, steps, columns) of series with these ids; zero from `lengths` on."""
        shift, scale = self.rows(ids)
        found: NDArray[np.float32] = ((values - shift[:, None]) / scale[:, None]).astype(np.float32)
        found[np.arange(values.shape[1]) >= lengths[:, None]] = 0.0
        return found

    def document(self) -> dict[str, Any]:
        return {"ids": list(self.ids), "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> BySeries:
        return cls(tuple(document["ids"]), *(np.asarray(document[name], np.float64) for name in ("shift", "scale")))


@dataclass(frozen=True)
class Fit:
    """What was fitted on the training period."""

    preprocessing: Preprocessing
    target_scaling: Scaling
    known: Preprocessing | None = None
    """Of what is known ahead of time."""
    inputs: BySeries | None = None
    """The scaling of the columns of each series, before everything else, where each has its own."""
    outputs: BySeries | None = None
    """The scaling of the targets of each series, where each has its own."""

    def target_units(self, ids: tuple[str, ...], targets: int) -> tuple[Floats, Floats]:
        """The shift and the scale of so many targets of series with these ids: (series, targets)."""
        if self.outputs is not None:
            return self.outputs.rows(ids)
        shape, scaling = (len(ids), targets), self.target_scaling
        shift, scale = (
            np.zeros(shape) if scaling.shift is None else np.broadcast_to(np.asarray(scaling.shift), shape),
            np.ones(shape) if scaling.scale is None else np.broadcast_to(np.asarray(scaling.scale), shape),
        )
        return shift.astype(np.float64), scale.astype(np.float64)

    def document(self) -> dict[str, Any]:
        known = self.known
        return {
            "known": None if known is None else {**known.document(), "scaling": known.scaling.document()},
            "inputs": None if self.inputs is None else self.inputs.document(),
            "outputs": None if self.outputs is None else self.outputs.document(),
        }

    @classmethod
    def read(cls, card: Mapping[str, Any]) -> Fit:
        """That of a model.json. Raises KeyError, TypeError."""
        document = card["forecast"]["fit"]
        known = document["known"]
        return cls(
            Preprocessing.read(card),
            Scaling(**card["target_scaling"]),
            None if known is None else Preprocessing.read({"preprocessing": known, "scaling": known["scaling"]}),
            *(None if document[name] is None else BySeries.read(document[name]) for name in ("inputs", "outputs")),
        )
