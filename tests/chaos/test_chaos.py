"""The checks of chaos can fail: each finds a violation that was planted. And a short storm, on the same path."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services import faults
from services.jobs import series
from services.settings import Settings
from tests.chaos import __main__ as command
from tests.chaos import checks, points, report, specs
from tests.chaos.evidence import Ack, Chunk, Evidence, JobSeen, Move, Saved, Thaw, Tick, Twin, read_ticks
from tests.chaos.monitor import Seen, Wound, recovered
from tests.chaos.nemesis import Nemesis
from tests.chaos.servers import Valkey
from tests.chaos.trainer import Ticks

JOB = "job_00000000000000000000000001"
EPOCHS = [{"epoch": 1, "train_loss": 0.5, "seconds": 1.0, "samples_per_second": 9.0}, {"epoch": 2, "train_loss": 0.25}]
RESULT = {"epochs": 2, "metrics": {}}
LOSS, NORM = series.pack([0.5, 0.4, 0.3, 0.2]), series.pack([1.0, 1.0, 2.0, 2.0])
SECOND = 10**9


def put(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    (folder / name).write_bytes(data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def moves(*rows: tuple[float, str, int, str | None, str | None, str | None]) -> list[Move]:
    return [Move(number, *row, at) for number, (at, *row) in enumerate(rows, 1)]


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """A run of one job, killed once and resumed, with which all is well."""
    folder = tmp_path / JOB
    folder.mkdir()
    history = {"epochs": [{key: EPOCHS[0][key] for key in ("epoch", "train_loss")}, EPOCHS[1]]}
    results = [
        put(folder, "model.safetensors", b"weights"),
        put(folder, "model.json", b"{}"),
        put(folder, "history.json", json.dumps(history).encode()),
        put(folder, "model.onnx", b"graph"),
        put(folder, "README.md", b"# vowels"),
        *(put(folder, f"{name}.svg", b"<svg/>") for name in ("loss", "gradients", "confusion", "calibration")),
    ]
    saved = [
        Saved(step, attempt, [put(folder, f"checkpoint-{step:09d}.json", b"{}")]) for step, attempt in ((2, 1), (4, 2))
    ]
    events = moves(
        (0.5, "status", 0, None, "queued", None),
        (0.8, "status", 1, "queued", "running", None),
        (2.5, "checkpoint", 1, None, None, None),
        (5.0, "status", 1, "running", "queued", "worker_lost"),
        (11.0, "status", 2, "queued", "running", None),
        (12.0, "resumed", 2, None, None, None),
        (14.2, "checkpoint", 2, None, None, None),
        (15.0, "status", 2, "running", "succeeded", None),
    )
    job = JobSeen(
        JOB, "succeeded", None, 2, 4, 100, "key-1", {"tags": {"spec": "gru", "seed": "1"}}, RESULT, results, events,
        saved, [Chunk(1, 4, LOSS, NORM)], list(EPOCHS),
    )  # fmt: skip
    early = [Tick(step * SECOND, step, 77) for step in (1, 2, 3)]
    late = [Tick((step + 10) * SECOND, step, 88) for step in (3, 4)]
    weights = hashlib.sha256(b"weights").hexdigest()
    names = frozenset(file["name"] for file in results)
    return Evidence(
        acknowledged=[Ack("key-1", JOB, "gru", 1)],
        jobs={JOB: job},
        ticks={JOB: {1: early, 2: late}},
        blobs=tmp_path,
        texts={"worker.log": "all is well"},
        secrets=["hunter2"],
        answers=3,
        exits=[("worker-1", -9)],
        twins={("gru", 1): Twin(RESULT, EPOCHS, LOSS, NORM, weights, names, history)},
    )


def test_all_is_well_with_a_run_in_which_all_is_well(evidence: Evidence) -> None:
    found = checks.all_checks(evidence)
    assert [violation for check in found for violation in check.violations] == []
    assert all(sum(check.looked_at.values()) > 0 for check in found)


Plant = Callable[[Evidence, JobSeen], object]


def insert(job: JobSeen, at: int, move: Move) -> None:
    job.events.insert(at, move)


def fail(job: JobSeen, reason: str) -> None:
    job.status, job.reason = "failed", reason
    job.events[-1] = replace(job.events[-1], after="failed", reason=reason)


PLANTED: list[tuple[str, str, Plant]] = [
    ("I1", "a lost job", lambda e, job: e.jobs.clear()),
    ("I1", "a job that never ended", lambda e, job: (setattr(job, "status", "running"), job.events.pop())),
    ("I1", "a failure without a fault", lambda e, job: fail(job, "internal")),
    ("I1", "lost too early", lambda e, job: fail(job, "worker_lost")),
    ("I1", "stalled too early", lambda e, job: fail(job, "stalled")),
    ("I1", "not retried", lambda e, job: fail(job, "trainer_crashed")),
    ("I1", "cancelled by nobody", lambda e, job: setattr(job, "status", "cancelled")),
    ("I1", "pruned, and no trial", lambda e, job: vars(job).update(status="cancelled", reason="pruned")),
    ("I2", "two ends", lambda e, job: insert(job, 8, Move(9, "status", 2, "succeeded", "failed", None))),
    ("I2", "no end", lambda e, job: job.events.pop()),
    ("I2", "life after death", lambda e, job: insert(job, 8, Move(9, "status", 2, "succeeded", "queued", None))),
    ("I3", "an overlap", lambda e, job: e.ticks[JOB][1].append(Tick(14 * SECOND, 4, 77))),
    ("I3", "an update after the next claim", lambda e, job: e.ticks[JOB][1].append(Tick(12 * SECOND, 4, 77))),
    ("I3", "an update after the end", lambda e, job: e.ticks[JOB][2].append(Tick(16 * SECOND, 5, 88))),
    ("I3", "an overlap over two attempts", lambda e, job: e.ticks[JOB].update({3: [Tick(2 * SECOND, 3, 99)]})),
    ("I3", "two trainers in one attempt", lambda e, job: e.ticks[JOB][2].append(Tick(20 * SECOND, 5, 99))),
    ("I4", "an event of an older attempt", lambda e, job: insert(job, 6, Move(9, "checkpoint", 1, None, None, None))),
    ("I4", "an event while queued", lambda e, job: insert(job, 4, Move(9, "checkpoint", 1, None, None, None))),
    ("I4", "an older checkpoint", lambda e, job: job.checkpoints.append(replace(job.checkpoints[0], step=6))),
    ("I4", "a gap in the steps", lambda e, job: job.chunks.__setitem__(0, Chunk(2, 5, LOSS, NORM))),
    ("I4", "too few numbers", lambda e, job: job.chunks.__setitem__(0, Chunk(1, 4, LOSS[:4], NORM))),
    ("I4", "a series that is cut off", lambda e, job: setattr(job, "step", 5)),
    ("I4", "a gap in the epochs", lambda e, job: job.epochs.pop(0)),
    ("I5", "an illegal move", lambda e, job: insert(job, 1, Move(9, "status", 0, "queued", "succeeded", None))),
    ("I5", "a chain that is broken", lambda e, job: job.events.pop(3)),
    ("I5", "born running", lambda e, job: job.events.pop(0)),
    ("I5", "a row that moved without a word", lambda e, job: setattr(job, "status", "paused")),
    ("I6", "a checkpoint that is gone", lambda e, job: (e.blobs / JOB / "checkpoint-000000002.json").unlink()),
    ("I6", "a model that was changed", lambda e, job: (e.blobs / JOB / "model.safetensors").write_bytes(b"other")),
    ("I6", "half a file", lambda e, job: (e.blobs / JOB / "checkpoint-000000006.json.part").touch()),
    ("I6", "a file that nobody knows", lambda e, job: (e.blobs / JOB / "checkpoint-000000006.json").touch()),
    ("I6", "success without a model", lambda e, job: setattr(job, "files", job.files[:2])),
    ("I8", "a secret in a log", lambda e, job: e.texts.update(api="connecting to postgresql://loopline:hunter2@db")),
    ("I9", "a process", lambda e, job: e.leftovers.append("process 4711 is left")),
    ("UP", "a worker that gave up", lambda e, job: e.exits.append(("worker-1", 1))),
    ("API", "an answer", lambda e, job: e.unexpected.append("POST /v1/jobs: 500")),
    ("API", "two jobs for a key", lambda e, job: e.jobs.update({"job_2": replace(job, id="job_2")})),
    ("bits", "other weights", lambda e, job: (e.blobs / JOB / "model.safetensors").write_bytes(b"other")),
    ("bits", "a picture less", lambda e, job: setattr(job, "files", job.files[:-1])),
    ("bits", "another history", lambda e, job: (e.blobs / JOB / "history.json").write_text('{"epochs": []}')),
    ("bits", "another loss", lambda e, job: job.chunks.__setitem__(0, Chunk(1, 4, NORM, NORM))),
    ("bits", "steps missing", lambda e, job: job.chunks.__setitem__(0, Chunk(1, 3, LOSS[:12], NORM[:12]))),
    ("bits", "another epoch", lambda e, job: job.epochs.__setitem__(1, {"epoch": 2, "train_loss": 0.26})),
    ("bits", "another result", lambda e, job: setattr(job, "result", {"epochs": 3, "metrics": {}})),
    ("bits", "no twin", lambda e, job: e.twins.clear()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "what", "plant"), PLANTED, ids=[f"{name}: {what}" for name, what, _ in PLANTED])
def test_a_planted_violation_is_found(evidence: Evidence, name: str, what: str, plant: Plant) -> None:
    plant(evidence, evidence.jobs[JOB])
    check = next(check for check in checks.all_checks(evidence) if check.name == name)
    assert check.violations, what
    assert "BROKEN" in report.invariant(check)[0]


def test_every_invariant_has_a_planted_violation() -> None:
    assert {check.name for check in checks.all_checks(Evidence())} == {name for name, _, _ in PLANTED}


def test_a_broken_invariant_names_the_job_and_its_events(evidence: Evidence) -> None:
    fail(evidence.jobs[JOB], "internal")
    told = "\n".join(report.invariant(checks.every_accepted_job_ends(evidence)))
    assert JOB in told
    assert "running -> failed internal" in told


def test_what_the_nemesis_did_itself_is_no_violation(evidence: Evidence) -> None:
    (evidence.blobs / JOB / "checkpoint-000000002.json").write_bytes(b"{x")
    evidence.damaged.add((JOB, "checkpoint-000000002.json"))
    lost = [move for attempt in range(3, 7) for move in (
        Move(10 * attempt, "status", attempt, "queued", "running", None),
        Move(10 * attempt + 1, "status", attempt, "running", "queued", "worker_lost"),
    )]  # fmt: skip
    job = evidence.jobs[JOB]
    job.status, job.reason, job.attempt = "failed", "worker_lost", 6
    job.events[-1:] = [Move(8, "status", 2, "running", "queued", "worker_lost"), *lost[:-1]]
    job.events.append(Move(99, "status", 6, "running", "failed", "worker_lost"))
    assert checks.every_accepted_job_ends(evidence).violations == []
    assert checks.every_registered_file_is_whole(evidence).violations == []


def test_only_the_first_moments_after_a_thaw_are_excused(evidence: Evidence) -> None:
    evidence.thaws.append(Thaw(77, 4 * SECOND, 14 * SECOND))
    evidence.ticks[JOB][1].append(Tick(14 * SECOND + SECOND // 5, 4, 77))
    check = checks.attempts_never_overlap(evidence)
    assert check.violations == []
    assert check.looked_at["updates of zombies within 0.5 s of their thaw"] == 1
    evidence.ticks[JOB][1].append(Tick(15 * SECOND, 5, 77))
    assert checks.attempts_never_overlap(evidence).violations


def test_losses_are_counted_from_the_furthest_checkpoint() -> None:
    lost = Move(1, "status", 1, "running", "queued", "worker_lost")
    further = Move(2, "checkpoint", 1, None, None, None, message="Checkpoint at step 20 (epoch 2), 0.1 MB.")
    assert checks._lost_in_a_row([lost, lost, further, lost]) == 1
    assert checks._lost_in_a_row([further, lost, further, lost]) == 2


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (Seen("running", 1, None, 103.0, None), None),  # the attempt that was killed, heard of late
        (Seen("running", 2, None, 99.0, None), None),
        (Seen("running", 2, None, 104.0, None), 4.0),
        (Seen("failed", 1, None, None, 102.5), 2.5),
    ],
)
def test_recovery_is_the_next_accepted_write_or_the_end(now: Seen, seconds: float | None) -> None:
    assert recovered(Wound("kill trainer", JOB, 100.0, 1, deadly=True), now) == seconds


def test_every_tick_is_on_disk_at_once(tmp_path: Path) -> None:
    (tmp_path / "ticks").mkdir()
    ticks = Ticks(tmp_path, JOB, 3)
    ticks.step = 7
    ticks.tick()
    found = read_ticks(tmp_path / "ticks")[JOB][3]
    assert [(tick.step, tick.pid) for tick in found] == [(8, os.getpid())]


def test_an_armed_point_kills_its_process_unless_it_is_calm(tmp_path: Path) -> None:
    def passes() -> int:
        pid = os.fork()
        if pid == 0:
            points.arm(tmp_path, {"job.fenced": 1.0}, seed=1)
            faults.point("job.fenced")
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert passes() == -signal.SIGKILL
    assert json.loads((tmp_path / points.LOG).read_text())["point"] == "job.fenced"
    (tmp_path / points.CALM).touch()
    assert passes() == 0


def test_every_point_has_a_process_that_passes_it() -> None:
    armed = {*points.WORKER, *points.TRAINER, *points.SCHEDULER, *points.API}
    assert armed <= faults.POINTS
    # Uploads happen before the storm, and nobody in it receives webhooks.
    calm = {"check.claimed", "check.ended", "dataset.placed", "webhook.claimed", "webhook.sent"}
    assert faults.POINTS - armed <= calm


def test_a_fault_that_finds_the_broker_down_is_noted_and_ends_nothing(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey", tmp_path / "valkey.log")
    valkey.kill()
    settings = Settings(data_dir=tmp_path, broker_url=valkey.url)
    others: Any = None  # what a bell does not touch
    it = Nemesis(tmp_path, others, others, valkey, others, settings, seed=1, began=0.0, say=print)
    for name in ("bell_garbage", "bell_duplicates") * 10:  # garbage comes in six kinds
        it.strike(name)
    assert len(it.trouble) == 20
    assert any("OperationalError" in told for told in it.trouble)


def test_every_spec_is_valid() -> None:
    from services.training.spec import parse

    cells = {parse(specs.document(name, 1, {})).architecture.cell for name in specs.NAMES}
    assert cells == {"rnn", "lstm", "gru"}


@pytest.mark.skipif(
    "LOOPLINE_CHAOS" not in os.environ, reason="takes minutes: make chaos SECONDS=30, or LOOPLINE_CHAOS=1"
)
@pytest.mark.timeout(900)
def test_a_short_storm_breaks_nothing() -> None:
    assert command.storm(10.0, seed=7, keep=False) == 0
