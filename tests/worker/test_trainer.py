"""The real trainer, with torch: a run through the supervisor, its exact resumption, and its edges."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.blobs.storage import Storage
from services.errors import (
    CheckpointCorrupt,
    DatasetInvalid,
    Diverged,
    Invalid,
    NotFinite,
    OutOfMemory,
    Problem,
    SpecInvalid,
    TooLargeToTrain,
)
from services.jobs import progress
from services.orm import Job
from services.training import epochs
from services.training.messages import Event, Failed, Ready, Started, Steps
from tests import forking
from tests.worker.conftest import TRAINER
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt.child import Template
from worker.attempt.spare import Spares, Trainer
from worker.attempt.supervisor import Slot
from worker.trainer import failure, lines, train

ROOT = Path(__file__).parent.parent.parent
SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "dropout": 0.3, "num_layers": 2},
    "training": {"epochs": 15, "batch_size": 16},
    "data": {"synthetic": {"samples": 80, "length": 6, "features": 2, "classes": 2}},
    "checkpoints": {"every_steps": 3},  # within epochs too
}


class Noting(Spares):
    """Spares that remember the process that was handed out last."""

    pid = 0

    def take(self) -> Trainer:
        trainer = super().take()
        self.pid = trainer.pid
        return trainer


@pytest.fixture
def spares(template: Template) -> Noting:
    """Real trainers, one of them warm."""
    made = Noting(TRAINER, count=1, template=template)
    made.prepare()
    return made


@pytest.mark.parametrize("epochs_are", ["there", "gone", "damaged"])
def test_a_job_is_trained_and_resumed_exactly_after_a_kill(
    epochs_are: str,
    engine: Engine,
    make_job: Callable[..., Job],
    make_slot: Callable[..., Slot],
    spares: Noting,
    storage: Storage,
    watch: Watch,
) -> None:
    slot = make_slot(spares=spares)
    unbroken = make_job(**SPEC)
    tasks.ring(slot, "default")
    assert watch.job(unbroken.id).status == "succeeded"

    broken = make_job(**SPEC)
    folder = storage.job_dir(broken.id)
    killer = threading.Thread(target=kill_when, args=(has_two_checkpoints, folder, spares, epochs_are))
    killer.start()
    tasks.ring(slot, "default")
    killer.join()

    done = watch.job(broken.id)
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert done.trainer is not None
    assert done.trainer["resumed_from"]["step"] >= 3
    weights = [storage.job_file(job.id, "model.safetensors").read_bytes() for job in (unbroken, broken)]
    assert weights[0] == weights[1]
    with db.read_scope(engine) as session:
        told = [[numbers(record) for record in progress.epochs(session, job.id)] for job in (unbroken, broken)]
        assert told[0] == told[1]
        assert len(told[0]) == 15
        assert progress.steps(session, broken.id, 5000) == progress.steps(session, unbroken.id, 5000)
        history = json.loads(storage.job_file(broken.id, "history.json").read_text())
        assert history["epochs"] == progress.epochs(session, broken.id)


@pytest.mark.parametrize("epochs_are", ["there", "gone"])
def test_a_job_with_folds_is_resumed_exactly_after_a_kill_within_its_second_one(
    epochs_are: str,
    engine: Engine,
    make_job: Callable[..., Job],
    make_slot: Callable[..., Slot],
    spares: Noting,
    storage: Storage,
    watch: Watch,
) -> None:
    slot = make_slot(spares=spares)
    folded = {**SPEC, "training": {"epochs": 6, "batch_size": 16, "early_stopping": {"patience": 2}}}
    folded["data"] = {**SPEC["data"], "split": {"folds": 3, "test": 0.2}}
    unbroken = make_job(**folded)
    tasks.ring(slot, "default")
    assert watch.job(unbroken.id).status == "succeeded", watch.job(unbroken.id).message

    broken = make_job(**folded)
    folder = storage.job_dir(broken.id)
    killer = threading.Thread(target=kill_when, args=(is_in_second_fold, folder, spares, epochs_are))
    killer.start()
    tasks.ring(slot, "default")
    killer.join()

    done, whole = watch.job(broken.id), watch.job(unbroken.id)
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert done.result == whole.result
    assert (done.fold, done.epoch, done.epochs, done.step, done.steps) == (
        whole.fold, whole.epoch, whole.epoch, whole.step, whole.step,
    )  # fmt: skip
    weights = [storage.job_file(job.id, "model.safetensors").read_bytes() for job in (unbroken, broken)]
    assert weights[0] == weights[1]
    with db.read_scope(engine) as session:
        told = [[numbers(record) for record in progress.epochs(session, job.id)] for job in (unbroken, broken)]
        assert told[0] == told[1]
        assert [record["epoch"] for record in told[0]] == list(range(1, len(told[0]) + 1))
        assert {record["fold"] for record in told[0]} == {1, 2, 3, 4}
        assert progress.steps(session, broken.id, 5000) == progress.steps(session, unbroken.id, 5000)
        history = json.loads(storage.job_file(broken.id, "history.json").read_text())
        assert history["epochs"] == progress.epochs(session, broken.id)


def has_two_checkpoints(folder: Path) -> bool:
    """By then the first one has been told."""
    return len(list(folder.glob("checkpoint-*.json"))) >= 2


def is_in_second_fold(folder: Path) -> bool:
    """Whether two checkpoints are of the second fold: by then the first of them has been told."""
    found = sorted(folder.glob("checkpoint-*.json"))[-2:]
    try:
        folds = [json.loads(path.read_bytes())["fold"]["number"] for path in found]
    except OSError:
        return False  # deleted meanwhile
    return len(folds) == 2 and min(folds) >= 2


def kill_when(is_time: Callable[[Path], bool], folder: Path, spares: Noting, epochs_are: str = "there") -> None:
    while not is_time(folder):
        time.sleep(0.001)
    os.kill(spares.pid, signal.SIGSTOP)  # so that it writes none of them any more
    if epochs_are == "gone":
        (folder / epochs.NAME).unlink(missing_ok=True)
    if epochs_are == "damaged":
        (folder / epochs.NAME).write_bytes(b"{}\n")
    os.kill(spares.pid, signal.SIGKILL)


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record does not depend on the clock."""
    return {name: value for name, value in record.items() if name not in {"seconds", "samples_per_second"}}


def test_a_trainer_whose_supervisor_is_gone_does_not_start() -> None:
    done = run_trainer("--parent", "1", stdin=b"")
    assert done.returncode == 1
    assert b"gone" in done.stderr


def test_a_trainer_ends_when_its_orders_do() -> None:
    assert run_trainer("--parent", str(os.getpid()), stdin=b"").returncode == 3


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that asks")
def test_a_trainer_is_the_first_to_be_killed_when_memory_runs_out(spares: Noting) -> None:
    trainer = spares.take()
    try:
        while not any(isinstance(event, Ready) for event in trainer.wait(1)):
            assert not trainer.has_exited(), trainer.output.last_words()
        assert Path(f"/proc/{trainer.pid}/oom_score_adj").read_text() == "1000\n"
        assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000
    finally:
        trainer.end()
        spares.end()


@pytest.mark.parametrize("seconds", [[60, 0.3], [-1]])
def test_a_trainer_that_hears_of_no_renewal_is_ended_by_the_kernel(seconds: list[float]) -> None:
    """Its own guard: a supervisor that is frozen renews no lease, and stops no trainer. News of the lease may have
    waited in the pipe until it was over."""
    reader, writer = os.pipe()
    with forking.Popen(
        [sys.executable, "-m", "worker.trainer", "--parent", str(os.getpid())],
        torch=True,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        pass_fds=(writer,),
        env={**os.environ, "LOOPLINE_EVENTS_FD": str(writer)},
        bufsize=0,
    ) as trainer:
        try:
            assert trainer.stdin is not None
            for more in seconds:
                trainer.stdin.write(json.dumps({"request": "lease", "until": time.monotonic() + more}).encode() + b"\n")
            assert trainer.wait(30) == -signal.SIGALRM
        finally:
            trainer.kill()
            os.close(reader)
            os.close(writer)


def run_trainer(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    reader, writer = os.pipe()
    try:
        return forking.run(
            [sys.executable, "-m", "worker.trainer", *arguments],
            torch=True,
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            pass_fds=(writer,),
            env={**os.environ, "LOOPLINE_EVENTS_FD": str(writer)},
            timeout=60,
        )
    finally:
        os.close(reader)
        os.close(writer)


class OutOfMemoryError(RuntimeError):
    """As torch's own, which this process does not import."""

    __module__ = "torch"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Diverged(epoch=1, step=2, loss=float("nan"), grad_norm=1.0, lr=0.1), "diverged"),
        (NotFinite(epoch=1, step=2, loss=float("nan"), grad_norm=1.0, lr=0.1), "diverged"),
        (DatasetInvalid("Row 3 holds a NaN."), "dataset_invalid"),
        (OutOfMemory(), "out_of_memory_gpu"),
        (TooLargeToTrain(), "too_large"),
        (OutOfMemoryError("CUDA out of memory"), "out_of_memory_gpu"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory_gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out_of_memory_gpu"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device_lost"),
        (MemoryError(), "out_of_memory_host"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory_host"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage_full"),
        (OSError(errno.EACCES, "Permission denied"), "trainer_crashed"),
        (CheckpointCorrupt("It is not whole."), "trainer_crashed"),
        (RuntimeError("can't start new thread"), "trainer_crashed"),
        (SpecInvalid([Problem("/data", "is none")]), "cannot_train"),
        (Invalid("The checkpoints are of another spec."), "cannot_train"),
    ],
)
def test_what_went_wrong_has_a_reason(error: Exception, reason: str) -> None:
    for is_built in (True, False):
        told = failure(error, is_built=is_built)
        assert told.reason == reason
        assert told.message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a tensor"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasGemmEx"),
        NotImplementedError('"addmm_impl_cpu_" not implemented for Half'),
        ValueError("an optimizer got an empty parameter list"),
    ],
)
def test_what_fails_before_the_first_update_is_the_specs_and_what_fails_later_is_a_crash(error: Exception) -> None:
    def run(*before: Event) -> Failed:
        def events() -> Iterator[Event]:
            yield from before
            raise error

        sent: list[Any] = []
        assert train(events(), sent.append) == 1
        assert sent[:-1] == list(before)
        assert isinstance(sent[-1], Failed)
        return sent[-1]

    started = Started(3, 4, None, None, 1, "cpu", 1, "none")
    for told in (run(), run(started)):
        assert (told.reason, "Traceback" in (told.traceback or "")) == ("cannot_train", True)
        assert type(error).__name__ in told.message
    assert run(started, Steps(1, [0.5], [0.5])).reason == "trainer_crashed"


def test_a_run_that_cannot_be_built_fails_at_once_with_what_is_wrong(
    make_job: Callable[..., Job], make_slot: Callable[..., Slot], spares: Noting, watch: Watch
) -> None:
    loss = {"name": "cross_entropy", "class_weights": [1.0, 2.0, 3.0]}  # and there are two classes
    job = make_job(**{**SPEC, "training": {**SPEC["training"], "loss": loss}, "limits": {"max_retries": 5}})
    tasks.ring(make_slot(spares=spares), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason, failed.attempt) == ("failed", "cannot_train", 1)
    assert "needs one weight for each of the 2 classes; got 3" in (failed.message or "")
    assert "Change the part of the spec" in (failed.message or "")


def test_what_nobody_foresaw_comes_with_its_traceback() -> None:
    assert "ZeroDivisionError" in (failure(ZeroDivisionError("x")).traceback or "")
    assert failure(DatasetInvalid("x")).traceback is None


def test_lines_come_as_soon_as_they_are_whole() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"one\ntw")
        coming = lines(reader)
        assert next(coming) == b"one"
        os.write(writer, b"o\nthree\n")
        assert (next(coming), next(coming)) == (b"two", b"three")
    finally:
        os.close(writer)
        os.close(reader)
