"""Everything that changes while a run trains, besides the model, the optimizer and the loss scale.

A checkpoint saves a `State` whole, a resumed run loads it whole, and a rollback makes another from it. So a field is
added here alone: it is saved unless it says otherwise, and a checkpoint from before there was such a field loads with
its default.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from services.training import epochs
from services.training.bptt import Carried
from services.training.epochs import Epoch
from services.training.schedule import PlateauState

APART: Mapping[str, Any] = {"apart": True}
"""Of a field that is not written into the checkpoint's JSON: a tensor, the history, or of this process alone."""


@dataclass(frozen=True)
class Fold:
    """Which of the runs of a job a run is, and what those before it came to (`folds.py`).

    A job without folds has one run, number 0, and nothing before it. Epochs and steps are numbered over the whole job.
    """

    number: int = 0
    """From 1; one more than `folds` is the final model."""
    folds: int = 0
    epochs: int | None = None
    """Of the final model: it is trained for exactly so many, and its last weights are kept."""
    steps_before: int = 0
    records: Sequence[Epoch] = ()
    """Of the epochs of the folds before, in their order."""
    results: Sequence[Mapping[str, Any]] = ()
    """Of the folds that have ended."""
    epochs_after: int = 0
    steps_after: int = 0
    """About as many updates will be made after this run."""

    @property
    def is_last(self) -> bool:
        """Whether the job ends with this run."""
        return self.number == 0 or self.number > self.folds

    @property
    def name(self) -> str:
        """`fold 2 of 5`"""
        return "the final model" if self.is_last else f"fold {self.number} of {self.folds}"

    def document(self) -> dict[str, Any] | None:
        """What a checkpoint says of it; None of the only run of a job."""
        if not self.number:
            return None
        results = [dict(result) for result in self.results]
        return {"number": self.number, "folds": self.folds, "steps_before": self.steps_before, "results": results}


ONLY = Fold()
"""The only run of a job without folds."""


@dataclass
class Best:
    """The best epoch so far, by the spec's `best_by`, and its weights."""

    epoch: int
    value: float
    weights: dict[str, Tensor]


@dataclass
class Stopping:
    """What early stopping remembers."""

    best: float | None = None
    bad_epochs: int = 0
    stopped: bool = False


@dataclass
class Rollbacks:
    """After divergence: how many there were, and what they have left of the learning rate (rollback.py)."""

    count: int = 0
    lr_factor: float = 1.0


@dataclass
class Batches:
    """How many samples the device takes at a time (memory.py)."""

    evaluation: int
    micro: int | None = None
    """Into which batches are cut where they do not fit."""


@dataclass
class State:
    """The state of a run between two updates."""

    batches: Batches
    epoch: int = 0
    """Epochs that have ended."""
    step: int = 0
    """Updates made."""
    seconds: float = 0.0
    """Spent on the epoch under way, before the present process took it up."""
    plateau: PlateauState = field(default_factory=PlateauState)
    stopping: Stopping = field(default_factory=Stopping)
    rollbacks: Rollbacks = field(default_factory=Rollbacks)

    best: Best | None = field(default=None, metadata=APART)
    history: list[Epoch] = field(default_factory=list, metadata=APART)
    reports: list[Tensor] = field(default_factory=list, metadata=APART)
    """Of the epoch under way, per update (3,): loss, gradient norm before clipping, whether it was clipped."""
    outputs: list[Tensor] = field(default_factory=list, metadata=APART)
    """Of the epoch under way, per update: what the network answered in training."""

    carried: Carried = field(default_factory=Carried, metadata=APART)
    """Within the epoch under way: the states from which the next windows of long sequences begin (bptt.py)."""

    written: epochs.Written | None = field(default=None, metadata=APART)
    """What of the history is in the file beside the checkpoints."""
    reported: int = field(default=0, metadata=APART)
    """Updates of the epoch under way whose reports were taken."""
    untaken: list[Tensor] = field(default_factory=list, metadata=APART)
    """Reports of the epoch before that were not taken by its end."""
    began: float = field(default_factory=time.perf_counter, metadata=APART)
    """When this process took up the epoch under way."""

    @property
    def steps_in_epoch(self) -> int:
        """Updates made in the epoch under way."""
        return len(self.reports)

    @property
    def elapsed(self) -> float:
        """Seconds spent on the epoch under way, over all processes that worked on it."""
        return self.seconds + (time.perf_counter() - self.began if self.reports else 0.0)

    def keep(self, report: Tensor, answers: Tensor) -> None:
        """An update was made."""
        self.reports.append(report)
        self.outputs.append(answers)
        self.step += 1

    def document(self) -> dict[str, Any]:
        """The state as JSON, less its tensors and its history."""
        best = None if self.best is None else {"epoch": self.best.epoch, "value": self.best.value}
        sizes = {"steps_in_epoch": self.steps_in_epoch, "output_sizes": [len(outputs) for outputs in self.outputs]}
        saved = replace(self, seconds=self.elapsed)
        return {**{name: _plain(getattr(saved, name)) for name in _saved()}, **sizes, "best": best}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that go with the document."""
        found = {f"best.{name}": tensor for name, tensor in self.best.weights.items()} if self.best else {}
        if self.reports:
            found |= {"epoch.reports": torch.stack(self.reports), "epoch.outputs": torch.cat(self.outputs)}
        return found | self.carried.tensors()

    def loaded(
        self, document: Mapping[str, Any], tensors: Mapping[str, Tensor], history: list[Epoch], device: torch.device
    ) -> State:
        """The state that was saved, for a run whose state is this one and that has not begun.

        Raises KeyError, ValueError, TypeError or RuntimeError where it does not fit.
        """
        values = {name: _filled(getattr(self, name), document[name]) for name in _saved() if name in document}
        state = State(**{"batches": self.batches, **values}, history=history)
        if document["best"]:
            weights = {
                name.removeprefix("best."): tensor.to(device)
                for name, tensor in tensors.items()
                if name.startswith("best.")
            }
            state.best = Best(document["best"]["epoch"], document["best"]["value"], weights)
        if "epoch.reports" in tensors:
            state.reports = list(tensors["epoch.reports"].to(device))
            state.outputs = list(torch.split(tensors["epoch.outputs"].to(device), document["output_sizes"]))
            state.reported = len(state.reports)  # the reports before a checkpoint were sent before it
        state.carried = Carried.read(tensors, device)
        return state

    def gone_back(self, epoch: int, step: int) -> State:
        """The state at the end of an earlier epoch. What it does not name begins anew."""
        return State(
            batches=self.batches,
            epoch=epoch,
            step=step,
            rollbacks=self.rollbacks,
            best=self.best,
            history=self.history[:epoch],
        )


def _saved() -> list[str]:
    return [one.name for one in fields(State) if not one.metadata]


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _filled(fresh: Any, saved: Any) -> Any:
    """A saved value in the place of a fresh one; a group of values field by field."""
    return replace(fresh, **saved) if is_dataclass(fresh) and not isinstance(fresh, type) else saved
