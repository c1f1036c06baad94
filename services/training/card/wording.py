"""What several sections of a model card say in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.training.card.markdown import cell

MOST_NAMED = 30
"""Of a list of names."""

SHORT = {
    **{"f1": "F1", "auroc": "AUROC", "mae": "MAE", "rmse": "RMSE", "r2": "R²"},
    **{"mase": "MASE", "smape": "sMAPE"},
}
"""How the short names of metrics are written."""

Lines = list[str]
"""Of Markdown. A section without lines has nothing to say."""
Pictures = Mapping[str, bytes]
"""By the names of their files."""


def picture(said: str, file: str) -> Lines:
    return [f"![{said}]({file})", ""]


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def span(low: int, high: int) -> str:
    """A range of steps."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def are_quarters(counts: Sequence[int]) -> bool:
    """Whether each of these counts is about a quarter of all; not where lengths are repeated."""
    return len(counts) == 4 and 0.2 * sum(counts) <= min(counts) <= max(counts) <= 0.3 * sum(counts)


def listed(names: Sequence[Any], shown: Callable[[object], str] = cell) -> str:
    found = ", ".join(shown(each) for each in names[:MOST_NAMED])
    return f"{found} and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else found


def metric_name(key: str) -> str:
    """`test_macro_f1` in words: `test macro F1`."""
    return " ".join(SHORT.get(word, word) for word in key.split("_"))


def split_name(split: str) -> str:
    return "training" if split == "train" else split
