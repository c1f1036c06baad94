"""The learning rate against torch's own schedulers, stepped through a whole run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from services.training.schedule import PlateauState, learning_rate
from services.training.spec.fields import Plateau, Training

EPOCHS, STEPS, LR = 6, 5, 0.2
TOTAL = EPOCHS * STEPS


def rates(named: Any, total: int = TOTAL, steps: int = STEPS, lr: float = LR) -> list[float]:
    """The rate of every update of a run."""
    schedule = Training.model_validate({"lr_schedule": named}).lr_schedule
    plateau = PlateauState()
    return [
        learning_rate(schedule, lr, step=step, epoch=step // steps + 1, total_steps=total, plateau=plateau)
        for step in range(total)
    ]


def torchs(make: Any, total: int = TOTAL, lr: float = LR) -> list[float]:
    """The rate of every update under one of torch's schedulers, stepped after each."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    found = []
    for step in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            scheduler.step()
    return found


def test_constant_is_constant() -> None:
    assert rates("constant") == [LR] * TOTAL


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.5), (2, 0.1), (4, 0.9), (100, 0.5)])
def test_step_is_torchs_step_lr(step_size: int, gamma: float) -> None:
    by_epoch = torchs(lambda optimizer: lr_scheduler.StepLR(optimizer, step_size, gamma), total=EPOCHS)
    expected = [rate for rate in by_epoch for _ in range(STEPS)]
    assert rates({"name": "step", "step_size": step_size, "gamma": gamma}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("min_lr", [0.0, 0.05])
def test_cosine_is_torchs_cosine_annealing_update_by_update(min_lr: float) -> None:
    expected = torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, TOTAL, eta_min=min_lr))
    found = rates({"name": "cosine", "min_lr": min_lr})
    assert found == pytest.approx(expected, rel=1e-9)
    closed = [min_lr + (LR - min_lr) * (1 + math.cos(math.pi * step / TOTAL)) / 2 for step in range(TOTAL)]
    assert found == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize(
    ("total", "pct_start", "div", "final"),
    [(30, 0.3, 25.0, 1e4), (30, 0.5, 10.0, 100.0), (7, 0.45, 5.0, 10.0), (2, 0.9, 2.0, 2.0)],
)
def test_one_cycle_is_torchs(total: int, pct_start: float, div: float, final: float) -> None:
    expected = torchs(
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, LR, total_steps=total, pct_start=pct_start, div_factor=div, final_div_factor=final,
            cycle_momentum=False,
        ),
        total=total,
    )  # fmt: skip
    named = {"name": "one_cycle", "pct_start": pct_start, "div_factor": div, "final_div_factor": final}
    assert rates(named, total=total) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_bears_runs_that_are_hardly_one(total: int) -> None:
    found = rates("one_cycle", total=total)
    assert all(0 < rate <= LR for rate in found)


LOSSES = [1.0, 0.9, 0.9, 0.91, 0.95, 0.9, 0.5, 0.49999, 0.49998, 0.6, 0.6, 0.6, 0.6, 0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(("factor", "patience", "threshold"), [(0.5, 1, 1e-4), (0.1, 0, 0.0), (0.3, 3, 0.2)])
def test_plateau_is_torchs_reduce_on_plateau(factor: float, patience: int, threshold: float) -> None:
    schedule = Plateau(factor=factor, patience=patience, threshold=threshold, min_lr=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=threshold, min_lr=0.01, eps=0.0
    )
    state, found, expected = PlateauState(), [], []
    for epoch, loss in enumerate(LOSSES, start=1):
        scheduler.step(loss)
        state.see(loss, schedule)
        found.append(learning_rate(schedule, LR, step=epoch, epoch=epoch, total_steps=99, plateau=state))
        expected.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected, rel=1e-12)
    assert len(set(found)) > 1


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "plateau"])
def test_a_warm_up_rises_in_equal_steps_and_then_the_schedule_has_its_way(name: str) -> None:
    found = rates({"name": name, "warmup_steps": 4})
    assert found[:4] == pytest.approx([LR * share for share in (0.25, 0.5, 0.75, 1.0)])
    assert found[4] == pytest.approx(LR)
    if name == "cosine":
        assert found[4:] == pytest.approx([LR * (1 + math.cos(math.pi * s / 26)) / 2 for s in range(26)])
    if name == "constant":
        assert set(found[4:]) == {LR}


def test_a_warm_up_longer_than_the_run_never_divides_by_zero() -> None:
    assert max(rates({"name": "cosine", "warmup_steps": 1000})) == pytest.approx(LR * TOTAL / 1000)
    assert len(rates({"name": "cosine", "warmup_steps": TOTAL})) == TOTAL
