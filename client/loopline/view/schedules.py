"""What the commands about schedules print."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Group
from rich.text import Text

from loopline import text
from loopline.schedules import Firing, Schedule
from loopline.view import table

STYLES = {
    **table.STYLES,
    "fired": "cyan",
    "waiting": "yellow",
    "skipped": "yellow",
    "missed": "red",
    "refused": "red",
    "deleted": "magenta",
}
ORDER = ("succeeded", "failed", "cancelled", "running", "paused", "queued")
WORDS = {"succeeded": "ok"}


def print_schedules(found: Iterable[Schedule]) -> None:
    rows: list[dict[str, str | Text]] = [
        {
            "schedule": schedule.name,
            "when": f"{schedule.cron} {schedule.time_zone}",
            "next": _next(schedule),
            "last": _last(schedule.last),
            "overlap": schedule.overlap,
        }
        for schedule in found
    ]
    table.console().print(
        table.Listing(rows, drop=("overlap",), wrap=("when", "next", "last", "schedule"), last=("last", "next"))
    )


def print_schedule(shown: Schedule) -> None:
    late = text.duration(shown.catch_up_seconds) if shown.catch_up_seconds else "never"
    rows: list[tuple[str, str | Text]] = [
        ("schedule", shown.name),
        ("id", shown.id),
        ("when", f"{shown.cron} ({shown.time_zone})"),
        ("next", _next(shown)),
        *(("", _clock(slot)) for slot in shown.next[1:]),
        ("last", _last(shown.last)),
    ]
    if shown.last and shown.last.message:
        rows.append(("", text.printable(shown.last.message)))
    rows += [
        ("overlap", shown.overlap),
        ("fired late", f"up to {late}" if shown.catch_up_seconds else late),
        ("jitter", text.duration(shown.jitter_seconds) if shown.jitter_seconds else text.NOTHING),
        ("only new data", "yes" if shown.only_new_data else "no"),
        ("changed", text.when(shown.updated_at)),
        ("created", text.when(shown.created_at)),
        ("by", shown.created_by or text.NOTHING),
    ]
    table.console().print(Group(table.pairs(rows), Text("\nsubmit", "dim"), table.spec(shown.submit)))


def print_history(schedule: Schedule, found: Iterable[Firing]) -> None:
    city = schedule.time_zone.rpartition("/")[2]  # by whose clocks; the whole name may be wider than what stands below
    head = f"slot ({city.replace('_', ' ')})"
    rows: list[dict[str, str | Text]] = [
        {
            head: _clock(firing.slot) if firing.slot else "by hand",
            "outcome": Text(firing.outcome, STYLES.get(firing.outcome, "")),
            "jobs": jobs(firing),
            "took": _took(firing),
            "batch": firing.batch_id or text.NOTHING,
            "why": text.printable(firing.message or text.NOTHING),
        }
        for firing in found
    ]
    table.console().print(table.Listing(rows, drop=("took",), wrap=("jobs",), below=("why",), last=("batch",)))


def said(schedule: Schedule) -> str:
    """`nightly: next 2026-11-27 02:30 (Europe/Berlin), in 5 h.`"""
    if schedule.paused_at is not None:
        return f"{schedule.name} is paused. Resume it with: loopline schedules resume {schedule.name}"
    if not schedule.next:
        return f"{schedule.name}: nothing comes any more."
    return f"{schedule.name}: next {_clock(schedule.next[0])} ({schedule.time_zone}), {ahead(schedule.due_at)}."


def jobs(firing: Firing) -> str:
    """`2 ok, 1 failed`"""
    standing = [f"{firing.counts[status]} {WORDS.get(status, status)}" for status in ORDER if firing.counts.get(status)]
    return ", ".join(standing) or text.NOTHING


def ahead(moment: datetime | None, now: datetime | None = None) -> str:
    """How soon a time is: `now`, `in 5 min`, `in 3 d`."""
    if moment is None:
        return text.NOTHING
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"in {seconds // length:.0f} {unit}"
    return "now" if seconds < 1 else "within a minute"


def _next(schedule: Schedule) -> Text:
    if schedule.paused_at is not None:
        return Text("paused", "yellow")
    if not schedule.next:
        return Text("never", "red")
    return Text(f"{_clock(schedule.next[0])}, {ahead(schedule.due_at)}")


def _last(firing: Firing | None) -> Text:
    if firing is None:
        return Text("not yet")
    why = f" ({firing.reason})" if firing.outcome in ("skipped", "missed", "refused") and firing.reason else ""
    at = firing.slot or firing.created_at
    return Text.assemble((firing.outcome, STYLES.get(firing.outcome, "")), f"{why}, {text.ago(at)}")


def _took(firing: Firing) -> str:
    if firing.batch_id is None or firing.ended_at is None or firing.created_at is None:
        return text.NOTHING
    return text.duration((firing.ended_at - firing.created_at).total_seconds())


def _clock(slot: datetime) -> str:
    """As the clocks of the schedule's time zone show it."""
    return f"{slot:%a %Y-%m-%d %H:%M}"
