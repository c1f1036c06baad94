"""What the command prints. The only module that knows rich.

On a terminal: colours, tables, and a view that is redrawn in place. Elsewhere: plain lines without control codes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loopline import text
from loopline.job import Job
from loopline.types import Dataset, Document, Epoch, Health, Preset, Steps

STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}
METRICS = ("accuracy", "macro_f1", "r2", "mae", "rmse")
PLAIN_WIDTH = 10_000
SPARK_WIDTH = 48
NEEDED_WIDTH = {"time": 72, "clipped": 65, "lr": 56, "grad norm": 48}
"""Columns of the live table that are left out when the terminal is narrower than this."""


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout, or another stream. Piped lines are never wrapped: scripts read them."""
    stream = stream or sys.stdout
    live = is_terminal(stream)
    return Console(
        file=stream,
        force_terminal=live,
        width=None if live else PLAIN_WIDTH,
        no_color=None if live else True,
        color_system="auto" if live else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def jobs(found: Sequence[Job]) -> Table:
    table = _table("id", "name", "status", "epoch", "best", "created", "took")
    for job in found:
        table.add_row(
            job.id,
            job.name or text.NOTHING,
            status(job),
            epochs_of(job),
            best_of(job),
            text.ago(job.created_at),
            text.duration(job.seconds),
        )
    return table


def job(shown: Job) -> RenderableType:
    """Everything about one job, and its spec as YAML below."""
    rows: list[tuple[str, str | Text]] = [("job", shown.id), ("name", shown.name or text.NOTHING)]
    rows.append(("status", status(shown)))
    if shown.reason or shown.message:
        rows.append(("reason", ": ".join(part for part in (shown.reason, shown.message) if part)))
    if shown.position is not None:
        rows.append(("queue", f"{shown.queue}, {waiting(shown)}"))
    else:
        rows.append(("queue", shown.queue))
    if shown.dataset_id:
        rows.append(("data set", f"{shown.dataset_name or ''} ({shown.dataset_id})".strip()))
    rows.append(("attempt", str(shown.attempt)))
    rows.append(("progress", progress(shown)))
    rows.append(("best", best_of(shown)))
    if shown.result:
        rows.append(("result", metrics(shown.result.metrics)))
    if shown.tags:
        rows.append(("tags", ", ".join(f"{key}: {value}" for key, value in shown.tags.items())))
    rows += [(word, text.when(at)) for word, at in _times(shown) if at]
    if shown.seconds is not None:
        rows.append(("took", text.duration(shown.seconds)))
    return Group(_pairs(rows), Text("\nspec"), Text(_indented(as_yaml(shown.spec))))


def presets(found: Iterable[Preset]) -> Table:
    table = _table("preset", "what it is")
    for preset in found:
        table.add_row(preset.name, preset.description)
    return table


def preset(shown: Preset) -> Text:
    """The fragment as YAML, ready to be a spec's beginning."""
    return Text(
        f"# {shown.description}\n# In a spec, `preset: {shown.name}` stands for:\n{as_yaml(shown.spec)}".rstrip()
    )


def datasets(found: Iterable[Dataset]) -> Table:
    table = _table("data set", "sequences", "features", "length", "target", "size", "created", "id")
    for dataset in found:
        table.add_row(
            dataset.reference,
            str(dataset.samples),
            str(dataset.features),
            _lengths(dataset),
            _target(dataset),
            text.size(dataset.bytes),
            text.ago(dataset.created_at),
            dataset.id,
        )
    return table


def dataset(shown: Dataset) -> RenderableType:
    rows: list[tuple[str, str | Text]] = [
        ("data set", shown.reference),
        ("id", shown.id),
        ("sequences", str(shown.samples)),
        ("features", str(shown.features)),
        ("length", f"{_lengths(shown)} steps"),
        ("target", _target(shown)),
    ]
    if shown.given_split:
        rows.append(("split", ", ".join(f"{name}: {count}" for name, count in shown.given_split.items())))
    rows += [("size", text.size(shown.bytes)), ("sha256", shown.sha256), ("created", text.when(shown.created_at))]
    if not shown.classes:
        return _pairs(rows)
    counts: Sequence[int | None] = shown.class_counts or [None] * len(shown.classes)
    table = _table("class", "sequences")
    for label, count in zip(shown.classes, counts, strict=False):
        table.add_row(str(label), text.NOTHING if count is None else str(count))
    return Group(_pairs(rows), "", table)


def health(shown: Health) -> RenderableType:
    colour = {"ready": "green", "degraded": "yellow"}.get(shown.status, "red")
    return _pairs([("status", Text(shown.status, colour)), *((name, state) for name, state in shown.checks.items())])


def status(shown: Job) -> Text:
    word = f"{shown.status} (cancelling)" if shown.cancel_requested and not shown.terminal else shown.status
    return Text(word, STYLES.get(shown.status, ""))


def waiting(shown: Job) -> str:
    """`next in its queue`, `2 jobs ahead of it`."""
    return f"{text.count(shown.position, 'job')} ahead of it" if shown.position else "next in its queue"


def state(shown: Job) -> str:
    """A job that has not ended, in one line: `job_1 queued, 2 jobs ahead of it`."""
    parts = [f"{shown.id} {shown.status}"]
    if shown.attempt > 1:
        parts.append(f"attempt {shown.attempt}")
    if shown.position is not None:
        parts.append(waiting(shown))
    return ", ".join(parts) + (f": {shown.message}" if shown.message else "")


def epochs_of(shown: Job) -> str:
    done, total = shown.progress.epoch, shown.progress.epochs
    return f"{done}/{total}" if total else str(done) if done else text.NOTHING


def progress(shown: Job) -> str:
    """`epoch 3/20, step 12/80 (15%), 12 s left`."""
    now = shown.progress
    steps = f", step {now.step}/{now.steps}" if now.steps else ""
    left = f", {text.duration(now.eta_seconds)} left" if now.eta_seconds is not None and not shown.terminal else ""
    return f"epoch {epochs_of(shown)}{steps} ({text.percent(now.fraction)}){left}"


def best_of(shown: Job) -> str:
    best = shown.best
    return f"{best.metric} {text.number(best.value)} (epoch {best.epoch})" if best else text.NOTHING


def metrics(found: Document) -> str:
    return (
        ", ".join(f"{name} {text.number(value)}" for name, value in found.items() if value is not None) or text.NOTHING
    )


def ending(shown: Job) -> str:
    """One sentence or two: how a job ended, after how long, and what it reached."""
    took = f" after {text.duration(shown.seconds)}" if shown.seconds is not None else ""
    if shown.status == "succeeded":
        reached = metrics(shown.result.metrics) if shown.result else text.NOTHING
        early = ", stopped early" if shown.result and shown.result.stopped_early else ""
        best = f", best epoch {shown.result.best_epoch}" if shown.result and shown.result.best_epoch else ""
        return f"Job {shown.id} succeeded{took}{best}{early}. {reached}"
    why = f" ({shown.reason})" if shown.reason else ""
    said = f": {shown.message}" if shown.message else "."
    return f"Job {shown.id} {'was cancelled' if shown.status == 'cancelled' else shown.status}{took}{why}{said}"


def epoch_line(epoch: Epoch, total: int | None) -> str:
    """One epoch as a line of words and numbers, for logs."""
    numbers: list[tuple[str, float | None]] = [("loss", epoch.train_loss), ("val loss", epoch.validation_loss)]
    name, value = metric_of(epoch)
    numbers += [(name, value), ("lr", epoch.lr), ("grad norm", epoch.grad_norm_mean)]
    width = len(str(total)) if total else 0
    head = f"epoch {epoch.epoch:>{width}}/{total}" if total else f"epoch {epoch.epoch}"
    measured = [f"{word} {text.number(found)}" for word, found in numbers if word and found is not None]
    return "  ".join([head, *measured, text.duration(epoch.seconds)])


def metric_of(epoch: Epoch) -> tuple[str, float | None]:
    """The metric to show beside the losses: that of the validation split if there is one, else of training."""
    found = epoch.metrics
    for split, word in (("validation", "val "), ("train", "")):
        for name in METRICS:
            if found.get(f"{split}_{name}") is not None:
                return word + name.replace("_", " "), found[f"{split}_{name}"]
    return "", None


class LiveView:
    """A job as it trains: the latest epochs, the loss of every step as a sparkline, and how far it is."""

    def __init__(self, console: Console, job: Job) -> None:
        self.console = console
        self.job = job
        self.epochs: list[Epoch] = []
        self.steps = Steps()
        self.trouble = ""

    def update(self, job: Job, epochs: list[Epoch]) -> None:
        """Takes what is new."""
        self.job = job
        self.epochs += epochs
        self.trouble = ""

    def tell(self, trouble: str) -> None:
        """Shows what goes wrong until something is new."""
        self.trouble = trouble

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._head()]
        if self.epochs:
            parts += self._latest()
        spark = text.sparkline(self.steps.loss, min(SPARK_WIDTH, self.console.width - 30))
        if spark:
            finite = [text.number(loss) for loss in self.steps.loss if loss is not None]
            parts.append(Text.assemble("loss ", (spark, "cyan"), f" {finite[0]} to {finite[-1]}"))
        if self.job.started_at and not self.job.terminal:
            parts.append(self._bar())
        if self.trouble:
            parts.append(Text(f"{self.trouble} Trying again.", "yellow"))
        return Group(*parts)

    def _head(self) -> Text:
        name = f" {self.job.name}" if self.job.name else ""
        again = f", attempt {self.job.attempt}" if self.job.attempt > 1 else ""
        place = f", {waiting(self.job)}" if self.job.position is not None else ""
        told = f": {self.job.message}" if self.job.message and not self.job.terminal else ""
        return Text.assemble((self.job.id, "bold"), name, " ", status(self.job), again, place, told)

    def _bar(self) -> Table:
        now = self.job.progress
        grid = Table.grid(padding=(0, 1))
        left = f"{text.duration(now.eta_seconds)} left" if now.eta_seconds is not None else ""
        grid.add_row(
            f"epoch {epochs_of(self.job)}",
            ProgressBar(total=1.0, completed=now.fraction, width=max(10, min(40, self.console.width - 40))),
            text.percent(now.fraction),
            left,
        )
        return grid

    def _latest(self) -> list[RenderableType]:
        """As many of the epochs as the terminal is high."""
        rows = max(3, self.console.height - 7)
        earlier = len(self.epochs) - rows
        note = [Text(f"({text.count(earlier, 'earlier epoch')} not shown)", "dim")] if earlier > 0 else []
        return [*note, self._table(self.epochs[-rows:])]

    def _table(self, shown: list[Epoch]) -> Table:
        metric = metric_of(shown[-1])[0]
        columns = ["epoch", "loss", "val loss", metric, "lr", "grad norm", "clipped", "time"]
        with_validation = any(epoch.validation_loss is not None for epoch in shown)
        hidden = {column for column, width in NEEDED_WIDTH.items() if self.console.width < width}
        hidden |= {"" if metric else metric, "" if with_validation else "val loss"}
        table = _table(*(column for column in columns if column not in hidden), right=True)
        best = self.job.best.epoch if self.job.best else None
        for epoch in shown:
            cells = {
                "epoch": str(epoch.epoch),
                "loss": text.number(epoch.train_loss),
                "val loss": text.number(epoch.validation_loss),
                metric: text.number(metric_of(epoch)[1]),
                "lr": text.number(epoch.lr),
                "grad norm": text.number(epoch.grad_norm_mean),
                "clipped": text.percent(epoch.clipped_fraction),
                "time": text.duration(epoch.seconds),
            }
            style = "bold green" if epoch.epoch == best else ""
            table.add_row(*(cell for column, cell in cells.items() if column not in hidden), style=style)
        return table


@contextmanager
def live(view: LiveView) -> Iterator[None]:
    """Draws the view on its terminal for as long as the context lasts."""
    drawn = Live(view, console=view.console, refresh_per_second=8)
    try:
        with drawn:
            yield
    finally:
        drawn.stop()  # Ctrl-C while it was starting would leave the terminal without its cursor


def as_yaml(document: Document) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _times(shown: Job) -> list[tuple[str, datetime | None]]:
    return [("created", shown.created_at), ("started", shown.started_at), ("finished", shown.finished_at)]


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())


def _lengths(shown: Dataset) -> str:
    low, high = shown.min_length, shown.max_length
    return str(high) if low == high else f"{low} to {high}"


def _target(shown: Dataset) -> str:
    return f"{len(shown.classes)} classes" if shown.classes else shown.target


def _table(*columns: str, right: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    return table


def _pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for word, value in rows:
        grid.add_row(word, value)
    return grid
