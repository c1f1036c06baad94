"""Trials that are stopped early, by real trainers: what the trainer waits for, and what its supervisor answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.training.messages import (
    End,
    EpochEnded,
    Event,
    Finished,
    Log,
    Order,
    RungAnswer,
    Stop,
    Stopped,
    StopReason,
)
from services.training.spec import parse
from worker.attempt.spare import Spares, Trainer, trainer_command

SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 5},
    "data": {"synthetic": {"samples": 40, "length": 5, "features": 2, "classes": 2}},
}


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """A real trainer, which has no order yet."""
    spares = Spares(trainer_command(device="cpu", threads=1), count=0)
    taken = spares.take()
    yield taken
    taken.end()


def send_order(trainer: Trainer, folder: Path, rungs: tuple[int, ...]) -> None:
    trainer.send(Order(parse(SPEC).document(), None, str(folder), device="cpu", rungs=rungs))


def until(trainer: Trainer, kind: type[Event] | Any, epoch: int | None = None) -> Sequence[Event]:
    """What the trainer says until it says that."""
    told: list[Event] = []
    while not any(isinstance(each, kind) and epoch in (None, getattr(each, "epoch", None)) for each in told):
        told += trainer.wait(60)
        assert not (trainer.has_exited() and not told), "the trainer has ended without a word"
    return told


def warnings_of(told: Sequence[Event]) -> list[str]:
    return [each.message for each in told if isinstance(each, Log) and each.level == "warning"]


def test_a_trainer_waits_at_a_rung_and_ends_if_it_is_told_so(trainer: Trainer, tmp_path: Path) -> None:
    send_order(trainer, tmp_path, (1, 3))
    until(trainer, EpochEnded, 1)
    trainer.send(RungAnswer(1, goes_on=True))
    until(trainer, EpochEnded, 3)
    trainer.send(RungAnswer(1, goes_on=False))  # of a rung that is behind it
    trainer.send(RungAnswer(3, goes_on=False))
    told = until(trainer, End)
    assert isinstance(told[-1], Stopped)
    assert told[-1].reason == StopReason.PRUNED
    assert [each.epoch for each in told if isinstance(each, EpochEnded)] == []
    assert warnings_of(told) == []


def test_a_trainer_goes_on_if_its_supervisor_never_answers(trainer: Trainer, tmp_path: Path) -> None:
    send_order(trainer, tmp_path, (1,))
    told = until(trainer, End)
    assert isinstance(told[-1], Finished)
    assert [each.epoch for each in told if isinstance(each, EpochEnded)] == [1, 2, 3, 4, 5]
    assert warnings_of(told) == ["Nobody said after epoch 1 in time whether this trial goes on, so it goes on."]


def test_a_trainer_that_waits_at_a_rung_obeys_a_request_to_stop(trainer: Trainer, tmp_path: Path) -> None:
    send_order(trainer, tmp_path, (1,))
    until(trainer, EpochEnded, 1)
    trainer.send(Stop(StopReason.PAUSE))
    told = until(trainer, End)
    assert isinstance(told[-1], Stopped)
    assert (told[-1].reason, told[-1].files) == (StopReason.PAUSE, None)
    assert warnings_of(told) == []
