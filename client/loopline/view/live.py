"""A job as it trains, drawn in place on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loopline import text
from loopline.job import Job
from loopline.types import Epoch, Steps
from loopline.view import jobs, table

SPARK_WIDTH = 48
ROWS_BESIDE_THE_TABLE = 7


class LiveView:
    """The latest epochs, the loss of every step as a sparkline, and how far the job is."""

    def __init__(self, console: Console, job: Job, typed: jobs.Typed) -> None:
        self.console = console
        self.job = job
        self.typed = typed
        self.epochs: list[Epoch] = []
        self.steps = Steps()
        self.trouble = ""

    def update(self, job: Job, epochs: list[Epoch]) -> None:
        """Takes what is new."""
        self.job = job
        self.epochs += epochs
        self.trouble = ""

    def show_retry(self, trouble: str) -> None:
        """Shows what goes wrong until something is new."""
        self.trouble = trouble

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._head()]
        if self.job.status == "paused":
            parts.append(jobs.way_on(self.job, self.typed))
        if self.epochs:
            parts += self._latest()
        if any(loss is not None for loss in self.steps.loss):
            parts.append(self._sparkline())
        if self.job.started_at and not self.job.terminal:
            parts.append(self._bar())
        if self.trouble:
            parts.append(Text(f"{self.trouble} Trying again.", "yellow"))
        return Group(*parts)

    def _head(self) -> Text:
        name = f" {self.job.name}" if self.job.name else ""
        again = f", attempt {self.job.attempt}" if self.job.attempt > 1 else ""
        place = f", {jobs.waiting(self.job)}" if self.job.position is not None else ""
        message = f": {self.job.message}" if self.job.message and not self.job.terminal else ""
        return Text.assemble((self.job.id, "bold"), name, " ", jobs.status(self.job), again, place, message)

    def _latest(self) -> list[RenderableType]:
        """As many of the epochs as the terminal is high, the best one green."""
        rows = max(3, self.console.height - ROWS_BESIDE_THE_TABLE)
        earlier = len(self.epochs) - rows
        note = [Text(f"({text.count(earlier, 'earlier epoch')} not shown)", "dim")] if earlier > 0 else []
        latest = self.epochs[-rows:]
        metric = jobs.metric_of(latest[-1])[0]
        validated = any(epoch.validation_loss is not None for epoch in latest)
        cells = [self._cells(epoch, metric, validated) for epoch in latest]
        return [*note, table.Listing(cells, drop=("time", "clipped", "lr", "grad norm"), right=True)]

    def _cells(self, epoch: Epoch, metric: str, validated: bool) -> dict[str, str | Text]:
        in_fold = {"fold": str(epoch.fold), "epoch": str(epoch.fold_epoch)} if epoch.fold else {}
        numbers = {
            **(in_fold or {"epoch": str(epoch.epoch)}),
            "loss": text.number(epoch.train_loss),
            **({"val loss": text.number(epoch.validation_loss)} if validated else {}),
            **({metric: text.number(jobs.metric_of(epoch)[1])} if metric else {}),
            "lr": text.number(epoch.lr),
            "grad norm": text.number(epoch.grad_norm_mean),
            "clipped": text.percent(epoch.clipped_fraction),
            "time": text.duration(epoch.seconds),
        }
        best = self.job.best is not None and self.job.best.epoch == epoch.epoch
        return {name: Text(number, "bold green" if best else "") for name, number in numbers.items()}

    def _sparkline(self) -> Text:
        finite = [text.number(loss) for loss in self.steps.loss if loss is not None]
        line = text.sparkline(self.steps.loss, min(SPARK_WIDTH, self.console.width - 30))
        return Text.assemble("loss ", (line, "cyan"), f" {finite[0]} to {finite[-1]}")

    def _bar(self) -> Table:
        now = self.job.progress
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            jobs.place(self.job),
            ProgressBar(total=1.0, completed=now.fraction, width=max(10, min(40, self.console.width - 40))),
            text.percent(now.fraction),
            f"{text.duration(now.eta_seconds)} left" if now.eta_seconds is not None else "",
        )
        return grid


@contextmanager
def drawn(shown: LiveView) -> Iterator[None]:
    """Draws the view on its terminal for as long as the context lasts."""
    drawing = Live(shown, console=shown.console, refresh_per_second=8)
    try:
        with drawing:
            yield
    finally:
        drawing.stop()  # Ctrl-C while it was starting would leave the terminal without its cursor
