"""What several sections of a model card say in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.training.card.markdown import cell

MOST_NAMED = 30
"""Of a list of names."""

Lines = list[str]
"""Of Markdown. A section without lines has nothing to say."""
Pictures = Mapping[str, bytes]
"""By the names of their files."""


def picture(said: str, file: str) -> Lines:
    return [f"![{said}]({file})", ""]


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(names: Sequence[Any], shown: Callable[[object], str] = cell) -> str:
    found = ", ".join(shown(each) for each in names[:MOST_NAMED])
    return f"{found} and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else found


def metric_name(key: str) -> str:
    return key.replace("_", " ")


def split_name(split: str) -> str:
    return "training" if split == "train" else split
