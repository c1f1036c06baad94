"""Which engine trains: PyTorch's own layers or the compiled ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.training.engine import library
from services.training.spec.fields import Training


@dataclass(frozen=True)
class Engine:
    """What computes the recurrent layers of a run, and why, as a clause."""

    compiled: bool
    why: str

    @property
    def name(self) -> str:
        """For people, and for model.json."""
        return f"compiled ({library.processor()})" if self.compiled else "torch"


def choose(training: Training, device: torch.device) -> Engine:
    """The engine of a run on a device. The compiled layers where they can do what the spec asks for."""
    if training.engine == "torch":
        return Engine(compiled=False, why="the spec says so")
    if device.type != "cpu":
        return Engine(compiled=False, why=f"compiled layers are for the CPU, and this is {device.type}")
    if training.precision != "float32":
        why = f"compiled layers compute in float32, and the spec asks for {training.precision}"
        return Engine(compiled=False, why=why)
    try:
        library.load()
    except library.Unavailable as error:
        return Engine(compiled=False, why=f"compiled layers are not available: {error}")
    return Engine(compiled=True, why="this is a CPU")


def continued(training: Training, engine: Engine, began: str | None) -> Engine:
    """The engine of a run that goes on from a checkpoint, which names the one it began with, or none if it is of a
    version that had PyTorch alone. A run that PyTorch began stays with it, so that going on changes no bit of it; but
    not against the spec."""
    if training.engine == "auto" and engine.compiled and (began or "torch") == "torch":
        return Engine(compiled=False, why="PyTorch began this run, and goes on with it to the last bit")
    return engine
