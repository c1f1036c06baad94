"""`loopline train`: from a file to a model, without a spec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopline.cli import columns, searches, submit
from loopline.cli.shared import AsJson, connected, typed
from loopline.view.notes import note

if TYPE_CHECKING:
    from loopline.spec import SpecFile


MOST_LETTERS = 100
"""Of a name that is made from that of the data."""


@columns.named
def train(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A file or folder to upload, or the name of an uploaded data set.")
    ],
    *,
    schema: dict[str, Any],
    settings: submit.Settings = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="MINUTES",
            min=0.01,
            help="Search for the best values and train the final model within this time.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name the job; by default after the data.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return as soon as the job is submitted; do not follow it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be chosen and how long it takes; submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a file, without a spec.

    The network, and everything else that you do not set, is chosen for the data. The command follows the training
    until it ends. Columns that you do not name are inferred.

    With --minutes, the service first trains models with other values and compares them on validation data. Then it
    trains the best one once more, on all samples but the test. All of this takes about MINUTES.

    Example: loopline train walks.csv --target activity --group walk --order time --minutes 10
    """
    spec = _spec(data, schema, name)
    for setting in settings or []:
        submit.apply(spec, setting)
    if minutes is None:
        job = submit.one(ctx, data, spec, watch=not detach, dry_run=dry_run, as_json=as_json)
        if job is not None and job.status == "succeeded" and not as_json:
            note(f"Download the model with: {typed(ctx, 'download', job.id)}")
            note(f"Ask it about a file with: {typed(ctx, 'predict', job.id)} FILE")
        return None
    spec.set(("search", "minutes"), str(minutes))
    with connected(ctx) as client:
        if dry_run:
            return searches.tried(client, data, spec, as_json=as_json)
        return searches.submitted(ctx, client, data, spec, None, wait=not detach, as_json=as_json)


def _spec(data: str, schema: dict[str, Any], name: str | None) -> SpecFile:
    """A spec that names its data and nothing else."""
    from loopline import spec as specs

    dataset = f"./{data}" if Path(data).exists() and not specs.is_path(data) else data
    document: dict[str, Any] = {"data": {"dataset": dataset, **({"schema": schema} if schema else {})}}
    named = name or re.split(r"[.@]", Path(data).name)[0][:MOST_LETTERS]
    return specs.read({"name": named, **document} if named else document)
