"""What every reader of tables returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from loopline.files.remark import Remark

Format = Literal["csv", "tsv", "parquet", "jsonl", "ts", "text", "folder", "npy", "frame"]


@dataclass(frozen=True)
class Table:
    """Named columns, and how to name a row to the owner of the file."""

    data: pa.Table
    """Columns of numbers, words, true and false, dates, times, or null. A missing value is null, never NaN or ''."""
    format: Format
    row_name: Callable[[int], str]
    """`line 17` of a CSV for the row with this index, `row 17` of a Parquet file, `walk_3.csv line 9` of a folder."""
    notes: tuple[str, ...] = ()
    """What the reader decided by looking, in sentences: the delimiter, the encoding, the decimal comma."""
    remarks: tuple[Remark, ...] = ()
    """What may have been read in another way than its writer meant."""
