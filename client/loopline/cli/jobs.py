"""The commands about jobs: list, show, watch, logs, events, cancel, pause, resume, delete and download."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli.shared import CANCELLED, FAILED, AsCsv, AsJson, connected, exported, for_each, print_json, typed
from loopline.view.notes import meter, note, say, say_json

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.job import Job
    from loopline.types import Event, LogLine


SEARCH_ID = re.compile(r"search_[0-9a-hjkmnp-tv-z]{26}")
ENDS = {"failed": FAILED, "cancelled": CANCELLED}
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or `last` for the newest job.")]
JobIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of jobs, or `last` for the newest job; one or more.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the job ends.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one line of JSON for each instead, for scripts.")]


def list_jobs(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only jobs of this kind: train or predict.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help="Only jobs in this state, for example running.")
    ] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="QUEUE", help="Only jobs in this queue.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="KEY:VALUE", help="Only jobs with this tag.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only jobs with this name.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="List at most this many jobs.")
    ] = 20,
    as_json: AsJson = False,
    csv: AsCsv = None,
) -> None:
    """List jobs, newest first.

    Example: loopline list --status running
    """
    from itertools import islice

    with connected(ctx) as client:
        matching = client.jobs.list(
            kind=kind, status=status, queue=queue, tag=tag, name=name, full=as_json, page_size=min(limit, 100)
        )
        found = list(islice(matching, limit))
    if exported(found, as_json=as_json, csv=csv):
        return None
    if not found:
        filtered = any((kind, status, queue, tag, name))
        return say("No job fits." if filtered else "No jobs yet. Submit one: loopline submit job.yaml")
    from loopline.view import jobs, table

    table.console().print(jobs.jobs(found))
    if len(found) == limit:
        note(f"{'Only the newest is' if limit == 1 else f'The newest {limit} are'} shown; --limit shows more.")
    return None


def show(ctx: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job and its spec.

    Example: loopline show last
    """
    with connected(ctx) as client:
        job = client.job(job_id)
        kept = job.checkpoints() if not as_json and job.attempt and job.status != "succeeded" else []
    if as_json:
        return print_json(job.raw)
    from loopline.view import jobs, table

    return table.console().print(jobs.job(job, typed_for(ctx, job), kept))


def watch(ctx: typer.Context, job_id: JobId) -> None:
    """Follow a job until it ends.

    A terminal shows a live view; elsewhere a line is printed for each epoch. Ctrl-C stops watching; the job continues.

    Example: loopline watch last
    """
    from loopline.view import watching

    with connected(ctx) as client:
        job = client.job(job_id)
        job = watching.watched(client, job, typed_for(ctx, job), sys.stdout)
        say_ending(job)
        leave_as(ctx, job)


def logs(
    ctx: typer.Context,
    job_id: JobId,
    follow: Follow = False,
    as_json: AsJsonLines = False,
) -> None:
    """Print what a job logged.

    The service keeps the newest 2,000 lines of all attempts together.

    Example: loopline logs last --follow
    """
    with connected(ctx) as client:
        job = client.job(job_id)
        if not printed(job.logs(follow=follow), "log_line", as_json):
            note(f"Job {job.id} has logged nothing{'' if job.terminal or follow else ' yet'}.")


def events(
    ctx: typer.Context,
    job_id: JobId,
    follow: Follow = False,
    as_json: AsJsonLines = False,
) -> None:
    """Print what happened to a job.

    The events are changes of state, checkpoints, retries and warnings.

    Example: loopline events last
    """
    with connected(ctx) as client:
        printed(client.job(job_id).events(follow=follow), "event", as_json)


def cancel(ctx: typer.Context, job_ids: JobIds) -> None:
    """Cancel jobs.

    A waiting job is cancelled at once; a running job stops within a few seconds.

    Example: loopline cancel last
    """

    def one(before: Job) -> str:
        job = before.cancel()
        if before.terminal:
            return f"Job {job.id} had already ended: {job.status}."
        if job.terminal:
            return f"Job {job.id} is {job.status}."
        return f"Job {job.id} is asked to stop; it will within a few seconds."

    _each(ctx, job_ids, one)


def pause(ctx: typer.Context, job_ids: JobIds) -> None:
    """Pause jobs; they can continue later where they stopped.

    A running job first saves a checkpoint, then frees its device. `loopline resume` continues it.

    Example: loopline pause last
    """

    def one(before: Job) -> str:
        job = before.pause()
        if job.status != "paused":
            return f"Job {job.id} is asked to pause; it will as soon as it has saved its place."
        return f"Job {job.id} is paused. Resume it with: {typed_for(ctx, job)('resume')}"

    _each(ctx, job_ids, one)


def resume(ctx: typer.Context, job_ids: JobIds) -> None:
    """Resume paused jobs.

    The jobs wait for a worker and then continue exactly where they stopped.

    Example: loopline resume last
    """

    def one(before: Job) -> str:
        job = before.resume()
        if before.status == "paused":
            return f"Job {job.id} is {job.status} again."
        if before.pause_requested:
            return f"Job {job.id} will not be paused after all: {job.status}."
        return f"Job {job.id} is not paused: {job.status}."

    _each(ctx, job_ids, one)


def delete(ctx: typer.Context, job_ids: JobIds) -> None:
    """Delete jobs that have ended.

    This also deletes their models, checkpoints, events and logs. It cannot be undone.

    Example: loopline delete last
    """

    def one(job: Job) -> str:
        job.delete()
        return f"Deleted job {job.id}."

    _each(ctx, job_ids, one)


def download(
    ctx: typer.Context,
    job_id: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a job or of a search, or `last` for the newest job.")
    ],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Save to this folder. [default: ./ID]")] = None,
    checkpoint: Annotated[
        int | None,
        typer.Option("--checkpoint", metavar="STEP", help="Download the checkpoint of this step instead of the model."),
    ] = None,
) -> None:
    """Download the model of a job, a checkpoint, or its answers.

    A model consists of model.safetensors (the weights), model.json, history.json, model.onnx (the model with its
    preprocessing, for ONNX Runtime) and README.md (the model card) with its pictures.
    If the job was cancelled, reached its time limit or was stopped by its search, it is the best model until then.
    Of a search it is the final model, or that of the best trial if there is none.
    The answers of a job that predicts are one file, answers.csv or answers.parquet.

    Example: loopline download last --to vowels-model
    """
    from loopline import text

    with connected(ctx) as client:
        job = model_of(client, job_id) if SEARCH_ID.fullmatch(job_id) else client.job(job_id)
        with meter(f"Downloading {job.id}") as on_bytes:
            files = job.download(to or Path(job.id), checkpoint=checkpoint, on_bytes=on_bytes)
    for file in files:
        say(f"{file} ({text.size(file.stat().st_size)})")
    if checkpoint is None and job.result is not None and not job.result.complete:
        from loopline.view import jobs

        note(f"This model is incomplete: {jobs.cut_short(job.result)}.")


def model_of(client: Client, search_id: str) -> Job:
    """The job of a search whose model is to be used; says which one that is. Raises NotFound while there is none."""
    found = client.searches.get(search_id)
    job = found.model_job()
    if job is None:
        raise errors.NotFound(
            f"Search {search_id} has no model: no trial has succeeded{'' if found.terminal else ' yet'}."
        )
    if job.trial is None:
        note(f"The model of {search_id} is its final model, {job.id}.")
    else:
        why = "there is no final model" if found.terminal else "the search goes on"
        note(f"The model of {search_id} is that of the best trial, {job.id}, because {why}.")
    return job


def _each(ctx: typer.Context, job_ids: list[str], one: Callable[[Job], str]) -> None:
    with connected(ctx) as client:
        for_each(job_ids, lambda job_id: one(client.job(job_id)))


def printed(found: Iterable[Event | LogLine], shape: str, as_json: bool) -> int:
    """Prints each item on a line as it arrives; returns how many there were."""
    from loopline.view import jobs, table

    console, count = table.console(), 0
    for count, one in enumerate(found, 1):  # noqa: B007  (the last one is the count)
        if as_json:
            say_json(one.raw)
        else:
            console.print(getattr(jobs, shape)(one))
        sys.stdout.flush()
    return count


def say_ending(job: Job) -> None:
    """Prints how a job ended; before that a table of its folds, if it has any."""
    from loopline.view import folds, jobs, table

    if job.result is not None and job.result.folds:
        console = table.console()
        for each in folds.shown(job.result):
            console.print(each)
    say(jobs.ending(job))


def leave_as(ctx: typer.Context, job: Job) -> None:
    """Exits with the code that says how the job ended."""
    if job.status == "failed":
        note(f"See what it logged with: {typed_for(ctx, job)('logs')}")
    if job.status != "succeeded":
        if job.status not in ENDS:
            raise errors.ServiceError(f"The service says that job {job.id} has ended, and that it is {job.status}.")
        raise typer.Exit(ENDS[job.status])


def typed_for(ctx: typer.Context, job: Job) -> Callable[[str], str]:
    """Returns a function from a verb to the full command line for this job and the address in use."""
    return lambda verb: typed(ctx, verb, job.id)
