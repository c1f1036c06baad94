"""Makes sequences of tables and files, by the schema of the data that the model was trained on.

It needs pyarrow. What is wrong is said in the same words as at an upload.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loopline.files import arrays, formats, frames, grids, store
from loopline.files.build import build
from loopline.files.counting import counted
from loopline.files.features import different, numbered, plain, rows_named
from loopline.files.problems import refuse
from loopline.files.schema import Schema
from loopline.files.sequences import Column
from loopline.files.table import Table
from loopline.prediction import calendar, inputs, stored
from loopline.prediction.document import Document, Forecast, columns_of
from loopline.prediction.errors import refused
from loopline.prediction.given import Given
from loopline.preprocessing.fitted import Feature

_SHOWN = 3


def of_table(document: Document, data: Any) -> Given:
    """A table of pandas, polars or pyarrow, or a mapping of columns. Raises FileInvalid, InputInvalid."""
    try:
        found = pa.table(dict(data) if isinstance(data, Mapping) else data)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        if isinstance(data, Mapping):
            _check_mixed(document, data)
        raise refused(f"this is no table ({str(error)[:200]}): give columns of numbers or words") from error
    with tempfile.TemporaryDirectory(prefix="loopline-") as folder:
        path = Path(folder) / "table.parquet"
        try:
            frames.write(found, path)
        except pa.ArrowException as error:
            raise refused(f"this table cannot be read ({str(error)[:200]}): give numbers or words") from error
        return of_file(document, path)


def _check_mixed(document: Document, columns: Mapping[str, Any]) -> None:
    """Raises InputInvalid for the first value that is no number in a column of numbers, or in another column for the
    first one of another type than those before it."""
    numbers = {feature.name for feature in (*document.given, *document.static) if feature.words is None}
    for name, values in columns.items():
        if not isinstance(values, list | tuple):
            continue
        there = [(row, value, _type(value)) for row, value in enumerate(values, 1) if value is not None]
        for row, value, found in there:
            first, _, wanted = there[0]
            if name in numbers and found != "a number":
                raise refused(
                    f"`{name[:100]}` is {repr(value)[:40]}, which is not a number: give a number, or null (None) where "
                    "the value is unknown",
                    f"row {row:,}",
                )
            if found != wanted:
                raise refused(
                    f"`{name[:100]}` is {found} ({repr(value)[:40]}), and in row {first:,} it is {wanted}: give one "
                    "type in a column, and null (None) where a value is unknown",
                    f"row {row:,}",
                )


def _type(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, Real):
        return "a number"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list | tuple) else "another value"


def of_file(document: Document, path: Path) -> Given:
    """A file or folder of any format that can be uploaded. Raises FileInvalid, InputInvalid."""
    if not path.exists():
        raise refuse(str(path), "there is no such file. To give a text, give a list of str.")
    if path.is_file() and store.is_stored(path):
        return _whole(document, stored.given(document, store.read(path)))
    if path.is_file() and _is_array(path):
        return inputs.of_arrays(document, arrays.read(path))
    if path.is_file() and _is_arrays(path):
        return _of_npz(document, path)
    with tempfile.TemporaryDirectory(prefix="loopline-") as work:
        return _given(document, formats.read(path, Path(work)))


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _is_arrays(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as found:
        return any(name.endswith(".npy") for name in found.namelist())


def _of_npz(document: Document, path: Path) -> Given:
    """The arrays of an `.npz`, as at an upload: x, and lengths if there are some."""
    found = arrays.read_npz(path, ("x", "lengths"))
    if (x := found.get("x")) is None:
        with zipfile.ZipFile(path) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist()]
        raise refuse("", f"there is no array x; there are {', '.join(there)[:200]}")
    return inputs.of_arrays(document, x[:, :, np.newaxis] if x.ndim == 2 else x, found.get("lengths"))


def _given(document: Document, table: Table) -> Given:
    schema, warnings = _schema(document, table)
    coded, unknown = _coded(document, table)
    found = build(coded, schema)
    if document.preprocessing.text is None:
        _check_kinds(found.features, document.given, table)
    _check_kinds(found.static_columns, document.static, table)
    ids = None if found.ids is None else found.ids.tolist()
    made = Given(
        x=found.x,
        lengths=np.asarray(found.lengths, np.int64),
        columns=() if found.texts is not None else columns_of(document.given),
        static=found.static,
        static_columns=columns_of(document.static),
        texts=None if found.texts is None else np.array([*found.texts, None], np.object_)[:-1],
        times=found.times,
        zoned=found.zoned,
        warnings=(*warnings, *unknown),
        **inputs.names(len(found.lengths), ids),
    )
    return _whole(document, made)


def _whole(document: Document, made: Given) -> Given:
    if document.forecast is None:
        return made
    calendar.check(document, made)
    return calendar.with_calendar(document, _of_series(document, document.forecast, made))


# ---- which columns


def _schema(document: Document, table: Table) -> tuple[Schema, list[str]]:
    """The schema of training for a table that need not have what there is to predict; and warnings."""
    schema = document.schema or _by_names(document)
    names = set(table.data.column_names)
    schema = replace(schema, target=(), weight=None, split=None, known_future=())
    if document.forecast is not None:
        schema = replace(schema, features=tuple(feature.name for feature in document.given))
    if schema.layout == "text":
        return _of_texts(document, schema, table, names), []
    warnings = []
    lacking = [name for name in schema.group or () if name not in names]
    if lacking:
        if schema.layout == "long":
            warnings.append(f"there is no column `{lacking[0]}`, which names sequences: all rows are taken as one")
        schema = replace(schema, group=())
    if schema.order is not None and schema.order not in names:
        warnings.append(f"there is no column `{schema.order}`, which orders steps: rows are taken as they come")
        schema = replace(schema, order=None)
    if schema.layout == "files" and "file" not in names:  # one of the files that training has read from a folder
        schema = replace(schema, layout="long")
    return schema, warnings


def _of_texts(document: Document, schema: Schema, table: Table, names: set[str]) -> Schema:
    if document.preprocessing.text is not None and schema.text not in names and table.format == "text":
        schema = replace(schema, text="text")
    is_named = all(name in names for name in schema.group or ())
    return replace(schema, group=schema.group if is_named else (), static=schema.static if document.static else ())


def _by_names(document: Document) -> Schema:
    """For a model that knows no schema, but the names of its features."""
    names = tuple(feature.name for feature in document.features)
    if document.preprocessing.text is not None:
        return Schema(layout="text", text="text")
    if all(name.isdigit() for name in names):
        raise refused("the model was trained on arrays without names, so it cannot find its columns: give arrays")
    return Schema(layout="long", features=names, static=tuple(feature.name for feature in document.static))


# ---- words


def _coded(document: Document, table: Table) -> tuple[Table, list[str]]:
    """The table with the words of categories as the numbers that the model has for them; and warnings about words that
    training does not have."""
    data, warnings = table.data, []
    names = data.column_names
    stems = numbered(names)
    for feature in (*document.given, *document.static):
        if feature.words is None:
            continue
        columns = (feature.name,) if feature.name in names else getattr(stems.get(feature.name), "columns", ())
        for name in columns:
            codes, unknown = _codes(data.column(name), feature.words)
            if len(unknown.rows):
                warnings.append(unknown.sentence(table, name))
            data = data.set_column(names.index(name), name, codes)
    return replace(table, data=data), warnings


@dataclass(frozen=True)
class _Unknown:
    """Words that training does not have."""

    words: Sequence[str]
    rows: NDArray[np.int64]

    def sentence(self, table: Table, name: str) -> str:
        shown = [repr(word[:40]) for word in self.words[:_SHOWN]]
        more = f" and {len(self.words) - _SHOWN:,} more" if len(self.words) > _SHOWN else ""
        where, words = rows_named(table, self.rows), f"{', '.join(shown)}{more}"
        return f"{where}: `{name}` has words that are not in training ({words}): the model takes them as unknown"


def _codes(column: pa.ChunkedArray, words: Sequence[str]) -> tuple[pa.ChunkedArray, _Unknown]:
    """Numbers of words from 1 on, 0 for an unknown one, null for a missing one; of lists, within them."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        array = column.combine_chunks()
        array = array.cast(pa.list_(array.type.value_type))
        codes, unknown = _codes(pa.chunked_array([array.flatten()]), words)
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))
        rows = np.repeat(np.arange(len(array)), lengths)[unknown.rows]
        lists = pa.ListArray.from_arrays(offsets, codes.combine_chunks(), mask=array.is_null())
        return pa.chunked_array([lists]), _Unknown(unknown.words, np.unique(rows))
    values = plain(column).cast(pa.large_string())
    places = pc.index_in(values, value_set=pa.array(words, pa.large_string()))
    codes = pc.add(pc.fill_null(places, -1), 1).cast(pa.float64())
    codes = pc.if_else(values.is_valid(), codes, pa.scalar(None, pa.float64()))
    rows = np.flatnonzero(pc.fill_null(pc.equal(codes, 0.0), False).to_numpy())
    found = different(values.take(pa.array(rows))).to_pylist() if len(rows) else []
    return codes, _Unknown(found, rows)


def _check_kinds(found: Sequence[Column], wanted: Sequence[Feature], table: Table) -> None:
    """Raises FileInvalid where there are words and the model takes numbers."""
    if len(found) != len(wanted):
        raise refused(f"it has {counted(len(found), 'feature')}, and the model takes {len(wanted):,}")
    for column, feature in zip(found, wanted, strict=True):
        if column.kind == "category" and feature.words is None:
            words = ", ".join(repr(word[:40]) for word in (column.categories or ())[:_SHOWN])
            raise refuse(
                f"column {column.name}", f"`{column.name}` has words ({words}), and the model takes it as a number"
            )


# ---- series


def _of_series(document: Document, forecast: Forecast, given: Given) -> Given:
    """Series with a row for each step in time, without the rows of the future, of which something may be known."""
    given = _on_grid(document, given)
    if forecast.known_future:
        return _with_future(document, forecast, given)
    if given.times is None or document.step is None:
        return given
    last = given.times[np.cumsum(given.lengths) - 1]
    return replace(given, ahead=document.step.after(last[:, None], forecast.horizon + 1)[:, 1:])


def _on_grid(document: Document, given: Given) -> Given:
    """With the rows that are missing between others; they have no values."""
    if given.times is None or document.step is None:
        return given
    inside = np.arange(given.lengths.max()) < given.lengths[:, None]
    times = np.zeros(inside.shape, given.times.dtype)
    times[inside] = given.times
    grid = grids.of(times, given.lengths, given.ids if given.has_ids else None, document.step)
    if grid.irregular is not None and not grid.absent:
        raise refuse("", f"a forecast needs equal steps in time: {grid.irregular}")
    if not grid.absent:
        return given
    x, lengths, times = grids.filled(given.batch(np.arange(len(given))).x_in_memory, given.lengths, times, grid)
    inside = np.arange(lengths.max()) < lengths[:, None]
    added = f"{grid.absent:,} {'row that was' if grid.absent == 1 else 'rows that were'} missing between others"
    warnings = (*given.warnings, f"{added} {'has' if grid.absent == 1 else 'have'} been added without values")
    return replace(given, x=x[inside], lengths=lengths, times=times[inside], warnings=warnings)


def _with_future(document: Document, forecast: Forecast, given: Given) -> Given:
    """Series whose last rows have no value to predict: those rows are the future of which something is known."""
    names = [feature.name for feature in document.features]
    targets, known = ([names.index(name) for name in each] for each in (forecast.targets, forecast.known_future))
    listed = ", ".join(f"`{name}`" for name in forecast.known_future)
    empty = np.isnan(given.x[:, targets]).all(axis=1)
    kept, lengths, future, ahead = [], [], [], []
    for row, (start, length) in enumerate(zip(given.starts.tolist(), given.lengths.tolist(), strict=True)):
        filled = np.flatnonzero(~empty[start : start + length])
        last = int(filled[-1]) + 1 if filled.size else 0
        if length - last < forecast.horizon:
            raise refuse(
                given.named([row]),
                f"the forecast reads {listed} of the next {counted(forecast.horizon, 'step')}: add a row for each of "
                f"them with {listed}, and leave {', '.join(f'`{name}`' for name in forecast.targets)} empty there "
                f"(at the end: {counted(length - last, 'such row')})",
            )
        steps = np.arange(start + last, start + last + forecast.horizon)
        kept.append(np.arange(start, start + last))
        lengths.append(last)
        future.append(given.x[steps][:, known])
        ahead.append(steps)
    rows = np.concatenate(kept)
    return replace(
        given,
        x=given.x[rows],
        lengths=np.array(lengths, np.int64),
        future=np.stack(future).astype(np.float64),
        times=None if given.times is None else given.times[rows],
        ahead=None if given.times is None else given.times[np.stack(ahead)],
    )
