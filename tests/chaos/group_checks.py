"""The invariants of searches, batches, schedules and models, as `checks.py` has those of jobs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.states import TERMINAL, Status
from tests.chaos import specs
from tests.chaos.checks import Check, compare
from tests.chaos.evidence import Evidence, JobSeen, Twin, hash_of, history_of
from tests.chaos.group_evidence import FiringSeen, GroupsSeen, SearchSeen
from tests.chaos.groups import CALM, MINUTE, STORM, Group

METRIC = "validation_loss"
BY_FAULTS = frozenset({"worker_lost", "stalled", "trainer_crashed", "out_of_memory_host"})
"""Why a job of a group may fail in the storm; I1 looks whether each of them has happened often enough for that."""


def all_checks(e: Evidence, g: GroupsSeen) -> list[Check]:
    """Every invariant of groups."""
    return [check(e, g) for check in CHECKS]


def each_trial_exists_once(e: Evidence, g: GroupsSeen) -> Check:
    check = Check("trials", "every search ends, with each of its trials and its final model once, and the best one")
    for group in _of(g, *specs.SEARCHES):
        found = [search for search in g.searches if search.name == group.name]
        check.see("searches")
        if [search.id for search in found] != [group.id]:
            check.wrong(None, f"{group.name} was accepted once and is {len(found)} searches")
        elif group.answer is None or found[0].status != "succeeded":
            check.wrong(None, f"the search {group.name} ({group.id}) has not succeeded: {found[0].status}")
        else:
            _trials(check, e, found[0], group.answer)
    return check


def _trials(check: Check, e: Evidence, search: SearchSeen, answer: Mapping[str, Any]) -> None:
    """Complain of numbers that are missing or double, and of an answer that says otherwise."""
    trials, finals = _jobs_of_search(e, search.id)
    refused = [each["trial"] for each in search.refused]
    numbers = sorted([*(job.trial for job in trials if job.trial is not None), *refused])
    check.see("trials", len(numbers))
    check.see("trials that were refused", len(refused))
    check.see("trials that were pruned", sum(job.reason == "pruned" for job in trials))
    if numbers != list(range(1, search.wanted + 1)) or search.made != search.wanted:
        check.wrong(None, f"{search.name} has the trials {numbers}, made {search.made} and wanted {search.wanted}")
    told = {row["trial"]: row["job_id"] for row in answer["trials"]}
    if len(answer["trials"]) != len(told) or told != {
        **{job.trial: job.id for job in trials},
        **dict.fromkeys(refused),
    }:
        check.wrong(None, f"the API says of {search.name} that its trials are {told}")
    _at_once(check, search, trials)
    check.see("final models", len(finals))
    if len(finals) != 1 or (answer["final"] or {}).get("job_id") != finals[0].id:
        check.wrong(None, f"{search.name} has {len(finals)} final models, and the API says {answer['final']}")
    _best(check, search, trials, finals, answer)


def _at_once(check: Check, search: SearchSeen, trials: Sequence[JobSeen]) -> None:
    """Complain if more trials waited or ran at once than it may have."""
    changes = [(job.events[0].at, 1) for job in trials if job.events]
    changes += [(move.at, -1) for job in trials for move in job.events if move.after in TERMINAL]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    if most > search.parallel:
        check.wrong(None, f"{search.name} had {most} trials at once, and may have {search.parallel}")


def _best(
    check: Check,
    search: SearchSeen,
    trials: Sequence[JobSeen],
    finals: Sequence[JobSeen],
    answer: Mapping[str, Any],
) -> None:
    """Complain of a best trial that is not, and of a final model of another one."""
    complete = [(_value(job), job.trial or 0, job) for job in trials if job.status == "succeeded"]
    if not complete:
        return
    value, number, best = min(complete, key=lambda each: each[:2])
    told = answer["best"] or {}
    if (told.get("trial"), told.get("value")) != (number, value):
        check.wrong(best, f"is the best of {search.name} with {value}, and the API says {told}")
    if finals and finals[0].choices != best.choices:
        check.wrong(finals[0], f"is the final model of {search.name}, and has not the choices of trial {number}")


def searches_equal_those_in_calm(e: Evidence, g: GroupsSeen) -> Check:
    check = Check("calm", "choices, ends and every recorded number of a search equal those of the search in calm")
    for group in _of(g, *specs.SEARCHES, weather=STORM):
        calm = next((one for one in _of(g, group.kind, weather=CALM) if one.answer is not None), None)
        if calm is None:
            check.wrong(None, f"{group.name} has no search in calm to be compared with")
        elif group.answer is not None:
            check.see("searches")
            _like_calm(check, e, group, calm)
    return check


def _like_calm(check: Check, e: Evidence, group: Group, calm: Group) -> None:
    assert group.answer is not None
    assert calm.answer is not None
    there = {row["trial"]: row for row in calm.answer["trials"]}
    for row in group.answer["trials"]:
        like = there.get(row["trial"], {})
        job = None if row["job_id"] is None else e.jobs.get(row["job_id"])
        if row["choices"] != like.get("choices"):
            check.wrong(job, f"trial {row['trial']} of {group.name} has other choices than in calm: {row['choices']}")
            return
        if job is not None and job.reason in BY_FAULTS:  # what follows depends on its result
            check.see("searches that were compared up to a trial that faults ended")
            return
        if (row["status"], row["value"], row["epoch"]) != (like["status"], like["value"], like["epoch"]):
            told = f"{row['status']} at epoch {row['epoch']} with {row['value']}, and in calm {like['status']}"
            check.wrong(job, f"trial {row['trial']} of {group.name} is {told} at {like['epoch']} with {like['value']}")
        check.see("trials")
        _compare(check, e, job, e.jobs.get(like["job_id"] or ""), group, calm, f"trial {row['trial']}")
    for what in ("trial", "value"):
        if group.answer["best"][what] != calm.answer["best"][what]:
            check.wrong(None, f"{group.name} has another best {what} than in calm: {group.answer['best']}")
    finals = [e.jobs.get(one.answer["final"]["job_id"]) for one in (group, calm) if one.answer and one.answer["final"]]
    if len(finals) == 2:
        check.see("final models")
        _compare(check, e, *finals, group, calm, "the final model")


def _compare(
    check: Check, e: Evidence, job: JobSeen | None, like: JobSeen | None, group: Group, calm: Group, what: str
) -> None:
    """Complain of a job that has not recorded and made what its like in calm has."""
    if job is None or like is None:
        if job is not like:
            check.wrong(job or like, f"{what} of {group.name} is a job in one weather only")
        return
    if job.reason not in BY_FAULTS and (job.status, job.reason) != (like.status, like.reason):
        check.wrong(job, f"{what} of {group.name} is {job.status} ({job.reason}), and in calm {like.status}")
        return
    twin = _twin(e, like)
    found = replace(job, result=_renamed(job.result, group.name, calm.name))
    compare(check, e.blobs, found, twin, f"({what} of {group.name}, {job.attempt} attempts)")
    if job.reason not in BY_FAULTS and len(job.epochs) != len(like.epochs):
        check.wrong(job, f"{what} of {group.name} has {len(job.epochs)} epochs, and in calm {len(like.epochs)}")


def _twin(e: Evidence, job: JobSeen) -> Twin:
    """A job of the calm, as something to compare with."""
    folder, made = e.blobs / job.id, job.status == "succeeded"
    return Twin(
        result=job.result or {},
        epochs=job.epochs,
        loss=b"".join(chunk.loss for chunk in job.chunks),
        grad_norm=b"".join(chunk.grad_norm for chunk in job.chunks),
        model_sha256=(hash_of(folder / "model.safetensors") or "") if made else "",
        files=frozenset(file["name"] for file in job.files),
        history=history_of(folder / "history.json") if made else None,
    )


def each_batch_is_whole(e: Evidence, g: GroupsSeen) -> Check:
    check = Check("batch", "every batch exists once with all of its jobs, and its end is written down")
    for group in _of(g, "batch"):
        found = [batch for batch in g.batches if batch.name == group.name]
        jobs = [job for job in e.jobs.values() if job.batch == group.id]
        check.see("batches")
        check.see("jobs", len(jobs))
        if [batch.id for batch in found] != [group.id]:
            check.wrong(None, f"{group.name} was accepted once and is {len(found)} batches")
            continue
        wanted = {f"{group.name}-{number}" for number in range(1, len(specs.SHORT) + 1)}
        if len(jobs) != len(wanted) or {job.key for job in jobs} != wanted:
            check.wrong(None, f"the batch {group.name} has the jobs {sorted(str(job.key) for job in jobs)}")
        if group.answer is None or found[0].ended_at is None:
            check.wrong(None, f"the batch {group.name} ({group.id}) has not ended")
        elif {row["id"]: row["status"] for row in group.answer["jobs"]} != {job.id: job.status for job in jobs}:
            check.wrong(None, f"the API says of the batch {group.name}: {group.answer['jobs']}")
    return check


def each_slot_has_one_batch(e: Evidence, g: GroupsSeen) -> Check:
    check = Check("slots", "each slot and each run of a schedule has one outcome, and made one batch or none by a rule")
    for group in _of(g, "schedule"):
        found = [schedule for schedule in g.schedules if schedule.name == group.name]
        if len(found) != 1 or found[0].paused_at is None or group.answer is None:
            check.wrong(None, f"the schedule {group.name} is {found}, and its firings {group.answer}")
            continue
        firings = [firing for firing in g.firings if firing.schedule == found[0].id]
        slots = sorted(firing.slot for firing in firings if firing.slot is not None)
        check.see("slots", len(slots))
        check.see("runs", len(firings) - len(slots))
        if slots != list(_minutes(found[0].created_at, found[0].paused_at)):
            check.wrong(None, f"{group.name} has the slots {slots}, from {found[0].created_at} on")
        if len(firings) - len(slots) != group.runs:
            check.wrong(None, f"{group.name} was run {group.runs} times and has {len(firings) - len(slots)} runs")
        told = {row["id"]: (row["outcome"], row["batch_id"]) for row in group.answer["data"]}
        if told != {firing.id: (firing.outcome, firing.batch) for firing in firings}:
            check.wrong(None, f"the API says of {group.name}: {told}")
        _batches_of(check, e, g, group, firings)
    return check


def _batches_of(check: Check, e: Evidence, g: GroupsSeen, group: Group, firings: Sequence[FiringSeen]) -> None:
    """Complain of firings without a batch, of batches without a firing, and of outcomes that are not so."""
    made = {batch.id: batch for batch in g.batches if batch.schedule == group.id}
    check.see("batches", len(made))
    if Counter(firing.batch for firing in firings if firing.batch) != Counter(list(made)):
        check.wrong(None, f"{group.name} has the batches {sorted(made)}, and its firings have others: {firings}")
    for firing in firings:
        if firing.batch is None:
            check.see("firings without a batch, because a later one took their place")
            if (firing.outcome, firing.reason) not in (("skipped", "superseded"), ("skipped", "paused")):
                check.wrong(None, f"{group.name}: {firing} made no batch")
            continue
        jobs = [job for job in e.jobs.values() if job.batch == firing.batch]
        if sorted(str(job.name) for job in jobs) != sorted(str(pair) for pair in _SHORT):
            check.wrong(None, f"{group.name}: the batch of {firing} has the jobs {[job.name for job in jobs]}")
        statuses = {job.status for job in jobs}
        worst = next((each for each in ("failed", "cancelled", "succeeded") if each in statuses), None)
        if firing.outcome != worst or not statuses <= TERMINAL:
            check.wrong(None, f"{group.name}: the jobs of {firing} are {sorted(statuses)}")
        name = "" if firing.slot is None else f"{group.name} {datetime.fromtimestamp(firing.slot, UTC):%Y-%m-%d %H:%M}"
        if firing.batch in made and name and made[firing.batch].name != name:
            check.wrong(None, f"{group.name}: the batch of {firing} is named {made[firing.batch].name}")


_SHORT = tuple(zip(specs.SHORT, specs.SEEDS, strict=True))


def _minutes(since: float, until: float) -> Iterator[float]:
    at = (since // MINUTE + 1) * MINUTE
    while at <= until:
        yield at
        at += MINUTE


def each_version_is_registered_once(e: Evidence, g: GroupsSeen) -> Check:
    check = Check("model", "each retraining that succeeded is one version, and the alias is where the gates put it")
    for group in _of(g, "model"):
        check.see("models")
        jobs = [job for job_id in group.jobs if (job := e.jobs.get(job_id)) is not None and job.status == "succeeded"]
        versions = [(each.version, each.job) for each in g.versions if each.model == group.name]
        check.see("versions", len(versions))
        if group.answer is None or len(group.jobs) != specs.RETRAININGS:
            check.wrong(None, f"not every retraining of {group.name} has ended: {group.jobs}")
            continue
        if versions != list(enumerate((job.id for job in jobs), 1)):
            check.wrong(None, f"{group.name} has the versions {versions}, and its jobs are {[job.id for job in jobs]}")
        concluded = [(job.result or {}).get("retrain") or {} for job in jobs]
        if [each.get("version") for each in concluded] != [version for version, _ in versions]:
            check.wrong(None, f"the jobs of {group.name} say that they are {concluded}")
        passed = [each.get("version") for each in concluded if (each.get("gate") or {"passed": True})["passed"]]
        check.see("promotions", len(passed))
        if [each.get("version") for each in concluded if each.get("decision") == "promoted"] != passed:
            check.wrong(None, f"{group.name}: not those were promoted that passed the gate: {concluded}")
        moves = [(move.alias, move.action, move.version) for move in g.moves if move.model == group.name]
        if moves != [("production", "promote", version) for version in passed]:
            check.wrong(None, f"the aliases of {group.name} were moved so: {moves}; the gate was passed by {passed}")
        aliases = {"production": passed[-1]} if passed else {}
        if g.aliases.get(group.name, {}) != aliases or group.answer["aliases"] != aliases:
            check.wrong(None, f"{group.name} has other aliases than {aliases}: {g.aliases.get(group.name)}")
        told = sorted((each["version"], each["job_id"]) for each in group.answer["versions"])
        if told != versions:
            check.wrong(None, f"the API says that the versions of {group.name} are {told}")
    return check


def retrainings_equal_those_in_calm(e: Evidence, g: GroupsSeen) -> Check:
    check = Check("nights", "weights, gate and every recorded number of a retraining equal those of the one in calm")
    for group in _of(g, "model", weather=STORM):
        calm = next((one for one in _of(g, "model", weather=CALM) if one.answer is not None), None)
        if calm is None:
            check.wrong(None, f"{group.name} has no model in calm to be compared with")
            continue
        for number, (job_id, like) in enumerate(zip(group.jobs, calm.jobs, strict=False), 1):
            job = e.jobs.get(job_id)
            check.see("retrainings")
            _compare(check, e, job, e.jobs.get(like), group, calm, f"retraining {number}")
            if job is None or Status(job.status) != Status.SUCCEEDED:  # the next one has another to beat
                check.see("models that were compared up to a retraining that faults ended")
                break
    return check


def _of(g: GroupsSeen, *kinds: str, weather: str | None = None) -> list[Group]:
    return [group for group in g.groups if group.kind in kinds and weather in (None, group.weather)]


def _jobs_of_search(e: Evidence, search: str) -> tuple[list[JobSeen], list[JobSeen]]:
    """Its trials, and its final models."""
    jobs = [job for job in e.jobs.values() if job.search == search]
    return [job for job in jobs if job.trial is not None], [job for job in jobs if job.trial is None]


def _value(job: JobSeen) -> float:
    return float((job.result or {})["metrics"][METRIC])


def _renamed(document: Any, name: str, wanted: str) -> Any:
    return json.loads(json.dumps(document).replace(name, wanted))


CHECKS: tuple[Callable[[Evidence, GroupsSeen], Check], ...] = (
    each_trial_exists_once,
    searches_equal_those_in_calm,
    each_batch_is_whole,
    each_slot_has_one_batch,
    each_version_is_registered_once,
    retrainings_equal_those_in_calm,
)
