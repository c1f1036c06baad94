"""`loopline search FILE`, and the commands about searches: `loopline searches ...`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli import export
from loopline.cli.compare import Top
from loopline.cli.shared import CANCELLED, FAILED, AsCsv, AsJson, connected, exported, for_each, print_json, typed
from loopline.cli.submit import Settings, changed, with_data
from loopline.view.notes import note, say

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.search import Search
    from loopline.spec import SpecFile

searches = typer.Typer(
    help="List, show, watch, pause and extend searches.\n\nExample: loopline searches show last",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MOST_AT_THE_END = 10
"""Trials in the table at the end of a search that was followed."""

SearchId = Annotated[str, typer.Argument(metavar="ID", help="The search's id, or `last` for the newest search.")]
SearchIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of searches, or `last`; one or more.")]


def search(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A spec with a `search`, in YAML or JSON; `-` reads it from stdin.")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the search ends, and show the best trial so far.")
    ] = False,
    settings: Settings = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name the search.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="A repeated call with the same key returns the same search."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what the search would be, and submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the best values of some fields of a spec.

    The file is a spec with a `search`, which says what to vary. The service trains one job after the other.
    If data.dataset is the path of a file or folder, it is uploaded first.

    Example: loopline search search.yaml --wait
    """
    with connected(ctx) as client:
        spec = changed(file, settings or [])
        if name is not None:
            spec.set(("name",), name, verbatim=True)
        if dry_run:
            return tried(client, file, spec, as_json=as_json)
        return submitted(ctx, client, file, spec, idempotency_key, wait=wait, as_json=as_json)


def tried(client: Client, file: str, spec: SpecFile, *, as_json: bool) -> None:
    """Says what a search would be. Raises BadRequest with every problem, each with the name of the file."""
    from loopline import spec as specs

    for path in specs.local_files(spec).values():
        raise errors.BadRequest(
            f"The dry run of a search needs its data set: upload it first with `loopline datasets upload {path}`, and "
            "name the data set instead of the file."
        )
    with _of_file(file):
        found = client.searches.dry_run(spec)
    if as_json:
        return print_json(found.raw)
    from loopline.view import dry_runs as view
    from loopline.view import table

    table.console().print(view.search(found))
    return note("Nothing was submitted.")


@contextmanager
def _of_file(file: str) -> Iterator[None]:
    """Lets each problem of a spec have the name of its file."""
    try:
        yield
    except errors.BadRequest as error:
        problems = [errors.Problem(f"{file} {one.pointer}".rstrip(), one.detail) for one in error.problems]
        raise errors.BadRequest(error.message, problems=problems) from None


def submitted(
    ctx: typer.Context,
    client: Client,
    file: str,
    spec: SpecFile,
    idempotency_key: str | None,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """Submits a search with the file that its spec names, and follows it if that is wanted."""
    with _of_file(file):
        made = with_data(
            client, [spec], lambda ready: client.searches.submit(ready[0], idempotency_key=idempotency_key)
        )
    if not as_json:
        from loopline.view import searches as view

        before = " before, with this idempotency key" if made.replayed else ""
        say(f"Submitted {view.titled(made)}{before}: {view.plan(made)}.")
        _tell_time(client, made)
    if wait:
        return _followed(ctx, client, made, as_json=as_json)
    if as_json:
        return print_json(made.raw)
    return note(f"Watch it with: {typed(ctx, 'searches watch', made.id)}")


def _tell_time(client: Client, made: Search) -> None:
    """Says how long a trial will take, if that is known, and that the first one is made even if it takes longer than
    the search may."""
    from loopline.view import searches as view

    with suppress(errors.LooplineError):
        if said := view.time_of(made, client.jobs.dry_run(made.spec)):
            note(said)


@searches.command(name="list")
def list_searches(
    ctx: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="List at most this many searches.")
    ] = 20,
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """List searches, newest first.

    Example: loopline searches list
    """
    from itertools import islice

    with connected(ctx) as client:
        found = list(islice(client.searches.list(page_size=min(limit, 100)), limit))
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No searches yet. Submit one: loopline search search.yaml")
    from loopline.view import searches as view
    from loopline.view import table

    return table.console().print(view.listed(found))


@searches.command(name="show")
def show_search(
    ctx: typer.Context, search_id: SearchId, top: Top = None, as_json: AsJson = False, csv: AsCsv = None
) -> None:
    """Show a search: a line for each trial, the best first, and a summary.

    Example: loopline searches show last
    """
    with connected(ctx) as client:
        found = client.searches.get(search_id)
    if csv is not None:
        from loopline.view import searches as view

        return export.save(view.ordered(found)[:top], csv)
    return print_json(found.raw) if as_json else _show(ctx, found, top)


@searches.command(name="watch")
def watch_search(ctx: typer.Context, search_id: SearchId, as_json: AsJson = False) -> None:
    """Follow a search until it ends, with the best trial so far.

    Ctrl-C stops watching; the search continues.

    Example: loopline searches watch last
    """
    with connected(ctx) as client:
        _followed(ctx, client, client.searches.get(search_id), as_json=as_json)


@searches.command(name="cancel")
def cancel_search(ctx: typer.Context, search_ids: SearchIds) -> None:
    """Make no more trials, and cancel those that have not ended.

    Example: loopline searches cancel last
    """
    _each(ctx, search_ids, lambda found: found.cancel())


@searches.command(name="pause")
def pause_search(ctx: typer.Context, search_ids: SearchIds) -> None:
    """Make no more trials, and pause those that have not ended.

    Example: loopline searches pause last
    """
    _each(ctx, search_ids, lambda found: found.pause())


@searches.command(name="resume")
def resume_search(ctx: typer.Context, search_ids: SearchIds) -> None:
    """Let paused searches go on.

    Example: loopline searches resume last
    """
    _each(ctx, search_ids, lambda found: found.resume())


@searches.command(name="add")
def add_trials(
    ctx: typer.Context,
    search_id: SearchId,
    more: Annotated[int, typer.Argument(metavar="COUNT", min=1, help="How many trials to add.")],
) -> None:
    """Add trials to a search; one that has ended goes on.

    Example: loopline searches add last 20
    """
    _each(ctx, [search_id], lambda found: found.add(more))


def _each(ctx: typer.Context, search_ids: list[str], act: Callable[[Search], Search]) -> None:
    from loopline.view import searches as view

    with connected(ctx) as client:
        for_each(search_ids, lambda search_id: view.total(act(client.searches.get(search_id))))


def _followed(ctx: typer.Context, client: Client, found: Search, *, as_json: bool) -> None:
    """Follows a search to its end, and exits with the code that says how it ended."""
    from loopline.view import searches as view

    found = view.followed(client, found, typed(ctx, "searches watch", found.id), silent=as_json)
    if as_json:
        print_json(found.raw)
    else:
        _show(ctx, found, MOST_AT_THE_END)
    if found.status != "succeeded":
        raise typer.Exit(CANCELLED if found.status == "cancelled" else FAILED)


def _show(ctx: typer.Context, found: Search, most: int | None = None) -> None:
    """`most` limits the table to the best trials."""
    from loopline.view import searches as view
    from loopline.view import table

    console = table.console()
    if found.trials:
        console.print(view.Rows(found, most))
    if most is not None and (more := len(found.trials) - most) > 0:
        note(f"... and {more:,} more: {typed(ctx, 'searches show', found.id)}")
    for sentence in (
        view.total(found),
        view.final(found),
        view.verdict(found),
        view.curve(found),
        view.importance(found),
        view.advice(found),
    ):
        if sentence:
            say(sentence)
    if found.final is not None and found.final.status == "succeeded":
        note(f"Download the final model with: {typed(ctx, 'download', found.final.job_id)}")
        note(f"Ask it about a file with: {typed(ctx, 'predict', found.final.job_id)} FILE")
    elif found.best is not None:
        note(f"The spec of the best trial: {typed(ctx, 'show', found.best.job_id)}")
