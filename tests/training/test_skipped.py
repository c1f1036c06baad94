"""Updates that are skipped, in fp16, leave an optimizer as if they had never been."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from services.errors import Diverged
from services.training import checkpoint
from services.training.data import MiniBatch, prepare
from services.training.files.npz import Arrays
from services.training.loop import Run, Step, Update, autograd_step, fit
from services.training.rollback import roll_back
from tests.training.building import make_run, reports_of, same, spec_for, trained, values, weights_of

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam", "lr": 0.02, "weight_decay": 1e-3},
    "adamw": {"name": "adamw", "lr": 0.02},
    "sgd": {"name": "sgd", "lr": 0.1},
    "momentum": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "nesterov": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "rmsprop": {"name": "rmsprop", "lr": 0.01},
    "rmsprop momentum": {"name": "rmsprop", "lr": 0.01, "momentum": 0.5},
}


@pytest.fixture(autouse=True)
def _memory_is_dirty() -> Iterator[None]:
    """Memory that nobody has written holds NaN (torch.utils.deterministic.fill_uninitialized_memory)."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def half(optimizer: str, step: Step | None = None, **training: Any) -> Run:
    chosen = {"precision": "fp16", "optimizer": OPTIMIZERS[optimizer], **training}
    spec = spec_for(values(24), training=chosen)
    return Run(spec, prepare(values(24), spec), step=step)


def overflow(run: Run, updates: int) -> None:
    """Lets the gradients of the run's first updates overflow; their losses are finite."""
    loss = run.loss
    run.loss = lambda outputs, y: loss(outputs, y) * (1e36 if run.state.step < updates else 1.0)


def passing_over(updates: int) -> Step:
    """A step that lets the run's first updates never reach the optimizer."""

    def step(run: Run, batches: list[MiniBatch]) -> Update:
        if run.state.step >= updates:
            return autograd_step(run, batches)
        (batch,) = batches
        with run.autocast():
            outputs = run.model(batch.x, batch.lengths).float()
        assert run.scaler is not None
        run.scaler.scale(outputs.sum())  # type: ignore[no-untyped-call]
        run.scaler.update(run.scaler.get_scale() / 2)
        return Update(torch.zeros(3), outputs.detach())

    return step


def optimizer_of(run: Run) -> dict[str, Tensor]:
    """What the optimizer remembers, by parameter and name."""
    state = run.optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value.clone()
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("skipped", [1, 3, 7])
def test_an_optimizer_whose_first_updates_were_skipped_is_one_that_never_saw_them(optimizer: str, skipped: int) -> None:
    one, other = half(optimizer), half(optimizer, step=passing_over(skipped))
    overflow(one, skipped)
    for number, _ in enumerate(zip(fit(one), fit(other), strict=True), 1):
        if number <= skipped:
            assert all(bool(value.isfinite().all()) for value in optimizer_of(one).values())
            continue
        assert same(weights_of(one), weights_of(other)), number
        assert same(optimizer_of(one), optimizer_of(other)), number
    assert one.state.step == other.state.step == 15
    assert one.scaler is not None
    assert other.scaler is not None
    assert one.scaler.get_scale() == other.scaler.get_scale() <= 65536.0 / 2**skipped


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("saved_at", [0, 1, 2, 4])
def test_a_run_resumed_amid_skipped_updates_is_an_unbroken_one(optimizer: str, saved_at: int, tmp_path: Path) -> None:
    unbroken, first, second = half(optimizer), half(optimizer), half(optimizer)
    for run in (unbroken, first, second):
        overflow(run, 3)
    trained(unbroken)
    for _ in zip(range(saved_at), fit(first), strict=False):
        pass
    checkpoint.save(first, tmp_path)
    checkpoint.load_into(second, next(tmp_path.glob("*.json")))
    trained(second)
    assert second.state.step == unbroken.state.step == 15
    assert same(weights_of(second), weights_of(unbroken))
    assert same(optimizer_of(second), optimizer_of(unbroken))


def test_a_checkpoint_that_holds_no_momentum_is_gone_on_from(tmp_path: Path) -> None:
    unbroken, first, second = half("momentum"), half("momentum"), half("momentum")
    first.optimizer.state.clear()  # as a version that wrote none did
    saved = checkpoint.save(first, tmp_path)
    checkpoint.load_into(second, tmp_path / saved.files[0].name)
    for run in (unbroken, second):
        overflow(run, 2)
        trained(run)
    assert same(weights_of(second), weights_of(unbroken))
    assert same(optimizer_of(second), optimizer_of(unbroken))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_was_rolled_back_begins_with_nothing_of_what_it_left(optimizer: str) -> None:
    run = half(optimizer, on_divergence={})
    loss = run.loss
    run.loss = lambda outputs, y: loss(outputs, y) * (1.0 if run.state.step < 3 else torch.nan)
    with pytest.raises(Diverged):
        trained(run)
    assert roll_back(run)
    assert all(not bool(value.any()) for value in optimizer_of(run).values())
    run.loss = loss
    overflow(run, 2)
    loop = fit(run)
    for _ in range(2):
        next(loop)
        assert all(not bool(value.any()) for value in optimizer_of(run).values())
    next(loop)
    assert all(bool(value.isfinite().all()) for value in optimizer_of(run).values())


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_a_regression_in_fp16_trains_near_float32_though_its_first_update_is_skipped(optimizer: str) -> None:
    arrays = values(64, columns=1)
    arrays = Arrays(x=arrays.x, lengths=arrays.lengths, y=arrays.y * 50)
    runs = [
        make_run(
            arrays,
            architecture={"hidden_size": 32},
            training={"precision": precision, "optimizer": {**OPTIMIZERS[optimizer], "lr": 1e-3}, "epochs": 6},
            data={"target_scaling": "none"},
        )
        for precision in ("float32", "fp16")
    ]
    next(fit(runs[1]))
    assert runs[1].scaler is not None
    assert runs[1].scaler.get_scale() == 32768.0
    whole, found = (reports_of(run)[:, 0].view(6, -1).mean(dim=1) for run in runs)
    torch.testing.assert_close(found, whole, rtol=0.02, atol=0)
    assert found[-1] < found[0]


def test_where_nothing_is_skipped_torch_makes_its_own_momentum() -> None:
    run = make_run(values(24), training={"optimizer": OPTIMIZERS["momentum"]})
    assert optimizer_of(run) == {}
    next(fit(run))
    assert len(optimizer_of(run)) == len(run.parameters)
