"""Lists as CSV files: every column, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loopline import tables, text
from loopline.errors import BadRequest
from loopline.view.notes import note, say

FORMULAS = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula, also after spaces."""


def save(found: Sequence[Any], target: str) -> None:
    """Writes dataclasses of the client, or rows, to a file, or with `-` to stdout. Raises BadRequest if it cannot."""
    rows = [tables.row(each) if is_dataclass(each) else each for each in found]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    names = tables.columns(rows)
    writer.writerows([[_cell(name) for name in names], *([_cell(row.get(name)) for name in names] for row in rows)])
    if target == "-":
        return say(lines.getvalue().removesuffix("\n"))
    try:
        Path(target).write_text(lines.getvalue(), encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"Cannot write {target}: {error.strerror or error}.") from error
    return note(f"Saved {len(rows):,} {'row' if len(rows) == 1 else 'rows'} to {target}.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping | list):
        import json

        return json.dumps(value)
    if not isinstance(value, str):
        return str(value)
    words = text.lines(value)  # first, because what is in front of a formula may be invisible
    return f"'{words}" if words.lstrip().startswith(FORMULAS) else words
