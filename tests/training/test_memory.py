"""A device that is too small: what fits is found, the updates stay those of the whole batch, and it is told."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from services.errors import OutOfMemory
from services.training import checkpoint, loop
from services.training.data import MiniBatch, Order, in_pieces, prepare
from services.training.files import npz
from services.training.loop import Run, Step, Update
from services.training.messages import NEWEST, DeviceMemory, Finished
from services.training.model import SequenceModel
from services.training.retention import Retention
from services.training.run import Training
from tests.training.building import (
    classes,
    document,
    events,
    make_run,
    of_many_lengths,
    spec_for,
    timeless,
    trained,
    weights_of,
)

ARRAYS = of_many_lengths(classes(32))  # 24 training samples in batches of 8: 3 updates an epoch, 9 in all
Event = dict[str, Any]


def spec(**changes: Any) -> dict[str, Any]:
    small = {"training": {"batch_size": 8}, "checkpoints": {"every_seconds": None, "every_steps": 4, "keep_last": 2}}
    return document(**small | changes)


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Event]:
    """A factory of orders to train in a folder of this test."""
    npz.write(tmp_path / "some.npz", ARRAYS)

    def make(folder: str = "job", **changes: Any) -> Event:
        directory = str(tmp_path / folder)
        return {"spec": spec(**changes), "data": str(tmp_path / "some.npz"), "directory": directory, "resume": None}

    return make


@pytest.fixture
def device_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """A factory of devices that hold so many samples, from an update on; they list updates and their pieces."""
    whole: Step = loop.autograd_step

    def make(samples: int, *, from_step: int = 1) -> list[tuple[int, int]]:
        taken: list[tuple[int, int]] = []

        def step(run: Run, batches: list[MiniBatch]) -> Update:
            if run.state.step + 1 >= from_step and max(len(batch.y) for batch in batches) > samples:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            taken.append((run.state.step + 1, len(batches)))
            return whole(run, batches)

        monkeypatch.setattr(loop, "autograd_step", step)
        monkeypatch.setattr(loop, "compiled_step", step)
        return taken

    return make


def evaluates_at_most(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SequenceModel.forward

    def forward(self: SequenceModel, x: Tensor, lengths: Tensor | None = None, static: Tensor | None = None) -> Tensor:
        if not self.training and len(x) > samples:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, x, lengths, static)

    monkeypatch.setattr(SequenceModel, "forward", forward)


def of(kind: str, told: list[Event]) -> list[Event]:
    return [event for event in told if event["event"] == kind]


def halved(told: list[Event]) -> list[Event]:
    """The notes of batches that did not fit."""
    return [event for event in of("note", told) if event["type"] == "micro_batch"]


def outcome(order: Event) -> tuple[bytes, list[dict[str, Any]]]:
    directory = Path(order["directory"])
    history = json.loads((directory / "history.json").read_text())["epochs"]
    return (directory / "model.safetensors").read_bytes(), timeless(history)


# ---- the updates


def test_pieces_keep_the_rows_and_say_how_many_make_an_update() -> None:
    order = Order([np.arange(0, 8), np.arange(8, 16), np.arange(16, 19)])
    assert in_pieces(order, 2, None, 1) == (order, [2, 1])
    pieces, counts = in_pieces(order, 2, 3, 1)
    assert [len(piece) for piece in pieces.batches] == [3, 3, 2, 3, 3, 2, 3]
    assert counts == [6, 1]
    assert np.concatenate(pieces.batches).tolist() == list(range(19))
    pieces, counts = in_pieces(order, 1, 2, 2)
    assert [len(piece) for piece in pieces.batches] == [2] * 8 + [3]  # rather one too many than one alone
    assert counts == [4, 4, 1]


@pytest.mark.parametrize("micro", [1, 3, 4, 100])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_micro_batches_make_the_updates_of_whole_batches(micro: int, accumulation: int) -> None:
    def run() -> Run:
        return make_run(
            ARRAYS,
            training={
                "batch_size": 8,
                "accumulation_steps": accumulation,
                "loss": {"name": "cross_entropy", "class_weights": [0.2, 1.0, 5.0], "label_smoothing": 0.1},
                "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
            },
        )

    whole, cut = run(), run()
    cut.state.batches.micro = micro
    expected, found = trained(whole), trained(cut)
    assert cut.state.step == whole.state.step == 3 * (3 if accumulation == 1 else 2)
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights_of(cut)[name], tensor, rtol=1e-4, atol=1e-6)  # sums in another order
    for one, other in zip(expected, found, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
        assert other["grad_norm_mean"] == pytest.approx(one["grad_norm_mean"], rel=1e-4)
        assert other["train_accuracy"] == one["train_accuracy"]


# ---- the stream


def test_training_goes_on_from_the_last_checkpoint_with_what_fits_and_says_so(
    order: Callable[..., Event], device_for: Callable[..., list[tuple[int, int]]]
) -> None:
    whole = order("whole")
    list(events(whole))
    taken = device_for(4, from_step=7)
    asked = order()
    told = list(events(asked))
    (note,) = halved(told)
    assert note == {
        "event": "note",
        "type": "micro_batch",
        "level": "warning",
        "message": "The device ran out of memory at step 7; training goes on from step 4 with micro-batches of 4 "
        "(the batch of 8 is kept by accumulation).",
        "data": {
            "step": 7, "resumed_from": 4, "evaluating": False, "micro_batch": 4, "evaluation_batch": 4, "batch_size": 8,
        },
    }  # fmt: skip
    after = told[told.index(note) + 1]
    best = of("epoch", told)[0]["best"]
    assert after == told[0] | {"resumed_from": {"epoch": 1, "step": 4}, "best": best, "checkpoints": [4]}
    assert taken == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (5, 2), (6, 2), (7, 2), (8, 2), (9, 2)]
    assert told[-1]["event"] == "finished"
    for one, other in zip(outcome(whole)[1], outcome(asked)[1], strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-5)


def test_without_a_checkpoint_it_begins_again_and_halves_until_it_fits(
    order: Callable[..., Event], device_for: Callable[..., list[tuple[int, int]]]
) -> None:
    device_for(1)
    asked = order()
    told = list(events(asked))
    assert [event["data"]["micro_batch"] for event in halved(told)] == [4, 2, 1]
    assert "training goes on from the start with micro-batches of 4" in halved(told)[0]["message"]
    assert told[-1]["event"] == "finished"
    assert [event["record"]["epoch"] for event in of("epoch", told)] == [1, 2, 3]


def test_a_later_attempt_begins_with_what_fitted(
    order: Callable[..., Event], device_for: Callable[..., list[tuple[int, int]]]
) -> None:
    taken = device_for(2, from_step=7)
    asked = order()
    stream = events(asked)
    for event in stream:
        if event["event"] == "checkpoint" and taken[-1:] == [(6, 2)]:  # right after the second halving
            break
    stream.close()  # type: ignore[attr-defined]
    assert not halved(list(events(asked | {"resume": NEWEST})))


@pytest.mark.parametrize("updates", [1, 2, 4])
def test_a_run_killed_after_halving_and_resumed_equals_one_that_was_not(
    updates: int, order: Callable[..., Event], device_for: Callable[..., list[tuple[int, int]]]
) -> None:
    device_for(3, from_step=6)
    uneven = {"architecture": {"num_layers": 2, "dropout": 0.3}}
    unbroken, broken = order("unbroken", **uneven), order("broken", **uneven)
    list(events(unbroken))
    stream = events(broken)
    next(event for event in stream if event["event"] == "note" and event["data"].get("micro_batch") == 2)
    next(event for event in stream if event["event"] == "checkpoint")
    stream.close()  # type: ignore[attr-defined]
    stops = itertools.count(1)
    told = list(events(broken | {"resume": NEWEST}, lambda: "drain" if next(stops) == updates else None))
    torch.manual_seed(12345)
    list(events(broken | {"resume": NEWEST}))
    assert told[-1] == {"event": "stopped", "reason": "drain"}
    assert not halved(told)
    assert outcome(broken) == outcome(unbroken)


def test_the_run_that_did_not_fit_is_let_go_before_there_is_another(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Run]] = []
    left: list[int] = []
    begin = Run.__init__

    def init(self: Run, *arguments: Any) -> None:
        left.append(sum(ref() is not None for ref in alive))
        begin(self, *arguments)
        alive.append(weakref.ref(self))

    def step(run: Run, batches: list[MiniBatch]) -> Update:
        if len(alive) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(run, batches)

    whole: Step = loop.autograd_step
    monkeypatch.setattr(Run, "__init__", init)
    monkeypatch.setattr(loop, "autograd_step", step)
    monkeypatch.setattr(loop, "compiled_step", step)
    gc.disable()  # what goes must go by being dropped, or by the run's own collection
    try:
        assert list(events(order()))[-1]["event"] == "finished"
    finally:
        gc.enable()
    assert left == [0, 0]


def test_the_step_that_a_run_was_given_makes_the_updates_of_smaller_batches_too(tmp_path: Path) -> None:
    taken: list[int] = []

    def step(run: Run, batches: list[MiniBatch]) -> Update:
        if max(len(batch.y) for batch in batches) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        taken.append(len(batches))
        return loop.autograd_step(run, batches)

    made = spec_for(ARRAYS, training={"batch_size": 8})
    first = Run(made, prepare(ARRAYS, made), step=step)
    [*_, last] = Training(first, Retention(tmp_path)).events(None, lambda: None)
    assert isinstance(last, Finished)
    assert taken == [2] * 9  # two pieces per update


@pytest.mark.parametrize(("batch_norm", "least"), [(False, "a single sample"), (True, "two samples")])
def test_when_the_least_does_not_fit_it_gives_up_with_the_reason(
    batch_norm: bool, least: str, order: Callable[..., Event], device_for: Callable[..., list[tuple[int, int]]]
) -> None:
    taken = device_for(1 if batch_norm else 0)
    told: list[Event] = []
    with pytest.raises(OutOfMemory, match=f"at step 1, with {least}") as caught:
        told.extend(events(order(architecture={"batch_norm": batch_norm})))
    assert caught.value.code == "out_of_memory_gpu"
    assert [event["data"]["micro_batch"] for event in halved(told)] == ([4, 2] if batch_norm else [4, 2, 1])
    assert taken == []


def test_evaluation_that_does_not_fit_is_done_in_smaller_batches(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = order("whole")
    list(events(whole))
    evaluates_at_most(3, monkeypatch)
    asked = order()
    told = list(events(asked))
    first, second = halved(told)  # 8 samples, then 4, then 2 at a time
    assert first["message"] == (
        "The device ran out of memory in evaluation after step 3; training goes on from the start and evaluates 4 "
        "samples at a time."
    )
    assert (second["data"]["evaluation_batch"], second["data"]["micro_batch"]) == (2, None)
    weights, history = outcome(asked)
    assert weights == outcome(whole)[0]  # training has not changed
    for one, other in zip(outcome(whole)[1], history, strict=True):
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-5)


def test_the_last_evaluation_of_all_may_be_the_one_that_does_not_fit(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = loop.evaluate
    done = []

    def evaluate(run: Run, part: Any) -> Any:
        if run.finished and run.state.batches.evaluation > 100:
            raise loop.EvaluationOutOfMemory("CUDA out of memory.")
        done.append(run.state.step)
        return finish(run, part)

    monkeypatch.setattr("services.training.run.evaluate", evaluate)
    told = list(events(order()))
    assert of("started", told)[1]["resumed_from"] == {"epoch": 3, "step": 9}
    assert told[-1]["event"] == "finished"
    assert done == [9]


def test_evaluation_of_one_sample_that_does_not_fit_gives_up(
    order: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluates_at_most(0, monkeypatch)
    with pytest.raises(OutOfMemory, match="in evaluation after step 3, with a single sample"):
        list(events(order()))


def test_what_fits_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    run = make_run(ARRAYS)
    run.state.batches.micro, run.state.batches.evaluation = 2, 64
    tensors, state = checkpoint.state_of(run)
    other = make_run(ARRAYS)
    checkpoint.restore(other, tensors, state)
    assert (other.state.batches.micro, other.state.batches.evaluation) == (2, 64)
    del state["batches"]  # as a version before there was such a thing wrote it
    third = make_run(ARRAYS)
    checkpoint.restore(third, tensors, state)
    assert (third.state.batches.micro, third.state.batches.evaluation) == (None, 256)


def test_what_a_run_takes_of_a_gpu_is_told_every_two_seconds_and_of_a_cpu_never(tmp_path: Path) -> None:
    training = Training(make_run(ARRAYS), Retention(tmp_path))
    assert list(training._memory(0.0)) == []
    training.run.device = torch.device("cuda")  # torch answers zeros where there is none
    told = [[type(event) for event in training._memory(at)] for at in (10.0, 11.9, 12.0, 13.0)]
    assert told == [[DeviceMemory], [], [DeviceMemory], []]
    [event] = training._memory(20.0)
    assert set(event.memory) == {"allocated", "reserved", "peak"}
