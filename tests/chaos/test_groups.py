"""The checks of searches, batches, schedules and models can fail: each finds a violation that was planted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.jobs import series
from services.searches import reading
from services.training.spec import parse
from tests.chaos import group_checks, report, specs
from tests.chaos.evidence import Chunk, Evidence, JobSeen, Move
from tests.chaos.group_evidence import (
    BatchSeen,
    FiringSeen,
    GroupsSeen,
    MoveSeen,
    ScheduleSeen,
    SearchSeen,
    VersionSeen,
)
from tests.chaos.groups import CALM, STORM, Group

NUMBERS = series.pack([0.5, 0.4]), series.pack([1.0, 1.0])
OTHER = series.pack([0.5, 0.3])


class Made:
    """A run in which all is well, before anything is planted."""

    def __init__(self, blobs: Path) -> None:
        self.e, self.g = Evidence(blobs=blobs), GroupsSeen()
        self.at = 0.0

    def job(self, id: str, status: str, result: Mapping[str, Any] | None = None, **told: Any) -> JobSeen:
        """A job that begins when the one before has ended."""
        self.at += 1.0
        reason, spec = told.pop("reason", None), told.pop("spec", {"tags": {}})
        ends = ((None, "queued", None), ("queued", "running", None), ("running", status, reason))
        events = [Move(n, "status", min(n, 1), *end, self.at + n / 10) for n, end in enumerate(ends)]
        job = JobSeen(
            id, status, reason, 1, 2, 100, told.pop("key", None), spec, result, (), events, [],
            [Chunk(1, 2, *NUMBERS)], [{"epoch": 1, "train_loss": 0.5}], **told
        )  # fmt: skip
        if status == "succeeded":
            (self.e.blobs / id).mkdir()
            for name, text in (("model.safetensors", "weights"), ("history.json", json.dumps({"epochs": job.epochs}))):
                (self.e.blobs / id / name).write_text(text)
            digest = hashlib.sha256(b"weights").hexdigest()
            job.files = [{"name": "model.safetensors", "bytes": 7, "sha256": digest}]
        self.e.jobs[id] = job
        return job

    def search(self, weather: str) -> None:
        """Three trials: one is the best, one is pruned, one is refused; and the final model."""
        name, id = f"tpe-{weather}-1", f"search_{weather}"
        best, metrics = {"lr": 0.1}, {"metrics": {"validation_loss": 0.25}}
        one = self.job(f"{id}_1", "succeeded", metrics, search=id, trial=1, choices=best)
        two = self.job(f"{id}_2", "cancelled", reason="pruned", search=id, trial=2, choices={"lr": 0.2})
        final = self.job(f"{id}_final", "succeeded", {"metrics": {"test_loss": 0.5}}, search=id, choices=best)
        self.g.searches.append(SearchSeen(id, name, "succeeded", 3, 3, 1, [{"trial": 3, "choices": {"lr": 0.3}}]))
        rows = [
            {"trial": 1, "job_id": one.id, "status": "succeeded", "value": 0.25, "epoch": 1, "choices": best},
            {"trial": 2, "job_id": two.id, "status": "pruned", "value": None, "epoch": 1, "choices": {"lr": 0.2}},
            {"trial": 3, "job_id": None, "status": "refused", "value": None, "epoch": 0, "choices": {"lr": 0.3}},
        ]
        answer = {"trials": rows, "best": {"trial": 1, "value": 0.25}, "final": {"job_id": final.id}}
        self.g.groups.append(Group("tpe", name, weather, id, [one.id, two.id, final.id], answer=answer))

    def model(self, weather: str) -> None:
        """Three versions: the first two are promoted, the third is held back."""
        name = f"model-{weather}-1"
        group = Group("model", name, weather, name)
        for version, passed in ((1, True), (2, True), (3, False)):
            gate = {"passed": passed, "message": f"compared with {name}@1"}
            found = {"version": version, "gate": gate, "decision": "promoted" if passed else "held_back"}
            group.jobs.append(self.job(f"{name}_{version}", "succeeded", {"retrain": found}).id)
            self.g.versions.append(VersionSeen(name, version, group.jobs[-1]))
            if passed:
                self.g.moves.append(MoveSeen(name, "production", "promote", version))
        self.g.aliases[name] = {"production": 2}
        versions = [{"version": each, "job_id": job} for each, job in enumerate(group.jobs, 1)]
        group.answer = {"aliases": {"production": 2}, "versions": versions}
        self.g.groups.append(group)

    def batch(self) -> None:
        jobs = [self.job(f"b_{n}", "succeeded", {}, batch="batch_1", key=f"batch-storm-1-{n}") for n in (1, 2)]
        self.g.batches.append(BatchSeen("batch_1", "batch-storm-1", None, 9.0))
        answer = {"jobs": [{"id": job.id, "status": "succeeded"} for job in jobs]}
        group = Group("batch", "batch-storm-1", STORM, "batch_1", [job.id for job in jobs], answer=answer)
        self.g.groups.append(group)

    def schedule(self) -> None:
        """From 00:00:30 to 00:02:30, so with two slots: the first one was fired, the second one gave way to a run."""
        name = "schedule-storm-1"
        firings = [
            FiringSeen("fir_1", "sch_1", 60.0, "succeeded", None, "batch_2"),
            FiringSeen("fir_2", "sch_1", 120.0, "skipped", "superseded", None),
            FiringSeen("fir_3", "sch_1", None, "succeeded", "run_now", "batch_3"),
        ]
        for batch, named in (("batch_2", f"{name} 1970-01-01 00:01"), ("batch_3", f"{name} 1970-01-01 00:02")):
            self.g.batches.append(BatchSeen(batch, named, "sch_1", 9.0))
            for short, seed in zip(specs.SHORT, specs.SEEDS, strict=True):
                spec = {"tags": {"spec": short, "seed": str(seed)}}
                self.job(f"{batch}_{short}", "succeeded", {}, batch=batch, spec=spec)
        self.g.schedules.append(ScheduleSeen("sch_1", name, 30.0, 150.0))
        self.g.firings.extend(firings)
        rows = [{"id": each.id, "outcome": each.outcome, "batch_id": each.batch} for each in firings]
        self.g.groups.append(Group("schedule", name, STORM, "sch_1", [], 1, {"data": rows}))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(tmp_path)
    for weather in (CALM, STORM):
        made.search(weather)
        made.model(weather)
    made.batch()
    made.schedule()
    return made


def test_all_is_well_with_a_run_in_which_all_is_well(made: Made) -> None:
    found = group_checks.all_checks(made.e, made.g)
    assert [violation for check in found for violation in check.violations] == []
    assert all(sum(check.looked_at.values()) > 0 for check in found)


Plant = Callable[[Evidence, GroupsSeen], object]

T1, T2, FINAL = "search_storm_1", "search_storm_2", "search_storm_final"
V2, V3 = "model-storm-1_2", "model-storm-1_3"


def of(g: GroupsSeen, name: str) -> Group:
    return next(group for group in g.groups if group.name == name)


def tell(g: GroupsSeen, name: str, **told: Any) -> None:
    """Let the API say something else."""
    group = of(g, name)
    group.answer = {**(group.answer or {}), **told}


def row(g: GroupsSeen, number: int, **told: Any) -> None:
    """Let the API say something else of a trial."""
    answer = of(g, "tpe-storm-1").answer or {}
    answer["trials"][number - 1].update(told)


def fired(g: GroupsSeen, at: int, **told: Any) -> None:
    """Let a firing be another, in the database and in the answer of the API."""
    g.firings[at] = replace(g.firings[at], **told)
    rows = [{"id": each.id, "outcome": each.outcome, "batch_id": each.batch} for each in g.firings]
    tell(g, "schedule-storm-1", data=rows)


def doubled(e: Evidence, id: str, **told: Any) -> None:
    e.jobs[f"{id}_again"] = replace(e.jobs[id], id=f"{id}_again", **told)


PLANTED: list[tuple[str, str, Plant]] = [
    ("trials", "a lost search", lambda e, g: g.searches.pop()),
    ("trials", "two searches for a key", lambda e, g: g.searches.append(replace(g.searches[-1], id="search_x"))),
    ("trials", "a search that never ended", lambda e, g: setattr(of(g, "tpe-storm-1"), "answer", None)),
    ("trials", "a search that failed", lambda e, g: setattr(g.searches[-1], "status", "failed")),
    ("trials", "a lost trial", lambda e, g: e.jobs.pop(T2)),
    ("trials", "a double trial", lambda e, g: doubled(e, T2)),
    ("trials", "a trial that is refused as well", lambda e, g: setattr(g.searches[-1], "refused", [{"trial": 2}])),
    ("trials", "a trial too many", lambda e, g: doubled(e, T2, trial=4)),
    ("trials", "a trial that was not counted", lambda e, g: setattr(g.searches[-1], "made", 2)),
    ("trials", "another job in the answer", lambda e, g: row(g, 2, job_id="job_x")),
    ("trials", "two trials at once", lambda e, g: e.jobs[T2].events.__setitem__(0, e.jobs[T1].events[0])),
    ("trials", "no final model", lambda e, g: e.jobs.pop(FINAL)),
    ("trials", "two final models", lambda e, g: doubled(e, FINAL)),
    ("trials", "the final model of another", lambda e, g: setattr(e.jobs[FINAL], "choices", {"lr": 0.2})),
    ("trials", "another best", lambda e, g: tell(g, "tpe-storm-1", best={"trial": 2, "value": 0.25})),
    ("calm", "no search in calm", lambda e, g: g.groups.remove(of(g, "tpe-calm-1"))),
    ("calm", "other choices", lambda e, g: row(g, 3, choices={"lr": 0.4})),
    ("calm", "stopped elsewhere", lambda e, g: row(g, 2, epoch=3)),
    ("calm", "another value", lambda e, g: row(g, 1, value=0.26)),
    ("calm", "not pruned", lambda e, g: row(g, 2, status="succeeded")),
    ("calm", "another loss", lambda e, g: e.jobs[T2].chunks.__setitem__(0, Chunk(1, 2, OTHER, NUMBERS[1]))),
    ("calm", "an epoch less", lambda e, g: e.jobs[T2].epochs.clear()),
    ("calm", "another best", lambda e, g: tell(g, "tpe-storm-1", best={"trial": 1, "value": 0.26})),
    ("calm", "other weights", lambda e, g: (e.blobs / FINAL / "model.safetensors").write_text("other")),
    ("calm", "another result", lambda e, g: setattr(e.jobs[FINAL], "result", {"metrics": {"test_loss": 0.6}})),
    ("batch", "a lost batch", lambda e, g: g.batches.pop(0)),
    ("batch", "a double batch", lambda e, g: g.batches.append(replace(g.batches[0], id="batch_x"))),
    ("batch", "a lost job", lambda e, g: e.jobs.pop("b_1")),
    ("batch", "a double job", lambda e, g: doubled(e, "b_1")),
    ("batch", "an end that is not written down", lambda e, g: setattr(g.batches[0], "ended_at", None)),
    ("batch", "another status", lambda e, g: setattr(e.jobs["b_2"], "status", "failed")),
    ("slots", "a lost slot", lambda e, g: (g.firings.pop(1), fired(g, 0))),
    ("slots", "a double slot", lambda e, g: fired(g, 1, slot=60.0)),
    ("slots", "a slot at half past", lambda e, g: fired(g, 1, slot=90.0)),
    ("slots", "a run that nobody asked for", lambda e, g: setattr(of(g, "schedule-storm-1"), "runs", 0)),
    ("slots", "a slot that was missed", lambda e, g: fired(g, 1, outcome="missed", reason="downtime")),
    ("slots", "a batch of no slot", lambda e, g: g.batches.append(BatchSeen("batch_x", None, "sch_1", 9.0))),
    ("slots", "a batch of two", lambda e, g: fired(g, 1, outcome="succeeded", batch="batch_2")),
    ("slots", "a batch that is half", lambda e, g: e.jobs.pop(f"batch_2_{specs.SHORT[0]}")),
    ("slots", "an outcome that is not so", lambda e, g: fired(g, 0, outcome="failed")),
    ("slots", "the batch of another slot", lambda e, g: setattr(g.batches[1], "name", g.batches[2].name)),
    ("slots", "another answer", lambda e, g: tell(g, "schedule-storm-1", data=[])),
    ("slots", "a schedule that goes on", lambda e, g: setattr(g.schedules[0], "paused_at", None)),
    ("model", "a lost version", lambda e, g: g.versions.pop()),
    ("model", "a double version", lambda e, g: g.versions.append(VersionSeen("model-storm-1", 4, V3))),
    ("model", "a version of a job that says otherwise", lambda e, g: setattr(e.jobs[V3], "result", {})),
    ("model", "a retraining that never ended", lambda e, g: setattr(of(g, "model-storm-1"), "answer", None)),
    ("model", "an alias moved twice", lambda e, g: g.moves.append(replace(g.moves[-1]))),
    ("model", "an alias that did not move", lambda e, g: g.moves.pop()),
    ("model", "an alias elsewhere", lambda e, g: g.aliases["model-storm-1"].update(production=3)),
    ("model", "another answer", lambda e, g: tell(g, "model-storm-1", aliases={"production": 3})),
    ("model", "versions of other jobs", lambda e, g: tell(g, "model-storm-1", versions=[])),
    ("nights", "no model in calm", lambda e, g: g.groups.remove(of(g, "model-calm-1"))),
    ("nights", "other weights", lambda e, g: (e.blobs / V2 / "model.safetensors").write_text("other")),
    ("nights", "another gate", lambda e, g: e.jobs[V2].result["retrain"]["gate"].update(message="p = 0.07")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "what", "plant"), PLANTED, ids=[f"{name}: {what}" for name, what, _ in PLANTED])
def test_a_planted_violation_is_found(made: Made, name: str, what: str, plant: Plant) -> None:
    plant(made.e, made.g)
    check = next(check for check in group_checks.all_checks(made.e, made.g) if check.name == name)
    assert check.violations, what
    assert "BROKEN" in report.invariant(check)[0]


def test_every_invariant_has_a_planted_violation() -> None:
    assert {check.name for check in group_checks.all_checks(Evidence(), GroupsSeen())} == {
        name for name, _, _ in PLANTED
    }


def test_what_follows_on_a_trial_that_faults_ended_is_not_compared(made: Made) -> None:
    job = made.e.jobs[T2]
    job.status, job.reason = "failed", "worker_lost"
    job.events[-1] = replace(job.events[-1], after="failed", reason="worker_lost")
    row(made.g, 2, status="failed", value=None)
    row(made.g, 3, choices={"lr": 0.7})
    check = group_checks.searches_equal_those_in_calm(made.e, made.g)
    assert check.looked_at["searches that were compared up to a trial that faults ended"] == 1
    assert check.violations == []


def test_every_search_and_retraining_is_valid_and_has_what_it_is_to_show() -> None:
    for kind in specs.SEARCHES:
        document = specs.search(kind, "x")
        _, problems = reading.read_space(document["search"]["space"], {})
        assert problems == []
        parse({name: each for name, each in document.items() if name != "search"})
    learns = specs.search("tpe", "x")["search"]
    assert learns["parallel"] == 1, "else the results depend on timing"
    assert learns["trials"] > 10, "ten are random before anything is learnt"
    assert [parse(specs.retraining(n, "m")).retrain is not None for n in range(1, specs.RETRAININGS + 1)]
