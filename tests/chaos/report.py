"""What is printed at the end: invariants, faults, recoveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.chaos.checks import Check, Violation
from tests.chaos.monitor import Wound
from tests.chaos.world import Outcome

MOST_VIOLATIONS = 20


def lines(outcome: Outcome) -> list[str]:
    """The whole report."""
    return [
        "",
        "Faults, and how soon the jobs that they hit were written again (seconds)",
        *faults(outcome.faults, outcome.wounds),
        "",
        *outcome.notes,
        f"after the last fault everything had ended within {outcome.heal_seconds:.1f} s",
        "",
        "Invariants",
        *(line for check in outcome.checks for line in invariant(check)),
        "",
        "PASSED" if outcome.passed else "FAILED",
    ]


def faults(counts: dict[str, int], wounds: Sequence[Wound]) -> list[str]:
    """A line a kind: how often, how many jobs were hit, and the median and the longest of their recoveries."""
    table = [f"  {'fault':<30} {'times':>5} {'jobs':>5} {'median':>7} {'longest':>7}  not seen again"]
    for kind in sorted(counts):
        mine = [wound for wound in wounds if wound.kind == kind]
        took = sorted(wound.seconds for wound in mine if wound.seconds is not None)
        median, longest = (f"{took[len(took) // 2]:.1f}", f"{took[-1]:.1f}") if took else ("", "")
        lost = len(mine) - len(took)
        row = f"  {kind:<30} {counts[kind]:>5} {len(mine) or '':>5} {median:>7} {longest:>7}  {lost or ''}"
        table.append(row.rstrip())
    return [*table, f"  {'in all':<30} {sum(counts.values()):>5} {len(wounds):>5}"]


def invariant(check: Check) -> list[str]:
    """What was checked, how many times, and whether it holds."""
    looked = ", ".join(f"{number:,} {what}" for what, number in check.looked_at.items())
    verdict = "holds" if not check.violations else f"BROKEN {len(check.violations)} times"
    told = [f"  {check.name:<5} {verdict}: {check.promise}", f"        looked at {looked}"]
    shown: set[str | None] = {None}
    for violation in check.violations[:MOST_VIOLATIONS]:
        told.append(f"        ! {violation.job or ''} {violation.what}")
        told += () if violation.job in shown else events(violation)
        shown.add(violation.job)
    if len(check.violations) > MOST_VIOLATIONS:
        told.append(f"        ... and {len(check.violations) - MOST_VIOLATIONS} more")
    return told


def events(violation: Violation) -> list[str]:
    """What happened to the job."""
    told = []
    for event in violation.events[-40:]:
        at = datetime.fromtimestamp(event.at, UTC).strftime("%H:%M:%S.%f")[:-3]
        what = f"{event.before} -> {event.after}" if event.type == "status" else event.type
        words = " ".join(word for word in (event.reason, event.worker, (event.message or "")[:110]) if word)
        told.append(f"            {event.id:>6} {at} attempt {event.attempt} {what} {words}")
    return told
