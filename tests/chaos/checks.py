"""The invariants, each a function of the evidence that says how much it looked at and what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.states import ALLOWED, TERMINAL, Status
from services.training import epochs
from tests.chaos.evidence import Evidence, JobSeen, Move, Tick, Twin, hash_of, history_of, untimed

MAX_LOST = 3
THAW_NS = 500_000_000
"""A trainer that was frozen past its lease may end the update it is in before its guard wakes up: ticks within half a
second of its thaw are counted apart. None of what it does then may be accepted, which other checks see to."""
CLOCKS_NS = 20_000_000
"""Between the database's clock and CLOCK_MONOTONIC; two updates are compared without it."""
LINGER_NS = 500_000_000
"""A supervisor that ends an attempt writes that first and kills the trainer then."""

EXPLAINED = frozenset({0, -9, -15})
"""Ends of a process: told to end, or deaf; killed; told to end before it could hear that."""

BY_WORKERS = frozenset(
    {"resumed", "checkpoint", "checkpoint_skipped", "rolled_back", "micro_batch", "precision", "warning"}
)

RESULT = frozenset({"model.safetensors", "model.json", "history.json", "model.onnx", "README.md"})
"""Files of every job that succeeded. Which pictures there are depends on the data."""


@dataclass(frozen=True)
class Violation:
    """Something that must never happen."""

    job: str | None
    what: str
    events: tuple[Move, ...] = ()


@dataclass
class Check:
    """One invariant, looked at."""

    name: str
    promise: str
    looked_at: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def see(self, what: str, number: int = 1) -> None:
        self.looked_at[what] += number

    def wrong(self, job: JobSeen | str | None, what: str, events: Iterable[Move] = ()) -> None:
        if isinstance(job, JobSeen):
            self.violations.append(Violation(job.id, what, tuple(events or job.events)))
        else:
            self.violations.append(Violation(job, what, tuple(events)))


def all_checks(evidence: Evidence) -> list[Check]:
    """Every invariant that there is something to check for."""
    return [check(evidence) for check in CHECKS]


def every_accepted_job_ends(e: Evidence) -> Check:
    check = Check("I1", "every acknowledged job ends, and for a reason that the faults explain")
    for ack in e.acknowledged:
        check.see("acknowledged jobs")
        job = e.jobs.get(ack.job)
        if job is None:
            check.wrong(ack.job, "was acknowledged and is not in the database")
        elif Status(job.status) not in TERMINAL:
            check.wrong(job, f"has not ended: {job.status}, attempt {job.attempt}, step {job.step}")
        elif job.status == "failed" and (why := _unexplained(job)):
            check.wrong(job, why)
        elif job.status == "cancelled" and job.id not in e.cancelled and not _is_pruned(job):
            check.wrong(job, "is cancelled, and nobody asked for that")
    return check


def _is_pruned(job: JobSeen) -> bool:
    return job.trial is not None and job.reason == "pruned"


def _unexplained(job: JobSeen) -> str | None:
    """Why this failure should not have come about; None when the faults are to blame."""
    moves = [event for event in job.events if event.type == "status"]
    if job.reason == "worker_lost":
        lost = _lost_in_a_row(job.events)
        return None if lost > MAX_LOST else f"failed as lost after {lost} losses without a new checkpoint"
    if job.reason == "stalled":
        stalled = sum(move.reason == "stalled" for move in moves)
        return None if stalled >= 2 else "failed as stalled at the first time"
    if job.reason in ("out_of_memory_host", "trainer_crashed"):
        failures = sum(move.before == "running" and move.reason == job.reason for move in moves)
        return None if failures > job.max_retries else f"failed ({job.reason}) with retries left"
    return f"failed for {job.reason}, which no fault of ours makes"


def _lost_in_a_row(events: Iterable[Move]) -> int:
    lost, furthest = 0, 0
    for event in events:
        if event.type == "checkpoint":
            words = (event.message or "").replace("step ", "step").split()
            step = next((int(word[4:]) for word in words if word[4:].isdigit()), 0)
            if step > furthest:
                furthest, lost = step, 0
        elif event.type == "status" and event.before == "running" and event.reason == "worker_lost":
            lost += 1
    return lost


def one_terminal_move(e: Evidence) -> Check:
    check = Check("I2", "an ended job has made exactly one terminal move, and it was its last")
    for job in e.jobs.values():
        moves = [event for event in job.events if event.type == "status"]
        ends = [move for move in moves if move.after in TERMINAL]
        check.see("jobs")
        check.see("terminal moves", len(ends))
        if Status(job.status) in TERMINAL and len(ends) != 1:
            check.wrong(job, f"has {len(ends)} terminal moves")
        elif ends and (moves[-1] != ends[0] or ends[0].after != job.status):
            check.wrong(job, f"moved on after its end, or is {job.status} after a move to {ends[0].after}")
    return check


def attempts_never_overlap(e: Evidence) -> Check:
    check = Check("I3", "no update of an attempt after a later one was claimed, nor long after its own end")
    for job, attempts in e.ticks.items():
        limits = _limits(e, job)
        first = float("inf")  # of all later attempts
        for attempt in sorted(attempts, reverse=True):
            ticks = attempts[attempt]
            check.see("attempts that trained", bool(ticks))
            check.see("updates", len(ticks))
            if len({tick.pid for tick in ticks}) > 1:
                check.wrong(e.jobs.get(job, job), f"two trainers trained attempt {attempt}")
            claimed, ended = limits.get(attempt, (float("inf"), float("inf")))
            check.see("successions", min(first, claimed) < float("inf"))
            followed, over = (min(first, claimed + CLOCKS_NS), "a later one began"), (ended + LINGER_NS, "it had ended")
            _in_time(check, e, job, attempt, ticks, *min(followed, over))
            first = min([first, *(tick.ns for tick in ticks)])
    return check


def _limits(e: Evidence, job: str) -> dict[int, tuple[float, float]]:
    """For each attempt of a job when the next one was claimed, and when it ended itself, in CLOCK_MONOTONIC ns."""
    claimed, ended = {}, {}
    for event in e.jobs[job].events if job in e.jobs else ():
        at = (event.at - e.wall_minus_monotonic) * 1e9
        if event.type == "status" and event.after == "running":
            claimed[event.attempt - 1] = at
        elif event.type == "status" and event.before == "running":
            ended[event.attempt] = at
    infinite = float("inf")
    return {attempt: (claimed.get(attempt, infinite), ended.get(attempt, infinite)) for attempt in claimed | ended}


def _in_time(check: Check, e: Evidence, job: str, attempt: int, ticks: list[Tick], limit: float, what: str) -> None:
    """Complain of updates after the limit, unless their trainer was just thawed."""
    late = [tick for tick in ticks if tick.ns > limit]
    thaws = [thaw.end for thaw in e.thaws if late and thaw.pid == late[0].pid]
    excused = [tick for tick in late if any(0 <= tick.ns - end <= THAW_NS for end in thaws)]
    check.see("updates of zombies within 0.5 s of their thaw", len(excused))
    if rest := [tick for tick in late if tick not in excused]:
        told = f"process {rest[0].pid} made {len(rest)} updates as attempt {attempt}"
        check.wrong(e.jobs.get(job, job), f"{told} up to {(rest[-1].ns - limit) / 1e9:.3f} s after {what}")


def no_write_of_an_older_attempt(e: Evidence) -> Check:
    check = Check("I4", "whatever hangs on a job was written by the attempt that owned it then")
    for job in e.jobs.values():
        check.see("jobs")
        _events_by_their_owner(check, job)
        owners = [saved.attempt for saved in job.checkpoints]
        check.see("checkpoints", len(owners))
        if owners != sorted(owners) or any(not 0 < owner <= job.attempt for owner in owners):
            check.wrong(job, f"attempts of the checkpoints by step are {owners} (the job is at {job.attempt})")
        _steps_in_a_row(check, job)
        numbers = [record["epoch"] for record in job.epochs]
        check.see("epochs", len(numbers))
        if numbers != list(range(1, len(numbers) + 1)):
            check.wrong(job, f"has the epochs {numbers}")
    return check


def _events_by_their_owner(check: Check, job: JobSeen) -> None:
    attempt, status = 0, "none"
    for event in job.events:
        check.see("events")
        if event.type == "status":
            attempt += event.after == "running"
            status = event.after or "none"
        if event.attempt != attempt:
            check.wrong(job, f"event {event.id} ({event.type}) is of attempt {event.attempt} during {attempt}", [event])
        elif event.type in BY_WORKERS and status != "running":
            check.wrong(job, f"event {event.id} ({event.type}) was written while the job was {status}", [event])


def _steps_in_a_row(check: Check, job: JobSeen) -> None:
    expected = 1
    for chunk in job.chunks:
        number = chunk.last - chunk.first + 1
        check.see("steps", number)
        if chunk.first != expected:
            check.wrong(job, f"steps {chunk.first} to {chunk.last} follow on step {expected - 1}")
        if len(chunk.loss) != 4 * number or len(chunk.grad_norm) != 4 * number:
            check.wrong(job, f"steps {chunk.first} to {chunk.last} are {len(chunk.loss) // 4} numbers")
        expected = chunk.last + 1
    if job.status == "succeeded" and expected - 1 != job.step:
        check.wrong(job, f"stands at step {job.step}, and its series ends at {expected - 1}")


def every_move_is_allowed(e: Evidence) -> Check:
    check = Check("I5", "every move stands in the table, and begins where the one before it ended")
    for job in e.jobs.values():
        before: str | None = None
        for event in job.events:
            if event.type != "status":
                continue
            check.see("moves")
            told = f"{event.before} -> {event.after} (event {event.id})"
            if event.before != before:
                check.wrong(job, f"{told} follows on {before}")
            elif before is None and event.after != "queued":
                check.wrong(job, f"was born as {event.after}")
            elif before is not None and Status(event.after or "") not in ALLOWED[Status(before)]:
                check.wrong(job, f"{told} is not allowed")
            before = event.after
        if before != job.status:
            check.wrong(job, f"is {job.status}, and its last move was to {before}")
    return check


def every_registered_file_is_whole(e: Evidence) -> Check:
    check = Check("I6", "registered checkpoints and results lie on disk with their hashes; nothing half is left")
    for job in e.jobs.values():
        folder = e.blobs / job.id
        registered = [file for saved in job.checkpoints for file in saved.files]
        for file in [*registered, *job.files]:
            if (job.id, file["name"]) in e.damaged:
                check.see("files left out, for the nemesis damaged them")
                continue
            check.see("files")
            found = hash_of(folder / file["name"])
            if found != file["sha256"]:
                what = "is not there" if found is None else f"has the hash {found[:12]}, not {file['sha256'][:12]}"
                check.wrong(job, f"registered {file['name']} {what}")
        if job.status == "succeeded":
            check.see("results")
            if not {file["name"] for file in job.files} >= RESULT:
                check.wrong(job, f"has succeeded with the files {[file['name'] for file in job.files]}")
            _nothing_else(check, job, folder, {epochs.NAME, *(file["name"] for file in [*registered, *job.files])})
        for part in folder.glob("*.part") if folder.is_dir() else ():
            check.wrong(job, f"{part.name} is left after the sweep")
    return check


def _nothing_else(check: Check, job: JobSeen, folder: Path, known: set[str]) -> None:
    """A job that succeeded has nothing in its folder but what is registered."""
    for path in folder.iterdir() if folder.is_dir() else ():
        check.see("files in the folders of jobs that succeeded")
        if path.name not in known and path.suffix != ".part":
            check.wrong(job, f"{path.name} lies in its folder and is not registered")


def no_secret_is_told(e: Evidence) -> Check:
    check = Check("I8", "no secret stands in a log, in an event or in an answer")
    for name, text in e.texts.items():
        check.see("texts")
        check.see("characters", len(text))
        for secret in e.secrets:
            if secret in text:
                at = text.index(secret)
                check.wrong(None, f"{name} holds a secret: …{text[max(0, at - 200) : at + 60]!r}…")
    return check


def nothing_is_left_running(e: Evidence) -> Check:
    check = Check("I9", "no process is left after everything was told to end")
    check.see("search among all processes")
    for one in e.leftovers:
        check.wrong(None, one)
    return check


def no_worker_gives_up(e: Evidence) -> Check:
    check = Check("UP", "no worker or scheduler ends by itself but in good order, whatever it hears")
    for name, status in e.exits:
        check.see("ends of processes")
        if status not in EXPLAINED:
            check.wrong(None, f"{name} ended with status {status}; see its log")
    return check


def answers_are_explained(e: Evidence) -> Check:
    check = Check("API", "one job a key; every refusal is a 503 or a broken connection")
    check.see("answers", e.answers)
    for what in e.unexpected:
        check.wrong(None, what)
    known = {ack.job for ack in e.acknowledged}
    keys = Counter(job.key for job in e.jobs.values())
    for job in e.jobs.values():
        check.see("jobs in the database")
        if job.key is not None and keys[job.key] > 1:
            check.wrong(job, f"is one of {keys[job.key]} jobs for the key {job.key}")
        check.see("jobs in the database that nobody was told of", job.id not in known)
    return check


def resumed_runs_equal_their_twins(e: Evidence) -> Check:
    check = Check("bits", "weights, history and every recorded number equal those of a run without faults")
    for job in e.jobs.values():
        if job.name is None:
            continue
        twin = e.twins.get(job.name)
        if twin is not None:
            compare(check, e.blobs, job, twin, f"({job.name[0]}, seed {job.name[1]}, {job.attempt} attempts)")
        elif job.status == "succeeded":
            check.wrong(job, f"has no twin: {job.name}")
    return check


def _nameless(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """The result without the id of the search whose final model it is."""
    if result is None or "selection" not in result:
        return result
    return {**result, "selection": {key: each for key, each in result["selection"].items() if key != "search"}}


def compare(check: Check, blobs: Path, job: JobSeen, twin: Twin, where: str) -> None:
    """Complain of whatever the job recorded or made otherwise than its twin, as far as it got."""
    loss = b"".join(chunk.loss for chunk in job.chunks)
    norm = b"".join(chunk.grad_norm for chunk in job.chunks)
    check.see("recorded steps", len(loss) // 4)
    if not twin.loss.startswith(loss) or not twin.grad_norm.startswith(norm):
        differ = _differ(loss, twin.loss)
        check.wrong(job, f"recorded other losses or gradient norms than its twin, from {differ} on {where}")
    epochs = [untimed(record) for record in job.epochs]
    check.see("recorded epochs", len(epochs))
    if epochs != [untimed(record) for record in twin.epochs][: len(epochs)]:
        check.wrong(job, f"recorded other epochs than its twin {where}")
    if job.status != "succeeded":
        return
    check.see("models")
    check.see("models of resumed runs", any(event.type == "resumed" for event in job.events))
    check.see("attempts behind them", job.attempt)
    if len(loss) != len(twin.loss) or len(epochs) != len(twin.epochs):
        check.wrong(job, f"recorded {len(loss) // 4} steps, its twin {len(twin.loss) // 4} {where}")
    if hash_of(blobs / job.id / "model.safetensors") != twin.model_sha256:
        check.wrong(job, f"has other weights than its twin {where}")
    if (names := {file["name"] for file in job.files}) != twin.files:
        check.wrong(job, f"has other files than its twin {where}: {sorted(names ^ twin.files)}")
    if _nameless(job.result) != _nameless(twin.result):
        check.wrong(job, f"has another result than its twin {where}: {job.result} and {twin.result}")
    try:
        same = history_of(blobs / job.id / "history.json") == twin.history
    except OSError:
        same = False
    if not same:
        check.wrong(job, f"has another history than its twin {where}")


def _differ(one: bytes, other: bytes) -> str:
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"step {at // 4 + 1}"


CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    every_accepted_job_ends,
    one_terminal_move,
    attempts_never_overlap,
    no_write_of_an_older_attempt,
    every_move_is_allowed,
    every_registered_file_is_whole,
    no_secret_is_told,
    nothing_is_left_running,
    no_worker_gives_up,
    answers_are_explained,
    resumed_runs_equal_their_twins,
)
