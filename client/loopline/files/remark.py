"""One thing to know about a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Remark:
    """One thing to know about a data set."""

    severity: Severity
    """problem: nothing can be trained on it as it is. warning: a model may be worse, or look better, than it is."""
    kind: str
    """For programs: `constant_feature`, `gaps`, ..."""
    columns: tuple[str, ...]
    where: str
    """The first rows or sequences, or empty."""
    detail: str
    """What there is, and what to do about it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}" if self.where else self.detail
