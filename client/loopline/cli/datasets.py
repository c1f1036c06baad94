"""The commands about data sets: `loopline datasets ...`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopline.cli import columns
from loopline.cli.shared import FAILED, AsCsv, AsJson, connected, exported, print_json
from loopline.errors import LooplineError
from loopline.view.notes import changing, meter, note, say, warned

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.files.inspection import Inspection
    from loopline.types import Dataset


datasets = typer.Typer(
    help="Inspect, upload, list, show and delete data sets.\n\nExample: loopline datasets upload vowels.npz",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@datasets.command(name="list")
def list_datasets(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List data sets, newest first.

    Example: loopline datasets list
    """
    with connected(ctx) as client:
        found = list(client.datasets.list())
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No data sets yet. Upload one: loopline datasets upload FILE")
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
        found = client.datasets.get(reference)
    if as_json:
        return print_json(found.raw)
    from loopline.view import datasets as view
    from loopline.view import table

    return table.console().print(view.dataset(found))


@datasets.command(name="upload")
@columns.named
def upload_dataset(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A CSV, Parquet, JSONL, .ts, text, .npy, .npz or .zip file, or a folder of files."
        ),
    ],
    *,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the data set. [default: the file's name]")
    ] = None,
    schema: dict[str, Any],
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for a check that takes long; `show` says how it ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a file, or a folder of files, as a data set.

    Columns that you do not name are inferred; a name that you use again keeps its columns. Uploading the same content
    under the same name again creates no new version. The command waits until the service has checked the file.

    Example: loopline datasets upload walks.csv --target activity --group walk --order time
    """
    with connected(ctx) as client:
        dataset = upload_file(client, file, name, schema=schema, wait=not no_wait)
    if as_json:
        return print_json(dataset.raw)
    return say(f"{dataset.reference} ({dataset.id})")


@datasets.command(name="inspect")
@columns.named
def inspect_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file with data, or a folder of one file per sequence.")
    ],
    *,
    schema: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, for scripts.")] = False,
) -> None:
    """Show how a file is understood and what is wrong with it.

    This needs no service. The exit code is 1 if the file cannot be trained on as it is.

    Example: loopline datasets inspect demand.csv --target load_mw
    """
    found = inspected(file, schema)
    if as_json:
        print_json(found.document())
    else:
        from loopline.files.describe import describe

        say("\n".join(describe(found)))
    if not found.is_trainable:
        raise typer.Exit(FAILED)


def inspected(file: Path, given: dict[str, Any]) -> Inspection:
    """The inspection of a file on this computer. Raises LooplineError if that cannot begin."""
    import tempfile

    try:
        from loopline.files.inspection import inspect
        from loopline.files.schema import Schema
    except ModuleNotFoundError as error:
        missing = f"Reading files needs {error.name}, which is not installed."
        raise LooplineError(f'{missing} Install it: pip install "loopline[files]"') from None
    if not file.exists():
        raise LooplineError(f"There is no file {file}.")
    if file.suffix == ".npz":
        raise LooplineError(f"The service checks .npz files when you upload them: loopline datasets upload {file}")
    try:
        schema = Schema.from_document(given)
    except ValueError as error:
        raise LooplineError(f"{error}.") from None
    try:
        with tempfile.TemporaryDirectory() as work:
            return inspect(file, schema, Path(work))
    except OSError as error:
        raise LooplineError(f"Cannot read {file}: {error.strerror or error}.") from None


@datasets.command(name="inbox")
def list_inbox(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List the files in the service's inbox and the result of each, newest first.

    Example: loopline datasets inbox
    """
    with connected(ctx) as client:
        found = list(client.datasets.inbox())
    if exported(found, as_json=as_json, csv=csv):
        return None
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
        gone = client.datasets.delete(reference)
    say(f"Deleted {gone.reference} ({gone.id}).")


def upload_file(
    client: Client,
    path: Path,
    name: str | None,
    *,
    schema: Mapping[str, Any] | None = None,
    warn: bool = True,
    wait: bool = True,
) -> Dataset:
    """Uploads a data set and prints that. warn=False omits warnings; the job submitted next prints those that apply."""
    from loopline import text
    from loopline.view import datasets as view

    with meter(f"Uploading {path}") as on_bytes:
        dataset = client.upload(path, name, schema=schema, on_bytes=on_bytes, wait=False)
    if wait:
        dataset = _checked(client, dataset)
    elif dataset.status == "validating":
        note(
            f"Uploaded {path} as {dataset.reference}, which the service is still checking. See how it ends with: "
            f"loopline datasets show {dataset.reference}"
        )
        return dataset
    did = f"Uploaded {path} as" if dataset.is_new else f"The content of {path} was there already:"
    note(f"{did} {dataset.reference}: {text.understood(dataset)}, {text.size(dataset.bytes)}.")
    if said := view.columns(dataset, schema or ()):
        note(said)
    newest = client.datasets.get(dataset.name)
    if newest.version != dataset.version:
        note(
            f"{newest.reference} stays the newest version: name {dataset.reference} in specs, or delete what came "
            f"after it (loopline datasets delete {newest.reference})."
        )
    if warn:
        warned(dataset.warnings)
    return dataset


def _checked(client: Client, dataset: Dataset) -> Dataset:
    """Shows how long the check takes. Returns the data set when it has ended; raises BadRequest if it is rejected."""
    if dataset.status != "validating":
        return client.datasets.wait_for_check(dataset)
    from loopline.view.watching import in_sight

    def on_check(checking: Dataset, seconds: float) -> None:
        show(f"Checking {checking.reference}, {seconds:.0f} s")

    back = f"loopline datasets show {dataset.reference}"
    with in_sight(client, f"The check of {dataset.reference}", back), changing() as show:
        return client.datasets.wait_for_check(dataset, on_check=on_check)
