"""The commands about batches: `loopline batches ...`, and what `loopline submit` does with more than one job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli import export
from loopline.cli.compare import Top
from loopline.cli.shared import CANCELLED, FAILED, AsCsv, AsJson, connected, exported, for_each, print_json, typed
from loopline.view.notes import note, say, warned

if TYPE_CHECKING:
    from loopline.batch import Batch
    from loopline.client import Client
    from loopline.spec import SpecFile

batches = typer.Typer(
    help="List, show, watch and cancel batches: jobs submitted together.\n\nExample: loopline batches show last",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or `last` for the newest batch.")]


def sent(
    client: Client, files: Sequence[str], specs: Sequence[SpecFile], name: str | None, idempotency_key: str | None
) -> Batch:
    """Submits the specs as one batch. Each problem is reported with the name of its file."""
    try:
        return client.batches.submit(specs[0] if len(specs) == 1 else specs, name=name, idempotency_key=idempotency_key)
    except errors.BadRequest as error:
        raise errors.BadRequest(error.message, problems=[of_file(one, files) for one in error.problems]) from None


def submitted(ctx: typer.Context, client: Client, batch: Batch, *, watch: bool, wait: bool, as_json: bool) -> None:
    """Prints a new batch, and follows it if that is wanted."""
    from loopline.view import batches as batch_view

    if not as_json:
        jobs = f"{batch.total} job{'' if batch.total == 1 else 's'}"
        before = " before, with this idempotency key" if batch.replayed else ""
        say(f"Submitted {batch_view.titled(batch)}{before}: {jobs}.")
    warned(sentence for job in batch.jobs for sentence in job.warnings)
    if not (as_json or watch or wait):
        note(f"Watch it with: {typed(ctx, 'batches watch', batch.id)}")
    if watch or wait:
        back = typed(ctx, "batches watch", batch.id)
        if watch and not as_json:
            batch = batch_view.watched(client, batch, back)
        else:
            batch = batch_view.waited(client, batch, back, silent=as_json)
    if as_json:
        print_json(batch.raw)
    elif watch or wait:
        say(batch_view.total(batch))
    if watch or wait:
        leave_as(ctx, batch)


@batches.command(name="list")
def list_batches(
    ctx: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="List at most this many batches.")
    ] = 20,
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """List batches, newest first.

    Example: loopline batches list
    """
    from itertools import islice

    with connected(ctx) as client:
        found = list(islice(client.batches.list(page_size=min(limit, 100)), limit))
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        return say("No batches yet. Submit one: loopline submit jobs/*.yaml")
    from loopline.view import batches as batch_view
    from loopline.view import table

    return table.console().print(batch_view.batches(found))


@batches.command(name="show")
def show_batch(
    ctx: typer.Context,
    batch_id: BatchId,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="METRIC", help="Sort by this metric, the best job first.")
    ] = None,
    top: Top = None,
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """Show a batch: a line for each job and a summary.

    Example: loopline batches show last --sort accuracy --top 5
    """
    from loopline.view import batches as batch_view

    with connected(ctx) as client:
        batch = client.batches.get(batch_id)
    jobs, metric = batch.ranked(sort) if sort else (batch_view.ordered(batch), None)
    if csv is not None:
        return export.save(jobs[:top], csv)
    if as_json:
        return print_json(batch.raw)
    from loopline.view import table

    table.console().print(batch_view.Rows(jobs[:top], metric=metric))
    return say(batch_view.total(batch))


@batches.command(name="watch")
def watch_batch(ctx: typer.Context, batch_id: BatchId) -> None:
    """Follow a batch until every job has ended.

    A terminal shows a live table; elsewhere a line is printed for each job. Ctrl-C stops watching; the jobs continue.

    Example: loopline batches watch last
    """
    from loopline.view import batches as batch_view

    with connected(ctx) as client:
        batch = client.batches.get(batch_id)
        batch = batch_view.watched(client, batch, typed(ctx, "batches watch", batch.id))
        say(batch_view.total(batch))
        leave_as(ctx, batch)


@batches.command(name="cancel")
def cancel_batch(
    ctx: typer.Context,
    batch_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of batches, or `last`; one or more.")],
) -> None:
    """Cancel every job of a batch that has not ended.

    Example: loopline batches cancel last
    """
    from loopline.view import batches as batch_view

    def one(batch_id: str) -> str:
        batch = client.batches.get(batch_id).cancel()
        stopping = "" if batch.terminal else " What runs stops within a few seconds."
        return f"{batch_view.total(batch)}{stopping}"

    with connected(ctx) as client:
        for_each(batch_ids, one)


def of_file(problem: errors.Problem, files: Sequence[str]) -> errors.Problem:
    """The problem of one job in the list, with the name of its file."""
    _, whole, rest = problem.pointer.partition("/jobs/")
    place, slash, below = rest.partition("/")
    if not whole or not place.isdigit() or int(place) >= len(files):
        return problem
    return errors.Problem(f"{files[int(place)]} {slash}{below}".rstrip(), problem.detail)


def leave_as(ctx: typer.Context, batch: Batch) -> None:
    """Exits with the code that says how the batch ended: the worst of its jobs."""
    failed = [job.id for job in batch.jobs if job.status == "failed"]
    if failed:
        note(f"See what it logged with: {typed(ctx, 'logs', failed[0])}")
        raise typer.Exit(FAILED)
    if batch.counts.get("cancelled"):
        raise typer.Exit(CANCELLED)
