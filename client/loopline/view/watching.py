"""Following a job to its end: drawn in place on a terminal, line by line elsewhere, or in silence."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import typer
from rich.console import Console

from loopline.client import Client
from loopline.errors import ServiceError, ServiceUnreachable
from loopline.job import Job
from loopline.types import Epoch
from loopline.view import jobs, table
from loopline.view.jobs import Typed
from loopline.view.live import SPARK_WIDTH, LiveView, drawn
from loopline.view.notes import note, on_retry

RETRY_SECONDS = 120.0
"""A service that is restarted or moved meanwhile is waited for; the job itself does not mind."""
SPARK_SECONDS = 1.0
INTERRUPTED = 130
MOST_LINES = 20
"""Of the epochs of a job where not each of them is printed."""


def watched(client: Client, job: Job, typed: Typed, stream: TextIO, *, few: bool = False) -> Job:
    """Shows a job on the stream until it ends, and returns it as it ended. `typed`: see Typed. `few`: where no terminal
    draws it, print about MOST_LINES of the epochs, spread evenly, instead of each."""
    console = table.console(stream)
    with in_sight(client, f"Job {job.id}", typed("watch")):
        if console.is_terminal and os.environ.get("TERM") != "dumb":
            return _live(console, job, typed)
        return _lines(console, job, typed, few=few)


def waited(client: Client, job: Job, typed: Typed) -> Job:
    """Waits until the job ends, and returns it as it ended, well or not. Says nothing but that it is paused."""
    paused = False
    with in_sight(client, f"Job {job.id}", typed("watch")):
        for job in job.changes():  # noqa: B020  (the same job, as it is now)
            if job.status == "paused" and not paused:
                note(f"Job {job.id} is paused. {jobs.way_on(job, typed)}")
            paused = job.status == "paused"
        return job


@contextmanager
def in_sight(client: Client, what: str, back: str) -> Iterator[None]:
    """While something (`Job job_1`) is looked at; `back` is the command that comes back to it.

    Whoever stops looking, by Ctrl-C or not, hears it.
    """
    client.retry_seconds = max(client.retry_seconds, RETRY_SECONDS)
    try:
        yield
    except KeyboardInterrupt:
        note(f"\n{what} goes on. Come back to it with: {back}")
        raise typer.Exit(INTERRUPTED) from None
    except (ServiceUnreachable, ServiceError):
        note(f"{what} is out of sight, and may go on. Come back to it with: {back}")
        raise


def _live(console: Console, job: Job, typed: Typed) -> Job:
    shown = LiveView(console, job, typed)
    on_retry(shown.show_retry)
    thinned_at = 0.0
    with drawn(shown):
        for job, epochs in job.follow():  # noqa: B020  (the same job, as it is now)
            if job.terminal or time.monotonic() - thinned_at > SPARK_SECONDS:
                shown.steps, thinned_at = job.steps(points=SPARK_WIDTH), time.monotonic()
            shown.update(job, epochs)
    return job


def _lines(console: Console, job: Job, typed: Typed, *, few: bool) -> Job:
    said = ""
    unsaid: Epoch | None = None

    def trouble(what: str) -> None:
        nonlocal said
        if said != what:
            said = what
            note(f"{what} Trying again.")

    on_retry(trouble)
    for job, epochs in job.follow():  # noqa: B020  (the same job, as it is now)
        state = jobs.state(job)
        if state != said and not job.terminal:
            said = state
            console.print(state)
            if job.status == "paused":
                note(jobs.way_on(job, typed))
        for epoch in epochs:
            is_due = not few or _is_due(epoch.epoch, job.progress.epochs)
            unsaid = None if is_due else epoch
            if is_due:
                console.print(jobs.epoch_line(epoch, job.progress))
        if unsaid is not None and job.terminal:
            console.print(jobs.epoch_line(unsaid, job.progress))
        console.file.flush()
    return job


def _is_due(epoch: int, epochs: int | None) -> bool:
    """Whether an epoch is one of about MOST_LINES among so many: the first one, and each so many epochs."""
    return epoch == 1 or epoch % max(1, math.ceil((epochs or 0) / MOST_LINES)) == 0
