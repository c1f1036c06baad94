"""The most that a file may hold. A reader checks a limit before it allocates what the file claims."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Numbers are of the content, after any decompression."""

    max_bytes: int = 4 << 30
    """Bytes of a file once it is decompressed."""
    max_rows: int = 100_000_000
    max_columns: int = 10_000
    max_cell_bytes: int = 1 << 20
    """Bytes of one line of a table, one value or one text."""
    max_files: int = 100_000
    """Files in a folder or `.zip`."""
    max_ratio: int = 300
    """Decompressed to compressed bytes, for files above 16 MiB."""
    max_categories: int = 10_000
    """Different values of one column of words; also the most classes."""
