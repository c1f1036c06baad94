"""What every command prints with: a console, tables, and pairs of words.

On a terminal there are colours and tables, elsewhere plain lines without control codes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO, cast

import yaml
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from loopline import text
from loopline.types import Document

STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
    "pruned": "dim",
}
LEVELS = {"warning": "yellow", "error": "red"}
PLAIN_WIDTH = 10_000
LEAST_WIDTH = 14
MOST_LETTERS = 32
"""Of a name in a list."""
MOST_LETTERS_OF_A_VALUE = 24
"""Of a chosen value that is a text or a mapping."""


class Unpadded:
    """A stream on which lines end without the spaces that fill a table's cells."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, lines: str) -> int:
        return self._stream.write(re.sub(r" +$", "", lines, flags=re.MULTILINE))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Guarded(Console):
    """A console whose texts hold nothing that a terminal obeys: colours and the cursor are rich's own affair."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(text.lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would leave with 1, which says that a job failed


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout, or another stream. Piped lines are never wrapped: scripts read them."""
    stream = stream or sys.stdout
    live = stream.isatty()
    return Guarded(
        file=stream if live else cast(TextIO, Unpadded(stream)),
        force_terminal=live,
        width=None if live else PLAIN_WIDTH,
        no_color=None if live else True,
        color_system="auto" if live else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _together(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


@dataclass
class Listing:
    """Rows of named cells as a table. Where the width is too small for it:

    1. the columns in `below` move under their rows, each on a line of its own;
    2. those in `drop` go, the first one first: times that the other views show as well;
    3. those in `wrap` take several lines, but none is narrower than LEAST_WIDTH: those in `last` move under their rows.

    No cell is cut short here, and no id goes. Names are shortened by `name` before.
    """

    rows: Sequence[Mapping[str, str | Text]]
    drop: Sequence[str] = ()
    wrap: Sequence[str] = ()
    below: Sequence[str] = ()
    last: Sequence[str] = ()
    right: bool = False
    head: bool = True

    def __post_init__(self) -> None:
        # Cells are measured before the console looks at them.
        self.rows = [{name: on_one_line(cell) for name, cell in row.items()} for row in self.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {name: self._widest(name) for name in self.rows[0]} if self.rows else {}
        under: dict[str, None] = {}
        for names, wrapped in ((self.below, False), (self.drop, False), (self.last, True)):
            for name in names:
                least = {
                    one: min(wide, LEAST_WIDTH) if wrapped and one in self.wrap else wide
                    for one, wide in widths.items()
                }
                if name in widths and _together(least) > options.max_width:
                    del widths[name]
                    under |= {} if names is self.drop else {name: None}
        self._share(widths, options.max_width)
        if self.head:
            yield self._line(widths, {name: Text(name, "dim") for name in widths})
        for row in self.rows:
            yield self._line(widths, row)
            for name in under:
                if str(row[name]) not in ("", text.NOTHING):
                    yield Padding(Text.assemble((f"{name}: ", "dim"), row[name], overflow="fold"), (0, 0, 0, 2))

    def _line(self, widths: Mapping[str, int], row: Mapping[str, str | Text]) -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, wide in widths.items():
            justify: Literal["left", "right"] = "right" if self.right else "left"
            grid.add_column(width=wide, justify=justify, no_wrap=name not in self.wrap, overflow="fold")
        grid.add_row(*(row[name] for name in widths))
        return grid

    def _widest(self, name: str) -> int:
        return max(cell_len(name) if self.head else 0, *(cell_len(str(row[name])) for row in self.rows))

    def _share(self, widths: dict[str, int], width: int) -> None:
        """Lets the columns in `wrap` share what the others leave, the widest ones giving first."""
        wraps = [name for name in widths if name in self.wrap]
        while _together(widths) > width and wraps and max(widths[name] for name in wraps) > 1:
            widths[max(wraps, key=lambda name: widths[name])] -= 1


def name(given: str | None) -> str:
    """A name in a list: a long one would take the place of the other columns. `--json` and `show` have all of it."""
    return text.shortened(given or "", MOST_LETTERS) or text.NOTHING


def short_names(paths: Sequence[str]) -> Mapping[str, str]:
    """The end of each path that no other one has: `lr` of `training.optimizer.lr`."""
    found = {}
    for path in paths:
        parts = path.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        unique = (end for end in ends if not any(other != path and f".{other}".endswith(f".{end}") for other in paths))
        found[path] = text.one_line(next(unique, path))
    return found


def value(chosen: Any) -> str:
    """A value of a field of a spec, in few letters."""
    if isinstance(chosen, float):
        return f"{chosen:.3g}"
    words = chosen if isinstance(chosen, str) else json.dumps(chosen, ensure_ascii=False)
    words = text.one_line(words)
    return words if len(words) <= MOST_LETTERS_OF_A_VALUE else f"{words[: MOST_LETTERS_OF_A_VALUE - 1]}…"


def warnings(sentences: Sequence[str]) -> list[tuple[str, str | Text]]:
    return [("warning", Text(text.one_line(sentence), LEVELS["warning"])) for sentence in sentences]


def spec(document: Document) -> Text:
    """A spec as YAML, set in."""
    return verbatim(_indented(as_yaml(document)))


def as_yaml(document: Document) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, default_flow_style=None, width=60)


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())


def verbatim(lines: str) -> Text:
    """Lines that can be copied: a terminal that is too narrow for one wraps it, and no line is broken in two."""
    return Text(lines, no_wrap=True, overflow="ignore")


def on_one_line(cell: str | Text) -> str | Text:
    """What stands in a cell of a table, in one line and without what the console would leave out."""
    words = str(cell)
    kept = text.one_line(words)
    return cell if kept == words else Text(kept, cell.style) if isinstance(cell, Text) else kept


def pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Words and what stands for them, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for word, value in rows:
        grid.add_row(word, value if isinstance(value, Text) else text.lines(value))
    return grid
