"""Markdown in which a client's text stays text: it becomes no markup, no link, no HTML, and breaks no table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from services.text import visible

_SPECIAL = re.compile(r"[\\`*{}\[\]<>#|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"[^\s`|\\]*(?:@|://|www\.)[^\s`|\\]*")
"""What a reader of Markdown may turn into a link by itself."""
LONGEST = 80
"""Of a name, in characters; of a longer one the beginning is shown."""


def name(text: object) -> str:
    """A name from outside as code, in which nothing is markup."""
    return _code(_named(text))


def cell(text: object) -> str:
    """The same in a table. A `|` after a backslash would end the cell, so it is shown as `¦`."""
    return _code(_named(text).replace("\\|", "\\¦").replace("|", "\\|"))


def sentence(text: str) -> str:
    """A sentence that may hold names from outside. What looks like a link becomes code."""
    shown, said, end = _one_line(text), [], 0
    for found in _LINK.finditer(shown):
        said += [_escaped(shown[end : found.start()]), _code(found.group())]
        end = found.end()
    return "".join([*said, _escaped(shown[end:])])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: int = 1) -> list[str]:
    """The lines of a table. Columns from the place `right` on are numbers, so they are aligned to the right. Cells are
    Markdown already."""
    rule = ["---" if place < right else "---:" for place in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)] + [""]


def block(text: str) -> list[str]:
    """Text with several lines, as it is."""
    shown = visible(text)
    fence = "`" * max(3, _longest_run(shown) + 1)
    return [f"{fence}text", shown, fence, ""]


def number(value: float | int | None) -> str:
    """A metric, with four digits; – where there is none."""
    return "–" if value is None else f"{value:.4g}"


def _named(text: object) -> str:
    shown = _one_line(str(text))
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _escaped(text: str) -> str:
    """Each special character as an entity, which is never markup."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found.group())};", text)


def _code(text: str) -> str:
    if not text:
        return "(empty)"
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
