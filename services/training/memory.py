"""Continues after the device ran out of memory, with micro-batches that give the same update as the whole batch.

An update sees the same samples with the same weights however they are cut, so it is the same up to rounding (with batch
normalisation and dropout: the same in distribution).
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import torch

from services.errors import OutOfMemory
from services.training.loop import Run


@dataclass(frozen=True)
class Smaller:
    """What to try next, and what it is after."""

    micro_batch: int | None
    evaluation_batch: int
    evaluating: bool
    step: int
    """The update at which memory ran out, or after which, in evaluation."""

    def apply(self, run: Run) -> None:
        run.state.batches.micro, run.state.batches.evaluation = self.micro_batch, self.evaluation_batch

    def sentence(self, run: Run, resumed: bool) -> str:
        """What happened and what follows from it. `run` is where training continues."""
        place = f"from step {run.state.step}" if resumed else "from the start"
        if self.evaluating:
            return (
                f"The device ran out of memory in evaluation after step {self.step}; training goes on {place} and "
                f"evaluates {self.evaluation_batch} samples at a time."
            )
        return (
            f"The device ran out of memory at step {self.step}; training goes on {place} with micro-batches of "
            f"{self.micro_batch} (the batch of {run.training.batch_size} is kept by accumulation)."
        )

    def document(self, run: Run, resumed: bool) -> dict[str, Any]:
        return {
            "step": self.step,
            "resumed_from": run.state.step if resumed else None,
            "evaluating": self.evaluating,
            "micro_batch": self.micro_batch,
            "evaluation_batch": self.evaluation_batch,
            "batch_size": run.training.batch_size,
        }


def smaller(run: Run, *, evaluating: bool) -> Smaller:
    """Half of what did not fit: of a micro-batch and of evaluation's batches, or of the latter alone where `evaluating`
    is what failed.

    Raises OutOfMemory when there is nothing left to halve.
    """
    parts = [len(part) for part in (run.data.validation, run.data.test) if part is not None]
    evaluation = min(run.state.batches.evaluation, max(parts, default=1))
    if evaluating:
        if evaluation == 1:
            raise OutOfMemory(_hopeless(f"in evaluation after step {run.state.step}", 1))
        return Smaller(run.state.batches.micro, evaluation // 2, True, run.state.step)
    micro = run.state.batches.micro or min(run.training.batch_size, len(run.data.train))
    if micro <= run.least:
        raise OutOfMemory(_hopeless(f"at step {run.state.step + 1}", run.least))
    return Smaller(max(run.least, micro // 2), max(1, evaluation // 2), False, run.state.step + 1)


def _hopeless(where: str, samples: int) -> str:
    one = "a single sample" if samples == 1 else "two samples (the least that batch_norm takes)"
    return (
        f"The device ran out of memory {where}, with {one} at a time; lower architecture.hidden_size or num_layers, "
        "cut the sequences shorter, or use a larger device."
    )


def give_back(device: torch.device) -> None:
    """Frees what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def usage(device: torch.device) -> dict[str, int] | None:
    """Bytes of the device's memory: allocated to tensors, reserved by the allocator, the most ever allocated. None on a
    CPU. It asks torch's allocator, not the device: nothing waits.
    """
    if device.type != "cuda":
        return None
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }
