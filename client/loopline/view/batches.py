"""A batch as people read it: a line for each job and one for all, drawn in place while it is watched."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loopline import measures, text
from loopline.batch import Batch, BatchJob
from loopline.client import Client
from loopline.view import table
from loopline.view.notes import note, on_retry
from loopline.view.watching import in_sight

FIRST = ("running", "failed", "cancelled", "paused", "queued", "succeeded")
"""Which jobs are shown where there is no room for all."""
ROWS_BESIDE_THE_TABLE = 5


def batches(found: Iterable[Batch]) -> table.Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": batch.id,
            "name": table.name(batch.name),
            "status": _status(batch.status),
            "jobs": str(batch.total),
            "stand": _counts(batch),
            "created": text.ago(batch.created_at),
        }
        for batch in found
    ]
    return table.Listing(rows, drop=("created", "jobs"), wrap=("name", "stand"), last=("stand",))


@dataclass(frozen=True)
class Rows:
    """A line for each job: status, name, what it reached, how long it took, id, and, unless that is to be left out, why
    it ended as it did, or what became of its model."""

    jobs: Sequence[BatchJob]
    reasons: bool = True
    metric: str | None = None
    """What is shown of jobs that have it, in place of the main metric."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [_row(job, self.metric) for job in self.jobs]
        for row in rows:
            if not self.reasons or str(row["status"]) not in ("failed", "succeeded"):
                row["why"] = ""  # that somebody cancelled it is nobody's news
        yield table.Listing(rows, drop=("took",), wrap=("name", "reached"), below=("why",), last=("id",), head=False)


def line(job: BatchJob) -> Text:
    """The same of one job, where the others are not known yet."""
    cells = [cell if isinstance(cell, Text) else Text(cell) for cell in _row(job).values()]
    return Text("  ").join(cell for cell in cells if cell.plain and cell.plain != text.NOTHING)


def total(batch: Batch) -> str:
    """`Batch batch_1 (nightly): 6 jobs, 5 succeeded, 1 failed, in 18 min 2 s.`"""
    took = f", in {text.duration(batch.seconds)}" if batch.seconds is not None else ""
    said = f"Batch {titled(batch)}: {text.count(batch.total, 'job')}, {_counts(batch)}{took}."
    ranked = _ranked(batch.jobs)
    if len(ranked) < 2:
        return said
    best = ranked[0]
    return f"{said} The best is {_clean(best.name, best.id)}: {_reached(best)} ({best.id})."


def ordered(batch: Batch) -> Sequence[BatchJob]:
    """The jobs for a table: those that have succeeded, the best one first, then the others as they were asked for."""
    ranked = _ranked(batch.jobs)
    return [*ranked, *(job for job in batch.jobs if job not in ranked)]


def _ranked(jobs: Sequence[BatchJob]) -> Sequence[BatchJob]:
    """Those that have succeeded, by what they reached, the best one first; none where that is not one metric of all."""
    measured = [(job, *found) for job in jobs if job.status == "succeeded" and (found := _measured(job))]
    if len({name for _, name, _ in measured}) != 1:
        return []
    sign = -1 if measures.points_up(measured[0][1]) else 1
    return [job for job, _, value in sorted(measured, key=lambda one: sign * one[2])]


def titled(batch: Batch) -> str:
    return f"{batch.id} ({_clean(batch.name)})" if batch.name else batch.id


def waited(client: Client, batch: Batch, back: str, *, silent: bool) -> Batch:
    """Waits until every job has ended, and shows each: a table at the end on a terminal, elsewhere a line when a job
    ends; or nothing, where it is to be `silent`. `back` is the command that comes back to the batch."""
    console = table.console(sys.stdout)
    lines = not silent and not console.is_terminal
    paused, ended = False, set[str]()
    with in_sight(client, f"Batch {batch.id}", back):
        for batch in batch.changes(every=lines):  # noqa: B020  (the same batch, as it is now)
            paused = _say_when_paused(batch, paused)
            for job in batch.jobs if lines else ():
                if job.terminal and job.id not in ended:
                    console.print(_aligned(job, batch))
                    ended.add(job.id)
            console.file.flush()
    if not lines and not silent:
        console.print(Rows(ordered(batch)))
    return batch


def _aligned(job: BatchJob, batch: Batch) -> str:
    """A line of the table, before the others are known: as wide as their names, and as most of what they reach."""
    wide = {"status": 9, "name": max(len(_clean(each.name)) for each in batch.jobs), "reached": 22, "took": 8}
    cells = {name: str(cell) for name, cell in _row(job).items()}
    return "  ".join(cell.ljust(wide.get(name, 0)) for name, cell in cells.items()).rstrip()


def watched(client: Client, batch: Batch, back: str) -> Batch:
    """Shows the batch until every job has ended: in place on a terminal, a line for each job that ends elsewhere."""
    console = table.console(sys.stdout)
    follow = _live if console.is_terminal and os.environ.get("TERM") != "dumb" else _lines
    with in_sight(client, f"Batch {batch.id}", back):
        return follow(console, batch)


def _live(console: Console, batch: Batch) -> Batch:
    shown = _Drawn(console, batch)
    on_retry(shown.show_retry)
    drawing = Live(shown, console=console, refresh_per_second=8, transient=True)
    try:
        with drawing:
            for batch in batch.changes():  # noqa: B020  (the same batch, as it is now)
                shown.batch, shown.trouble = batch, ""
    finally:
        drawing.stop()  # Ctrl-C while it was starting would leave the terminal without its cursor
    console.print(Rows(ordered(batch)))
    return batch


def _lines(console: Console, batch: Batch) -> Batch:
    said: dict[str, str] = {}
    paused = False
    on_retry(lambda trouble: note(f"{trouble} Trying again."))
    for batch in batch.changes():  # noqa: B020  (the same batch, as it is now)
        for job in batch.jobs:
            if said.get(job.id) != job.status and (job.terminal or job.status == "running"):
                console.print(line(job))
            said[job.id] = job.status
        console.file.flush()
        paused = _say_when_paused(batch, paused)
    return batch


def _say_when_paused(batch: Batch, said: bool) -> bool:
    """Says that nothing goes on until somebody resumes it, when that begins. Whether it is so."""
    if batch.status == "paused" and not said:
        waiting = " ".join(job.id for job in batch.jobs if job.status == "paused")
        note(f"What is left of batch {batch.id} is paused. Resume it with: loopline resume {waiting}")
    return batch.status == "paused"


class _Drawn:
    """As many of the jobs as the terminal is high, and how far they are together."""

    def __init__(self, console: Console, batch: Batch) -> None:
        self.console, self.batch, self.trouble = console, batch, ""

    def show_retry(self, trouble: str) -> None:
        """Shows what goes wrong until something is new."""
        self.trouble = trouble

    def __rich__(self) -> RenderableType:
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        batch, most = self.batch, max(3, self.console.height - ROWS_BESIDE_THE_TABLE)
        yield Text.assemble((batch.id, "bold"), f" {_clean(batch.name)} " if batch.name else " ", _status(batch.status))
        chosen = {job.id for job in sorted(batch.jobs, key=_rank)[:most]}
        yield Rows([job for job in batch.jobs if job.id in chosen], reasons=False)
        if len(chosen) < len(batch.jobs):
            yield Text(f"({text.count(len(batch.jobs) - len(chosen), 'more job')} not shown)", "dim")
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=batch.fraction, width=max(10, min(40, self.console.width - 60)))
        grid.add_row(bar, text.percent(batch.fraction), _counts(batch))
        yield grid
        if self.trouble:
            yield Text(f"{self.trouble} Trying again.", "yellow")


def _rank(job: BatchJob) -> int:
    return FIRST.index(job.status) if job.status in FIRST else len(FIRST)


def _row(job: BatchJob, metric: str | None = None) -> dict[str, str | Text]:
    why = ": ".join(part for part in (job.reason, job.message) if part)
    return {
        "status": _status(job.status),
        "name": _clean(job.name),
        "reached": _reached(job, metric),
        "took": text.duration(job.seconds),
        "id": job.id,
        "why": _clean(why, ""),
    }


def _reached(job: BatchJob, metric: str | None = None) -> str:
    """The one number that counts most: of the test split if there is one; else how far the job is."""
    if metric is not None and job.metrics.get(metric) is not None:
        return f"{metric} {text.number(job.metrics[metric])}"
    if not job.terminal:
        far = f"epoch {job.epoch}/{job.epochs}" if job.epochs else f"epoch {job.epoch}"
        if job.silent_since:
            return f"{far}, nothing heard for {text.duration(text.seconds_since(job.silent_since))}"
        return far if job.status != "queued" or job.epoch else text.NOTHING
    if found := _measured(job):
        return f"{found[0]} {text.number(found[1])}"
    return f"{job.best.metric} {text.number(job.best.value)}" if job.best else text.NOTHING


def _measured(job: BatchJob) -> tuple[str, float] | None:
    for name in (
        f"{split}_{measure}" for split in ("test", "validation", "train") for measure in measures.HIGHER_IS_BETTER
    ):
        if (value := job.metrics.get(name)) is not None:
            return name, value
    return None


def _counts(batch: Batch) -> str:
    """`5 succeeded, 1 failed`"""
    order = ("succeeded", "failed", "cancelled", "running", "paused", "queued")
    return ", ".join(f"{batch.counts[status]} {status}" for status in order if batch.counts.get(status)) or "none left"


def _status(status: str) -> Text:
    return Text(status, table.STYLES.get(status, ""))


def _clean(words: str | None, nothing: str = text.NOTHING) -> str:
    """On one line, and without control codes."""
    return text.printable(" ".join((words or "").split())) or nothing
