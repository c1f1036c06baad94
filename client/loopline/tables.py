"""Rows as a data frame of pandas or polars, whichever is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

Library = Literal["pandas", "polars", "rows"]
LIBRARIES: tuple[Library, ...] = ("pandas", "polars")
VARIED = frozenset({"cell", "choices"})
"""Fields whose entries may be lists and mappings, because a matrix or a search may vary them."""
HOISTED = VARIED | {"progress", "result", "metrics"}
"""Fields whose entries are columns by their own names: `test_accuracy`, and not `result.metrics.test_accuracy`."""


def frame(rows: Sequence[Mapping[str, Any]], library: Library | None = None) -> Any:
    """A data frame of pandas or polars, with a column for each name that a row has; or with `rows` the list itself.

    library: by default pandas if it is installed, else polars, else the list of rows.
    Raises ImportError if the library that was asked for is not installed.
    """
    chosen = library or next((each for each in LIBRARIES if find_spec(each)), "rows")
    if chosen == "rows":
        return [dict(row) for row in rows]
    if chosen not in LIBRARIES:
        raise ValueError(f"There is no table of {chosen!r}: say pandas, polars or rows.")
    try:
        module = import_module(chosen)
    except ImportError:
        raise ImportError(f'This needs {chosen}: pip install {chosen}, or ask for library="rows".') from None
    table = {name: [row.get(name) for row in rows] for name in columns(rows)}
    if chosen == "pandas":
        return module.DataFrame(table)
    return module.DataFrame({name: _of_one_kind(values) for name, values in table.items()}, strict=False)


def _of_one_kind(values: Sequence[Any]) -> Sequence[Any]:
    """The values of a column. Where lists or mappings stand beside others they are JSON, because polars drops some."""
    kinds = {type(each) for each in values if each is not None}
    if dict not in kinds and not (list in kinds and len(kinds) > 1):
        return values
    return [json.dumps(each) if isinstance(each, dict | list) else each for each in values]


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every name that a row has, in the order in which they come first."""
    return list(dict.fromkeys(name for row in rows for name in row))


def row(item: Any) -> dict[str, Any]:
    """A dataclass of the client as a flat row: `id`, `best.metric`, `test_accuracy`, `tags.team` ... Of its lists and
    its nested documents only what is a plain value is kept; of what a matrix or a search varies, every value."""
    found: dict[str, Any] = {}
    for field in fields(item):
        if field.name != "raw" and not field.name.startswith("_"):
            _put(found, field.name, getattr(item, field.name))
    if (seconds := getattr(item, "seconds", None)) is not None:
        found.setdefault("seconds", seconds)
    return found


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    if value is None or isinstance(value, bool | int | float | str | datetime):
        found.setdefault(name, value)
    elif isinstance(value, Mapping) or is_dataclass(value):
        entries = value if isinstance(value, Mapping) else row(value)
        below = "" if name in HOISTED else f"{name}."
        for key, each in entries.items():
            if name in VARIED or each is None or isinstance(each, bool | int | float | str | datetime):
                found.setdefault(f"{below}{key}", each)
    elif value and all(isinstance(each, str) for each in value):
        found.setdefault(name, " ".join(value))
