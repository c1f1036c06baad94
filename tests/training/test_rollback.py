"""Going back after a divergence: where to, with what, how often, and that it is the same run whenever it was killed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services import faults
from services.errors import Diverged
from services.training import checkpoint
from services.training.files import npz
from services.training.loop import Run, fit
from services.training.messages import NEWEST
from services.training.rollback import roll_back
from services.training.spec import parse
from tests.training.building import (
    document,
    events,
    make_run,
    names_in,
    same,
    timeless,
    trained,
    values,
    weights_of,
)

ARRAYS = values(40)  # 30 training samples: 8 updates an epoch
Event = dict[str, Any]


def spec(lr: float, *, lr_factor: float = 0.1, at_most: int = 2, **changes: Any) -> dict[str, Any]:
    """Warms up to a learning rate at which a network of relu without clipping cannot live, an epoch or some later."""
    return document(
        **{
            "architecture": {"cell": "rnn", "nonlinearity": "relu", "num_layers": 2, "dropout": 0.3},
            "training": {
                "epochs": 9,
                "max_grad_norm": None,
                "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.5},
                "lr_schedule": {"name": "cosine", "warmup_steps": 40},
                "on_divergence": {"lr_factor": lr_factor, "at_most": at_most},
            },
            "checkpoints": {"every_seconds": None, "every_steps": 3, "keep_last": 2},
        }
        | changes
    )


ONCE = spec(10.0)  # back to the end of an epoch
TWICE = spec(100.0)  # back to the start, and later to the end of an epoch
TOO_OFTEN = spec(100.0, lr_factor=0.9)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Event]:
    """A factory of orders to train in a folder of this test."""
    npz.write(tmp_path / "some.npz", ARRAYS)

    def make(spec: dict[str, Any], folder: str) -> Event:
        data = str(tmp_path / "some.npz")
        return {"spec": spec, "data": data, "directory": str(tmp_path / folder), "resume": None}

    return make


def of(kind: str, told: list[Event]) -> list[Event]:
    return [event for event in told if event["event"] == kind]


def outcome(order: Event) -> tuple[bytes, int, list[dict[str, Any]]]:
    """The model's bytes, how many rollbacks it took, and its history without the clock's part."""
    directory = Path(order["directory"])
    history = json.loads((directory / "history.json").read_text())["epochs"]
    card = json.loads((directory / "model.json").read_text())
    return (directory / "model.safetensors").read_bytes(), card["rollbacks"], timeless(history)


# ---- the run


def diverging(lr: float = 10.0, **training: Any) -> tuple[Run, Diverged]:
    """A run that has diverged after its best epoch."""
    chosen = spec(lr)
    run = make_run(ARRAYS, **chosen | {"training": chosen["training"] | training})
    with pytest.raises(Diverged) as caught:
        trained(run)
    return run, caught.value


def test_a_run_goes_back_to_its_best_epoch_with_all_that_hangs_on_it() -> None:
    watching: dict[str, Any] = {
        "early_stopping": {"patience": 20},
        "lr_schedule": {"name": "plateau", "patience": 0, "threshold": 0.5, "factor": 0.9, "warmup_steps": 40},
    }
    run, _ = diverging(15.0, **watching)
    best = run.state.best
    assert best is not None
    assert 0 < best.epoch < run.state.epoch
    history = list(run.state.history)
    assert roll_back(run)
    assert (run.state.epoch, run.state.step, run.state.steps_in_epoch) == (best.epoch, 8 * best.epoch, 0)
    assert run.state.history == history[: best.epoch]
    assert same(weights_of(run), best.weights)
    assert run.optimizer.state_dict()["state"] == {}
    assert (run.state.rollbacks.count, run.state.rollbacks.lr_factor) == (1, 0.1)

    until_then = make_run(ARRAYS, **spec(15.0) | {"training": spec(15.0)["training"] | watching})
    for epoch in fit(until_then):
        if epoch is not None and until_then.state.epoch == best.epoch:
            break
    assert run.state.plateau == until_then.state.plateau
    assert (run.state.stopping.best, run.state.stopping.bad_epochs) == (
        until_then.state.stopping.best,
        until_then.state.stopping.bad_epochs,
    )
    assert same(weights_of(run), weights_of(until_then))
    next(fit(run))
    next(loop := fit(until_then))
    assert run.optimizer.param_groups[0]["lr"] == 0.1 * until_then.optimizer.param_groups[0]["lr"]
    loop.close()  # type: ignore[attr-defined]


def test_without_a_best_epoch_a_run_goes_back_to_its_first_weights() -> None:
    run, _ = diverging(100.0)
    assert run.state.epoch == 0
    assert roll_back(run)
    assert (run.state.epoch, run.state.step, run.state.history, run.state.best) == (0, 0, [], None)
    assert same(weights_of(run), weights_of(make_run(ARRAYS, **spec(100.0))))


def test_an_epoch_of_infinite_loss_is_no_place_to_go_back_to() -> None:
    run, _ = diverging()
    assert run.state.best is not None
    run.state.best.value = math.inf
    assert roll_back(run)
    assert (run.state.epoch, run.state.best) == (0, None)


def test_each_rollback_draws_other_random_numbers_and_the_same_ones_for_the_same_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        run, _ = diverging(seed=seed)
        for _ in range(2):
            torch.rand(len(drawn))  # what was drawn on the way that is left does not matter
            assert roll_back(run)
            drawn.append(float(torch.rand(())))
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4
    assert not roll_back(run)  # two are all there are


def test_the_loss_scale_starts_anew() -> None:
    run = make_run(training={"precision": "fp16", "on_divergence": {}})
    for _ in range(3):
        next(fit(run))
    assert run.scaler is not None
    run.scaler.update(2.0**-20)
    assert roll_back(run)
    assert run.scaler.get_scale() == 65536.0


@pytest.mark.parametrize("on_divergence", [None, {"rollback": False}])
def test_a_run_that_is_to_end_is_not_rolled_back(on_divergence: dict[str, Any] | None) -> None:
    run = make_run(training={"on_divergence": on_divergence})
    before = weights_of(run)
    assert not roll_back(run)
    assert same(weights_of(run), before)


def test_a_rollback_that_is_never_needed_changes_nothing() -> None:
    with_it, without = make_run(training={"on_divergence": {}}), make_run()
    assert timeless(trained(with_it)) == timeless(trained(without))
    assert same(weights_of(with_it), weights_of(without))


# ---- the stream


def test_a_run_that_diverges_is_rolled_back_told_and_finishes(order: Callable[..., Event]) -> None:
    asked = order(ONCE, "job")
    stream = events(asked)
    told = list(itertools.takewhile(lambda event: event["event"] != "rolled_back", stream))
    reached = max(event["first_step"] + len(event["loss"]) - 1 for event in of("steps", told))
    before = names_in(Path(asked["directory"]))
    rest = list(stream)
    saved = rest[0]
    assert (saved["event"], saved["best"]) == ("checkpoint", True)
    assert saved["step"] < max(event["step"] for event in of("checkpoint", told))
    assert before & {f"checkpoint-{step:09d}.json" for step in range(saved["step"] + 1, reached + 1)}
    epochs = [event["record"]["epoch"] for event in of("epoch", rest)]
    assert epochs == list(range(saved["epoch"] + 1, 10))
    assert of("steps", rest)[0]["first_step"] == saved["step"] + 1
    assert rest[-1]["event"] == "finished"
    assert rest[-1]["result"]["rollbacks"] == outcome(asked)[1] == 1


def test_what_a_rollback_says(order: Callable[..., Event]) -> None:
    told = list(events(order(TWICE, "job")))
    first, second = of("rolled_back", told)
    assert first.keys() == {"event", "epoch", "step", "best", "message", "data"}
    assert (first["epoch"], first["step"]) == (0, 0)
    assert first["data"].keys() == {"rollback", "lr_factor", "diverged_at_step", "lr"}
    assert (first["data"]["rollback"], first["data"]["lr_factor"]) == (1, 0.1)
    assert second["data"]["rollback"] == 2
    assert second["data"]["lr_factor"] == pytest.approx(0.01)
    assert second["step"] == 8 * second["epoch"] > 0
    assert f"Training diverged at step {second['data']['diverged_at_step']} (epoch" in second["message"]
    assert f"It goes on from the end of epoch {second['epoch']} (step {second['step']})" in second["message"]
    assert second["message"].endswith("learning rates multiplied by 0.01 (rollback 2 of 2).")
    assert "It goes on from the start with" in first["message"]
    json.dumps(told, allow_nan=False)


def test_the_files_of_the_way_that_was_left_are_removed(order: Callable[..., Event]) -> None:
    asked = order(ONCE, "job")
    stream = events(asked)
    place = next(event for event in stream if event["event"] == "rolled_back")["step"]
    assert next(stream)["event"] == "checkpoint"
    kept = next(event for event in stream if event["event"] != "checkpoint_deleted")
    assert kept["event"] == "steps"
    steps = {checkpoint.step_of(path) for path in Path(asked["directory"]).glob("checkpoint-*")}
    assert max(steps) == place
    stream.close()  # type: ignore[attr-defined]


def test_when_rollbacks_are_used_up_the_run_has_diverged_and_keeps_its_last_good_weights(
    order: Callable[..., Event],
) -> None:
    asked = order(TOO_OFTEN, "job")
    told: list[Event] = []
    with pytest.raises(Diverged, match=r"rolled back 2 times before, at last to 0\.81 times the spec's") as caught:
        told.extend(events(asked))
    assert len(of("rolled_back", told)) == 2
    assert of("checkpoint", told)[-1]["step"] == caught.value.step - 1
    newest = checkpoint.newest_first(Path(asked["directory"]))[0]
    assert checkpoint.step_of(newest) == caught.value.step - 1
    weights = load_file(newest.with_suffix(".safetensors"))
    assert all(bool(torch.isfinite(tensor).all()) for name, tensor in weights.items() if name.startswith("model."))
    with pytest.raises(Diverged, match="rolled back 2 times"):  # nor does another attempt get more of them
        list(events(asked | {"resume": NEWEST}))


# ---- killed and resumed


class Killed(BaseException):
    """Stands for a death that no code sees coming."""


def killed_after(updates: int) -> Callable[[], None]:
    count = itertools.count(1)

    def stop() -> None:
        if next(count) == updates:
            raise Killed

    return stop


def updates_of(told: list[Event]) -> int:
    """All updates that were made, those that were left included but for the last few before each divergence."""
    return sum(len(event["loss"]) for event in of("steps", told))


@pytest.mark.parametrize("chosen", [ONCE, TWICE], ids=["once", "twice"])
def test_a_run_killed_at_any_update_goes_back_as_an_unbroken_one(
    chosen: dict[str, Any], order: Callable[..., Event]
) -> None:
    unbroken = order(chosen, "unbroken")
    told = list(events(unbroken))
    expected, all_updates = outcome(unbroken), updates_of(told)
    assert expected[1] == len(of("rolled_back", told)) > 0
    diverged = [event["data"]["diverged_at_step"] for event in of("rolled_back", told)]
    for updates in {4, diverged[0] - 1, diverged[0], diverged[0] + 5, diverged[-1] + 12, all_updates - 2}:
        broken = order(chosen, f"killed-{updates}")
        with pytest.raises(Killed):
            list(events(broken, killed_after(updates)))
        torch.manual_seed(12345)
        list(events(broken | {"resume": NEWEST}))
        assert outcome(broken) == expected, f"killed after {updates} updates"


def test_a_run_killed_again_and_again_goes_back_as_an_unbroken_one(order: Callable[..., Event]) -> None:
    unbroken, broken = order(TWICE, "unbroken"), order(TWICE, "killed")
    list(events(unbroken))
    ended = False
    for _ in range(100):
        try:
            list(events(broken | {"resume": NEWEST}, killed_after(7)))  # a checkpoint every third
        except Killed:
            continue
        ended = True
        break
    assert ended
    assert outcome(broken) == outcome(unbroken)


@pytest.mark.parametrize("when", ["told", "saved"])
def test_a_run_killed_as_it_goes_back_goes_back_again(when: str, order: Callable[..., Event]) -> None:
    unbroken, broken = order(TWICE, "unbroken"), order(TWICE, "killed")
    list(events(unbroken))
    stream = events(broken)
    for event in stream:
        if event["event"] == "rolled_back" and event["epoch"]:
            break
    if when == "saved":
        assert next(stream)["event"] == "checkpoint"
    stream.close()  # type: ignore[attr-defined]
    list(events(broken | {"resume": NEWEST}))
    assert outcome(broken) == outcome(unbroken)


@pytest.mark.parametrize("point", ["checkpoint.epochs_written", "checkpoint.tensors_written", "checkpoint.written"])
def test_a_run_killed_over_the_checkpoint_of_the_place_goes_back_again(point: str, order: Callable[..., Event]) -> None:
    chosen = ONCE | {"checkpoints": {"every_seconds": None, "every_epochs": 1, "keep_last": 1}}
    unbroken, broken = order(chosen, "unbroken"), order(chosen, "killed")
    list(events(unbroken))

    def die() -> None:
        raise Killed

    stream = events(broken)
    for event in stream:
        if event["event"] == "rolled_back":
            faults.arm(point, die)
            break
    with pytest.raises(Killed):
        next(stream)
    faults.disarm()
    list(events(broken | {"resume": NEWEST}))
    assert outcome(broken) == outcome(unbroken)


# ---- the spec


def test_a_spec_without_it_is_the_spec_that_it_was() -> None:
    """Checkpoints of versions that did not know the field are taken up still: this is the hash that one of them has."""
    assert checkpoint.spec_hash(make_run()) == "422aa03719c0445fc5112582da6dd164dbe261bcb38b7ee46a0b395f99723e71"


def test_a_spec_with_it_is_another() -> None:
    hashes = {
        checkpoint.spec_hash(make_run(training={"on_divergence": chosen}))
        for chosen in (None, {}, {"lr_factor": 0.1}, {"at_most": 3}, {"rollback": False})
    }
    assert len(hashes) == 5


def test_a_checkpoint_that_knows_no_rollbacks_is_taken_up(tmp_path: Path) -> None:
    run = make_run()
    next(fit(run))
    tensors, state = checkpoint.state_of(run)
    del state["rollbacks"]
    other = make_run()
    checkpoint.restore(other, tensors, state)
    assert (other.state.step, other.state.rollbacks.count, other.state.rollbacks.lr_factor) == (1, 0, 1.0)


def test_every_default_is_as_it_is_documented() -> None:
    assert parse(document()).training.on_divergence is None
    on = parse(document(training={"on_divergence": {}})).training.on_divergence
    assert on is not None
    assert (on.rollback, on.lr_factor, on.at_most) == (True, 0.5, 2)
