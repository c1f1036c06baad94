"""How the command says its result, and on stderr, so that stdout can be piped, what there is to say beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from loopline import text

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

METER_AFTER_SECONDS = 0.5
METER_EVERY_SECONDS = 0.1


def say(result: str | None) -> None:
    """Says what was asked for, on stdout.

    All that the command says goes through this module or the console of table.py, so that no word of a service or of
    anybody else is a terminal's command.
    """
    typer.echo(text.lines(result or ""))


def say_json(document: object, indent: int | None = None) -> None:
    """Says JSON, on stdout."""
    typer.echo(text.as_json(document, indent))


def note(sentence: str) -> None:
    """Says one thing beside that."""
    typer.echo(text.lines(sentence), err=True)


def warned(sentences: Iterable[str]) -> None:
    """Says what may have been meant otherwise, each thing once."""
    for sentence in dict.fromkeys(sentences):
        note(f"Warning: {sentence}")


def on_retry(say: Callable[[str], object]) -> None:
    """Lets `say` hear what went wrong each time a request will be tried again, in place of stamina's own logging."""
    from stamina.instrumentation import set_on_retry_hooks

    def hook(details: RetryDetails) -> None:
        say(str(details.caused_by))

    set_on_retry_hooks([hook])


@contextmanager
def changing() -> Iterator[Callable[[str], None]]:
    """Gives the function that shows a line which changes: in place where stderr is a terminal, and elsewhere only when
    it is called first. The line is cleared at the end."""
    shown = False

    def show(words: str) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            typer.echo(f"\r\x1b[2K{text.printable(words)}", err=True, nl=False)
        elif not shown:
            note(words)
        shown = True

    try:
        yield show
    finally:
        if shown and sys.stderr.isatty():
            typer.echo("\r\x1b[2K", err=True, nl=False)


@contextmanager
def meter(words: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how far a transfer is, where stderr is a terminal and the transfer takes longer than half a second.

    Gives the function that takes the bytes so far and in all, and clears the line at the end.
    """
    words = text.printable(words)
    drawn_at, drawn = time.monotonic() + METER_AFTER_SECONDS - METER_EVERY_SECONDS, False

    def on_bytes(done: int, total: int | None) -> None:
        nonlocal drawn_at, drawn
        if sys.stderr.isatty() and time.monotonic() - drawn_at > METER_EVERY_SECONDS:
            drawn_at, drawn = time.monotonic(), True
            far = f"{text.percent(done / total)} of {text.size(total)}" if total else text.size(done)
            typer.echo(f"\r{words}: {far}  ", err=True, nl=False)

    try:
        yield on_bytes
    finally:
        if drawn:
            typer.echo("\r\x1b[2K", err=True, nl=False)
