"""What `wait(progress=True)` shows: a bar on a terminal, the object itself in a notebook, and else a few lines.

All of it goes to stderr, or into the output of the notebook's cell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

from loopline import text

MOST_LINES = 20
DRAWN_SECONDS = 1.0
"""Between two pictures in a notebook: each asks the service for the epochs."""
MOST_LETTERS = 24
"""Of a name beside the bar, which fits 80 columns."""


class Waited(Protocol):
    @property
    def status(self) -> str: ...

    @property
    def terminal(self) -> bool: ...


class Stand(NamedTuple):
    """How far something is."""

    title: str
    fraction: float
    words: str
    """`epoch 3 of 20`"""


T = TypeVar("T", bound=Waited)
Show = Callable[[T], None]


@contextmanager
def shown(stand: Callable[[T], Stand]) -> Iterator[Show[T]]:
    """Gives the function that shows a job, a batch or a search as it is now."""
    how = _in_notebook if _notebook() else _as_bar if sys.stderr.isatty() else _as_lines
    with how(stand) as show:
        yield show


def _notebook() -> bool:
    """Whether this runs in a kernel of Jupyter, and not in IPython on a terminal."""
    module = sys.modules.get("IPython")
    return module is not None and hasattr(module.get_ipython(), "kernel")


@contextmanager
def _in_notebook(stand: Callable[[T], Stand]) -> Iterator[Show[T]]:
    from importlib import import_module

    display: Any = import_module("IPython.display").display
    handle, due_at = None, 0.0

    def show(now: T) -> None:
        nonlocal handle, due_at
        if handle is None:
            handle = display(now, display_id=True)
        elif now.terminal or time.monotonic() >= due_at:
            handle.update(now)
        else:
            return
        due_at = time.monotonic() + DRAWN_SECONDS

    yield show


@contextmanager
def _as_bar(stand: Callable[[T], Stand]) -> Iterator[Show[T]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        bar = progress.add_task("", total=1.0, words="")

        def show(now: T) -> None:
            title, fraction, words = stand(now)
            words = text.one_line(f"{now.status}, {words}" if words else now.status)
            progress.update(bar, description=text.shortened(title, MOST_LETTERS), completed=fraction, words=words)

        yield show


@contextmanager
def _as_lines(stand: Callable[[T], Stand]) -> Iterator[Show[T]]:
    said: tuple[str, int] | None = None

    def show(now: T) -> None:
        nonlocal said
        title, fraction, words = stand(now)
        place = (now.status, int(fraction * MOST_LINES))
        if place != said:
            line = text.one_line(f"{title}: {now.status}{f', {words}' if words else ''}")
            print(line, file=sys.stderr, flush=True)
        said = place

    yield show
