"""What the command prints: colours and tables on a terminal, plain lines without control codes elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TextIO, cast

import yaml
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from loopline import measures, text
from loopline.job import Job
from loopline.types import (
    Checkpoint,
    Dataset,
    Delivery,
    Document,
    Epoch,
    Event,
    Health,
    Identity,
    InboxFile,
    Key,
    LogLine,
    Preset,
    Quota,
    Result,
    Webhook,
    Worker,
    below,
)

STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}
LEVELS = {"warning": "yellow", "error": "red"}
MAX_POSITION = 1000
"""The service counts no more jobs ahead of one."""
PLAIN_WIDTH = 10_000
LEAST_WIDTH = 14
SILENT_SECONDS = 30.0
"""A worker gives a sign of life several times in so long."""

Typed = Callable[[str], str]
"""How a command is typed for the job at hand: `watch` to `loopline --url http://host watch job_1`."""


class Unpadded:
    """A stream on which lines end without the spaces that fill a table's cells."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, lines: str) -> int:
        return self._stream.write(re.sub(r" +$", "", lines, flags=re.MULTILINE))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Guarded(Console):
    """A console whose texts hold nothing that a terminal obeys: colours and the cursor are rich's own affair."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(text.lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would leave with 1, which says that a job failed


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout, or another stream. Piped lines are never wrapped: scripts read them."""
    stream = stream or sys.stdout
    live = stream.isatty()
    return Guarded(
        file=stream if live else cast(TextIO, Unpadded(stream)),
        force_terminal=live,
        width=None if live else PLAIN_WIDTH,
        no_color=None if live else True,
        color_system="auto" if live else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _together(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


@dataclass
class Listing:
    """Rows of named cells as a table. Where the width is too small for it:

    1. the columns in `below` move under their rows, each on a line of its own;
    2. those in `drop` go, the first one first: times that the other views show as well;
    3. those in `wrap` take several lines, but none is narrower than LEAST_WIDTH: those in `last` move under their rows.

    No cell is ever cut short, and no id goes.
    """

    rows: Sequence[Mapping[str, str | Text]]
    drop: Sequence[str] = ()
    wrap: Sequence[str] = ()
    below: Sequence[str] = ()
    last: Sequence[str] = ()
    right: bool = False
    head: bool = True

    def __post_init__(self) -> None:
        # Cells are measured before the console looks at them.
        self.rows = [{name: on_one_line(cell) for name, cell in row.items()} for row in self.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {name: self._widest(name) for name in self.rows[0]} if self.rows else {}
        under: dict[str, None] = {}
        for names, wrapped in ((self.below, False), (self.drop, False), (self.last, True)):
            for name in names:
                least = {
                    one: min(wide, LEAST_WIDTH) if wrapped and one in self.wrap else wide
                    for one, wide in widths.items()
                }
                if name in widths and _together(least) > options.max_width:
                    del widths[name]
                    under |= {} if names is self.drop else {name: None}
        self._share(widths, options.max_width)
        if self.head:
            yield self._line(widths, {name: Text(name, "dim") for name in widths})
        for row in self.rows:
            yield self._line(widths, row)
            for name in under:
                if str(row[name]) not in ("", text.NOTHING):
                    yield Padding(Text.assemble((f"{name}: ", "dim"), row[name], overflow="fold"), (0, 0, 0, 2))

    def _line(self, widths: Mapping[str, int], row: Mapping[str, str | Text]) -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, wide in widths.items():
            justify: Literal["left", "right"] = "right" if self.right else "left"
            grid.add_column(width=wide, justify=justify, no_wrap=name not in self.wrap, overflow="fold")
        grid.add_row(*(row[name] for name in widths))
        return grid

    def _widest(self, name: str) -> int:
        return max(cell_len(name) if self.head else 0, *(cell_len(str(row[name])) for row in self.rows))

    def _share(self, widths: dict[str, int], width: int) -> None:
        """Lets the columns in `wrap` share what the others leave, the widest ones giving first."""
        wraps = [name for name in widths if name in self.wrap]
        while _together(widths) > width and wraps and max(widths[name] for name in wraps) > 1:
            widths[max(wraps, key=lambda name: widths[name])] -= 1


def jobs(found: Iterable[Job]) -> Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": job.id,
            "name": job.name or text.NOTHING,
            "status": status(job),
            "epoch": epochs_of(job),
            "best": f"{short(job.best.metric)} {text.number(job.best.value)}" if job.best else text.NOTHING,
            "created": text.ago(job.created_at),
            "took": text.duration(job.seconds),
        }
        for job in found
    ]
    return Listing(rows, drop=("took", "created"), wrap=("name", "status", "best"), last=("best",))


def job(shown: Job, typed: Typed, checkpoints: Sequence[Checkpoint] = ()) -> RenderableType:
    """Everything about one job, the checkpoints to be named among it, and its spec as YAML below."""
    rows: list[tuple[str, str | Text]] = [("job", shown.id), ("name", shown.name or text.NOTHING)]
    rows.append(("status", status(shown)))
    if shown.reason or shown.message:
        why = ": ".join(part for part in (shown.reason, shown.message) if part)
        head = "its model" if shown.status == "succeeded" else "reason" if shown.terminal else "why it waits"
        rows.append((head, why))
    if shown.waits_until:
        rows.append(("next attempt", f"not before {text.when(shown.waits_until)}"))
    if shown.status == "paused":
        rows.append(("resume it", typed("resume")))
    if shown.status == "failed":
        rows.append(("its log", typed("logs")))
    if shown.position is not None:
        rows.append(("queue", f"{shown.queue}, {waiting(shown)}"))
    else:
        rows.append(("queue", shown.queue))
    if shown.dataset_id:
        rows.append(("data set", f"{shown.dataset_name or ''} ({shown.dataset_id})".strip()))
    rows += _warnings(shown.warnings)
    rows.append(("attempt", attempts(shown)))
    rows.append(("progress", progress(shown)))
    rows.append(("best", best_of(shown)))
    if shown.result:
        rows += _came_to(shown.result, typed)
    for head, kept in zip(["checkpoints", *[""] * len(checkpoints)], checkpoints, strict=False):
        rows.append((head, f"step {kept.step} (epoch {kept.epoch}{', best' if kept.best else ''})"))
    if shown.tags:
        rows.append(("tags", ", ".join(f"{key}: {value}" for key, value in shown.tags.items())))
    rows += [(word, text.when(at)) for word, at in _times(shown) if at]
    if shown.seconds is not None:
        rows.append(("took", text.duration(shown.seconds)))
    return Group(pairs(rows), Text("\nspec", "dim"), spec(shown.spec))


def _warnings(sentences: Sequence[str]) -> list[tuple[str, str | Text]]:
    return [("warning", Text(text.one_line(sentence), LEVELS["warning"])) for sentence in sentences]


def spec(document: Document) -> Text:
    """A spec as YAML, set in."""
    return _verbatim(_indented(as_yaml(document)))


def presets(found: Iterable[Preset]) -> Listing:
    rows = [{"preset": preset.name, "what it is": preset.description} for preset in found]
    return Listing(rows, wrap=("what it is",))


def preset(shown: Preset) -> Text:
    """The fragment as YAML, ready to be a spec's beginning."""
    return _verbatim(f"# {shown.description}\n# `preset: {shown.name}` stands for:\n{as_yaml(shown.spec)}".rstrip())


def datasets(found: Iterable[Dataset]) -> Listing:
    rows = [
        {
            "data set": dataset.reference,
            "sequences": str(dataset.samples),
            "features": str(dataset.features),
            "length": _lengths(dataset),
            "target": text.targets(dataset),
            "size": text.size(dataset.bytes),
            "created": text.ago(dataset.created_at),
            "id": dataset.id,
        }
        for dataset in found
    ]
    return Listing(rows, drop=("created", "size"), wrap=("data set",), last=("id",))


def inbox(found: Iterable[InboxFile]) -> Listing:
    rows = [
        {
            "file": text.printable(file.id),
            "when": text.ago(file.at),
            "became": _with_warnings(file) or file.dataset_id or _no_dataset(file.error or ""),
        }
        for file in found
    ]
    return Listing(rows, wrap=("file", "became"), last=("became",))


def _with_warnings(file: InboxFile) -> str | None:
    return f"{file.dataset} ({text.count(len(file.warnings), 'warning')})" if file.warnings else file.dataset


def _no_dataset(error: str) -> Text:
    return Text(f"no data set: {text.printable(' '.join(error.split()))}", "red")


def dataset(shown: Dataset) -> RenderableType:
    rows: list[tuple[str, str | Text]] = [
        ("data set", shown.reference),
        ("id", shown.id),
        ("sequences", str(shown.samples)),
        ("features", str(shown.features)),
        ("length", f"{_lengths(shown)} steps"),
        ("target", text.targets(shown)),
    ]
    if shown.given_split:
        rows.append(("split", ", ".join(f"{name}: {count}" for name, count in shown.given_split.items())))
    rows += _warnings(shown.warnings)
    rows += [("size", text.size(shown.bytes)), ("sha256", shown.sha256), ("created", text.when(shown.created_at))]
    if not shown.classes:
        return pairs(rows)
    counts = [str(count) for count in shown.class_counts or []] or [text.NOTHING] * len(shown.classes)
    labelled = zip(shown.classes, counts, strict=False)
    what, where = ("tag", "steps") if shown.target == "tags" else ("class", "sequences")
    return Group(pairs(rows), "", Listing([{what: str(label), where: count} for label, count in labelled]))


def health(shown: Health) -> RenderableType:
    colour = {"ready": "green", "degraded": "yellow"}.get(shown.status, "red")
    return pairs([("status", Text(shown.status, colour)), *((name, state) for name, state in shown.checks.items())])


def workers(found: Iterable[Worker]) -> Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "worker": worker.name,
            "state": _state_of_worker(worker),
            "job": worker.job_id or text.NOTHING,
            "queues": ", ".join(worker.queues),
            "started": text.ago(worker.started_at),
            "seen": text.ago(worker.seen_at),
            "heard a bell": text.ago(worker.heard_at) if worker.heard_at else "never",
        }
        for worker in found
    ]
    return Listing(
        rows, drop=("started", "heard a bell", "seen"), wrap=("worker", "state", "queues"), last=("job", "queues")
    )


def _state_of_worker(worker: Worker) -> Text:
    if (silent := text.seconds_since(worker.seen_at)) > SILENT_SECONDS:
        return Text(f"{worker.state}, nothing heard for {text.duration(silent)}", "red")
    return Text(worker.state, {"busy": "cyan", "broken": "red"}.get(worker.state, ""))


def keys(found: Iterable[Key]) -> Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": key.id,
            "name": key.name or text.NOTHING,
            "scopes": ", ".join(key.scopes),
            "created": text.ago(key.created_at),
            "used": text.ago(key.last_used_at) if key.last_used_at else "never",
            "ends": Text("revoked", "red") if key.revoked_at else text.when(key.expires_at),
        }
        for key in found
    ]
    return Listing(rows, drop=("created", "used"), wrap=("name", "scopes", "ends"), last=("scopes",))


def webhooks(found: Iterable[Webhook]) -> Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": webhook.id,
            "url": text.printable(webhook.url),
            "told of": ", ".join(webhook.events) + (f" of {webhook.only}" if webhook.only else ""),
            "arrived": text.ago(webhook.delivered_at) if webhook.delivered_at else "never",
            "state": _state_of(webhook),
        }
        for webhook in found
    ]
    return Listing(rows, drop=("arrived",), wrap=("url", "told of"), last=("told of", "url"))


def webhook(shown: Webhook) -> RenderableType:
    rows: list[tuple[str, str | Text]] = [
        ("webhook", shown.id),
        ("url", text.printable(shown.url)),
        ("told of", ", ".join(shown.events)),
        ("only", shown.only or text.NOTHING),
        ("tags", ", ".join(f"{key}:{value}" for key, value in shown.tags.items()) or "all jobs"),
        ("created", text.when(shown.created_at)),
        ("arrived", text.when(shown.delivered_at) if shown.delivered_at else "never"),
        ("state", _state_of(shown)),
    ]
    if shown.old_secret_until:
        rows.append(("old secret", f"signs too until {text.when(shown.old_secret_until)}"))
    return pairs([*rows, ("because", shown.disabled_reason)] if shown.disabled_reason else rows)


def _state_of(shown: Webhook) -> Text:
    if shown.disabled_at:
        return Text("disabled", "red")
    return Text(f"failing ({shown.failures})", "yellow") if shown.failures else Text("well", "green")


def deliveries(found: Iterable[Delivery]) -> Listing:
    colours = {"pending": "yellow", "delivered": "green", "given_up": "red"}
    rows: list[dict[str, str | Text]] = [
        {
            "id": delivery.id,
            "event": delivery.event,
            "about": _subject(delivery),
            "created": text.ago(delivery.created_at),
            "state": Text(delivery.state.replace("_", " "), colours.get(delivery.state, "")),
            "attempts": str(delivery.attempts),
            "because": text.printable(delivery.last_error or ""),
        }
        for delivery in found
    ]
    return Listing(rows, drop=("created",), wrap=("event",), below=("because", "about"))


def _subject(told: Delivery) -> str:
    data = below(told.payload, "data")
    return text.printable(str(data.get("id") or data.get("model") or text.NOTHING))


def identity(shown: Identity) -> RenderableType:
    quotas = [(_QUOTAS.get(name, name), _quota(name, quota)) for name, quota in shown.quotas.items()]
    key = shown.key_id or "none is needed here"
    return pairs([("tenant", shown.tenant), ("key", key), ("may", ", ".join(shown.scopes)), *quotas])


_QUOTAS = {"queued": "jobs that wait", "running": "jobs that run", "bytes": "data sets"}


def _quota(name: str, quota: Quota) -> str:
    used, most = (text.size(each) if name == "bytes" else str(each) for each in (quota.used, quota.limit))
    return f"{used} of {most}" if quota.limit is not None else used


def event(shown: Event) -> Text:
    """`2026-01-02 03:04:05  queued -> running (attempt 1, host:12:ab)`, or what else happened."""
    if shown.type == "status":
        moved = f"{shown.from_status} -> {shown.to_status}" if shown.from_status else str(shown.to_status)
        by = [f"attempt {shown.attempt}", shown.worker] if shown.to_status == "running" else []
        whose = f" ({', '.join(part for part in by if part)})" if by else ""
        parts = [moved + whose + (f" ({shown.reason})" if shown.reason else ""), shown.message]
    else:
        parts = [shown.type.replace("_", " "), shown.message]
    return _told(shown.at, shown.level, ": ".join(part for part in parts if part))


def log_line(shown: LogLine) -> Text:
    """`2026-01-02 03:04:05  warning  what the trainer said`."""
    return _told(shown.at, shown.level, f"{shown.level:<7}  {shown.text}")


def _told(at: datetime | None, level: str, said: str) -> Text:
    time = at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else text.NOTHING
    line = Text.assemble((time, "dim"), "  ", (text.printable(said), LEVELS.get(level, "")), no_wrap=True)
    line.overflow = "ignore"
    return line


def status(shown: Job) -> Text:
    asked = "cancelling" if shown.cancel_requested else "pausing" if shown.pause_requested else ""
    word = f"{shown.status} ({asked})" if asked and not shown.terminal else shown.status
    if shown.silent_since and not shown.terminal:
        return Text(f"{word}, nothing heard {for_so_long(shown)}", "red")
    return Text(word, STYLES.get(shown.status, ""))


def for_so_long(shown: Job) -> str:
    """Since when nothing was heard of a job's worker: `for 40 s`."""
    return f"for {text.duration(text.seconds_since(shown.silent_since))}"


def way_on(shown: Job, typed: Typed) -> str:
    """How a paused job goes on."""
    return f"Resume it with: {typed('resume')}"


def attempts(shown: Job) -> str:
    """`3 (1 of 2 retries used, 1 worker lost)`."""
    most = below(shown.spec, "limits").get("max_retries", 0)
    used = [f"{shown.failures} of {text.count(most, 'retry', 'retries')} used"] if shown.failures else []
    used += [f"{text.count(shown.lost, 'worker')} lost since the last checkpoint"] if shown.lost else []
    return f"{shown.attempt} ({', '.join(used)})" if used else str(shown.attempt)


def waiting(shown: Job) -> str:
    """`next in its queue`, `2 jobs ahead of it`, `1000 or more jobs ahead of it`."""
    if shown.position is not None and shown.position >= MAX_POSITION:
        return f"{MAX_POSITION} or more jobs ahead of it"
    return f"{text.count(shown.position, 'job')} ahead of it" if shown.position else "next in its queue"


def state(shown: Job) -> str:
    """A job that has not ended, in one line: `job_1 queued, 2 jobs ahead of it`."""
    parts = [f"{shown.id} {shown.status}"]
    if shown.attempt > 1:
        parts.append(f"attempt {shown.attempt}")
    if shown.pause_requested:
        parts.append("pausing")
    if shown.silent_since:
        parts.append("nothing heard of its worker; it is queued again when its lease runs out")
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


def short(metric: str) -> str:
    """`validation_macro_f1` as the head of a column has it: `val macro f1`."""
    return metric.removeprefix("train_").replace("validation_", "val ").replace("_", " ")


def metrics(found: Document) -> str:
    return (
        ", ".join(f"{name} {text.number(value)}" for name, value in found.items() if value is not None) or text.NOTHING
    )


def _came_to(result: Result, typed: Typed) -> Iterator[tuple[str, str | Text]]:
    yield "result", metrics(result.metrics)
    if result.baseline:
        yield "baseline", baseline(result.baseline)
    if not result.complete:
        yield "model", f"incomplete: {cut_short(result)}; {typed('download')}"


def baseline(found: Document) -> str:
    """`test_accuracy 0.1342 with the most frequent class (3): not beaten`"""
    value = text.number((found.get("metrics") or {}).get(found.get("metric")))
    beaten = "beaten" if found.get("is_beaten") else "not beaten"
    return f"{found.get('metric')} {value} with {found.get('answer')}: {beaten}"


def cut_short(result: Result) -> str:
    """What an incomplete model is: `the best weights of epoch 3, after 7 epochs (cancelled)`."""
    after = f"after {result.epochs} epoch{'' if result.epochs == 1 else 's'}"
    return f"the best weights of epoch {result.best_epoch}, {after} ({result.incomplete_because or 'cut short'})"


def ending(shown: Job) -> str:
    """One sentence or two: how a job ended, after how long, and what it reached."""
    took = f" after {text.duration(shown.seconds)}" if shown.seconds is not None else ""
    if shown.status == "succeeded":
        reached = metrics(shown.result.metrics) if shown.result else text.NOTHING
        early = ", stopped early" if shown.result and shown.result.stopped_early else ""
        best = f", best epoch {shown.result.best_epoch}" if shown.result and shown.result.best_epoch else ""
        became = f"\n{shown.message}" if shown.message else ""
        return f"Job {shown.id} succeeded{took}{best}{early}. {reached}{became}"
    why = f" ({shown.reason})" if shown.reason else ""
    said = f": {shown.message}" if shown.message else "."
    left = shown.result
    offered = f" Its model is incomplete: {cut_short(left)}." if left is not None and not left.complete else ""
    return (
        f"Job {shown.id} {'was cancelled' if shown.status == 'cancelled' else shown.status}{took}{why}{said}{offered}"
    )


def epoch_line(epoch: Epoch, total: int | None) -> str:
    """One epoch as a line of words and numbers, for logs."""
    numbers: list[tuple[str, float | None]] = [("loss", epoch.train_loss), ("val loss", epoch.validation_loss)]
    name, value = metric_of(epoch)
    numbers += [(name, value), ("lr", epoch.lr), ("grad norm", epoch.grad_norm_mean)]
    width = len(str(total)) if total else 0
    head = f"epoch {epoch.epoch:>{width}}/{total}" if total else f"epoch {epoch.epoch}"
    measured = [
        f"{word} {f'{found:.2e}' if word == 'lr' else f'{text.number(found):<6}'}"
        for word, found in numbers
        if word and found is not None
    ]
    took = text.NOTHING if epoch.seconds is None else f"{epoch.seconds:.1f} s"
    return "  ".join([head, *measured, took])


def metric_of(epoch: Epoch) -> tuple[str, float | None]:
    """The metric to show beside the losses: that of the validation split if there is one, else of training."""
    found = epoch.metrics
    for name in [f"{split}_{metric}" for split in ("validation", "train") for metric in measures.METRICS]:
        if found.get(name) is not None:
            return short(name), found[name]
    return "", None


def as_yaml(document: Document) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, default_flow_style=None, width=60)


def _times(shown: Job) -> list[tuple[str, datetime | None]]:
    return [("created", shown.created_at), ("started", shown.started_at), ("finished", shown.finished_at)]


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())


def _lengths(shown: Dataset) -> str:
    low, high = shown.min_length, shown.max_length
    return str(high) if low == high else f"{low} to {high}"


def _verbatim(lines: str) -> Text:
    """Lines that can be copied: a terminal that is too narrow for one wraps it, and no line is broken in two."""
    return Text(lines, no_wrap=True, overflow="ignore")


def on_one_line(cell: str | Text) -> str | Text:
    """What stands in a cell of a table, in one line and without what the console would leave out."""
    words = str(cell)
    kept = text.one_line(words)
    return cell if kept == words else Text(kept, cell.style) if isinstance(cell, Text) else kept


def pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Words and what stands for them, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for word, value in rows:
        grid.add_row(word, value if isinstance(value, Text) else text.lines(value))
    return grid
