"""Reads a file, infers what its columns are, builds the sequences and looks at them: all there is before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loopline.files import arrays, formats
from loopline.files.build import build
from loopline.files.inference import Inferred, infer
from loopline.files.limits import Limits
from loopline.files.problems import FileInvalid, Problem, refuse
from loopline.files.report import Report, report
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences
from loopline.files.table import Table

_DEFAULT = Limits()
_NUMPY = b"\x93NUMPY"


@dataclass(frozen=True)
class Inspection:
    """What is known about a file. What comes after the first problem is None."""

    name: str
    problems: tuple[Problem, ...] = ()
    table: Table | None = None
    inferred: Inferred | None = None
    sequences: Sequences | None = field(default=None, repr=False)
    report: Report | None = None

    @property
    def is_trainable(self) -> bool:
        return self.report is not None and self.report.is_trainable

    def document(self) -> dict[str, Any]:
        """The inspection as plain JSON."""
        table, inferred = self.table, self.inferred
        return {
            "file": self.name,
            "trainable": self.is_trainable,
            "format": table.format if table else None,
            "rows": table.data.num_rows if table else None,
            "columns": {column.name: str(column.type) for column in table.data.schema} if table else None,
            "problems": [{"where": problem.where, "detail": problem.detail} for problem in self.problems],
            "schema": inferred.schema.document() if inferred else None,
            "reasons": [reason.document() for reason in inferred.reasons] if inferred else None,
            "report": self.report.document() if self.report else None,
        }


def inspect(path: Path, given: Schema, work: Path, limits: Limits = _DEFAULT) -> Inspection:
    """Inspects a file or folder. `work` is a folder for a large table; nothing is left in it.

    Problems of the file are in the result. Raises OSError if it cannot be read at all.
    """
    found: dict[str, Any] = {"name": path.name}
    try:
        if path.is_file() and _starts_with(path, _NUMPY):
            sequences = _of_array(path, given, limits)
        else:
            found["table"] = table = formats.read(path, work, limits)
            found["inferred"] = inferred = infer(table, given)
            sequences = build(table, inferred.schema, limits)
        return Inspection(**found, sequences=sequences, report=report(sequences, found.get("table")))
    except FileInvalid as error:
        return Inspection(**found, problems=tuple(error.problems))


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _of_array(path: Path, given: Schema, limits: Limits) -> Sequences:
    """The sequences of an array (sequences, steps, features), which has no columns to name."""
    if given != Schema():
        raise refuse("", "an array has no columns, so there is none to name; leave the options out, or save a table")
    x = arrays.read(path, limits)
    count, length, features = x.shape
    kept = np.float32 if x.dtype.itemsize <= 4 else np.float64
    return Sequences(
        x=x.reshape(count * length, features).astype(kept),
        lengths=np.full(count, length, np.int64),
        features=tuple(Column(str(number)) for number in range(features)),
        schema=Schema(layout="wide"),
    )
