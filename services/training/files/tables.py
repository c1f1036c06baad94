"""From a file of any format to sequences. It needs pyarrow, which no other module here imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopline.files.inspection import Inspection, inspect
from loopline.files.limits import Limits
from loopline.files.names import ROLES
from loopline.files.problems import Problem as FileProblem
from loopline.files.remark import Remark
from loopline.files.schema import Schema

from services.errors import DatasetInvalid, Problem


def read(
    path: Path, work: Path, schema: Mapping[str, Any], max_bytes: int, *, named_in_spec: bool = False
) -> Inspection:
    """The sequences of a table, or of an array without targets. A large table is mapped from a file in `work`. Problems
    point into a spec if that names the file and has the schema, else into an upload.

    Raises DatasetInvalid with everything that is wrong, by row and column.
    """
    try:
        columns = Schema.from_document(schema)
    except ValueError as error:
        pointer = "/data/schema" if named_in_spec else "/query"
        raise DatasetInvalid(f"The schema is not valid: {error}.", [Problem(pointer, str(error))]) from None
    found = inspect(path, columns, work, Limits(max_bytes=max_bytes))
    wrong: list[FileProblem | Remark] = [*found.problems]
    if found.report is not None:
        wrong += [remark for remark in found.report.remarks if remark.severity == "problem"]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        name = path.name if named_in_spec else "The file"
        message = f"{name} cannot be read as a data set: {wrong[0]}{more}"
        raise DatasetInvalid(message, [Problem(_pointer(one, named_in_spec), str(one)) for one in wrong])
    return found


def _pointer(problem: FileProblem | Remark, named_in_spec: bool) -> str:
    if not named_in_spec:
        return "/file"
    return f"/data/schema/{problem.where}" if problem.where in ROLES else "/data/dataset"
