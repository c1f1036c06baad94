"""The `loopline` command: its groups, its options, and the commands about the service itself.

It starts fast: httpx, rich and the client are imported by the commands that need them. Every command is a few lines:
read what was typed, call the client, print. What the commands share is in shared.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from loopline import errors
from loopline.cli import (
    again,
    batches,
    compare,
    completion,
    datasets,
    jobs,
    keys,
    models,
    predict,
    schedules,
    searches,
    submit,
    train,
    webhooks,
)
from loopline.cli.shared import UNREACHABLE, AsCsv, AsJson, Command, connected, exported, print_json
from loopline.view.notes import say

app = typer.Typer(
    cls=Command,
    help="Train recurrent networks on a Loopline service.\n\nExample: loopline submit job.yaml --watch",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(datasets.datasets, name="datasets")
app.add_typer(batches.batches, name="batches")
app.add_typer(searches.searches, name="searches")
app.add_typer(schedules.schedules, name="schedules")
app.add_typer(models.models, name="models")
app.add_typer(keys.keys, name="keys")
app.add_typer(webhooks.webhooks, name="webhooks")
app.command()(keys.whoami)
app.command()(train.train)
app.command()(submit.submit)
app.command()(searches.search)
app.command()(again.rerun)
app.command()(again.reproduce)
app.command(name="list")(jobs.list_jobs)
for command in (
    jobs.show,
    jobs.watch,
    jobs.logs,
    jobs.events,
    jobs.cancel,
    jobs.pause,
    jobs.resume,
    jobs.delete,
    jobs.download,
    predict.predict,
    compare.compare,
    completion.completion,
):
    app.command()(command)


def main() -> None:
    """The entry point of the `loopline` command."""
    completion.prepare()
    try:
        app(prog_name=completion.PROGRAM)
    finally:
        gc.freeze()  # or the interpreter searches all modules for garbage at its end, for a fifth of the time


def print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"loopline {version('loopline')}")
        raise typer.Exit


@app.callback()
def connection(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="LOOPLINE_URL",
            metavar="URL",
            help="The address of the service. [default: http://127.0.0.1:8080]",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            envvar="LOOPLINE_API_KEY_FILE",
            metavar="FILE",
            help="A file that contains the API key; or set the key itself in LOOPLINE_API_KEY.",
        ),
    ] = None,
    retry_seconds: Annotated[
        float,
        typer.Option(
            "--retry-seconds",
            metavar="SECONDS",
            min=0,
            help="Retry for this long if the service does not answer; watching retries for longer.",
        ),
    ] = 2.0,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    ctx.obj = {"url": url, "api_key_file": api_key_file, "retry_seconds": retry_seconds}


@app.command()
def presets(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show only this preset, as part of a spec.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the presets (named architectures), or show one.

    Example: loopline presets dropout_gru
    """
    with connected(ctx) as client:
        found = {preset.name: preset for preset in client.presets()}
    if name is None and as_json:
        return print_json([preset.raw for preset in found.values()])
    if name is not None and name not in found:
        raise errors.NotFound(f"There is no preset {name!r}{did_you_mean(name, found)}")
    if name is not None and as_json:
        return print_json(found[name].raw)
    from loopline.view import service, table

    return table.console().print(service.presets(found.values()) if name is None else service.preset(found[name]))


@app.command()
def workers(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List the workers and what each one is doing.

    A worker is omitted if it has sent no heartbeat for a minute.

    Example: loopline workers
    """
    with connected(ctx) as client:
        found = client.workers()
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No workers are up. Jobs are accepted and wait until one starts.")
    from loopline.view import service, table

    return table.console().print(service.workers(found))


@app.command()
def health(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check whether the service can accept jobs.

    The exit code is 3 if it cannot.

    Example: loopline health
    """
    with connected(ctx) as client:
        found = client.health()
    if as_json:
        print_json(found.raw)
    else:
        from loopline.view import service, table

        table.console().print(service.health(found))
    if not found.ready:
        raise typer.Exit(UNREACHABLE)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ". `loopline presets` lists them."
