"""The `loopline` command. It starts fast: httpx, rich and the client are imported by the commands that need them.

Every command is a few lines: read what was typed, call the client, print. What they share is in shared.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loopline import errors
from loopline.cli import batches, keys, models, schedules, webhooks
from loopline.cli.shared import (
    BAD_REQUEST,
    CANCELLED,
    FAILED,
    UNREACHABLE,
    AsJson,
    Command,
    connected,
    in_words,
    print_json,
)
from loopline.view.notes import meter, note, say, say_json, warned

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.job import Job
    from loopline.spec import SpecFile
    from loopline.types import Dataset, Event, LogLine

app = typer.Typer(
    cls=Command,
    help="Train recurrent networks on a Loopline service.\n\nExample: loopline submit job.yaml --watch",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
datasets = typer.Typer(
    help="List, show, upload and delete data sets.\n\nExample: loopline datasets upload vowels.npz",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(datasets, name="datasets")
app.add_typer(batches.batches, name="batches")
app.add_typer(schedules.schedules, name="schedules")
app.add_typer(models.models, name="models")
app.add_typer(keys.keys, name="keys")
app.add_typer(webhooks.webhooks, name="webhooks")
app.command()(keys.whoami)

ENDS = {"failed": FAILED, "cancelled": CANCELLED}
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or `last` for the newest job.")]
JobIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of jobs, or `last` for the newest job; one or more.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is new until the job ends.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print each as a line of JSON instead, for scripts.")]


def main() -> None:
    """The entry point of the `loopline` command."""
    app(prog_name="loopline")


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
            "--url", envvar="LOOPLINE_URL", metavar="URL", help="Where the service is. [default: http://127.0.0.1:8080]"
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            envvar="LOOPLINE_API_KEY_FILE",
            metavar="FILE",
            help="A file that holds the API key; LOOPLINE_API_KEY holds it itself.",
        ),
    ] = None,
    retry_seconds: Annotated[
        float,
        typer.Option(
            "--retry-seconds",
            metavar="SECONDS",
            min=0,
            help="For how long to go on asking a service that is away; watching is more patient.",
        ),
    ] = 2.0,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    ctx.obj = {"url": url, "api_key_file": api_key_file, "retry_seconds": retry_seconds}


@app.command()
def submit(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Specs, YAML or JSON; `-` reads one from stdin. Several are a batch."),
    ],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the training until the job ends.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the job ends; a line when it is submitted and one when it has ended."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a field of the spec; repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name the job, or the batch.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="The same key again comes to the same job or batch."),
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Make a batch of it, even where it is one job; several always are one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job, or several as a batch.

    Several files, or one with a `matrix`, are a batch: accepted whole or not at all. Where data.dataset is a path to an
    .npz file, the file is uploaded first.

    Example: loopline submit job.yaml --watch --set training.epochs=5
    """
    with connected(ctx) as client:
        read = [readied(client, file, settings or []) for file in files]
        if batch or len(read) > 1 or read[0].has_matrix():
            following = {"watch": watch, "wait": wait, "as_json": as_json}
            return batches.submit(ctx, client, files, read, name=name, idempotency_key=idempotency_key, **following)
        [spec] = read
        if name is not None:
            spec.set(("name",), name, verbatim=True)
        try:
            job = client.submit(spec, idempotency_key=idempotency_key)
        except errors.BadRequest as error:
            problems = [errors.Problem(f"{files[0]} {one.pointer}".rstrip(), one.detail) for one in error.problems]
            raise errors.BadRequest(error.message, problems=problems) from None
        follow = watch or wait
        if not as_json:
            say(f"Submitted {job.id}{f' ({job.name})' if job.name else ''}.")
        warned(job.warnings)
        if not (as_json or follow):
            note(f"Watch it with: {typed(ctx, job)('watch')}")
        if follow:
            from loopline.view import watching

            stream = sys.stderr if as_json else sys.stdout
            how = typed(ctx, job)
            job = watching.watched(client, job, how, stream) if watch else watching.waited(client, job, how)
        if as_json:
            print_json(job.raw)
        elif follow:
            say(ending(job))
        if follow:
            leave_as(ctx, job)
    return None


@app.command(name="list")
def list_jobs(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option("--status", metavar="STATUS", help="Only running jobs, say.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="QUEUE", help="Only jobs of this queue.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="KEY:VALUE", help="Only jobs with this tag.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only jobs of this name.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="COUNT", min=1, help="At most so many jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    Example: loopline list --status running
    """
    from itertools import islice

    with connected(ctx) as client:
        filters = {"status": status, "queue": queue, "tag": tag, "name": name}
        matching = client.jobs(**filters, full=as_json, page_size=min(limit, 100))
        found = list(islice(matching, limit))
    if as_json:
        return print_json([job.raw for job in found])
    if not found:
        filtered = any((status, queue, tag, name))
        return say("No job fits." if filtered else "No jobs yet. Submit one: loopline submit job.yaml")
    from loopline.view import jobs

    jobs.console().print(jobs.jobs(found))
    if len(found) == limit:
        note(f"{'Only the newest is' if limit == 1 else f'The newest {limit} are'} shown; --limit shows more.")
    return None


@app.command()
def show(ctx: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job and its spec.

    Example: loopline show last
    """
    with connected(ctx) as client:
        job = chosen(client, job_id)
        kept = job.checkpoints() if not as_json and job.attempt and job.status != "succeeded" else []
    if as_json:
        return print_json(job.raw)
    from loopline.view import jobs

    return jobs.console().print(jobs.job(job, typed(ctx, job), kept))


@app.command()
def watch(ctx: typer.Context, job_id: JobId) -> None:
    """Follow a job until it ends.

    A live view on a terminal, a line for each epoch elsewhere. Ctrl-C ends the watching, not the job.

    Example: loopline watch last
    """
    from loopline.view import watching

    with connected(ctx) as client:
        job = chosen(client, job_id)
        job = watching.watched(client, job, typed(ctx, job), sys.stdout)
        say(ending(job))
        leave_as(ctx, job)


@app.command()
def logs(
    ctx: typer.Context,
    job_id: JobId,
    follow: Follow = False,
    as_json: AsJsonLines = False,
) -> None:
    """Print what a job logged.

    The newest 2,000 lines are kept, of all attempts together.

    Example: loopline logs last --follow
    """
    with connected(ctx) as client:
        job = chosen(client, job_id)
        if not printed(job.logs(follow=follow), "log_line", as_json):
            note(f"Job {job.id} has logged nothing{'' if job.terminal or follow else ' yet'}.")


@app.command()
def events(
    ctx: typer.Context,
    job_id: JobId,
    follow: Follow = False,
    as_json: AsJsonLines = False,
) -> None:
    """Print what happened to a job.

    Every change of its state, checkpoints, retries and warnings.

    Example: loopline events last
    """
    with connected(ctx) as client:
        printed(chosen(client, job_id).events(follow=follow), "event", as_json)


@app.command()
def cancel(ctx: typer.Context, job_ids: JobIds) -> None:
    """Cancel jobs.

    One that waits is cancelled at once, one that runs stops within a few seconds.

    Example: loopline cancel last
    """

    def one(before: Job) -> str:
        job = before.cancel()
        if before.terminal:
            return f"Job {job.id} had already ended: {job.status}."
        if job.terminal:
            return f"Job {job.id} is {job.status}."
        return f"Job {job.id} is asked to stop; it will within a few seconds."

    each(ctx, job_ids, one)


@app.command()
def pause(ctx: typer.Context, job_ids: JobIds) -> None:
    """Pause jobs; they keep their place.

    One that runs saves a checkpoint first and frees its device. `loopline resume` lets it go on.

    Example: loopline pause last
    """

    def one(before: Job) -> str:
        job = before.pause()
        if job.status != "paused":
            return f"Job {job.id} is asked to pause; it will as soon as it has saved its place."
        return f"Job {job.id} is paused. Resume it with: {typed(ctx, job)('resume')}"

    each(ctx, job_ids, one)


@app.command()
def resume(ctx: typer.Context, job_ids: JobIds) -> None:
    """Resume paused jobs.

    They wait for a worker again and go on exactly where they stood.

    Example: loopline resume last
    """

    def one(before: Job) -> str:
        job = before.resume()
        if before.status == "paused":
            return f"Job {job.id} is {job.status} again."
        if before.pause_requested:
            return f"Job {job.id} will not be paused after all: {job.status}."
        return f"Job {job.id} is not paused: {job.status}."

    each(ctx, job_ids, one)


@app.command()
def delete(ctx: typer.Context, job_ids: JobIds) -> None:
    """Delete jobs that have ended.

    Their models, checkpoints, events and logs go with them; nothing brings them back.

    Example: loopline delete last
    """

    def one(job: Job) -> str:
        job.delete()
        return f"Deleted job {job.id}."

    each(ctx, job_ids, one)


@app.command()
def download(
    ctx: typer.Context,
    job_id: JobId,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Into this folder. [default: ./ID]")] = None,
    checkpoint: Annotated[
        int | None,
        typer.Option("--checkpoint", metavar="STEP", help="A checkpoint, instead of the model."),
    ] = None,
) -> None:
    """Download a model, or a checkpoint.

    A model is model.safetensors (the weights), model.json and history.json. Of
    a job that was cancelled or met its time limit it is the best until then.

    Example: loopline download last --to vowels-model
    """
    from loopline import text

    with connected(ctx) as client:
        job = chosen(client, job_id)
        with meter(f"Downloading {job.id}") as on_bytes:
            files = job.download(to or Path(job.id), checkpoint=checkpoint, on_bytes=on_bytes)
    for file in files:
        say(f"{file} ({text.size(file.stat().st_size)})")
    if checkpoint is None and job.result is not None and not job.result.complete:
        from loopline.view import jobs

        note(f"This model is incomplete: {jobs.cut_short(job.result)}.")


@app.command()
def presets(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one, as part of a spec.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the named architectures, or show one.

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
    from loopline.view import jobs

    return jobs.console().print(jobs.presets(found.values()) if name is None else jobs.preset(found[name]))


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
    from loopline.view import jobs

    return jobs.console().print(jobs.datasets(found))


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
    from loopline.view import jobs

    return jobs.console().print(jobs.dataset(found))


@datasets.command(name="upload")
def upload_dataset(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .npz with x, y and, if lengths differ, lengths.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Its name. [default: the file's]")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload an .npz file as a data set.

    The same content under the same name is the same data set, however often it is uploaded.

    Example: loopline datasets upload vowels.npz --name vowels
    """
    with connected(ctx) as client:
        dataset = upload_file(client, file, name)
    if as_json:
        return print_json(dataset.raw)
    return say(f"{dataset.reference} ({dataset.id})")


@datasets.command(name="inbox")
def list_inbox(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what came of the files in the service's inbox, newest first.

    Example: loopline datasets inbox
    """
    with connected(ctx) as client:
        found = list(client.inbox())
    if as_json:
        return print_json([file.raw for file in found])
    if not found:
        return say("Nothing was taken in yet: the inbox is empty, or the service watches none (LOOPLINE_INBOX).")
    from loopline.view import jobs

    return jobs.console().print(jobs.inbox(found))


@datasets.command(name="delete")
def delete_dataset(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME", help="A version (`vowels@3`), an id, or a name.")],
) -> None:
    """Delete one version of a data set.

    A name alone will do where it has one version only. Refused while a job that has not ended uses it.

    Example: loopline datasets delete vowels@1
    """
    with connected(ctx) as client:
        gone = client.delete_dataset(reference)
    say(f"Deleted {gone.reference} ({gone.id}).")


@app.command()
def workers(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the workers and what they do.

    A worker that was not seen for a minute is left out.

    Example: loopline workers
    """
    with connected(ctx) as client:
        found = client.workers()
    if as_json:
        return print_json([worker.raw for worker in found])
    if not found:
        return say("No workers are up. Jobs are accepted and wait until one starts.")
    from loopline.view import jobs

    return jobs.console().print(jobs.workers(found))


@app.command()
def health(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Say whether the service can take jobs.

    The exit code is 3 when it cannot.

    Example: loopline health
    """
    with connected(ctx) as client:
        found = client.health()
    if as_json:
        print_json(found.raw)
    else:
        from loopline.view import jobs

        jobs.console().print(jobs.health(found))
    if not found.ready:
        raise typer.Exit(UNREACHABLE)


def chosen(client: Client, job_id: str) -> Job:
    return client.last() if job_id == "last" else client.get(job_id)


def each(ctx: typer.Context, job_ids: list[str], one: Callable[[Job], str]) -> None:
    """Does the same to several jobs and says what came of it. What is wrong with one stops none of the others."""
    wrong = False
    with connected(ctx) as client:
        for job_id in job_ids:
            try:
                say(one(chosen(client, job_id)))
            except (errors.BadRequest, errors.NotFound, errors.Conflict) as error:
                note(f"Error: {in_words(error)}")
                wrong = True
    if wrong:
        raise typer.Exit(BAD_REQUEST)


def printed(found: Iterable[Event | LogLine], shape: str, as_json: bool) -> int:
    """Prints each as it comes, a line each; how many there were."""
    from loopline.view import jobs

    console, count = jobs.console(), 0
    for count, one in enumerate(found, 1):  # noqa: B007  (the last one is the count)
        if as_json:
            say_json(one.raw)
        else:
            console.print(getattr(jobs, shape)(one))
        sys.stdout.flush()
    return count


def readied(client: Client, file: str, settings: list[str]) -> SpecFile:
    """The spec in a file, changed as `--set` says, with the data sets uploaded that are files beside it."""
    from loopline import spec as specs

    spec = from_stdin() if file == "-" else specs.read(file)
    for setting in settings:
        apply(spec, setting)
    return specs.with_local_dataset(spec, lambda path: upload_file(client, path, None, warn=False).reference)


def from_stdin() -> SpecFile:
    from loopline.spec import SpecFile

    return SpecFile(sys.stdin.read(), "application/yaml", Path())


def apply(spec: SpecFile, setting: str) -> None:
    """Changes one field of the spec, as `training.epochs=5` says."""
    key, equals, value = setting.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise errors.BadRequest(f"--set takes KEY=VALUE, such as --set training.epochs=5; this is {setting!r}.")
    spec.set(path, value)


def upload_file(client: Client, path: Path, name: str | None, *, warn: bool = True) -> Dataset:
    """Uploads a data set and says so; warnings are left out where a job follows that is told those that apply to it."""
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


def ending(job: Job) -> str:
    from loopline.view import jobs

    return jobs.ending(job)


def leave_as(ctx: typer.Context, job: Job) -> None:
    """Exits with the code that says how the job ended."""
    if job.status == "failed":
        note(f"See what it logged with: {typed(ctx, job)('logs')}")
    if job.status != "succeeded":
        if job.status not in ENDS:
            raise errors.ServiceError(f"The service says that job {job.id} has ended, and that it is {job.status}.")
        raise typer.Exit(ENDS[job.status])


def typed(ctx: typer.Context, job: Job) -> Callable[[str], str]:
    """How a command is typed for this job, at the address in use."""
    url = ctx.obj["url"]
    elsewhere = f" --url {url}" if url and url != os.environ.get("LOOPLINE_URL") else ""
    return lambda verb: f"loopline{elsewhere} {verb} {job.id}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ". `loopline presets` lists them."
