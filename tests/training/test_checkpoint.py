"""Checkpoints: a run that was broken off goes on as if nothing had happened, and no half of one is ever taken up."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from safetensors.torch import load_file

from services.errors import CheckpointCorrupt
from services.training import checkpoint
from services.training.files import npz
from services.training.files.npz import Arrays
from services.training.loop import Run, fit
from services.training.messages import NEWEST
from tests import forking
from tests.properties import examples
from tests.training.building import (
    TIMES,
    classes,
    document,
    events,
    make_run,
    names_in,
    of_many_lengths,
    same,
    timeless,
    trained,
    weights_of,
)

ROOT = Path(__file__).parents[2]

# Carries out the orders given, one after the other, in a process of its own, and tells what happens. A byte on its
# standard input lets it go on from a checkpoint to the next, so that it cannot have ended when it is to be killed.
PROGRAM = """
import json, sys, torch
from tests.training.building import events
torch.set_num_threads(1)
for order in json.loads(sys.argv[1]):
    wait = order.pop("wait", False)
    for event in events(order):
        print(json.dumps(event), flush=True)
        if event["event"] == "checkpoint" and wait:
            sys.stdin.read(1)
"""

SPECS: dict[str, dict[str, Any]] = {
    "rnn": {
        "architecture": {
            "cell": "rnn",
            "num_layers": 2,
            "dropout": 0.3,
            "bidirectional": True,
            "head_dropout": 0.2,
            "batch_norm": True,
        },
        "training": {
            "lr_schedule": {"name": "plateau", "patience": 0, "threshold": 0.9, "factor": 0.7},
            "early_stopping": {"patience": 3, "min_delta": 10.0},  # ends it after the fourth epoch
        },
    },
    "lstm": {
        "architecture": {"cell": "lstm", "num_layers": 2, "dropout": 0.3, "head_dropout": 0.2, "pooling": "final"},
        "training": {"lr_schedule": {"name": "cosine", "warmup_steps": 4}, "epochs": 4},
    },
    "gru": {
        "architecture": {"cell": "gru", "num_layers": 2, "dropout": 0.3, "head_dropout": 0.2, "pooling": "attention"},
        "training": {
            "lr_schedule": "one_cycle",
            "optimizer": {"name": "adamw", "lr": 0.02},
            "early_stopping": {"patience": 10},
        },
    },
    "sgd": {"training": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}}},
    "plain sgd": {"training": {"optimizer": {"name": "sgd", "lr": 0.1}}},
    "rmsprop": {"training": {"optimizer": {"name": "rmsprop", "lr": 0.01, "momentum": 0.5}, "best_by": "accuracy"}},
    "fp16": {
        "architecture": {"num_layers": 2, "dropout": 0.3},
        "training": {"precision": "fp16", "max_grad_norm": 0.2},
    },
    "bf16": {"architecture": {"cell": "lstm"}, "training": {"precision": "bf16"}},
}


def spec_of(name: str, **changes: Any) -> dict[str, Any]:
    """24 training samples of many lengths in batches of 4, two of them an update: 3 updates an epoch."""
    chosen = SPECS[name]
    return document(
        architecture=chosen.get("architecture", {}),
        training={"epochs": 6, "accumulation_steps": 2} | chosen["training"],
        data={"scaling": "standard"},
        checkpoints={"every_seconds": None, "keep_last": 100},
        **changes,
    )


def sequences() -> Arrays:
    return of_many_lengths(classes(32))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sequences as a file."""
    path = tmp_path_factory.mktemp("data") / "some.npz"
    npz.write(path, sequences())
    return path


@pytest.fixture
def order(data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A factory of orders to train one of SPECS in a folder of this test."""

    def make(name: str, folder: str, resume: str | None = None, **changes: Any) -> dict[str, Any]:
        directory = str(tmp_path / folder)
        return {"spec": spec_of(name, **changes), "data": str(data), "directory": directory, "resume": resume}

    return make


def carry_out(order: dict[str, Any], *, updates: int | None = None) -> list[dict[str, Any]]:
    """Follows an order; after so many updates it is stopped, and leaves a checkpoint."""
    asked = itertools.count(1)
    return list(events(order, lambda: "drain" if next(asked) == updates else None))


def in_a_process_of_its_own(*orders: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return forking.run(
        [sys.executable, "-c", PROGRAM, json.dumps(orders)],
        torch=True, cwd=ROOT, check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def outcome(order: dict[str, Any]) -> tuple[bytes, dict[str, Any], list[dict[str, Any]]]:
    """What a run leaves behind, less what the clock wrote: the model's bytes, its card, its history."""
    directory = Path(order["directory"])
    card = json.loads((directory / "model.json").read_text())
    del card["spec"]["checkpoints"]
    history = json.loads((directory / "history.json").read_text())["epochs"]
    metrics = {key: value for key, value in card["metrics"].items() if not key.endswith(TIMES)}
    return (directory / "model.safetensors").read_bytes(), card | {"metrics": metrics}, timeless(history)


def test_a_run_that_was_broken_off_and_resumed_equals_an_unbroken_one_bit_for_bit(
    order: Callable[..., dict[str, Any]],
) -> None:
    places = [(name, updates) for name in ("rnn", "lstm", "gru") for updates in (5, 6)]  # an epoch has 3
    broken = {place: order(place[0], f"{place[0]}-{place[1]}", resume=NEWEST) for place in places}
    for (_, updates), one in broken.items():
        assert carry_out(one | {"resume": None}, updates=updates)[-1] == {"event": "stopped", "reason": "drain"}
    in_a_process_of_its_own(*broken.values())
    lengths = {}
    for name in ("rnn", "lstm", "gru"):
        unbroken = order(name, name)
        carry_out(unbroken)
        lengths[name] = len(outcome(unbroken)[2])
        for updates in (5, 6):
            assert outcome(broken[name, updates]) == outcome(unbroken), f"{name} after {updates} updates"
    assert lengths == {"rnn": 4, "lstm": 4, "gru": 6}  # the first stopped early


@pytest.mark.parametrize("name", ["sgd", "plain sgd", "rmsprop", "fp16", "bf16"])
@pytest.mark.parametrize("updates", [3, 5])
def test_every_optimizer_and_precision_goes_on_exactly(
    name: str, updates: int, order: Callable[..., dict[str, Any]]
) -> None:
    unbroken, broken = order(name, "unbroken"), order(name, "broken")
    carry_out(unbroken)
    carry_out(broken, updates=updates)
    torch.manual_seed(12345)  # what is left in the process is of no use
    carry_out(broken | {"resume": NEWEST})
    assert outcome(broken) == outcome(unbroken)


def test_a_run_may_be_broken_off_after_every_single_update(order: Callable[..., dict[str, Any]]) -> None:
    unbroken, broken = order("rnn", "unbroken"), order("rnn", "broken")
    carry_out(unbroken)
    for _ in range(12):
        told = carry_out(broken | {"resume": NEWEST}, updates=1)
    assert told[-1]["event"] == "finished"
    assert outcome(broken) == outcome(unbroken)


@st.composite
def specs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    """Whatever goes together for three classes."""

    def one_of(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    layers = one_of(1, 2, 3)
    return {
        "architecture": {
            "cell": one_of("rnn", "lstm", "gru"),
            "num_layers": layers,
            "dropout": one_of(0.0, 0.4) if layers > 1 else 0.0,
            "bidirectional": one_of(True, False),
            "pooling": one_of("last", "final", "mean", "max", "attention"),
            "batch_norm": one_of(True, False),
            "head_dropout": one_of(0.0, 0.5),
            "init": one_of("default", "xavier", "orthogonal", "kaiming"),
        },
        "training": {
            "epochs": 2,
            "batch_size": one_of(2, 4, 100),
            "accumulation_steps": one_of(1, 3),
            "loss": one_of("cross_entropy", "mse", {"name": "cross_entropy", "class_weights": "balanced"}),
            "optimizer": one_of("adam", "adamw", "sgd", "rmsprop"),
            "max_grad_norm": one_of(None, 0.1),
            "max_grad_value": one_of(None, 0.1),
            "lr_schedule": one_of("constant", "step", "cosine", "one_cycle", "plateau"),
            "early_stopping": one_of(None, {"patience": 1}),
            "precision": one_of("float32", "bf16", "fp16"),
        },
        "data": {"scaling": one_of("none", "standard", "minmax"), "bucketing": one_of(True, False)},
    }


@examples(8, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.booleans(), st.integers(1, 8))
def test_whatever_a_spec_says_it_trains_and_goes_on_exactly(spec: dict[str, Any], full: bool, updates: int) -> None:
    arrays = classes(20) if full else of_many_lengths(classes(20))
    run = make_run(arrays, **spec)
    with tempfile.TemporaryDirectory() as folder:
        for _ in fit(run):
            if run.state.step == min(updates, run.steps_per_epoch):
                checkpoint.save(run, Path(folder))
        resumed = make_run(arrays, **spec)
        torch.manual_seed(12345)
        assert checkpoint.resume(resumed, Path(folder)) is not None
    trained(resumed)
    assert timeless(resumed.state.history) == timeless(run.state.history)
    assert same(weights_of(resumed), weights_of(run))


def test_a_run_killed_at_a_random_moment_and_resumed_equals_an_unbroken_one(
    order: Callable[..., dict[str, Any]],
) -> None:
    often = {"checkpoints": {"every_steps": 1, "every_seconds": None, "keep_last": 2}}
    unbroken, killed = order("rnn", "unbroken"), order("rnn", "killed")
    carry_out(unbroken)
    killed["spec"] |= often
    seen = random.randint(1, 8)
    with forking.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps([killed | {"wait": True}])],
        torch=True, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("." * (seen + 2))  # it may be up to two checkpoints further on by then
        process.stdin.flush()
        checkpoints = (line for line in process.stdout if '"event": "checkpoint"' in line)
        for _ in range(seen):
            next(checkpoints)
        process.kill()
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    told = carry_out(killed | {"resume": NEWEST})
    assert told[0]["resumed_from"]["step"] in range(seen, seen + 4)
    assert outcome(killed) == outcome(unbroken), f"killed after {seen} checkpoints"
    names = {path.name for path in Path(killed["directory"]).glob("checkpoint-*")}
    assert {Path(name).stem + suffix for name in names for suffix in (".json", ".safetensors")} == names


def test_saving_often_changes_nothing(order: Callable[..., dict[str, Any]]) -> None:
    seldom, often = order("rnn", "seldom"), order("rnn", "often")
    often["spec"]["checkpoints"] = {"every_steps": 1, "every_seconds": 1e-6, "every_epochs": 1, "keep_last": 1}
    carry_out(seldom)
    carry_out(often)
    assert outcome(often) == outcome(seldom)


def test_a_run_that_had_finished_finishes_again(order: Callable[..., dict[str, Any]]) -> None:
    first = order("gru", "first")
    carry_out(first)
    before = outcome(first)
    told = carry_out(first | {"resume": NEWEST})
    first_event, *notes, last_event = (event["event"] for event in told)
    assert (first_event, set(notes) - {"note"}, last_event) == ("started", set(), "finished")
    assert outcome(first) == before


def test_the_loss_scale_and_the_counts_of_stopping_come_back(tmp_path: Path) -> None:
    def fresh() -> Run:
        return make_run(
            training={
                "precision": "fp16",
                "epochs": 9,
                "early_stopping": {"patience": 5, "min_delta": 10.0},
                "lr_schedule": {"name": "plateau", "patience": 3, "threshold": 0.9},
            }
        )

    run = fresh()
    loop = fit(run)
    for _ in range(12):
        next(loop)
    assert run.scaler is not None
    run.scaler.update(512.0)
    checkpoint.save(run, tmp_path)
    other = fresh()
    assert checkpoint.resume(other, tmp_path) == tmp_path / "checkpoint-000000012.json"
    assert other.scaler is not None
    assert other.scaler.state_dict() == run.scaler.state_dict()
    assert (other.state.stopping.bad_epochs, other.state.stopping.best) == (1, run.state.stopping.best)
    assert other.state.plateau == run.state.plateau
    assert (other.state.plateau.bad_epochs, other.state.plateau.best) == (1, run.state.plateau.best)
    assert (other.state.epoch, other.state.step, other.state.steps_in_epoch) == (2, 12, 2)
    assert other.state.best is not None
    assert run.state.best is not None
    assert (other.state.best.epoch, other.state.best.value) == (run.state.best.epoch, run.state.best.value)
    assert same(other.state.best.weights, run.state.best.weights)
    assert other.state.history == run.state.history
    assert other.state.elapsed > 0


def test_numbers_that_are_not_finite_are_kept_as_they_are(tmp_path: Path) -> None:
    run = make_run(training={"early_stopping": {}, "lr_schedule": "plateau"})
    loop = fit(run)
    for _ in range(5):
        next(loop)
    run.state.history[0] |= {"validation_loss": None}  # as an epoch has it whose loss is not finite
    assert run.state.best is not None
    run.state.best.value = run.state.stopping.best = run.state.plateau.best = float("inf")
    checkpoint.save(run, tmp_path)
    other = make_run(training={"early_stopping": {}, "lr_schedule": "plateau"})
    checkpoint.load_into(other, tmp_path / "checkpoint-000000005.json")
    assert repr(other.state.history) == repr(run.state.history)
    assert other.state.best is not None
    assert other.state.best.value == other.state.stopping.best == other.state.plateau.best == float("inf")


# ---- damage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with checkpoints after updates 3 and 7 of a small run of 5 updates an epoch."""
    run = make_run()
    for _ in fit(run):
        if run.state.step in (3, 7):
            checkpoint.save(run, tmp_path)
        if run.state.step == 7:
            break
    return tmp_path


OLDER, NEWER = "checkpoint-000000003", "checkpoint-000000007"


def resumed_at(directory: Path, **options: Any) -> int | None:
    """The update at which a fresh run goes on."""
    run = make_run()
    path = checkpoint.resume(run, directory, **options)
    if path is None:
        return None
    assert run.state.step == checkpoint.step_of(path)
    return run.state.step


def test_the_newest_is_taken_up(saved: Path) -> None:
    assert [path.stem for path in checkpoint.newest_first(saved)] == [NEWER, OLDER]
    assert resumed_at(saved) == 7
    assert resumed_at(saved, at_most=6) == 3
    assert resumed_at(saved, at_most=2) is None  # rather all of the training again than a gap in the records


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def garbled(path: Path) -> None:
    path.write_bytes(os.urandom(500))


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def another_document(path: Path) -> None:
    path.write_text("[1, 2, 3]")


def without_a_hash(path: Path) -> None:
    path.write_text('{"format": 1}')


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def one_digit_on(path: Path) -> None:
    text = path.read_text()
    assert '"epoch": 1' in text
    path.write_text(text.replace('"epoch": 1', '"epoch": 2', 1))


DAMAGE = [truncated, emptied, zeroed, garbled, lengthened, removed, a_folder, another_document, without_a_hash]


@pytest.mark.parametrize("damage", [*DAMAGE, one_digit_on])
def test_a_damaged_record_is_noticed_and_the_one_before_serves(damage: Callable[[Path], None], saved: Path) -> None:
    damage(saved / f"{NEWER}.json")
    with pytest.raises(CheckpointCorrupt, match=NEWER):
        checkpoint.load_into(make_run(), saved / f"{NEWER}.json")
    assert resumed_at(saved) == 3


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors_are_noticed_and_the_one_before_serves(damage: Callable[[Path], None], saved: Path) -> None:
    damage(saved / f"{NEWER}.safetensors")
    with pytest.raises(CheckpointCorrupt, match=NEWER):
        checkpoint.load_into(make_run(), saved / f"{NEWER}.json")
    assert resumed_at(saved) == 3


def means_the_same(spoilt: bytes, whole: bytes) -> bool:
    """Whether a text says what it said, as 1E-05 does for 1e-05."""
    try:
        return bool(json.loads(spoilt) == json.loads(whole))
    except ValueError:
        return False


def test_any_single_flipped_bit_is_noticed(saved: Path) -> None:
    run = make_run()
    for suffix in (".json", ".safetensors"):
        path = (saved / NEWER).with_suffix(suffix)
        whole = path.read_bytes()
        for position in random.sample(range(len(whole)), 60):
            spoilt = bytearray(whole)
            spoilt[position] ^= 1 << random.randrange(8)
            if means_the_same(spoilt, whole):
                continue
            path.write_bytes(spoilt)
            with pytest.raises(CheckpointCorrupt):
                checkpoint.load_into(run, saved / f"{NEWER}.json")
        path.write_bytes(whole)
    checkpoint.load_into(run, saved / f"{NEWER}.json")


def test_a_damaged_checkpoint_leaves_the_run_as_it_was(saved: Path) -> None:
    run = make_run()
    before = weights_of(run)
    truncated(saved / f"{NEWER}.safetensors")
    with pytest.raises(CheckpointCorrupt):
        checkpoint.load_into(run, saved / f"{NEWER}.json")
    assert same(weights_of(run), before)
    assert (run.state.step, run.state.epoch, run.state.history) == (0, 0, [])


def test_when_all_are_damaged_there_is_none(saved: Path) -> None:
    for path in saved.glob("*.json"):
        truncated(path)
    assert resumed_at(saved) is None
    assert resumed_at(saved / "nowhere") is None


def test_a_checkpoint_of_another_spec_is_refused(saved: Path) -> None:
    for change in (
        {"training": {"optimizer": {"name": "adam", "lr": 0.02}}},
        {"training": {"seed": 1}},
        {"architecture": {"head_dropout": 0.1}},
        {"data": {"split": {"seed": 1}}},
    ):
        with pytest.raises(CheckpointCorrupt, match="another spec"):
            checkpoint.load_into(make_run(**change), saved / f"{NEWER}.json")


def test_names_limits_and_habits_of_saving_do_not_make_another_spec(saved: Path) -> None:
    run = make_run(
        name="other", tags={"a": "b"}, queue="q", priority=5, limits={"max_retries": 9}, checkpoints={"every_steps": 1}
    )
    checkpoint.load_into(run, saved / f"{NEWER}.json")
    assert run.state.step == 7


# ---- on disk


def test_a_checkpoint_is_two_files_named_by_the_update_and_told_with_their_hashes(tmp_path: Path) -> None:
    run = make_run()
    next(fit(run))
    told = checkpoint.save(run, tmp_path / "deep" / "er")
    files = sorted((tmp_path / "deep" / "er").glob("checkpoint-*"))
    assert [path.name for path in files] == ["checkpoint-000000001.json", "checkpoint-000000001.safetensors"]
    assert (told.step, told.epoch, told.best) == (1, 0, False)
    for file, path in zip(told.files, files, strict=True):
        assert (file.name, file.bytes) == (path.name, path.stat().st_size)
        assert file.sha256 == _sha256(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_tensors_are_plain_safetensors_with_torchs_names(saved: Path) -> None:
    tensors = load_file(saved / f"{NEWER}.safetensors")
    assert tensors["model.rnn.weight_ih_l0"].shape == (15, 3)
    assert {"model.head.weight", "best.head.weight", "random.cpu", "optimizer.0.exp_avg"} <= tensors.keys()
    assert tensors["epoch.reports"].shape == (2, 3)


def test_best_is_what_was_taken_at_the_end_of_the_best_epoch_only(tmp_path: Path) -> None:
    run = make_run(training={"epochs": 2, "optimizer": {"name": "adam", "lr": 1e-4}})
    saved = [checkpoint.save(run, tmp_path) for _ in fit(run)]
    assert run.state.best is not None
    assert [s.step for s in saved if s.best] == [5, 10][: run.state.best.epoch]


def saved_at(step: int, best: bool = False) -> checkpoint.Saved:
    blank = checkpoint.File("", 0, "")
    return checkpoint.Saved(step, 0, best, (blank, blank))


def test_the_last_few_and_the_newest_best_are_kept() -> None:
    kept = [saved_at(1), saved_at(2, best=True), saved_at(3, best=True), saved_at(4), saved_at(5)]
    assert [s.step for s in checkpoint.superfluous(kept, 1)] == [1, 2, 4]
    assert [s.step for s in checkpoint.superfluous(kept, 3)] == [1, 2]
    assert checkpoint.superfluous(kept[3:], 2) == []


def test_what_lies_beyond_an_update_and_what_is_half_written_is_discarded(saved: Path) -> None:
    strays = [
        "checkpoint-000000004.safetensors",
        f"{NEWER}.json.part",
        "model.onnx.part",
        "README.md.part",
        "loss.svg.part",
    ]
    others = ["notes.part", "model.json", "history.json", "checkpoint-old.json"]
    for name in (*strays, *others):
        (saved / name).write_text("x")
    checkpoint.discard_after(saved, 3)
    names = names_in(saved)
    assert names == {f"{OLDER}.json", f"{OLDER}.safetensors", *others}
    checkpoint.discard_after(saved, -1)
    assert names_in(saved) == set(others)
    checkpoint.discard_after(saved / "nowhere", 0)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond so many bytes: a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("refused", [".safetensors", ".json", ".jsonl"])
def test_a_save_that_the_disk_refuses_leaves_the_older_one_and_nothing_else(refused: str, tmp_path: Path) -> None:
    run = make_run(training={"epochs": 100})
    loop = fit(run)
    next(loop)
    first = checkpoint.save(run, tmp_path)
    next(loop)
    if refused == ".jsonl":
        run.state.history = [{"epoch": 1, "train_loss": 0.5}] * 2000
    if refused == ".json":
        run.data = replace(run.data, classes=["a long label"] * 4000)  # a record longer than the tensors
    limit = 2000 if refused == ".safetensors" else 40_000
    with files_of_at_most(limit), pytest.raises(OSError, match="File too large"):
        checkpoint.save(run, tmp_path)
    assert names_in(tmp_path) == {file.name for file in first.files}
    other = make_run(training={"epochs": 100})
    assert checkpoint.resume(other, tmp_path) is not None
    assert other.state.step == 1
    second = checkpoint.save(run, tmp_path)  # there is room again
    assert names_in(tmp_path) == {file.name for file in (*first.files, *second.files)}


def test_a_sync_that_fails_is_a_save_that_failed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    checkpoint.load_into(run, saved / f"{NEWER}.json")
    next(fit(run))

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            checkpoint.save(run, saved)
    assert len(names_in(saved)) == 4
    assert resumed_at(saved) == 7


def test_a_folder_that_is_a_file_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    run = make_run()
    next(fit(run))
    with pytest.raises(OSError, match="exists"):
        checkpoint.save(run, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_checkpoint_in_the_middle_of_an_epoch_does_not_count_its_updates_twice(saved: Path) -> None:
    run, unbroken = make_run(), make_run()
    checkpoint.load_into(run, saved / f"{NEWER}.json")
    records = trained(run)
    assert timeless(run.state.history) == timeless(trained(unbroken))
    assert [record["epoch"] for record in records] == [2, 3]
    assert np.isfinite(records[0]["grad_norm_mean"])


def test_nothing_is_ever_pickled() -> None:
    pickling = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b|torch\.(save|load)\(|allow_pickle=True"
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("services", "worker", "api", "client")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text().splitlines()
        if pickling.search(line)
    ]
    assert found == []
