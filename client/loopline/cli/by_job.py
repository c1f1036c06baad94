"""`loopline predict` by a job: a job of the service answers about a file, and the command waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from loopline import errors, text
from loopline.cli import jobs
from loopline.cli.shared import INTERRUPTED, connected, print_json, withdrawn
from loopline.view.notes import changing, meter, note, warned

if TYPE_CHECKING:
    from loopline.client import Client
    from loopline.job import Job

SENT_BYTES = 4 << 20
"""A larger file is not sent: a job answers, or the model is downloaded."""
LAST = "last"
BY_JOB = (".csv", ".parquet")
"""What a job can write."""


class Target(NamedTuple):
    """What a job could be asked, and where its answers would go."""

    file: Path
    out: Path
    as_json: bool = False
    """Whether the job is printed as JSON when it has answered."""


def target_of(file: str | None, out: Path | None, folder: Path | None, *, as_json: bool = False) -> Target | None:
    if file in (None, "-") or out is None or folder is not None or out.suffix.lower() not in BY_JOB:
        return None
    return Target(Path(file or ""), out, as_json)


def is_large(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > SENT_BYTES


def answered(ctx: typer.Context, model: str, target: Target, *, is_asked: bool = False) -> bool:
    """Lets a job answer, and saves the answers. False if the key may not submit jobs and nobody asked for one."""
    job: Job | None = None
    try:
        with connected(ctx) as client:
            try:
                job = _submitted(client, model, target)
            except errors.NotAllowed:
                if is_asked:
                    raise
                return False
            job = _waited(client, job)
            with meter(f"Downloading {target.out}") as received:
                job.save_answers(target.out, on_bytes=received)
    except KeyboardInterrupt as stopped:
        note(f"\n{_left_behind(job, stopped)}")
        raise typer.Exit(INTERRUPTED) from None
    if job.answers is not None:
        warned(job.answers.warnings)
        note(f"Saved {text.count(job.answers.rows, 'row')} to {target.out}.")
    if target.as_json:
        print_json(job.raw)
    return True


def _submitted(client: Client, model: str, target: Target) -> Job:
    wanted: Any = target.out.suffix.lower()[1:]
    with meter(f"Uploading {target.file}") as on_bytes:
        return client.predict_many(
            named(client, model), target.file, format=wanted, on_bytes=on_bytes, on_withdrawn=withdrawn
        )


def _waited(client: Client, job: Job) -> Job:
    """The job when it has succeeded; its progress is shown until then."""
    from loopline.view import jobs
    from loopline.view.watching import in_sight

    note(f"Job {job.id} asks {job.spec.get('model')}.")
    with in_sight(client, f"Job {job.id}", _way_back(job)), changing() as show:
        for job in job.changes():  # noqa: B020  (the same job, as it is now)
            show(jobs.progress(job) if job.status == "running" else jobs.state(job))
    return job.check()


def _left_behind(job: Job | None, stopped: KeyboardInterrupt) -> str:
    """What Ctrl-C leaves on the service: a job, perhaps a job, or none."""
    from loopline.many import InterruptedSubmission

    if job is not None:
        return f"Job {job.id} {'has ended' if job.terminal else 'goes on'}. Come back to it with: {_way_back(job)}"
    if isinstance(stopped, InterruptedSubmission):
        return "The job was being submitted, and may run. Come back to it with: the same command again"
    return "No job was submitted."


def _way_back(job: Job) -> str:
    return f"the same command again, or loopline download {job.id}"


def named(client: Client, model: str) -> str:
    """The model, with the id of the newest job that trained for `last`, or of a search's model; which one is said."""
    if jobs.SEARCH_ID.fullmatch(model):
        return jobs.model_of(client, model).id
    if model != LAST:
        return model
    newest = client.job("last")
    trained = newest if newest.kind == "train" else next(iter(client.jobs.list(kind="train", page_size=1)), newest)
    if trained.kind == "train":
        note(f"`{LAST}` is {trained.id}{f' ({trained.name})' if trained.name else ''}, the newest job that trains.")
    return trained.id
