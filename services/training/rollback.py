"""Going back after a divergence: to the end of the best epoch so far, or to the start, at a lower learning rate.

The place is a function of the run's history, whenever checkpoints were taken, and the random state from there on is one
of the seed and the number of rollbacks. So a run that is killed, before or after, goes on as one that is not.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from services.errors import Diverged
from services.training.loop import Run, watch


def roll_back(run: Run) -> bool:
    """Takes a run that has diverged back to where it was good, if its spec leaves it a rollback.

    Returns whether it did.
    """
    on, state = run.training.on_divergence, run.state
    if on is None or not on.rollback or state.rollbacks.count >= on.at_most:
        return False
    state.rollbacks.count += 1
    state.rollbacks.lr_factor *= on.lr_factor
    if state.best is not None and not math.isfinite(state.best.value):
        state.best = None  # the first epoch is the best until there is another, and an infinite loss is no good one
    run.model.load_state_dict(state.best.weights if state.best else run.first_model().state_dict())
    run.begin_optimizing()
    _cut_back(run, state.best.epoch if state.best else 0)
    torch.manual_seed(_seed(run.training.seed, state.rollbacks.count))
    return True


def _cut_back(run: Run, epoch: int) -> None:
    """Forgets what came after the end of an epoch."""
    run.state = run.state.gone_back(epoch, run.fold.steps_before + epoch * run.steps_per_epoch)
    for record in run.state.history:
        watch(run, record)


def _seed(seed: int, rollbacks: int) -> int:
    """Another one for each rollback, unlike those that people choose."""
    return int(np.random.SeedSequence([seed, rollbacks]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def sentence_of(error: Diverged, run: Run) -> str:
    """The sentence that reports a rollback."""
    on = run.training.on_divergence
    assert on is not None, "it was rolled back"  # noqa: S101
    place = f"from the end of epoch {run.state.epoch} (step {run.state.step})" if run.state.epoch else "from the start"
    return (
        f"{error.summary} It goes on {place} with learning rates multiplied by {run.state.rollbacks.lr_factor:g} "
        f"(rollback {run.state.rollbacks.count} of {on.at_most})."
    )


def tell_rollbacks(error: Diverged, run: Run) -> None:
    """Adds to the message of a divergence how often the run was rolled back before it."""
    if run.state.rollbacks.count:
        times = "once" if run.state.rollbacks.count == 1 else f"{run.state.rollbacks.count} times"
        rate = f"{run.state.rollbacks.lr_factor:g} times the spec's learning rate"
        error.add(f"The run was rolled back {times} before, at last to {rate}.")
