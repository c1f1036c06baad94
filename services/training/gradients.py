"""What the gradient is like inside a network: the norms of its parts, how far back in time it reaches, and which units
take part.

It is measured on one fixed small batch of the training split, the probe, with the weights as they are: in float32 and
without dropout. That draws no random number and changes nothing of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.training.bptt import Unrolled
from services.training.model import SequenceModel
from services.training.parts import MiniBatch, Part

Numbers = dict[str, float | int | None]
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Outputs, targets and weights to the mean loss."""

SEQUENCES = 32
"""Of the probe, at most."""
COST = 0.02
"""The share of the training's time that probes may take."""
STEPS_OF_A_PROBE = 2.0
"""A probe takes at most as long as so many training steps on a batch of as many time steps."""
STEPS_OF_A_SECOND_PASS = 1.0
"""What a second backward pass adds, where there is a loss at each step."""
FADED = 0.01
"""The gradient is lost where it is below this share of what it is at the last step."""
SATURATED = 0.99
"""tanh is saturated beyond this value: its slope is below 0.02."""
LAG = "gradient_at_lag_"


def rows_of(part: Part, at_most: int) -> NDArray[np.int64]:
    """The samples of the probe, at most so many: evenly spread over the split; of sequences that are read in windows
    the first window of each."""
    chosen = _sequences_of(part, at_most)
    return part.first_windows[chosen] if isinstance(part, Unrolled) else chosen


def _sequences_of(part: Part, at_most: int) -> NDArray[np.int64]:
    count = len(part.first_windows) if isinstance(part, Unrolled) else len(part)
    chosen = min(SEQUENCES, at_most, count)
    return np.arange(chosen, dtype=np.int64) * count // chosen


def interval(part: Part, batch_size: int, at_most: int) -> int:
    """A probe is made every so many epochs, so that probes take less than COST of the time.

    It follows from the lengths of the sequences alone, so that a resumed run probes at the same epochs. A batch of an
    epoch takes at least as long as its mean sequence, the probe as long as its longest one.
    """
    sizes = part.steps
    longest = int(sizes[_sequences_of(part, at_most)].max())
    if isinstance(part, Unrolled):
        longest = min(longest, part.length)
    passes = STEPS_OF_A_PROBE + (STEPS_OF_A_SECOND_PASS if part.by_step else 0.0)
    return math.ceil(passes * longest * min(batch_size, len(part)) / float(sizes.sum()) / COST)


def measured(model: SequenceModel, batch: MiniBatch, loss: Loss) -> Numbers:
    """The numbers of a model on a batch; None for one that is not defined. No gradient is left in the parameters.

    `grad_norm_*`: the norms of the gradient of the mean loss by part of the network. `gradient_*`: how far it reaches
    back in time (`reach_of`). `saturated_fraction`: the share of the top layer's outputs, at valid steps, that are
    beyond SATURATED; None for relu. `dead_units`: how many units of the top layer are 0 at all valid steps; None but
    for relu.
    """
    with torch.enable_grad(), _undisturbed(model):
        x = model.looked_up(batch.x)
        if not x.requires_grad:
            x = x.detach().requires_grad_()

        def answered() -> tuple[Tensor, Tensor]:
            outputs, final = model.recur(x, batch.lengths)
            pooled = model.pooled(outputs, final, batch.lengths)
            return model.answered(pooled, x, batch.lengths, batch.static), outputs.detach()

        answers, outputs = answered()
        by_step = model.architecture.pooling == "none"
        names, parameters = zip(*model.named_parameters(), strict=True)
        whole = loss(answers, batch.y, batch.weights)
        *gradients, of_input = torch.autograd.grad(whole, (*parameters, x), allow_unused=True)
        if by_step:  # each step has a loss of its own, and only that of the last one says how far it reaches
            last = _last_of_each(x, batch.lengths)
            answers, _ = answered()  # compiled layers give a gradient once
            weights = None if batch.weights is None else batch.weights[last]
            (of_input,) = torch.autograd.grad(loss(answers[last], batch.y[last], weights), x)
    found = _norms(dict(zip(names, gradients, strict=True)))
    found |= _reach(model, of_input, batch.lengths)
    return found | _units(model, outputs, batch.lengths)


@contextmanager
def _undisturbed(model: SequenceModel) -> Iterator[None]:
    """Evaluation mode, but for the recurrent layers, whose dropout is turned off instead: cuDNN has no backward pass in
    evaluation mode."""
    was_training, dropout = model.training, model.rnn.dropout
    model.eval()
    model.rnn.train()
    model.rnn.dropout = 0.0
    try:
        yield
    finally:
        model.rnn.dropout = dropout
        model.train(was_training)


def _last_of_each(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Where the last valid step of each sequence is among the valid steps of all."""
    if lengths is None:
        return torch.arange(1, len(x) + 1, device=x.device) * x.shape[1] - 1
    return lengths.cumsum(0) - 1


# ---- norms


def _norms(gradients: Mapping[str, Tensor | None]) -> Numbers:
    """By part: each matrix of the recurrent layers under torch's name of it, and the rest of the network by module."""
    parts: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        module, _, parameter = name.partition(".")
        if gradient is not None and module in ("rnn", "head", "attention", "embeddings"):
            parts.setdefault(parameter if module == "rnn" else module, []).append(gradient)
    kept = {part: each for part, each in parts.items() if not part.startswith("bias")}
    norms = torch.stack([torch.cat([one.flatten() for one in each]).norm() for each in kept.values()])
    return {f"grad_norm_{part}": _rounded(norm) for part, norm in zip(kept, norms.tolist(), strict=True)}


# ---- time


def _reach(model: SequenceModel, of_input: Tensor, lengths: Tensor | None) -> Numbers:
    a = model.architecture
    if a.bidirectional and a.pooling == "final":  # it enters at both ends
        return {"gradient_reach": None, "gradient_steps": of_input.shape[1]}
    return reach_of(of_input.float().norm(dim=2), lengths)


def reach_of(norms: Tensor, lengths: Tensor | None) -> Numbers:
    """How far back in time a gradient reaches, from its norms with respect to each step of the input (batch, time).

    A lag counts steps before the last valid one. `gradient_at_lag_k`: the norm there, of the sequences that are long
    enough, divided by what theirs are at lag 0. `gradient_reach`: the first lag at which that is below FADED, and if
    there is none, `gradient_steps`, the steps of the longest sequence.
    """
    samples, steps = norms.shape
    sizes = torch.full((samples,), steps, device=norms.device) if lengths is None else lengths
    places = sizes[:, None] - 1 - torch.arange(steps, device=norms.device)
    there = places >= 0
    by_lag = torch.where(there, norms.gather(1, places.clamp(min=0)), 0.0).double()  # (batch, lags)
    at_last = (by_lag[:, :1] * there).sum(dim=0)
    shares = (by_lag.sum(dim=0) / at_last).tolist()
    if not all(map(math.isfinite, shares)):
        return {"gradient_reach": None, "gradient_steps": steps}
    reach = next((lag for lag, share in enumerate(shares) if share < FADED), steps)
    lags = [1 << power for power in range(steps.bit_length()) if 1 << power < steps]
    return {
        "gradient_reach": reach,
        "gradient_steps": steps,
        **{f"{LAG}{lag}": _rounded(shares[lag]) for lag in lags},
    }


# ---- units


def _units(model: SequenceModel, outputs: Tensor, lengths: Tensor | None) -> Numbers:
    """Of outputs (batch, time, width)."""
    if lengths is not None:
        valid = torch.arange(outputs.shape[1], device=outputs.device) < lengths[:, None]
        outputs = outputs[valid]
    outputs = outputs.flatten(0, -2)
    if model.rnn.mode == "RNN_RELU":
        return {"saturated_fraction": None, "dead_units": int((outputs <= 0).all(dim=0).sum())}
    return {"saturated_fraction": _rounded(float((outputs.abs() > SATURATED).float().mean())), "dead_units": None}


def _rounded(value: float) -> float:
    """To six digits: a record has many of these numbers."""
    return float(f"{value:.6g}")
