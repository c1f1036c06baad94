"""How objects of the client look at a prompt and in a notebook. Everything from the service is shown as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from loopline import tables


def line(kind: str, id: str, name: str | None, *parts: str | None) -> str:
    """One line such as `Job('job_01m8...', 'vowels', succeeded, epoch 20 of 20)`."""
    shown = [repr(id), *([repr(name)] if name else []), *(part for part in parts if part)]
    return f"{kind}({', '.join(shown)})"


def counted(counts: Mapping[str, int]) -> str:
    """`3 running, 1 failed`"""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def table(title: str, rows: Iterable[tuple[str, str | None]], picture: str = "") -> str:
    """HTML: a title, a table of names and values, and a picture below."""
    cells = [
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in rows
        if value
    ]
    return f"<div><strong>{escape(title)}</strong><table>{''.join(cells)}</table>{picture}</div>"


def rows(found: Sequence[Mapping[str, Any]], *, more: bool = False) -> str:
    """HTML: a table with a line for each row, without the columns that are empty in all of them."""
    names = [name for name in tables.columns(found) if any(row.get(name) not in (None, "", 0) for row in found)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ["".join(f"<td>{escape(_cell(row.get(name)))}</td>" for name in names) for row in found]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    below = "<small>... and more: to_frame() has all of them.</small>" if more else ""
    return f"<div><table><tr>{head}</tr>{body}</table>{below}</div>" if names else "<div>nothing</div>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)
