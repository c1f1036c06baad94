"""Rungs: where a trial waits for an answer, what ends there, and what does not change by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.training.messages import Log, StopReason
from services.training.rungs import Rungs
from services.training.spec import parse
from tests.training.building import document, events, names_in, timeless

Told = list[dict[str, Any]]


def told(folder: Path, goes_on: Callable[[int], bool | None], rungs: tuple[int, ...] = (1, 3), **changes: Any) -> Told:
    training = {"epochs": 5, **changes}
    spec = document(training=training, data={"dataset": None, "synthetic": {"samples": 40, "length": 5}})
    order = {"spec": parse(spec).document(), "data": None, "directory": str(folder), "device": "cpu"}
    return [*events({**order, "rungs": [*rungs]}, goes_on=goes_on)]


def epochs_of(found: Told) -> list[dict[str, Any]]:
    return [event["record"] for event in found if event["event"] == "epoch"]


def test_a_trial_that_is_told_to_stop_ends_with_that_epoch_and_offers_its_best_weights(tmp_path: Path) -> None:
    found = told(tmp_path, lambda epoch: epoch < 3)
    stopped = found[-1]
    assert (stopped["event"], stopped["reason"]) == ("stopped", "pruned")
    assert [record["epoch"] for record in epochs_of(found)] == [1, 2, 3]
    result = stopped["result"]
    assert (result["complete"], result["incomplete_because"], result["epochs"]) == (False, "pruned", 3)
    assert {"model.safetensors", "model.json", "history.json", "model.onnx", "README.md"} <= names_in(tmp_path)
    assert "its search stopped the job because other trials were better after 3 epochs of 5" in (
        (tmp_path / "README.md").read_text()
    )


def test_each_rung_is_asked_about_once_and_waiting_changes_no_number(tmp_path: Path) -> None:
    asked: list[int] = []

    def goes_on(epoch: int) -> bool:
        asked.append(epoch)
        return True

    found = told(tmp_path / "asked", goes_on, rungs=(1, 3, 5, 9))
    assert asked == [1, 3]  # after the last epoch there is nothing left to stop
    assert found[-1]["event"] == "finished"
    plain = told(tmp_path / "plain", goes_on, rungs=())
    assert asked == [1, 3]
    assert timeless(epochs_of(found)) == timeless(epochs_of(plain))


def test_a_trial_without_an_answer_goes_on_and_says_so(tmp_path: Path) -> None:
    found = told(tmp_path, lambda _: None)
    assert found[-1]["event"] == "finished"
    said = [event["message"] for event in found if event["event"] == "log" and event["level"] == "warning"]
    assert [message.split(",")[0] for message in said] == [
        f"The supervisor did not answer in time after epoch {epoch}" for epoch in (1, 3)
    ]


def test_a_run_that_goes_back_does_not_ask_again() -> None:
    asked: list[int] = []
    rungs = Rungs([2, 4], lambda epoch: bool(asked.append(epoch)) or True)
    for epoch in (1, 2, 3, 2, 3, 4):
        assert [*rungs.wait(epoch, lambda: None)] == []
    assert asked == [2, 4]


def test_a_stop_that_comes_while_a_trial_waits_needs_no_warning() -> None:
    def wait(answer: bool | None) -> tuple[list[Log], StopReason | None]:
        said: list[Any] = []

        def drive() -> Any:
            reason = yield from Rungs([1], lambda _: answer).wait(1, lambda: StopReason.PAUSE)
            return reason

        driver = drive()
        while True:
            try:
                said.append(next(driver))
            except StopIteration as end:
                return said, end.value

    assert wait(None) == ([], StopReason.PAUSE)
    assert wait(True) == ([], StopReason.PAUSE)
    assert wait(False) == ([], StopReason.PRUNED)
