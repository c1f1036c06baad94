"""What the commands about jobs print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from loopline import measures, text
from loopline.job import Job
from loopline.prediction import smoothing
from loopline.types import Checkpoint, Document, Epoch, Event, LogLine, Progress, Result, below
from loopline.view import details, folds, table

MAX_POSITION = 1000
"""The service counts no more jobs ahead of one."""
Typed = Callable[[str], str]
"""How a command is typed for the job at hand: `watch` to `loopline --url http://host watch job_1`."""


def jobs(found: Sequence[Job]) -> table.Listing:
    """The kind of each is shown if one of them predicts."""
    some_predict = any(job.kind == "predict" for job in found)
    rows: list[dict[str, str | Text]] = [
        {
            "id": job.id,
            "name": table.name(job.name),
            **({"kind": job.kind} if some_predict else {}),
            "status": pruned(job) or status(job),
            **({"progress": place(job)} if some_predict else {"epoch": epochs_of(job)}),
            "best": _best(job),
            "created": text.ago(job.created_at),
            "took": text.duration(job.seconds),
        }
        for job in found
    ]
    return table.Listing(rows, drop=("took", "created"), wrap=("name", "status", "progress", "best"), last=("best",))


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
    if shown.search_id:
        part = "the final model" if shown.trial is None else f"trial {shown.trial}"
        rows.append(("search", f"{shown.search_id}, {part}"))
    rows += table.warnings(shown.warnings)
    rows.append(("attempt", attempts(shown)))
    rows.append(("progress", progress(shown)))
    rows += _outcome(shown, typed)
    for head, kept in zip(["checkpoints", *[""] * len(checkpoints)], checkpoints, strict=False):
        fold = f", fold {kept.fold}" if kept.fold else ""
        rows.append((head, f"step {kept.step} (epoch {kept.epoch}{fold}{', best' if kept.best else ''})"))
    if shown.tags:
        rows.append(("tags", ", ".join(f"{key}: {value}" for key, value in shown.tags.items())))
    rows += [(word, text.when(at)) for word, at in _times(shown) if at]
    if shown.seconds is not None:
        rows.append(("took", text.duration(shown.seconds)))
    each = folds.shown(shown.result) if shown.result else ()
    behind = tuple(details.shown(shown.result.details)) if shown.result and shown.result.details else ()
    if shown.result and shown.result.sample:
        wrote = sample(shown.result.sample)
        behind = (*behind, Text(f"\n{wrote[0]}", "dim"), *map(Text, wrote[1:]))
    return Group(table.pairs(rows), *each, *behind, Text("\nspec", "dim"), table.spec(shown.spec))


def _outcome(shown: Job, typed: Typed) -> Iterator[tuple[str, str | Text]]:
    if shown.kind == "train":
        yield "best", best_of(shown)
    if (found := shown.answers) is not None:
        yield "answers", f"{text.count(found.rows, 'row')} of {found.model}, {text.size(found.bytes)} as {found.format}"
    if shown.result and shown.kind == "train":
        yield from _came_to(shown.result, typed)
        loss = below(below(shown.spec, "training"), "loss")
        if (said := smoothing.sentence(loss, details.classes(shown.result.details))) is not None:
            yield "loss", said


def event(shown: Event) -> Text:
    """`2026-01-02 03:04:05  queued -> running (attempt 1, host:12:ab)`, or what else happened."""
    if shown.type == "status":
        moved = f"{shown.from_status} -> {shown.to_status}" if shown.from_status else str(shown.to_status)
        by = [f"attempt {shown.attempt}", shown.worker] if shown.to_status == "running" else []
        whose = f" ({', '.join(part for part in by if part)})" if by else ""
        parts = [moved + whose + (f" ({shown.reason})" if shown.reason else ""), shown.message]
    else:
        parts = [shown.type.replace("_", " "), shown.message]
    return _timed_line(shown.at, shown.level, ": ".join(part for part in parts if part))


def log_line(shown: LogLine) -> Text:
    """`2026-01-02 03:04:05  warning  what the trainer said`."""
    return _timed_line(shown.at, shown.level, f"{shown.level:<7}  {shown.text}")


def _timed_line(at: datetime | None, level: str, said: str) -> Text:
    time = at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else text.NOTHING
    line = Text.assemble((time, "dim"), "  ", (text.printable(said), table.LEVELS.get(level, "")), no_wrap=True)
    line.overflow = "ignore"
    return line


def status(shown: Job) -> Text:
    asked = "cancelling" if shown.cancel_requested else "pausing" if shown.pause_requested else ""
    word = f"{shown.status} ({asked})" if asked and not shown.terminal else shown.status
    if shown.silent_since and not shown.terminal:
        return Text(f"{word}, nothing heard {for_so_long(shown)}", "red")
    return Text(word, table.STYLES.get(shown.status, ""))


def pruned(shown: Job) -> Text | None:
    """`pruned`, for a trial that its search stopped early: the job itself is cancelled for this reason."""
    is_pruned = shown.status == "cancelled" and shown.reason == "pruned"
    return Text("pruned", table.STYLES["pruned"]) if is_pruned else None


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
    """`epoch 3/20, step 12/80 (15%), 12 s left`, `epoch 9/20, step 36/80, stopped early`, or `fold 3 of 5, ...`."""
    now, result = shown.progress, shown.result
    if shown.kind == "predict":
        speed = f", {now.sequences_per_second:,.0f} a second" if now.sequences_per_second and not shown.terminal else ""
        left = f", {text.duration(now.eta_seconds)} left" if now.eta_seconds is not None and not shown.terminal else ""
        return f"{place(shown)} ({text.percent(now.fraction)}){speed}{left}"
    steps = f", step {now.step}/{now.steps}" if now.steps else ""
    left = f", {text.duration(now.eta_seconds)} left" if now.eta_seconds is not None and not shown.terminal else ""
    is_early = shown.status == "succeeded" and result is not None and result.stopped_early
    far = ", stopped early" if is_early else f" ({text.percent(now.fraction)})"
    return f"{place(shown)}{steps}{far}{left}"


def place(shown: Job) -> str:
    """`epoch 3/20`, `fold 3 of 5, epoch 12 of 20`, or `1,000 of 3,000 sequences`."""
    if shown.kind == "predict":
        done, total = shown.progress.answered or 0, shown.progress.sequences
        return f"{done:,} of {text.count(total, 'sequence')}" if total else "reading the file"
    return folds.place(shown.progress) or f"epoch {epochs_of(shown)}"


def _best(job: Job) -> str:
    if (mean := folds.judged(job.result)) is not None:
        return mean.replace("validation_", "val ").replace("_", " ")
    return f"{short(job.best.metric)} {text.number(job.best.value)}" if job.best else text.NOTHING


def best_of(shown: Job) -> str:
    best, now, result = shown.best, shown.progress, shown.result
    if result is not None and (mean := folds.judged(result)) is not None:
        return f"{mean} over {text.count(len(result.folds or ()), 'fold')}"
    if best is None:
        return text.NOTHING
    where = f"epoch {best.epoch}"
    if now.fold is not None:  # it is of the fold that is trained
        where = f"{folds.name(now.fold, now.folds)}, epoch {best.epoch - now.epoch + (now.fold_epoch or 0)}"
    return f"{best.metric} {text.number(best.value)} ({where})"


def short(metric: str) -> str:
    """`validation_macro_f1` as the head of a column has it: `val macro f1`."""
    return metric.removeprefix("train_").replace("validation_", "val ").replace("_", " ")


def metrics(found: Document) -> str:
    return (
        ", ".join(f"{name} {text.number(value)}" for name, value in found.items() if value is not None) or text.NOTHING
    )


def _came_to(result: Result, typed: Typed) -> Iterator[tuple[str, str | Text]]:
    yield "result", metrics(result.metrics)
    if result.folds:
        yield text.count(len(result.folds), "fold"), folds.spread(result)
    if result.baseline:
        yield "baseline", baseline(result.baseline)
    if result.gradients and (line := gradients(result.gradients)):
        yield "gradients", line
    yield from zip(["advice", *[""] * len(result.advice)], result.advice, strict=False)
    if not result.complete:
        yield "model", f"incomplete: {cut_short(result)}; {typed('download')}"


def sample(found: Document) -> list[str]:
    """What a model wrote: a line that says so, and the lines of the text."""
    head = f"text that the model wrote (temperature {found.get('temperature')}, seed {found.get('seed')})"
    return [head, *text.lines(str(found.get("text", ""))).split("\n")]


def baseline(found: Document) -> str:
    """`test_accuracy 0.1342 with the most frequent class (3): beaten (the model: 0.9544 to 0.9872 ...)`"""
    value = text.number((found.get("metrics") or {}).get(found.get("metric")))
    beaten = "beaten" if found.get("is_beaten") else "not beaten"
    sure = f" (the model: {between} with a confidence of 95 %)" if (between := interval(found)) else ""
    return f"{found.get('metric')} {value} with {found.get('answer')}: {beaten}{sure}"


def interval(found: Document) -> str:
    """`0.9542 to 1.0000`, of a baseline's `interval`; empty if it has none."""
    bounds = found.get("interval")
    return " to ".join(map(text.number, bounds)) if isinstance(bounds, list) and len(bounds) == 2 else ""


def gradients(found: Document) -> str:
    """`reach 14 of 200 steps, 25% of the updates clipped, 2% of the outputs saturated`, as far as it is known."""
    parts = []
    if found.get("gradient_reach") is not None:
        parts.append(f"reach {found['gradient_reach']} of {text.count(found.get('gradient_steps') or 0, 'step')}")
    for name, words in (("clipped_fraction", "updates clipped"), ("saturated_fraction", "outputs saturated")):
        if found.get(name) is not None:
            parts.append(f"{text.percent(found[name])} of the {words}")
    if found.get("dead_units") is not None:
        parts.append(text.count(found["dead_units"], "dead unit"))
    return ", ".join(parts)


def cut_short(result: Result) -> str:
    """What an incomplete model is: `the best weights of epoch 3, after 7 epochs (cancelled)`."""
    after = f"after {result.epochs} epoch{'' if result.epochs == 1 else 's'}"
    fold = f" of fold {result.fold}" if result.fold else ""
    return f"the best weights of epoch {result.best_epoch}{fold}, {after} ({result.incomplete_because or 'cut short'})"


def ending(shown: Job) -> str:
    """How a job ended, after how long, what it reached, and whether that is more than its baseline."""
    took = f" after {text.duration(shown.seconds)}" if shown.seconds is not None else ""
    if shown.status == "succeeded":
        reached = metrics(shown.result.metrics) if shown.result else text.NOTHING
        if shown.answers is not None:
            reached = f"It answered {place(shown)}, in {text.count(shown.answers.rows, 'row')}."
        early = ", stopped early" if shown.result and shown.result.stopped_early else ""
        best = f", best epoch {shown.result.best_epoch}" if shown.result and shown.result.best_epoch else ""
        became = f"\n{shown.message}" if shown.message else ""
        judged = f"\n{against_baseline(shown.result)}" if shown.result and shown.result.baseline else ""
        crossed = ""
        if shown.result and shown.result.folds:
            crossed = f"\n{text.count(len(shown.result.folds), 'fold')}: {folds.spread(shown.result)}"
        wrote = ""
        if shown.result and shown.result.sample:
            head, *lines = sample(shown.result.sample)
            wrote = "\n".join([f"\n{head[0].upper()}{head[1:]}:", *(f"  {line}" for line in lines)])
        advised = "".join(f"\nAdvice: {sentence}" for sentence in shown.result.advice) if shown.result else ""
        return f"Job {shown.id} succeeded{took}{best}{early}. {reached}{crossed}{judged}{advised}{became}{wrote}"
    why = f" ({shown.reason})" if shown.reason else ""
    said = f": {shown.message}" if shown.message else "."
    left = shown.result
    offered = f" Its model is incomplete: {cut_short(left)}." if left is not None and not left.complete else ""
    return (
        f"Job {shown.id} {'was cancelled' if shown.status == 'cancelled' else shown.status}{took}{why}{said}{offered}"
    )


def against_baseline(result: Result) -> str:
    """Whether a model beats its baseline, as a sentence with both numbers."""
    plain = result.baseline or {}
    name = str(plain.get("metric"))
    if not plain.get("is_beaten"):
        return str(plain.get("message") or "")
    judged = {**(result.mean or {}), **result.metrics}
    value, other = (text.number(found.get(name)) for found in (judged, plain.get("metrics") or {}))
    sure = f" ({between} with a confidence of 95 %)" if (between := interval(plain)) else ""
    return f"It beats its baseline: {short(name)} is {value}{sure}, and {other} with {plain.get('answer')}."


def epoch_line(epoch: Epoch, now: Progress) -> str:
    """One epoch as a line of words and numbers, for logs. `now` is the progress of its job."""
    total = now.epochs
    numbers: list[tuple[str, float | None]] = [("loss", epoch.train_loss), ("val loss", epoch.validation_loss)]
    name, value = metric_of(epoch)
    numbers += [(name, value), ("lr", epoch.lr), ("grad norm", epoch.grad_norm_mean)]
    width = len(str(total)) if total else 0
    plain = f"epoch {epoch.epoch:>{width}}/{total}" if total else f"epoch {epoch.epoch}"
    head = folds.head(epoch, now) or plain
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


def _times(shown: Job) -> list[tuple[str, datetime | None]]:
    return [("created", shown.created_at), ("started", shown.started_at), ("finished", shown.finished_at)]
