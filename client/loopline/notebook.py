"""How objects of the client look at a prompt and in a notebook. Everything from the service is shown as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape


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
