"""What lies behind the metrics of a job: its classes, labels or targets one by one, and what is confused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from loopline import text
from loopline.types import Document
from loopline.view import table

MOST_ROWS = 20
"""Of more classes, those with the lowest F1 are shown."""
MOST_CONFUSIONS = 5


def shown(found: Mapping[str, Document]) -> Iterator[RenderableType]:
    """The details of the test split, or of validation if there is no test split."""
    split = "test" if "test" in found else "validation"
    details = found.get(split) or {}
    kind = next((kind for kind in ("classes", "labels", "targets") if details.get(kind)), None)
    if kind is None:
        return
    rows = _rows(details[kind])
    kept = rows
    if len(rows) > MOST_ROWS:
        worst = "f1" if kind != "targets" else "r2"
        kept = sorted(rows, key=lambda row: -1.0 if row[worst] is None else row[worst])[:MOST_ROWS]
    which = f" (the {MOST_ROWS} worst of {len(rows):,})" if len(rows) > MOST_ROWS else ""
    yield Text(f"\n{kind} of the {split} split{which}", "dim")
    averages = [{"name": word, "support": "", **(details.get(word) or {})} for word in ("macro", "weighted")]
    yield table.Listing([_cells(row) for row in [*kept, *(averages if kind != "targets" else [])]], wrap=("name",))
    largest = ((details.get("confusion") or {}).get("largest") or [])[:MOST_CONFUSIONS]
    if largest:
        yield Text("\nmost frequent confusions", "dim")
    for each in largest:
        yield Text(
            text.one_line(f"{each['actual']} taken for {each['predicted']}: {text.count(each['count'], 'time')}")
        )


def _rows(columns: Document) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _cells(row: Mapping[str, Any]) -> dict[str, str | Text]:
    return {name: str(value) if name in ("name", "support") else text.number(value) for name, value in row.items()}
