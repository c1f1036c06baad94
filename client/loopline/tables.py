"""Rows as a data frame of pandas or polars, whichever is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

Library = Literal["pandas", "polars", "rows"]
LIBRARIES: tuple[Library, ...] = ("pandas", "polars")


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
    return module.DataFrame(table) if chosen == "pandas" else module.DataFrame(table, strict=False)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every name that a row has, in the order in which they come first."""
    return list(dict.fromkeys(name for row in rows for name in row))
