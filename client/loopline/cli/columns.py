"""The options that name the columns of a file, for the commands that read one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer


def _named(flag: str, help_: str, metavar: str = "NAME") -> Any:
    return typer.Option(flag, metavar=metavar, help=help_)


OPTIONS: dict[str, Any] = {
    "target": Annotated[list[str] | None, _named("--target", "Column to predict. May be repeated.")],
    "group": Annotated[
        list[str] | None, _named("--group", "Column that names the sequence, or series, of a row. May be repeated.")
    ],
    "order": Annotated[str | None, _named("--order", "Column that orders the steps: numbers, dates or times.")],
    "layout": Annotated[
        str | None,
        _named("--layout", "wide: a row is a sequence. long: a row is a step. files, text.", "LAYOUT"),
    ],
    "features": Annotated[
        list[str] | None, _named("--features", "Column that a model sees at each step. May be repeated.")
    ],
    "static": Annotated[list[str] | None, _named("--static", "Column with one value per sequence. May be repeated.")],
    "text": Annotated[str | None, _named("--text", "Column of texts.")],
    "known_future": Annotated[
        list[str] | None, _named("--known-future", "Feature that is known ahead of time. May be repeated.")
    ],
    "weight": Annotated[str | None, _named("--weight", "Column with the weight of each sequence.")],
    "split": Annotated[str | None, _named("--split", "Column that says train, validation or test.")],
}
"""By field of a schema. They have one place for all commands, so that no command lacks one."""


def named(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options in the place of its keyword `schema`, which gets the fields that they give."""

    @functools.wraps(command)
    def called(**given: Any) -> None:
        options = {field: given.pop(field) for field in OPTIONS}
        return command(schema={field: value for field, value in options.items() if value}, **given)

    own, kind = inspect.signature(command, eval_str=True), inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(field, kind, default=None, annotation=each) for field, each in OPTIONS.items()]
    parameters = [*own.parameters.values()]
    place = [*own.parameters].index("schema")
    parameters[place : place + 1] = options
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return called
