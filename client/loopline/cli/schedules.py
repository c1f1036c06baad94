"""The commands about schedules: `loopline schedules ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli.batches import leave_as
from loopline.cli.shared import (
    BAD_REQUEST,
    CANCELLED,
    FAILED,
    AsCsv,
    AsJson,
    connected,
    exported,
    for_each,
    in_words,
    print_json,
    typed,
)
from loopline.view.notes import note, say

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.schedules import Firing

schedules = typer.Typer(
    help="Submit batches at set times, and see the results.\n\nExample: loopline schedules set nightly.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name, or its id.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or ids of schedules; one or more.")]


@schedules.command(name="list")
def list_schedules(ctx: typer.Context, as_json: AsJson = False, csv: AsCsv = None) -> None:
    """List the schedules, each with its next slot and its last result.

    Example: loopline schedules list
    """
    with connected(ctx) as client:
        found = list(client.schedules.list())
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No schedules yet. Make one: loopline schedules set nightly.yaml")
    from loopline.view import schedules as view_schedules

    return view_schedules.print_schedules(found)


@schedules.command(name="show")
def show_schedule(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show a schedule: its next slots, its rules and its specs.

    Example: loopline schedules show nightly
    """
    with connected(ctx) as client:
        found = client.schedules.get(name)
    if as_json:
        return print_json(found.raw)
    from loopline.view import schedules as view_schedules

    return view_schedules.print_schedule(found)


@schedules.command(name="set")
def set_schedules(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Schedules in YAML or JSON, one per file.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Name of the schedule. [default: the name in the file, or the file's name]"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace schedules, each from a file.

    Setting an identical schedule changes nothing. An error in one file is printed and does not stop the others.

    Example: loopline schedules set nightly.yaml
    """
    if name is not None and len(files) > 1:
        raise errors.BadRequest("--name is for one file.")
    from loopline.view import schedules as view_schedules

    made, wrong = [], False
    with connected(ctx) as client:
        for file in files:
            try:
                made.append(client.schedules.set(file, name=name))
            except (errors.BadRequest, errors.Conflict) as error:
                note(f"Error: {file}: {in_words(error)}")
                wrong = True
                continue
            if not as_json:
                say(view_schedules.said(made[-1]))
    if as_json:
        print_json([schedule.raw for schedule in made])
    if wrong:
        raise typer.Exit(BAD_REQUEST)


@schedules.command(name="history")
def show_history(
    ctx: typer.Context,
    name: Name,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="List at most this many slots.")
    ] = 20,
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """Show the result of each slot of a schedule and the reason, newest first.

    Example: loopline schedules history nightly
    """
    from itertools import islice

    with connected(ctx) as client:
        schedule = client.schedules.get(name)
        found = list(islice(client.schedules.firings(name, page_size=min(limit, 100)), limit))
    if exported(found, as_json=as_json, csv=csv):
        return None
    from loopline.view import schedules as view_schedules

    if not found:
        say(f"Nothing was due yet. {view_schedules.said(schedule)}")
        return note(f"Run it now with: {typed(ctx, 'schedules run', schedule.name)}")
    view_schedules.print_history(schedule, found)
    if len(found) == limit:
        note(f"The newest {limit} are shown; --limit shows more.")
    return None


@schedules.command(name="run")
def run_schedule(
    ctx: typer.Context,
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the batch has ended, as `loopline submit --wait` does.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="A repeated call with the same key starts no second run."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fire a schedule now, even if it is paused.

    Example: loopline schedules run nightly --wait
    """
    with connected(ctx) as client:
        firing = client.schedules.run(name, idempotency_key=idempotency_key)
        if not as_json:
            _say(ctx, client, name, firing)
        if wait:
            return _wait(ctx, client, name, firing, as_json=as_json)
    if as_json:
        return print_json(firing.raw)
    if firing.batch_id:
        note(f"Watch it with: {typed(ctx, 'batches watch', firing.batch_id)}")
    return None


@schedules.command(name="pause")
def pause_schedules(ctx: typer.Context, names: Names) -> None:
    """Pause schedules: they do not fire until they are resumed.

    Example: loopline schedules pause nightly
    """
    with connected(ctx) as client:
        for_each(names, lambda name: f"{client.schedules.pause(name).name} is paused.")


@schedules.command(name="resume")
def resume_schedules(ctx: typer.Context, names: Names) -> None:
    """Resume schedules, starting with the next slot from now.

    Example: loopline schedules resume nightly
    """
    from loopline.view import schedules as view_schedules

    with connected(ctx) as client:
        for_each(names, lambda name: view_schedules.said(client.schedules.resume(name)))


@schedules.command(name="delete")
def delete_schedules(ctx: typer.Context, names: Names) -> None:
    """Delete schedules with their history; their batches stay.

    Example: loopline schedules delete nightly
    """
    with connected(ctx) as client:
        for_each(names, lambda name: f"Deleted {client.schedules.delete(name).name}; its batches stay.")


def _say(ctx: typer.Context, client: Client, name: str, firing: Firing) -> None:
    from loopline import text
    from loopline.view import batches

    if firing.batch_id is None:
        return say(f"{name}: {firing.outcome}. {firing.message or ''}".strip())
    batch = client.batches.get(firing.batch_id)
    return say(f"Submitted {batches.titled(batch)}: {text.count(batch.total, 'job')}.")


def _wait(ctx: typer.Context, client: Client, name: str, firing: Firing, *, as_json: bool) -> None:
    """Waits for the batch of a firing, which may itself wait for a previous batch, and exits with its exit code."""
    from loopline.view import batches, watching

    with watching.in_sight(client, f"The schedule {name}", typed(ctx, "schedules history", name)):
        begun = client.schedules.begun(firing)
    if begun.batch_id is None:
        note(f"{name}: {begun.outcome}. {begun.message or ''}".strip())
        raise typer.Exit(CANCELLED if begun.outcome == "skipped" else FAILED)
    if begun != firing and not as_json:
        _say(ctx, client, name, begun)
    batch = client.batches.get(begun.batch_id)
    batch = batches.waited(client, batch, typed(ctx, "batches watch", batch.id), silent=as_json)
    if as_json:
        print_json(batch.raw)
    else:
        say(batches.total(batch))
    leave_as(ctx, batch)
