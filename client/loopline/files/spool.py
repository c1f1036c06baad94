"""Collects the rows of a table: in memory while they are few, else in a file that is mapped into memory at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from loopline.files.limits import Limits
from loopline.files.problems import refuse
from loopline.files.source import too_large

IN_MEMORY = 16 << 20
"""Bytes up to which no file is made."""

_SMALL, _MOST_SMALL = 16 << 10, 256
"""Batches of fewer bytes are put together when there are so many."""

Convert = Callable[[pa.Array], pa.Array]


class Spool:
    """Use it in a `with` statement: the file in `work` is gone at its end, and `table` keeps only the mapping."""

    def __init__(self, work: Path, name: str, limits: Limits) -> None:
        self._work, self._name, self._limits = work, name, limits
        self._schema: pa.Schema | None = None
        self._batches: list[pa.RecordBatch] = []
        self._bytes = self._small = 0
        self._file: Path | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self.rows = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    @property
    def schema(self) -> pa.Schema:
        return self._schema if self._schema is not None else pa.schema([])

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds rows. A type that differs from that of the rows so far changes theirs, if a cast can do that."""
        if self._schema is None:
            self._schema = batch.schema
        elif not batch.schema.equals(self._schema):
            self.convert(
                {
                    index: (field.type, _cast(field.type))
                    for index, (field, old) in enumerate(zip(batch.schema, self._schema, strict=True))
                    if field.type != old.type
                }
            )
        self.rows += batch.num_rows
        if self.rows > self._limits.max_rows:
            raise refuse(
                self._name, f"the file has more than {self._limits.max_rows:,} rows, which is the limit. Split it."
            )
        self._add(batch)

    def add_column(self, name: str) -> None:
        """Adds a column, of which all rows so far have no value."""
        if self._schema is not None:
            self._rewrite(self.schema.append(pa.field(name, pa.null())), {})

    def convert(self, changes: dict[int, tuple[pa.DataType, Convert]]) -> None:
        """Gives columns, by index, another type."""
        schema = self.schema
        for index, (kind, _) in changes.items():
            schema = schema.set(index, pa.field(schema.field(index).name, kind))
        self._rewrite(schema, changes)

    def _rewrite(self, schema: pa.Schema, changes: dict[int, tuple[pa.DataType, Convert]]) -> None:
        old = self._file
        stored = self._stored() if old is not None else iter(self._batches)
        self._file, self._writer, self._schema = None, None, schema
        self._batches, self._bytes, self._small = [], 0, 0
        try:
            for batch in stored:
                self._add(_converted(batch, schema, changes))
        finally:
            if old is not None:
                old.unlink(missing_ok=True)

    def table(self) -> pa.Table:
        """All rows. Large ones are mapped from a file whose name is deleted when the `with` statement ends."""
        if self._writer is None:
            return pa.Table.from_batches(self._batches, self.schema)
        return pa.Table.from_batches(list(self._stored()), self.schema)

    def _add(self, batch: pa.RecordBatch) -> None:
        size = batch.nbytes
        self._bytes += size
        if self._bytes > max(4 * self._limits.max_bytes, IN_MEMORY):  # numbers of one digit become eight bytes
            raise too_large(self._name, self._limits)
        self._batches.append(batch)
        self._small = self._small + 1 if size < _SMALL else 0
        if self._small == _MOST_SMALL:  # of many little files; each batch costs time at every later use
            self._batches[-_MOST_SMALL:] = [pa.concat_batches(self._batches[-_MOST_SMALL:])]
            self._small = 0
        if self._bytes > IN_MEMORY and not self._small:
            self._to_disk()

    def _to_disk(self) -> None:
        if self._writer is None:
            handle, name = tempfile.mkstemp(dir=self._work, prefix="rows-", suffix=".arrow")
            os.close(handle)
            self._file = Path(name)
            self._writer = pa.ipc.new_file(name, self.schema)
        for batch in self._batches:
            self._writer.write_batch(batch)
        self._batches = []

    def _stored(self) -> Iterator[pa.RecordBatch]:
        """The batches of the file, which is complete after this."""
        self._to_disk()
        self._close()
        reader = pa.ipc.open_file(pa.memory_map(str(self._file)))
        return (reader.get_batch(index) for index in range(reader.num_record_batches))

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _cast(kind: pa.DataType) -> Convert:
    return lambda array: array.cast(kind, safe=False)


def _converted(
    batch: pa.RecordBatch, schema: pa.Schema, changes: dict[int, tuple[pa.DataType, Convert]]
) -> pa.RecordBatch:
    arrays = [changes[index][1](array) if index in changes else array for index, array in enumerate(batch.columns)]
    arrays += [pa.nulls(batch.num_rows, field.type) for field in list(schema)[len(arrays) :]]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
