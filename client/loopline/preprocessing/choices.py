"""What a spec says about how steps are prepared."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Choices:
    """The fields of a spec's `data` that say how steps are prepared."""

    max_length: int | None = None
    cut: str = "end"
    stride: int = 1
    missing: str = "refuse"
    missing_mask: bool = False
    differences: str | None = None
    categories: str = "one_hot"
    embedding_size: int | None = None
    scaling_over: str = "train"
    patch: int = 1

    @classmethod
    def of(cls, data: Any) -> Choices:
        """Those of a spec's `data`."""
        return cls(**{each.name: getattr(data, each.name) for each in fields(cls)})
