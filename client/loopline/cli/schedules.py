"""The commands about schedules: `loopline schedules ...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli.batches import leave_as
from loopline.cli.shared import BAD_REQUEST, CANCELLED, FAILED, AsJson, connected, in_words, print_json, typed
from loopline.view.notes import note, say

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.schedules import Firing

schedules = typer.Typer(
    help="Submit batches by the clock, and see what came of it.\n\nExample: loopline schedules set nightly.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name, or its id.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or ids of schedules; one or more.")]


@schedules.command(name="list")
def list_schedules(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the schedules: what comes next, and what came last.

    Example: loopline schedules list
    """
    with connected(ctx) as client:
        found = list(client.schedules.list())
    if as_json:
        return print_json([schedule.raw for schedule in found])
    if not found:
        return say("No schedules yet. Make one: loopline schedules set nightly.yaml")
    from loopline.view import schedules as view_schedules

    return view_schedules.print_schedules(found)


@schedules.command(name="show")
def show_schedule(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show a schedule: its next slots, its rules, what it submits.

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
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Schedules, YAML or JSON; one a file.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name. [default: that in the file, or the file's]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make or replace schedules, each from a file.

    The same again changes nothing. What is wrong with one file is told, and the others are set all the same.

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
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what came of a schedule's slots, newest first, and why.

    Example: loopline schedules history nightly
    """
    from itertools import islice

    with connected(ctx) as client:
        schedule = client.schedules.get(name)
        found = list(islice(client.schedules.firings(name, page_size=min(limit, 100)), limit))
    if as_json:
        return print_json([firing.raw for firing in found])
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
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="The same key again is the same run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fire a schedule now, paused or not.

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
    """Pause schedules: nothing of them is due until they are resumed.

    Example: loopline schedules pause nightly
    """
    with connected(ctx) as client:
        _each(names, lambda name: f"{client.schedules.pause(name).name} is paused.")


@schedules.command(name="resume")
def resume_schedules(ctx: typer.Context, names: Names) -> None:
    """Resume schedules, with the next slot from now on.

    Example: loopline schedules resume nightly
    """
    from loopline.view import schedules as view_schedules

    with connected(ctx) as client:
        _each(names, lambda name: view_schedules.said(client.schedules.resume(name)))


@schedules.command(name="delete")
def delete_schedules(ctx: typer.Context, names: Names) -> None:
    """Delete schedules with their history; their batches stay.

    Example: loopline schedules delete nightly
    """
    with connected(ctx) as client:
        _each(names, lambda name: f"Deleted {client.schedules.delete(name).name}; its batches stay.")


def _each(names: list[str], do: Callable[[str], str]) -> None:
    """Does it with each, and says so; what is wrong with one is told, and the others are done all the same."""
    wrong = False
    for name in names:
        try:
            say(do(name))
        except errors.NotFound as error:
            note(f"Error: {in_words(error)}")
            wrong = True
    if wrong:
        raise typer.Exit(BAD_REQUEST)


def _say(ctx: typer.Context, client: Client, name: str, firing: Firing) -> None:
    from loopline import text
    from loopline.view import batches

    if firing.batch_id is None:
        return say(f"{name}: {firing.outcome}. {firing.message or ''}".strip())
    batch = client.batch(firing.batch_id)
    return say(f"Submitted {batches.titled(batch)}: {text.count(batch.total, 'job')}.")


def _wait(ctx: typer.Context, client: Client, name: str, firing: Firing, *, as_json: bool) -> None:
    """Waits for the batch of a firing, which may have to wait for another one, and leaves with its exit code."""
    from loopline.view import batches, watching

    with watching.in_sight(client, f"The schedule {name}", typed(ctx, "schedules history", name)):
        begun = client.schedules.begun(firing)
    if begun.batch_id is None:
        note(f"{name}: {begun.outcome}. {begun.message or ''}".strip())
        raise typer.Exit(CANCELLED if begun.outcome == "skipped" else FAILED)
    if begun != firing and not as_json:
        _say(ctx, client, name, begun)
    batch = client.batch(begun.batch_id)
    batch = batches.waited(client, batch, typed(ctx, "batches watch", batch.id), silent=as_json)
    if as_json:
        print_json(batch.raw)
    else:
        say(batches.total(batch))
    leave_as(ctx, batch)
