"""The options that name the columns of a file, for `datasets inspect` and `datasets upload`."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def _named(flag: str, help_: str) -> Any:
    return typer.Option(flag, metavar="NAME", help=help_)


Target = Annotated[list[str] | None, _named("--target", "Column to predict. May be repeated.")]
Group = Annotated[
    list[str] | None, _named("--group", "Column that names the sequence, or series, of a row. May be repeated.")
]
Order = Annotated[str | None, _named("--order", "Column that orders the steps: numbers, dates or times.")]
Layout = Annotated[
    str | None,
    typer.Option("--layout", metavar="LAYOUT", help="wide: a row is a sequence. long: a row is a step. files, text."),
]
Features = Annotated[list[str] | None, _named("--features", "Column that a model sees at each step. May be repeated.")]
Static = Annotated[list[str] | None, _named("--static", "Column with one value per sequence. May be repeated.")]
TextColumn = Annotated[str | None, _named("--text", "Column of texts.")]
KnownFuture = Annotated[
    list[str] | None, _named("--known-future", "Feature that is known ahead of time. May be repeated.")
]
Weight = Annotated[str | None, _named("--weight", "Column with the weight of each sequence.")]
Split = Annotated[str | None, _named("--split", "Column that says train, validation or test.")]


def given(**options: str | list[str] | None) -> dict[str, Any]:
    """The fields of a schema that the options give."""
    return {field: value for field, value in options.items() if value}
