"""`loopline submit`: what is read, changed and uploaded before a job, or a batch, is submitted."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from loopline import errors
from loopline.cli import batches, datasets
from loopline.cli.jobs import leave_as, say_ending, typed_for
from loopline.cli.shared import AsJson, connected, print_json, typed, withdrawn
from loopline.view.notes import note, say, warned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loopline.client import Client
    from loopline.job import Job
    from loopline.spec import SpecFile

Made = TypeVar("Made")
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a field of the spec. Repeatable."),
]


def submit(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Specs in YAML or JSON; `-` reads one from stdin. Several files make a batch."
        ),
    ],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the training until the job ends.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the job ends; print a line at submission and one at the end."),
    ] = False,
    settings: Settings = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name the job, or the batch.")] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="A repeated call with the same key returns the same job or batch."
        ),
    ] = None,
    batch: Annotated[
        bool,
        typer.Option("--batch", help="Submit a batch even if it is only one job; several jobs always are a batch."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what the job would be, and submit nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job, or several as a batch.

    Several files, or one file with a `matrix`, make a batch. The service accepts all of its jobs or none.
    If data.dataset is the path of a file or folder, it is uploaded first, with the columns that data.schema names.

    Example: loopline submit job.yaml --watch --set training.epochs=5
    """
    from loopline.cli import dry_runs

    with connected(ctx) as client:
        read = [changed(file, settings or []) for file in files]
        if searching := [file for file, spec in zip(files, read, strict=True) if spec.has_search()]:
            raise errors.BadRequest(f"{searching[0]} has a `search`. Submit it with `loopline search {searching[0]}`.")
        is_batch = batch or len(read) > 1 or read[0].has_matrix()
        if name is not None and not is_batch:
            read[0].set(("name",), name, verbatim=True)
        try_ = partial(dry_runs.tried, client, files, read, name, is_batch=is_batch)
        if dry_run:
            return dry_runs.show(client, files, read, try_, as_json=as_json)
        dry_runs.check_before_upload(client, files, read, try_)
        if is_batch:
            made = with_data(client, read, lambda ready: batches.sent(client, files, ready, name, idempotency_key))
            return batches.submitted(ctx, client, made, watch=watch, wait=wait, as_json=as_json)
        job = with_data(client, read, lambda ready: sent(client, files[0], ready[0], idempotency_key))
        is_open = read[0].leaves_network_open()
        submitted(ctx, client, job, watch=watch, wait=wait, as_json=as_json, is_open=is_open)
        return None


def one(ctx: typer.Context, file: str, spec: SpecFile, *, watch: bool, dry_run: bool, as_json: bool) -> Job | None:
    """Submits one job, with the file that its spec names, and returns it; or only says what the job would be."""
    from loopline.cli import dry_runs

    with connected(ctx) as client:
        try_ = partial(dry_runs.tried, client, [file], [spec], None, is_batch=False)
        if dry_run:
            dry_runs.show(client, [file], [spec], try_, as_json=as_json)
            return None
        dry_runs.check_before_upload(client, [file], [spec], try_)
        job = with_data(client, [spec], lambda ready: sent(client, file, ready[0], None))
        is_open = spec.leaves_network_open()
        return submitted(ctx, client, job, watch=watch, wait=False, as_json=as_json, is_open=is_open, few=True)


def sent(client: Client, file: str, spec: SpecFile, idempotency_key: str | None) -> Job:
    """Submits one job. Each problem is reported with the name of its file."""
    try:
        return client.submit(spec, idempotency_key=idempotency_key)
    except errors.BadRequest as error:
        problems = [errors.Problem(f"{file} {one.pointer}".rstrip(), one.detail) for one in error.problems]
        raise errors.BadRequest(error.message, problems=problems) from None


def submitted(
    ctx: typer.Context,
    client: Client,
    job: Job,
    *,
    watch: bool,
    wait: bool,
    as_json: bool,
    is_open: bool = False,
    few: bool = False,
) -> Job:
    """Prints a new job and how long it will take, and follows it if that is wanted. Returns it as it is then.
    `is_open`: its spec names no network, so what was chosen is printed too. `few`: as for `watching.watched`."""
    from loopline.cli import dry_runs

    if not as_json:
        say(f"Submitted {job.id}{f' ({job.name})' if job.name else ''}.")
    warned(job.warnings)
    if not as_json:
        dry_runs.tell_time(client, job)
        if is_open:
            dry_runs.tell_chosen(job, typed(ctx, "events", job.id))
    if watch or wait:
        return follow(ctx, client, job, watch=watch, as_json=as_json, few=few)
    if as_json:
        print_json(job.raw)
    else:
        note(f"Watch it with: {typed(ctx, 'watch', job.id)}")
    return job


def follow(ctx: typer.Context, client: Client, job: Job, *, watch: bool, as_json: bool, few: bool = False) -> Job:
    """Shows the training, or only waits, until the job ends. Returns it, or exits with the code that says how it ended
    if it did not succeed."""
    from loopline.view import watching

    stream, how = sys.stderr if as_json else sys.stdout, typed_for(ctx, job)
    job = watching.watched(client, job, how, stream, few=few) if watch else watching.waited(client, job, how)
    if as_json:
        print_json(job.raw)
    else:
        say_ending(job)
    leave_as(ctx, job)
    return job


def changed(file: str, settings: list[str]) -> SpecFile:
    """Reads a spec from a file and applies `--set`."""
    from loopline import spec as specs

    spec = from_stdin() if file == "-" else specs.read(file)
    for setting in settings:
        apply(spec, setting)
    return spec


def with_data(client: Client, read: list[SpecFile], send: Callable[[list[SpecFile]], Made]) -> Made:
    """Uploads the data sets that the specs name by path, and sends the specs with their names instead. If they are
    refused, the new data sets are deleted again."""
    from loopline import spec as specs

    with client.datasets.uploads_for_job(withdrawn) as uploaded:

        def upload(path: Path, schema: Mapping[str, Any]) -> str:
            uploaded.append(datasets.upload_file(client, path, None, schema=schema, warn=False))
            return uploaded[-1].reference

        return send([specs.with_local_dataset(spec, upload) for spec in read])


def from_stdin() -> SpecFile:
    from loopline.spec import SpecFile

    return SpecFile(sys.stdin.read(), "application/yaml", Path())


def apply(spec: SpecFile, setting: str) -> None:
    """Changes one field of the spec, as `training.epochs=5` says."""
    key, value = setting_of(setting)
    spec.set(tuple(key.split(".")), value)


def setting_of(setting: str) -> tuple[str, str]:
    """The key and the value of `training.epochs=5`. Raises BadRequest."""
    key, equals, value = setting.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise errors.BadRequest(f"--set takes KEY=VALUE, such as --set training.epochs=5; this is {setting!r}.")
    return ".".join(path), value
