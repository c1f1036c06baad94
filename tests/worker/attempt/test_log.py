"""What a trainer tells besides its numbers: notes, log lines, and what it prints."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.jobs import events, progress
from services.orm import Job
from services.training.messages import EpochEnded, Finished, Started
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt.output import MAX_BYTES, MAX_LINES, Output
from worker.attempt.record import progress_lines
from worker.attempt.slot import Slot

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]


def test_notes_warnings_and_lines_are_kept_in_their_places(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "talk"})
    tasks.ring(make_slot(), "default")
    assert watch.job(job.id).status == "succeeded"
    [note] = watch.events(job.id, "micro_batch")
    assert (note.level, note.message, note.data) == ("warning", "Half of it.", {"micro_batch": 8})
    [warning] = watch.events(job.id, "warning")
    assert (warning.level, warning.message) == ("warning", "less is well")
    lines = watch.lines(job.id)
    assert [text for level, text in lines if level == "output"] == [
        "one line",
        "progress 2",
        "\ufffd bytes",
        "no end",
    ]
    course = ("Training on", "epoch ", "Training ended")
    others = [line for line in lines if line[0] != "output" and not line[1].startswith(course)]
    assert others == [("info", "all is well"), ("warning", "less is well")]


def test_a_normal_run_logs_its_epochs(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job = make_job()
    tasks.ring(make_slot(), "default")
    assert watch.lines(job.id) == [
        ("info", "Training on cpu, 1 thread: 3 epochs of 4 steps."),
        ("info", "epoch 1 of 3: train_loss 0.25, validation_loss 0.5"),
        ("info", "epoch 2 of 3: train_loss 0.125, validation_loss 0.25"),
        ("info", "epoch 3 of 3: train_loss 0.08333, validation_loss 0.1667"),
        ("info", "Training ended after 3 epochs; the best was epoch 3."),
    ]


def test_a_run_that_goes_on_logs_from_where(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job = make_job(tags={"stub": "kill", "times": "1"})
    tasks.ring(make_slot(), "default")
    told = [text for _, text in watch.lines(job.id)]
    assert "Training on cpu, 1 thread: 3 epochs of 4 steps, going on after epoch 1 (step 4)." in told


@pytest.mark.parametrize(("epochs", "told"), [(1, 1), (500, 500), (501, 251), (16_866, 497)])
def test_epochs_crowd_nothing_else_out_of_the_log(epochs: int, told: int) -> None:
    records = (EpochEnded({"epoch": n, "train_loss": 0.5}, None) for n in range(1, epochs + 1))
    lines = [line for event in records for line in progress_lines(event, epochs)]
    assert len(lines) == told
    assert lines[0].text == f"epoch 1 of {epochs}: train_loss 0.5"


def test_a_number_that_there_is_none_of_is_left_out() -> None:
    record = {"epoch": 1, "train_loss": 0.5, "validation_loss": None, "lr": 1e-3}
    (line,) = progress_lines(EpochEnded(record, None), 1)
    assert line.text == "epoch 1 of 1: train_loss 0.5, lr 0.001"


@pytest.mark.parametrize(("fold", "told"), [(4, "fold 4, epoch 2"), (5, "final model, epoch 2")])
def test_what_comes_after_the_folds_is_the_final_model(fold: int, told: str) -> None:
    record = {"epoch": 9, "fold": fold, "fold_epoch": 2, "train_loss": 0.5}
    (line,) = progress_lines(EpochEnded(record, None), 10, folds=4)
    assert line.text == f"{told}: train_loss 0.5"


@pytest.mark.parametrize(
    ("device", "engine", "told"),
    [
        ("cpu", "compiled (AVX2)", "cpu with compiled layers (AVX2), 2 threads"),
        ("cpu", "torch", "cpu with PyTorch, 2 threads"),
        ("cuda:0", "torch", "cuda:0"),
    ],
)
def test_the_log_tells_what_computes(device: str, engine: str, told: str) -> None:
    began = Started(3, 4, None, None, 1, device, threads=2, torch="2", details={"engine": engine})
    (line,) = progress_lines(began, 3)
    assert line.text == f"Training on {told}: 3 epochs of 4 steps."


def test_one_of_a_thing_is_told_as_one() -> None:
    results = ({"best_epoch": 1, "epochs": 1}, {"sequences": 1, "rows": 1})
    began = Started(1, 1, None, None, parameters=1, device="cpu", threads=1, torch="2")
    events = (began, *(Finished(result, ()) for result in results))
    assert [line.text for event in events for line in progress_lines(event, 1)] == [
        "Training on cpu, 1 thread: 1 epoch of 1 step.",
        "Training ended after 1 epoch; the best was epoch 1.",
        "Answered 1 sequence, in 1 row.",
    ]


def test_a_run_that_rolled_back_keeps_only_what_it_lived_last(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    job = make_job(tags={"stub": "back"})
    tasks.ring(make_slot(), "default")
    assert watch.job(job.id).status == "succeeded"
    [event] = watch.events(job.id, "rolled_back")
    assert (event.message, event.data) == ("Rolled back.", {"lr_factor": 0.5, "epoch": 0, "step": 0})
    with db.read_scope(engine) as session:
        steps = progress.steps(session, job.id)
        assert (list(steps.step), list(steps.loss[:5])) == ([*range(1, 13)], [9.0] * 5)
        assert progress.epochs(session, job.id)[0]["train_loss"] == 9.0
        assert [row.step for row in progress.checkpoints(session, job.id)] == [8, 12]


def test_the_last_words_of_a_crash_are_in_the_log(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job = make_job(tags={"stub": "exit"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    assert watch.lines(job.id)[-1] == ("output", "Traceback: the stub gives up")


def test_a_flood_of_invalid_bytes_is_capped(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    """Tens of megabytes without a line end, NUL and invalid UTF-8 among them."""
    job = make_job(tags={"stub": "flood"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    lines = watch.lines(job.id)
    assert lines[-1] == ("output", "the last line") or lines[-1][1].endswith("…")
    assert sum(len(text) for _, text in lines) < 10_000


def test_a_flood_of_lines_neither_stops_the_run_nor_fills_the_memory(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    """A trainer that prints a million lines (100 MB): they are read away, and a few of them kept."""
    job = make_job(tags={"stub": "chatter"})
    memory, began = peak_bytes(), time.monotonic()
    tasks.ring(make_slot(), "default")
    seconds = time.monotonic() - began
    assert watch.job(job.id).status == "succeeded"
    assert peak_bytes() - memory < 64e6
    lines = [text for level, text in watch.lines(job.id) if level == "output"]
    assert lines[-1] == f"{999_999:099d}"
    dropped = sum(int(text.split()[1].replace(",", "")) for text in lines if text.startswith("…"))
    kept = sum(not text.startswith("…") for text in lines)
    assert kept <= (seconds + 2) * MAX_LINES
    was_slow = watch.job(job.id).log_lines > events.MAX_LINES  # then the first of them are no longer there
    assert dropped + kept == 1_000_000 or was_slow


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_only_the_newest_lines_are_handed_on_and_the_rest_is_counted() -> None:
    output = Output()
    output.feed(b"".join(b"%d\n" % number for number in range(12_545)))
    lines = output.take()
    assert (lines[0], lines[1], lines[-1]) == ("… 12,345 lines were dropped", "12345", "12544")
    assert output.take() == []


def test_an_unfinished_line_waits_for_its_end_or_for_the_last_call() -> None:
    output = Output()
    output.feed(b"a\nb")
    assert output.has_lines
    assert output.take() == ["a"]
    output.feed(b"c")
    assert (output.has_lines, output.take()) == (False, [])
    assert output.take(all=True) == ["bc"]


def test_a_line_without_end_takes_no_more_memory_than_others() -> None:
    output = Output()
    for _ in range(100):
        output.feed(b"x" * 100_000)
    [line] = output.take(all=True)
    assert 0 < len(line) <= MAX_BYTES
