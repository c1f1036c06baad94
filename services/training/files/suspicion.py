"""One suspicion: what may be wrong with a data set, and when it matters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

When = Literal["always", "loss_unsaid", "unscaled", "targets_unscaled", "drawn_split", "unfilled", "no_task", "rows"]
"""Whether it applies: in any job; in one whose spec names no loss, has `scaling: none`, or has `target_scaling: none`;
in one whose validation or test split is drawn at random; in one that refuses missing values; in one whose task is not
to go on with the data (forecast, next_step); in one that adds no missing rows, as only a forecast does."""


@dataclass(frozen=True)
class Suspicion:
    """What may be wrong, and when it matters."""

    code: str
    when: When
    message: str
    """What was found, what it is taken for, and what to do if that was not meant."""

    def document(self) -> dict[str, str]:
        return asdict(self)
