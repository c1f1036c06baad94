"""The commands about data sets: `loopline datasets ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopline.cli.shared import AsJson, connected, print_json
from loopline.view.notes import meter, note, say, warned

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.types import Dataset


datasets = typer.Typer(
    help="List, show, upload and delete data sets.\n\nExample: loopline datasets upload vowels.npz",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@datasets.command(name="list")
def list_datasets(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List data sets, newest first.

    Example: loopline datasets list
    """
    with connected(ctx) as client:
        found = list(client.datasets())
    if as_json:
        return print_json([dataset.raw for dataset in found])
    if not found:
        return say("No data sets yet. Upload one: loopline datasets upload FILE.npz")
    from loopline.view import datasets as view
    from loopline.view import table

    return table.console().print(view.datasets(found))


@datasets.command(name="show")
def show_dataset(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME", help="A name, a version (`vowels@3`) or an id.")],
    as_json: AsJson = False,
) -> None:
    """Show one data set and its classes.

    Example: loopline datasets show vowels
    """
    with connected(ctx) as client:
        found = client.dataset(reference)
    if as_json:
        return print_json(found.raw)
    from loopline.view import datasets as view
    from loopline.view import table

    return table.console().print(view.dataset(found))


@datasets.command(name="upload")
def upload_dataset(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An .npz file with the arrays x, y and, if lengths differ, lengths.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the data set. [default: the file's name]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload an .npz file as a data set.

    Uploading the same content under the same name again creates no new version.

    Example: loopline datasets upload vowels.npz --name vowels
    """
    with connected(ctx) as client:
        dataset = upload_file(client, file, name)
    if as_json:
        return print_json(dataset.raw)
    return say(f"{dataset.reference} ({dataset.id})")


@datasets.command(name="inbox")
def list_inbox(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the files in the service's inbox and the result of each, newest first.

    Example: loopline datasets inbox
    """
    with connected(ctx) as client:
        found = list(client.inbox())
    if as_json:
        return print_json([file.raw for file in found])
    if not found:
        return say("Nothing was taken in yet: the inbox is empty, or the service watches none (LOOPLINE_INBOX).")
    from loopline.view import datasets as view
    from loopline.view import table

    return table.console().print(view.inbox(found))


@datasets.command(name="delete")
def delete_dataset(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME", help="A version (`vowels@3`), an id, or a name.")],
) -> None:
    """Delete one version of a data set.

    A name alone is enough if the data set has only one version. The service refuses while an unfinished job uses it.

    Example: loopline datasets delete vowels@1
    """
    with connected(ctx) as client:
        gone = client.delete_dataset(reference)
    say(f"Deleted {gone.reference} ({gone.id}).")


def upload_file(client: Client, path: Path, name: str | None, *, warn: bool = True) -> Dataset:
    """Uploads a data set and prints that. warn=False omits warnings; the job submitted next prints those that apply."""
    from loopline import text

    with meter(f"Uploading {path}") as on_bytes:
        dataset = client.upload(path, name, on_bytes=on_bytes)
    note(f"Uploaded {path} as {dataset.reference}: {text.understood(dataset)}, {text.size(dataset.bytes)}.")
    newest = client.dataset(dataset.name)
    if newest.version != dataset.version:
        note(
            f"This content was {dataset.reference} already, and {newest.reference} stays the newest version: name "
            f"{dataset.reference} in specs, or delete what came after it (loopline datasets delete {newest.reference})."
        )
    if warn:
        warned(dataset.warnings)
    return dataset
