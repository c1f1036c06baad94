"""The learning rate as a function of where the run is: nothing of it needs saving but the plateau's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.training.spec.fields import LRSchedule, OneCycle, Plateau


@dataclass
class PlateauState:
    """What the plateau schedule remembers: the rate's present share, the best loss, and the epochs since."""

    share: float = 1.0
    best: float | None = None
    bad_epochs: int = 0

    def see(self, loss: float, schedule: Plateau) -> None:
        """Takes note of an epoch's loss, as torch's ReduceLROnPlateau does with a relative threshold."""
        if loss < (math.inf if self.best is None else self.best * (1.0 - schedule.threshold)):
            self.best, self.bad_epochs = loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > schedule.patience:
            self.share, self.bad_epochs = self.share * schedule.factor, 0


def learning_rate(
    schedule: LRSchedule, lr: float, *, step: int, epoch: int, total_steps: int, plateau: PlateauState
) -> float:
    """The rate of one update; steps count from 0 over the whole run, epochs from 1.

    step, cosine and one_cycle are torch's StepLR, CosineAnnealingLR (an update at a time, closed form) and OneCycleLR.
    """
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, lr, step, total_steps)
    if step < schedule.warmup_steps:
        return lr * (step + 1) / schedule.warmup_steps
    if schedule.name == "step":
        return lr * float(schedule.gamma ** ((epoch - 1) // schedule.step_size))
    if schedule.name == "cosine":
        rest = max(1, total_steps - schedule.warmup_steps)
        progress = min(1.0, (step - schedule.warmup_steps) / rest)
        return schedule.min_lr + (lr - schedule.min_lr) * (1.0 + math.cos(math.pi * progress)) / 2.0
    if isinstance(schedule, Plateau):
        return max(schedule.min_lr, lr * plateau.share)
    return lr


def _one_cycle(schedule: OneCycle, peak: float, step: int, total_steps: int) -> float:
    start = peak / schedule.div_factor
    end = start / schedule.final_div_factor
    top = schedule.pct_start * total_steps - 1.0
    if step <= top:
        return _cosine_between(start, peak, step / top if top > 0 else 1.0)
    return _cosine_between(peak, end, (step - top) / (total_steps - 1.0 - top))


def _cosine_between(first: float, last: float, progress: float) -> float:
    return last + (first - last) / 2.0 * (1.0 + math.cos(math.pi * progress))
