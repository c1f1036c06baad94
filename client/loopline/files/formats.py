"""Reads a file of any format: its content says which it is, and its name where the content does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from loopline.files import delimited, dialect, folder, jsonl, lines, members, parquet, ts
from loopline.files.limits import Limits
from loopline.files.members import Member
from loopline.files.problems import FileInvalid, Problem, refuse
from loopline.files.source import GZIP, Source
from loopline.files.table import Table
from loopline.files.textual import Text

ACCEPTED = (
    "CSV or TSV (also as .gz), Parquet, JSONL (also as .gz), .ts, plain text (.txt), .npy, .npz, and a folder or .zip"
    " with one of these files for each sequence"
)
_BINARY = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\x80\x04", "a Python pickle, which is never read"),
    (b"\x80\x05", "a Python pickle, which is never read"),
    (b"\x80\x03", "a Python pickle, which is never read"),
    (b"\x80\x02", "a Python pickle, which is never read"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd"),
    (b"BZh", "packed with bzip2"),
    (b"\xfd7zXZ", "packed with xz"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"RIFF", "a recording of sound or video"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_TS = re.compile(
    rb"(?:[#%][^\n]*\n|\s*\n)*@(problemname|timestamps|missing|univariate|dimensions?|equallength|serieslength|classlabel"
    rb"|targetlabel|data)\b",
    re.IGNORECASE,
)
_TABLES, _TEXTS, _OBJECTS = (
    (".csv", ".tsv", ".tab", ".dat", ".data"),
    (".txt", ".text", ""),
    (".jsonl", ".ndjson", ".json"),
)


def read(path: Path, work: Path, limits: Limits = Limits()) -> Table:  # noqa: B008 (it is frozen)
    """The table in a file or folder. Large tables are mapped from a file in `work`, which has no name any more.

    `.npy` and `.npz` are arrays, not tables: see `arrays.py` for the former. Raises FileInvalid.
    """
    if path.is_dir():
        return _of_folder(members.of_folder(path, limits), work, limits, path.name)
    source = Source.of(path)
    try:
        if source.head(4).startswith(_ZIP):
            return _of_zip(path, work, limits)
        return _of_file(source, work, limits)
    except FileInvalid as error:
        raise FileInvalid([_without(path.name, problem) for problem in error.problems]) from error


def _without(name: str, problem: Problem) -> Problem:
    """The owner knows which file it was."""
    return Problem("", problem.detail) if problem.where == name else problem


def _of_zip(path: Path, work: Path, limits: Limits) -> Table:
    with members.of_zip(path, limits) as found:
        names = [member.source.name for member in found]
        if "[Content_Types].xml" in names:
            raise refuse("", "this is an Excel workbook or another office document. Save the sheet as CSV (UTF-8).")
        if names and all(name.endswith(".npy") for name in names):
            raise refuse("", "this is an .npz, which has arrays and no table.")
        if len(found) == 1:
            return _of_file(found[0].source, work, limits)
        return _of_folder(found, work, limits, path.name)


def _of_folder(found: list[Member], work: Path, limits: Limits, name: str) -> Table:
    def read_one(member: Member) -> Table:
        return _of_file(member.source, work, limits, within=True)

    return folder.read(found, read_one, work, limits, name)


def _of_file(source: Source, work: Path, limits: Limits, *, within: bool = False) -> Table:
    """With `within`, as one of the files of a folder: a text is a text as a whole, and the cells of a CSV are text."""
    head = source.head(4096)
    if not head:
        raise refuse("", "the file is empty. Export it again.")
    if head.startswith(b"PAR1"):
        return parquet.read(source, work, limits)
    _check_binary(source, head)
    found, suffix = _text_format(source, limits)
    if found == "text" and within:
        text, notes = lines.whole(source, limits)
        return Table(pa.table({"text": [text]}), "text", lambda row: "as a whole", tuple(notes))
    readers: dict[str, Callable[[], Table]] = {
        "jsonl": lambda: jsonl.read(source, work, limits),
        "ts": lambda: ts.read(source, work, limits),
        "text": lambda: lines.read(source, work, limits),
        "table": lambda: delimited.read(
            source, work, limits, prefer="\t" if suffix in (".tsv", ".tab") else None, raw=within
        ),
    }
    return readers[found]()


def _check_binary(source: Source, head: bytes) -> None:
    if head.startswith(_ZIP):
        raise refuse(source.name, "this is a zip within a folder or zip. Put the files themselves there.")
    if head.startswith(b"\x93NUMPY"):
        raise refuse(source.name, "this is an .npy array and no table. Read it as it is, outside of a folder.")
    for magic, name in _BINARY:
        if head.startswith(magic):
            raise refuse(source.name, f"this is {name}. These can be read: {ACCEPTED}.")
    suffix = Path(source.name).suffix.lower()
    if suffix in (".parquet", ".npy", ".npz", ".zip"):
        raise refuse(source.name, f"the file is named {suffix}, but its content has another format. Export it again.")


def _text_format(source: Source, limits: Limits) -> tuple[str, str]:
    """`jsonl`, `ts`, `text` or `table`, and the ending of the name without `.gz`."""
    if source.head(2) == GZIP:
        first = next(source.pieces(limits), b"")
        if first.startswith((*_ZIP, b"PAR1")):
            raise refuse(source.name, "this is a packed file within a gzip. Send what is in it.")
    name = source.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    wide = replace(limits, max_cell_bytes=32 * limits.max_cell_bytes)  # as `ts` has it
    data = next((data for block in Text(source, wide).blocks() if (data := block.data.lstrip())), b"")
    if not data:
        raise refuse("", "the file is empty. Export it again.")
    _check_text(source, data, suffix)
    if suffix in _OBJECTS[:2] or (data.startswith(b"{") and (suffix == ".json" or _is_object(data))):
        return "jsonl", suffix
    if _TS.match(data) or suffix == ".ts":
        return "ts", suffix
    if suffix in _TABLES:
        return "table", suffix
    if dialect.is_table(data):
        return "table", suffix
    if suffix in _TEXTS:
        return "text", suffix
    raise refuse(source.name, f"no format is known for files named {suffix}. These can be read: {ACCEPTED}.")


def _check_text(source: Source, data: bytes, suffix: str) -> None:
    start = data[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise refuse(
            source.name, "this is a web page or XML, not data: perhaps a page that asks to log in. Export it again."
        )
    if re.match(rb"(?:%[^\n]*\n|\s*\n)*@relation\b", data, re.IGNORECASE):
        raise refuse(source.name, "this is an ARFF file. Save it as .ts or CSV.")
    if data.startswith(b"[") and suffix == ".json":
        raise refuse(source.name, "this is a JSON array. Write one object a line, as JSONL; `jq -c '.[]'` does that.")


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data.split(b"\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return False
