"""What a model answered, as a table."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from loopline import text
from loopline.types import Prediction
from loopline.view import table

SHOWN, MOST_COLUMNS = 10, 12


def print_rows(found: Prediction) -> None:
    """The first rows, how many there are, and which model answered."""
    names = list(found.rows[0])[:MOST_COLUMNS] if found.rows else []
    rows: list[dict[str, str | Text]] = [
        {text.one_line(name): _cell(row.get(name)) for name in names} for row in found.rows[:SHOWN]
    ]
    console = table.console()
    if rows:
        console.print(table.Listing(rows))
    more = f"; the first {SHOWN} are shown, and --out saves all" if len(found.rows) > SHOWN else ""
    console.print(f"{text.count(len(found.rows), 'row')} by {found.reference}{more}", style="dim")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return text.number(value) if isinstance(value, float) else text.one_line(str(value))
