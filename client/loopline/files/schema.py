"""The schema of a data set: which columns of a file are what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Layout = Literal["wide", "long", "files", "text"]
BETWEEN = "/"
"""Stands between the values of several columns that name a sequence together."""


@dataclass(frozen=True)
class Schema:
    """Each field is None, or empty, where it is to be inferred; an inferred schema has them all."""

    layout: Layout | None = None
    """`wide`: a row is a sequence. `long`: a row is a step. `files`: a file is a sequence. `text`: a row is a text."""
    group: tuple[str, ...] | None = None
    """Columns whose values together name the sequence, or series, of a row. Empty: all rows are one series."""
    order: str | None = None
    """The column that orders the steps of a sequence: a number, a date or a time."""
    features: tuple[str, ...] | None = None
    """Columns that a model sees at each step."""
    static: tuple[str, ...] | None = None
    """Columns with one value for each sequence, which a model sees beside its steps."""
    text: str | None = None
    """The column of texts."""
    target: tuple[str, ...] | None = None
    """Columns to predict."""
    known_future: tuple[str, ...] | None = None
    """Features whose values are known ahead of time, such as holidays. For forecasts."""
    weight: str | None = None
    """The column with the weight of each sequence in the loss."""
    split: str | None = None
    """The column that says `train`, `validation` or `test` (or 0, 1, 2) for each sequence."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Schema:
        """The schema in a document; a list may be given as one name. Raises ValueError, which names the field."""
        known = {field.name: field for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in document.items():
            if name not in known:
                raise ValueError(f"{name!r} is no field of a schema; the fields are {', '.join(known)}")
            values[name] = _read(name, value, several="tuple" in str(known[name].type))
        if values.get("layout") not in (None, "wide", "long", "files", "text"):
            raise ValueError(f"layout must be wide, long, files or text, not {values['layout']!r}")
        return cls(**values)

    def document(self) -> dict[str, Any]:
        """The schema as plain JSON, without the fields that say nothing."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in found.items() if value is not None}


def _read(name: str, value: Any, *, several: bool) -> Any:
    if value is None:
        return None
    if not several:
        if not isinstance(value, str):
            raise ValueError(f"{name} must be the name of a column")
        return value
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name} must be the name of a column, or a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"{name} names a column twice")
    return tuple(names)
