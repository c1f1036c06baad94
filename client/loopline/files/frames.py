"""Writes tables in memory, of pandas, polars and pyarrow, to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet


def write(table: pa.Table, path: Path) -> None:
    """The columns as Parquet, without an index of pandas that has no name. Raises pa.ArrowException."""
    kept = [index for index, name in enumerate(table.column_names) if not name.startswith("__index_level_")]
    columns = [_writable(table.column(index)) for index in kept]  # two may have one name: the reader says so
    pa.parquet.write_table(pa.table(columns, names=[table.column_names[index] for index in kept]), path)


def _writable(column: pa.ChunkedArray) -> Any:
    """A categorical of polars as words: pyarrow cannot write the dictionary that it has."""
    kind = column.type
    if not pa.types.is_dictionary(kind) or not pa.types.is_string_view(kind.value_type):
        return column
    words = [each.dictionary.cast(pa.large_string()).take(each.indices) for each in column.chunks]
    return pa.chunked_array(words, pa.large_string())
