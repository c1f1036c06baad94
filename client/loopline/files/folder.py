"""A folder, or a zip of one, with a file for each sequence: a long table with the columns `file` and, where folders are
classes, `folder`. A `manifest.csv` may give each file a label and more.

The archives of time series have two files instead, `NAME_TRAIN.ts` and `NAME_TEST.ts`, with many sequences in each.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loopline.files import columns, delimited
from loopline.files.columns import Column
from loopline.files.limits import Limits
from loopline.files.members import Member
from loopline.files.problems import FileInvalid, Findings, Problem, refuse
from loopline.files.spool import Spool
from loopline.files.table import Format, Table
from loopline.files.values import Form

Read = Callable[[Member], Table]
"""Reads one file. The columns of a CSV are all text."""

MANIFEST = ("manifest.csv", "manifest.tsv")
PARTS = {"train", "training", "validation", "valid", "val", "test", "testing"}
"""Names of folders that say which part of the data a file belongs to."""
_NAMED_PART = re.compile(r"_(TRAIN|TEST)\.ts$", re.IGNORECASE)
"""The two files of a data set in the archives of time series."""
_FILE = ("file", "filename", "path")
_SHOWN = 5


def read(members: Sequence[Member], read_one: Read, work: Path, limits: Limits, name: str) -> Table:
    """The rows of all files, one file after the other. Raises FileInvalid."""
    manifest = next((one for one in members if one.name.lower() in MANIFEST and not one.folders), None)
    files = [member for member in members if member is not manifest]
    if not files:
        raise refuse("", "the folder has no file that can be read. Put one file for each sequence in it.")
    extras = _by_folder(files)
    if manifest is not None:
        extras = _by_manifest(manifest, files, work, limits, extras)
    known = columns.Known()
    while True:
        reading = _Reading(extras, known.forms)
        with Spool(work, name, limits) as spool:
            reading.fill(files, read_one, spool)
            if known.learn(list(reading.columns.values()), reading.row_name):
                continue
            reading.finish(spool)
            kind: Format = "ts" if reading.is_ts else "folder"
            remarks = tuple(one for column in reading.columns.values() for one in column.remarks(reading.row_name))
            return Table(spool.table(), kind, reading.row_name, (*reading.said, *known.notes), remarks)


@dataclass
class _Extras:
    """Columns that have one value for each file."""

    types: dict[str, pa.DataType] = field(default_factory=dict)
    values: list[dict[str, Any]] = field(default_factory=list)
    """For each file, by column."""


def _by_folder(files: Sequence[Member]) -> _Extras:
    """`file`, and `folder` and `split` as far as the files are in folders."""
    parts = all(member.folders and member.folders[0].lower() in PARTS for member in files)
    rest = [member.folders[parts:] for member in files]
    extras = _Extras({"file": pa.string()}, [{"file": member.source.name} for member in files])
    if any(rest):
        extras.types["folder"] = pa.string()
        for value, folders in zip(extras.values, rest, strict=True):
            value["folder"] = "/".join(folders) or None
    named = [_NAMED_PART.search(member.name) for member in files]
    if parts or all(named):
        extras.types["split"] = pa.string()
        for value, member, found in zip(extras.values, files, named, strict=True):
            value["split"] = (found[1] if found and not parts else member.folders[0]).lower()
    return extras


def _by_manifest(manifest: Member, files: Sequence[Member], work: Path, limits: Limits, extras: _Extras) -> _Extras:
    """Adds the columns of the manifest. A name in it is compared with the names of the files, and never opened."""
    table = delimited.read(manifest.source, work, limits)
    key = next((name for name in _FILE if name in table.data.column_names), None)
    if key is None:
        raise refuse(manifest.name, "the manifest has no column `file` with the names of the files. Add it.")
    listed = [str(value) for value in table.data.column(key).to_pylist()]
    bases = Counter(member.name for member in files)
    rows = {row: index for index, row in reversed(list(enumerate(listed)))}
    findings = Findings()
    for name, count in Counter(listed).items():
        if count > 1:
            findings.add(manifest.name, f"the file {name[:100]!r} is listed {count:,} times. List each file once.")
    matched: list[int] = []
    for member in files:
        full, below = member.source.name, "/".join((*member.folders, member.name))
        names = [full, below, *([member.name] if bases[member.name] == 1 else [])]
        matched.append(next((rows[one] for one in names if one in rows), -1))
    missing = [member.source.name for member, row in zip(files, matched, strict=True) if row < 0]
    if missing:
        shown = ", ".join(map(repr, missing[:_SHOWN]))
        findings.add(
            manifest.name,
            f"not all files are listed; missing: {shown} ({len(missing):,} in all). List them, or delete them.",
        )
    for row in sorted(set(rows.values()) - set(matched))[:_SHOWN]:
        findings.add(
            f"{manifest.name} {table.row_name(row)}",
            f"there is no file {listed[row][:100]!r}. Names are those of the files within the folder.",
        )
    findings.check()
    data = table.data.drop_columns([key])
    for taken in set(data.column_names) & {"file"}:
        raise refuse(manifest.name, f"the column {taken!r} has a name that has a meaning of its own. Rename it.")
    added = data.to_pylist()
    return _Extras(
        {**extras.types, **{one.name: one.type for one in data.schema}},
        [{**value, **added[row]} for value, row in zip(extras.values, matched, strict=True)],
    )


@dataclass
class _Reading:
    extras: _Extras
    known: Mapping[str, Form]
    names: list[str] = field(default_factory=list)
    types: dict[str, pa.DataType] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    """Those of text cells, whose types are found over all files."""
    starts: list[int] = field(default_factory=list)
    tables: list[tuple[str, Callable[[int], str]]] = field(default_factory=list)
    is_ts: bool = False
    """Whether a file has many sequences, and not one."""
    series: int = 0
    """Of these, those of the files before: their ids go on from file to file."""
    notes: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """By note, the file that it was first made for."""

    def fill(self, files: Sequence[Member], read_one: Read, spool: Spool) -> None:
        findings = Findings()
        for member, extra in zip(files, self.extras.values, strict=True):
            name = member.source.name
            try:
                table = read_one(member)
                self._check(name, table)
            except FileInvalid as error:
                for problem in error.problems:
                    findings.add(*_within(name, problem))
                if len(findings.problems) >= 20:
                    break
                continue
            self.notes.update(table.notes)
            for note in table.notes:
                self.first.setdefault(note, name)
            if not findings.problems:
                self._append(table, name, extra, spool)
        findings.check()

    @property
    def said(self) -> list[str]:
        """The notes, each once."""
        return [
            f"{self.first[note]}{f' and {count - 1:,} more files' if count > 1 else ''}: {note}"
            for note, count in self.notes.items()
        ]

    def _check(self, name: str, table: Table) -> None:
        """Raises FileInvalid if the columns are not those of the files before."""
        found = table.data.column_names
        if not self.names:
            self.names, self.types = found, {one.name: one.type for one in table.data.schema}
            self.is_ts = table.format == "ts"
            if self.is_ts:  # its sequences have an id
                self.extras.types.pop("file")
            self.columns = {
                one: Column(one, form=self.known.get(one)) for one in found if table.format in ("csv", "tsv")
            }
            taken = sorted(set(found) & set(self.extras.types))
            if taken:
                raise refuse(name, f"the column {taken[0]!r} has the name of a column that is added here. Rename it.")
            return
        if missing := [one for one in self.names if one not in found]:
            raise refuse(name, f"the file has no column {missing[0]!r}. All files need the same columns.")
        if more := [one for one in found if one not in self.names]:
            raise refuse(name, f"only this file has a column {more[0]!r}. All files need the same columns.")
        if (table.format in ("csv", "tsv")) != bool(self.columns) or (table.format == "ts") != self.is_ts:
            raise refuse(name, "the file has another format than the first file. Write all files in one format.")
        for one in table.data.schema:
            wide = _common(self.types[one.name], one.type)
            if wide is None:
                raise refuse(
                    name,
                    f"the column {one.name!r} has values of the type {one.type}, but {self.types[one.name]} in the"
                    " files before. Write the same type in all files.",
                )
            self.types[one.name] = wide

    def _append(self, table: Table, name: str, extra: dict[str, Any], spool: Spool) -> None:
        self.starts.append(spool.rows)
        self.tables.append((name, table.row_name))
        data = table.data.select(self.names)
        if self.is_ts:
            ids = pc.add(data.column("id"), self.series)
            self.series = pc.max(ids).as_py() + 1
            data = data.set_column(self.names.index("id"), "id", ids)
        for batch in data.to_batches():
            arrays = [
                pa.repeat(pa.scalar(extra.get(one), kind), batch.num_rows) for one, kind in self.extras.types.items()
            ]
            for number, (one, array) in enumerate(zip(self.names, batch.columns, strict=True), len(arrays)):
                column = self.columns.get(one)
                if column is None:
                    arrays.append(array.cast(self.types[one], safe=False))
                    continue
                before = column.type
                arrays.append(column.take(array, spool.rows))
                if spool.rows and column.type != before and pa.types.is_string(before):
                    spool.convert({number: (column.type, columns.convert_decided(column, before))})
            spool.append(pa.RecordBatch.from_arrays(arrays, names=[*self.extras.types, *self.names]))

    def finish(self, spool: Spool) -> None:
        if not spool.rows:
            raise refuse("", "the files have no rows. Export them again.")
        agreed = columns.agree_on_commas(list(self.columns.values()))
        changes = {}
        for index, column in enumerate(self.columns.values(), len(self.extras.types)):
            if column.form is not None and column.form.other and column.form.kind == "number" and agreed is not None:
                changes[index] = column.choose(agreed)
        if changes:
            spool.convert(changes)
        findings = Findings()
        for column in self.columns.values():
            for problem in column.problems(self.row_name):
                findings.add(problem.where, problem.detail)
        findings.check()

    def row_name(self, row: int) -> str:
        index = max(bisect_right(self.starts, row) - 1, 0)
        name, inner = self.tables[index]
        return f"{name} {inner(row - self.starts[index])}"


def _within(name: str, problem: Problem) -> tuple[str, str]:
    if problem.where in ("", name):
        return name, problem.detail
    return f"{name} {problem.where}", problem.detail


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    numbers = (pa.int64(), pa.float32(), pa.float64())
    if one in numbers and other in numbers:
        return pa.float64()
    times = (pa.date32(), pa.timestamp("us"))
    return pa.timestamp("us") if one in times and other in times else None
