"""`loopline rerun` and `loopline reproduce`: train once more what a job has trained."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopline import errors
from loopline.cli import submit
from loopline.cli.jobs import JobId, leave_as, typed_for
from loopline.cli.shared import FAILED, AsJson, connected, print_json
from loopline.view.notes import note, say

if TYPE_CHECKING:
    from loopline.job import Job
    from loopline.reproduction import Reproduction

REPRODUCES = "reproduces"
"""The tag of a job that was submitted to reproduce another."""


def rerun(
    ctx: typer.Context,
    job_id: JobId,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a field of the spec. Repeatable."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the training until the job ends.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit the spec of a job once more.

    The new job has the same version of the data set. Defaults are as they were when the first job was submitted.

    Example: loopline rerun last --set training.epochs=50 --watch
    """
    with connected(ctx) as client:
        changes = dict(submit.setting_of(each) for each in settings or ())
        job = client.jobs.rerun(client.job(job_id), changes)
        submit.submitted(ctx, client, job, watch=watch, wait=wait, as_json=as_json)


def reproduce(ctx: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Train the model of a job again, and compare the weights.

    If they are not the same, the command says what differs (data, versions, device) and exits with 1.

    Example: loopline reproduce last
    """
    from loopline.view import watching

    with connected(ctx) as client:
        job = client.job(job_id)
        _check_complete(job)
        with tempfile.TemporaryDirectory(prefix="loopline-") as folder:
            first = Path(folder, "first")
            job.download(first)
            made = client.jobs.rerun(job, tags={REPRODUCES: job.id})
            if not as_json:
                say(f"Submitted {made.id}, which reproduces {job.id}.")
            made = watching.waited(client, made, typed_for(ctx, made))
            leave_as(ctx, made)
            found = _compared(first, Path(folder, "second"), made)
    if as_json:
        print_json({"job": made.id, "reproduces": job.id, **_document(found)})
    else:
        for sentence in found.sentences():
            say(sentence)
    if not found.is_same:
        raise typer.Exit(FAILED)


def _check_complete(job: Job) -> None:
    """Raises BadRequest if the job was cut short: a whole training makes another model than a part of it."""
    if job.result is None or job.result.complete:
        return
    from loopline.view import jobs

    raise errors.BadRequest(
        f"The model of {job.id} is incomplete: {jobs.cut_short(job.result)}. Only the model of a whole training can be "
        "reproduced; `loopline rerun` trains it once more."
    )


def _compared(first: Path, second: Path, made: Job) -> Reproduction:
    from loopline import reproduction

    try:
        made.download(second)
    except errors.NotFound:  # somebody has deleted it
        note(f"The model of {made.id} is gone.")
        raise
    return reproduction.compared(first, second)


def _document(found: Reproduction) -> dict[str, Any]:
    return {**asdict(found), "differences": list(found.differences)}
