"""Tables made by hand, as the readers return them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from loopline.files.sequences import Sequences
from loopline.files.table import Format, Table


def table(format_: Format = "csv", /, **columns: Any) -> Table:
    """A table whose row 0 is line 2 of a file, below the names."""
    return Table(pa.table(columns), format_, lambda row: f"line {row + 2:,}")


def from_rows(names: str, *rows: tuple[Any, ...]) -> Table:
    return table(**{name: list(values) for name, values in zip(names.split(), zip(*rows, strict=True), strict=True)})


def differences(one: Sequences, other: Sequences) -> list[str]:
    """The fields in which two data sets differ, without their schemas and notes."""
    fields = set(Sequences.__dataclass_fields__) - {"schema", "notes"}
    return sorted(field for field in fields if not _same(getattr(one, field), getattr(other, field)))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        same_kind = one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "U"
        return same_kind and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return type(one) is type(other) and bool(one == other)
