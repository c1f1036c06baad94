"""A search as people read it: a line for each trial, the best first, and what to conclude."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from loopline import text
from loopline.client import Client
from loopline.search import BestTrial, Search, Trial
from loopline.types import DryRun, Result, below
from loopline.view import table
from loopline.view.jobs import against_baseline
from loopline.view.notes import changing, note, on_retry
from loopline.view.watching import in_sight

STYLES = {**table.STYLES, "refused": "magenta"}
SPARK_WIDTH = 40
LEAST_SHARE = 0.005


def listed(found: Iterable[Search]) -> table.Listing:
    rows: list[dict[str, str | Text]] = [
        {
            "id": search.id,
            "name": table.name(search.name),
            "status": _status(search.status),
            "trials": f"{search.made} of {search.wanted}",
            "varied": ", ".join(table.short_names(search.varied).values()),
            "created": text.ago(search.created_at),
        }
        for search in found
    ]
    return table.Listing(rows, drop=("created",), wrap=("name", "varied"), last=("varied",))


@dataclass(frozen=True)
class Rows:
    """A line for each trial: those with a value, the best one first and marked; then the others by number. With `most`
    only so many lines."""

    search: Search
    most: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        search, names = self.search, table.short_names(self.search.varied)
        rows = [_row(search, trial, names) for trial in ordered(search)[: self.most]]
        fields = [*names.values()]
        shown = [name for name in rows[0] if name != "why" or any(str(row["why"]) for row in rows)]
        rows = [{name: row[name] for name in shown} for row in rows]
        yield table.Listing(rows, below=("why",), drop=("took",), last=("id", *reversed(fields)))


def ordered(search: Search) -> Sequence[Trial]:
    """The trials for a table: those with a value, the best one first, then the others as they were made."""
    sign = -1.0 if search.higher_is_better else 1.0
    valued = [trial for trial in search.trials if trial.value is not None]
    return [
        *sorted(valued, key=lambda trial: sign * (trial.value or 0.0)),
        *(trial for trial in search.trials if trial.value is None),
    ]


def plan(search: Search) -> str:
    """`40 trials, 2 at once, by validation_accuracy`"""
    at_once = f", {search.parallel} at once" if search.parallel > 1 else ""
    minutes = below(search.raw, "settings").get("minutes")
    many = text.count(search.wanted, "trial")
    if isinstance(minutes, int | float):
        many = f"trials within {text.duration(60.0 * minutes)}, at most {search.wanted:,}"
    return f"{many}{at_once}, by {search.metric}"


def time_of(search: Search, trial: DryRun) -> str:
    """`A trial will take about 12 s at most.`, and that the first one is made in any case if `minutes` are fewer. Empty
    if nothing is known, and there is no limit."""
    settings, seconds = below(search.raw, "settings"), trial.estimate.get("seconds")
    minutes = settings.get("minutes")
    limit = 60.0 * minutes if isinstance(minutes, int | float) else None
    if not isinstance(seconds, int | float):
        return "" if limit is None else f"{trial.message} The first trial is made in any case."
    said = f"A trial will take about {text.duration(seconds)} at most."
    if limit is None or seconds <= limit:
        return said
    then = ", and then the final model is trained" if settings.get("final") else ""
    return (
        f"{said} That is longer than the {text.duration(limit)} of the search. The first trial is made in any case and "
        f"takes about so long{then}."
    )


def titled(search: Search) -> str:
    return f"{search.id} ({_clean(search.name)})" if search.name else search.id


def total(search: Search) -> str:
    """`Search search_1 (vowels): 40 of 40 trials, 38 succeeded, 2 failed, in 18 min 2 s. The best is trial 7 ...`"""
    took = f", in {text.duration(search.seconds)}" if search.seconds is not None else ""
    state = "" if search.status in ("running", "succeeded") else f" {search.status}:"
    if search.cancel_requested and not search.terminal:
        state = " is being cancelled:"
    counts = _counts(search)
    said = f"Search {titled(search)}:{state} {search.made} of {text.count(search.wanted, 'trial')}"
    said += f"{f', {counts}' if counts else ''}{took}."
    message = f" {_clean(search.message)}" if search.message else ""
    if search.best is not None:
        message += f" The best is {_best(search.best, search)}, {search.best.job_id}."
    return f"{said}{message}{''.join(f' {each}' for each in silence(search))}"


def silence(search: Search) -> Sequence[str]:
    """A sentence about each worker of which nothing is heard."""
    trials = {trial.job_id: f"trial {trial.trial}" for trial in search.trials}
    return [
        f"Nothing has been heard of the worker of {trials.get(job_id, 'the final model')} for "
        f"{text.duration(text.seconds_since(since))}; the job is queued again when its lease runs out."
        for job_id, since in search.silent.items()
    ]


def final(search: Search) -> str:
    """`The final model is job_1: test_accuracy 0.9712, test_loss 0.0832.`"""
    if search.final is None:
        return ""
    model = search.final
    if model.status != "succeeded":
        place = f", epoch {model.epoch} of {model.epochs}" if model.status == "running" and model.epochs else ""
        return f"The final model is {model.job_id}: {model.status}{place}. {_clean(model.message, '')}".rstrip()
    tested = {name: value for name, value in model.metrics.items() if name.startswith("test_") and value is not None}
    if not tested:
        return (
            f"The final model is {model.job_id}. It was not tested, because there is no test part; data.split.test: "
            "0.2 would set one aside. The value of the best trial is a little better than what new data will show."
        )
    first = sorted(tested, key=lambda name: name == "test_loss")
    return f"The final model is {model.job_id}: {', '.join(f'{name} {text.number(tested[name])}' for name in first)}."


def verdict(search: Search) -> str:
    """Whether the final model is better than plain ones, as a sentence. Empty if it was judged by no other samples than
    those that it was trained on."""
    model = search.final
    if model is None or not model.baseline or str(model.baseline.get("metric")).startswith("train_"):
        return ""
    return _clean(against_baseline(Result(metrics=model.metrics, baseline=model.baseline)), "")


def curve(search: Search) -> str:
    """`Best so far ▁▃▅▇▇█ 0.71 to 0.97`"""
    values = [trial.best_so_far for trial in search.trials]
    found = [value for value in values if value is not None]
    if len(found) < 3 or found[0] == found[-1]:
        return ""
    bars = text.sparkline(values, SPARK_WIDTH)
    return f"Best so far {bars} {text.number(found[0])} to {text.number(found[-1])}"


def importance(search: Search) -> str:
    """Which fields mattered most, and what that is said of."""
    if not search.importance:
        return ""
    names = table.short_names(search.varied)
    shares = ", ".join(
        f"{_clean(names.get(each.path, each.path))} {text.percent(each.share) if each.share >= LEAST_SHARE else '0%'}"
        for each in search.importance
    )
    many = max(each.trials for each in search.importance)
    return f"Importance: {shares} (the variance in rank that each field alone explains, from {many} trials)"


def advice(search: Search) -> str:
    """`Advice: ...`, a line for each sentence."""
    return "\n".join(f"Advice: {_clean(sentence)}" for sentence in search.advice)


def followed(client: Client, search: Search, back: str, *, silent: bool) -> Search:
    """Waits until the search has ended. A terminal shows one line that changes; elsewhere a line is printed for each
    trial that ends. `back` is the command that comes back to it."""
    console = table.console(sys.stdout)
    lines = not silent and not console.is_terminal
    said: set[int] = set()
    silent_before: set[str] = set()
    paused = False
    on_retry(lambda trouble: None if silent else note(f"{trouble} Trying again."))
    with in_sight(client, f"Search {search.id}", back), changing() as show:
        for search in search.changes():  # noqa: B020  (the same search, as it is now)
            if not silent and not lines:
                show(_cut(progress(search), console.width))
            for trial in search.trials if lines else ():
                if trial.terminal and trial.trial not in said:
                    console.print(line(search, trial))
                    said.add(trial.trial)
            console.file.flush()
            if lines and not silent_before >= search.silent.keys():
                for sentence in silence(search):
                    note(sentence)
            silent_before = {*search.silent}
            if search.status == "paused" and not paused:
                note(f"Search {search.id} is paused. {_clean(search.message, '')}".rstrip())
                note(f"Resume it with: loopline searches resume {search.id}")
            paused = search.status == "paused"
    return search


def progress(search: Search) -> str:
    """`12 of 40 trials; the best is trial 7: validation_accuracy 0.9712 (lr=0.003, cell=gru)`"""
    ended = sum(trial.terminal for trial in search.trials)
    best = "; nothing is heard of a worker" if search.silent else ""
    best += f"; the best is {_best(search.best, search)}" if search.best is not None else ""
    if search.final is not None and not search.terminal:
        return f"the final model, epoch {search.final.epoch} of {search.final.epochs or '?'}{best}"
    return f"{ended} of {text.count(search.wanted, 'trial')}{best}"


def line(search: Search, trial: Trial) -> str:
    """The same of one trial that has ended."""
    reached = _clean(trial.message, "") if trial.value is None else f"{search.metric} {text.number(trial.value)}"
    before = [each.best_so_far for each in search.trials if each.trial < trial.trial]
    best = trial.value is not None and trial.value == trial.best_so_far not in before
    parts = (f"trial {trial.trial}", trial.status, reached, _chosen(search, trial.choices), trial.job_id or "")
    return "  ".join(part for part in (*parts, "best so far" if best else "") if part)


def _best(best: BestTrial, search: Search) -> str:
    return f"trial {best.trial}: {search.metric} {text.number(best.value)} ({_chosen(search, best.choices)})"


def _cut(line: str, width: int) -> str:
    """A line that fits a terminal: one that goes on in the next line could not be cleared."""
    return line if len(line) < width else f"{line[: width - 2]}…"


def _row(search: Search, trial: Trial, names: Mapping[str, str]) -> dict[str, str | Text]:
    is_best = search.best is not None and trial.trial == search.best.trial
    failed = trial.status in ("failed", "refused")
    cells: dict[str, str | Text] = {
        "trial": f"{trial.trial} best" if is_best else str(trial.trial),
        "status": _status(trial.status),
        search.metric.removeprefix("validation_") or "value": _reached(trial),
        **{name: table.value(trial.choices[path]) if path in trial.choices else "" for path, name in names.items()},
        "took": text.duration(trial.seconds),
        "id": trial.job_id or text.NOTHING,
        "why": _clean(trial.message, "") if failed else "",
    }
    return {name: Text(str(cell), "bold green") if is_best else cell for name, cell in cells.items()}


def _reached(trial: Trial) -> str:
    if trial.value is None and trial.status in ("running", "pruned"):
        far = f"epoch {trial.epoch}/{trial.epochs}" if trial.epochs else f"epoch {trial.epoch}"
        return f"{far}, nothing heard" if trial.silent_since else far
    return text.number(trial.value)


def _chosen(search: Search, choices: Mapping[str, Any]) -> str:
    names = table.short_names([*search.varied, *(path for path in choices if path not in search.space)])
    return ", ".join(f"{names[path]}={table.value(chosen)}" for path, chosen in choices.items())


def _counts(search: Search) -> str:
    """`5 succeeded, 1 failed`"""
    order = ("succeeded", "pruned", "failed", "refused", "cancelled", "running", "paused", "queued")
    return ", ".join(f"{search.counts[status]} {status}" for status in order if search.counts.get(status))


def _status(status: str) -> Text:
    return Text(status, STYLES.get(status, ""))


def _clean(words: str | None, nothing: str = text.NOTHING) -> str:
    """On one line, and without control codes."""
    return text.one_line(words or "") or nothing
