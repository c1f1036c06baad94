"""Parquet: types are the file's own, texts may still be dates and times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loopline.files import columns
from loopline.files.columns import Column
from loopline.files.limits import Limits
from loopline.files.problems import Findings, refuse
from loopline.files.source import FREE_BYTES, Source, too_large
from loopline.files.spool import Spool
from loopline.files.table import Table
from loopline.files.values import WORDS, ZONED

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 64 << 10
_MOST_FOOTER = 64 << 20
_DAMAGED = "Write it again."


def read(source: Source, work: Path, limits: Limits) -> Table:
    """A table with the rows of all row groups. Raises FileInvalid."""
    with source.on_disk(work, limits) as path:
        words: frozenset[str] = frozenset()
        notes: list[str] = []
        while True:
            found, table = _read(source, path, work, limits, words)
            if table is not None:
                return Table(table, "parquet", row_name, tuple(notes))
            notes += [column.note(row_name) for column in found]
            words |= {column.name for column in found}


def row_name(row: int) -> str:
    return f"row {row + 1:,}"


def _read(
    source: Source, path: Path, work: Path, limits: Limits, words: frozenset[str]
) -> tuple[list[Column], pa.Table | None]:
    """The rows, or the columns that must be read as words."""
    try:
        with Spool(work, source.name, limits) as spool:
            texts = _fill(source, path, limits, spool, words)
            found = [column for column in texts if column.is_words]
            if found:
                return found, None
            findings = Findings()
            for column in texts:
                for problem in column.problems(row_name):
                    findings.add(problem.where, problem.detail)
            findings.check()
            return [], spool.table()
    except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError) as error:
        first = str(error).split("\n", 1)[0][:160]
        raise refuse("", f"the Parquet file is damaged or cannot be read ({first}). {_DAMAGED}") from error


def _fill(source: Source, path: Path, limits: Limits, spool: Spool, words: frozenset[str]) -> list[Column]:
    _check_footer(path)
    with pq.ParquetFile(path, memory_map=True, thrift_string_size_limit=16 << 20) as file:
        schema = file.schema_arrow
        _check(file.metadata, schema, source, limits)
        texts = {
            index: Column(field.name, numbers=False, form=WORDS if field.name in words else None)
            for index, field in enumerate(schema)
            if _is_text(field.type)
        }
        for batch in _batches(file, path, schema, limits):
            arrays = [_plain(array) for array in batch.columns]
            for index, column in texts.items():
                before = column.type
                arrays[index] = column.take(arrays[index], spool.rows)
                if spool.rows and column.type != before and pa.types.is_string(before):
                    spool.convert({index: (column.type, columns.convert_decided(column, before))})
            spool.append(pa.RecordBatch.from_arrays(arrays, names=schema.names))
        if spool.rows != file.metadata.num_rows:
            raise refuse(
                "",
                f"the Parquet file says that it has {file.metadata.num_rows:,} rows, but it has"
                f" {spool.rows:,}. {_DAMAGED}",
            )
    return list(texts.values())


def _check_footer(path: Path) -> None:
    """Before anything is parsed: the footer lies within the file."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - 8, 0))
        end = stream.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] == b"PARE":
        raise refuse("", "the Parquet file is encrypted. Write it without encryption.")
    if size < 12 or end[4:] != b"PAR1":
        raise refuse("", "the Parquet file is cut off: its end is missing. Copy or write it again.")
    if length > min(size - 12, _MOST_FOOTER):
        raise refuse("", f"the Parquet file is damaged: its footer cannot have {length:,} bytes. {_DAMAGED}")


def _check(metadata: pq.FileMetaData, schema: pa.Schema, source: Source, limits: Limits) -> None:
    findings = Findings()
    for field in schema:
        if reason := _unreadable(field.type):
            findings.add(f"column {field.name}", reason)
    for name in {name for name in schema.names if schema.names.count(name) > 1} if len(schema) < 1000 else ():
        findings.add(f"column {name}", "several columns have this name. Give each a name of its own.")
    findings.check()
    if len(set(schema.names)) < len(schema):
        raise refuse("", "several columns have the same name. Give each a name of its own.")
    if metadata.num_rows > limits.max_rows:
        raise refuse("", f"the file has {metadata.num_rows:,} rows; at most {limits.max_rows:,} can be read. Split it.")
    if metadata.num_columns > limits.max_columns:
        raise refuse("", f"there are {metadata.num_columns:,} columns; at most {limits.max_columns:,} can be read.")
    if metadata.num_rows <= 0:
        raise refuse("", "the file has no row. Write it again.")
    if not metadata.num_columns:
        raise refuse("", "the file has no column. Write it again.")
    total = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if total > limits.max_bytes:
        raise too_large(source.name, limits)
    if total > max(FREE_BYTES, source.size * limits.max_ratio):
        raise too_large(source.name, limits, ratio=True)


def _batches(file: pq.ParquetFile, path: Path, schema: pa.Schema, limits: Limits) -> Iterator[pa.RecordBatch]:
    """Batches of a few megabytes. Texts stay dictionaries until it is known how long they are."""
    total = sum(file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
    width = max(total // file.metadata.num_rows, 8 * len(schema), 1)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // width))
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    with pq.ParquetFile(path, memory_map=True, read_dictionary=texts, pre_buffer=False) as again:
        for batch in again.iter_batches(batch_size=rows):
            yield from _bounded(batch, limits)


def _bounded(batch: pa.RecordBatch, limits: Limits) -> Iterator[pa.RecordBatch]:
    """The batch, in parts where its texts are many times as long as their dictionary."""
    length = 0
    for array in batch.columns:
        if pa.types.is_dictionary(array.type) and len(array.dictionary):
            sizes = pc.binary_length(array.dictionary)
            longest = pc.max(sizes).as_py() or 0
            if longest > limits.max_cell_bytes:
                raise refuse(
                    "", f"a text has more than {limits.max_cell_bytes:,} bytes, which is the limit. Shorten it."
                )
            length += longest
    rows = max(1, min(batch.num_rows, 8 * _BATCH_BYTES // max(length, 1)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def _unreadable(kind: pa.DataType) -> str | None:
    """Why a column of this type cannot be read, and the way out; None if it can."""
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "the column has values within values. Write each of them as a column of its own."
    if _is_list(kind):
        inner = kind.value_type
        if _is_list(inner):
            inner = inner.value_type
        plain = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)
        return (
            None if plain or _is_text(inner) else "a list must have numbers or words. Write a column for each feature."
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "the column has bytes, not text. Write it as text, or leave it out."
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return "the column has times of day or durations. Write them as numbers, such as seconds."
    readable = (
        *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_date),
        *(pa.types.is_timestamp, pa.types.is_null, _is_text),
    )
    return (
        None if any(check(kind) for check in readable) else f"the type {kind} cannot be read. Write numbers or words."
    )


def _is_list(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _plain(array: pa.Array) -> pa.Array:
    """The array in one of the few types of a `Table`; NaN becomes null."""
    kind = array.type
    if _is_text(kind):
        return array.cast(pa.string())
    if _is_list(kind):
        return _plain_list(array)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        array = array if pa.types.is_floating(kind) and kind.bit_width > 16 else array.cast(pa.float64())
        return _without_nan(array)
    if pa.types.is_unsigned_integer(kind):
        return array.cast(pa.float64(), safe=False) if _is_beyond(array) else array.cast(pa.int64())
    if pa.types.is_integer(kind):
        return array.cast(pa.int64())
    if pa.types.is_timestamp(kind):
        return array.cast(ZONED, safe=False) if kind.tz else array.cast(pa.timestamp("us"), safe=False)
    return array.cast(pa.date32()) if pa.types.is_date64(kind) else array


def _plain_list(array: pa.Array) -> pa.Array:
    array = array.cast(pa.list_(array.type.value_type)) if not pa.types.is_list(array.type) else array
    flat = _plain(array.flatten())
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(lengths.to_numpy(zero_copy_only=False), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=array.is_null())


def _without_nan(array: pa.Array) -> pa.Array:
    nan = pc.is_nan(array)
    return pc.if_else(nan, pa.scalar(None, array.type), array) if pc.any(nan).as_py() else array


def _is_beyond(array: pa.Array) -> bool:
    return pa.types.is_uint64(array.type) and bool((pc.max(array).as_py() or 0) >= 1 << 63)
