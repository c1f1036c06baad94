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
"""Of more classes or labels, those with the lowest F1 are shown; of anything else, the first ones."""
MOST_CONFUSIONS = 5
KINDS = {
    "classes": "classes",
    "labels": "labels",
    "targets": "targets",
    "horizon": "steps of the horizon",
    "lengths": "lengths",
    "places": "steps of a text",
}
"""What there may be a table of, and what its rows are."""


def shown(found: Mapping[str, Document]) -> Iterator[RenderableType]:
    """The details of the test split, or of validation if there is no test split."""
    split = "test" if "test" in found else "validation"
    details = found.get(split) or {}
    for kind, head in KINDS.items():
        if details.get(kind):
            yield from _table(f"{head} of the {split} split", details, kind)
    largest = ((details.get("confusion") or {}).get("largest") or [])[:MOST_CONFUSIONS]
    if largest:
        yield Text("\nmost frequent confusions", "dim")
    for each in largest:
        yield Text(
            text.one_line(f"{each['actual']} taken for {each['predicted']}: {text.count(each['count'], 'time')}")
        )


def classes(found: Mapping[str, Document] | None) -> int | None:
    """How many classes there are; None if the details have no table of them."""
    for details in (found or {}).values():
        if details.get("classes"):
            return len(details["classes"]["name"])
    return None


def _table(head: str, details: Document, kind: str) -> Iterator[RenderableType]:
    rows = _rows(details[kind])
    kept = rows[:MOST_ROWS]
    if len(rows) > MOST_ROWS and "f1" in rows[0]:
        kept = sorted(rows, key=lambda row: -1.0 if row["f1"] is None else row["f1"])[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        which = f"{MOST_ROWS} worst" if "f1" in rows[0] else f"first {MOST_ROWS}"
        head += f" (the {which} of {len(rows):,})"
    yield Text(f"\n{head}", "dim")
    if "f1" in rows[0]:
        kept += [{"name": word, "support": "", **(details.get(word) or {})} for word in ("macro", "weighted")]
    yield table.Listing([_cells(row) for row in kept], wrap=("name",))


def _rows(columns: Document) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _cells(row: Mapping[str, Any]) -> dict[str, str | Text]:
    return {
        name: str(value) if name in ("name", "support") else text.number(value)
        for name, value in row.items()
        if name != "is_worse"
    }
