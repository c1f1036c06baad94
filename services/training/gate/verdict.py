"""A retraining: what a run begins with, what it is compared with, and whether it is better.

Everything about the model before is worked out before training begins, while the data set is at hand: its weights to
begin with, its answers to the test samples, how its training samples differ from these. At the end the new model's
answers to the same samples are set beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from services.training import measures
from services.training.data import Prepared
from services.training.files.npz import Arrays
from services.training.gate import drift, paired
from services.training.gate.paired import Comparison
from services.training.gate.reference import (
    Unusable,
    among,
    answered,
    beginning,
    check_input,
    check_preparation,
    check_task,
    check_words,
    load,
)
from services.training.gate.scores import in_blocks
from services.training.loop import Run, answers, evaluating, in_rows
from services.training.measures import MEASURES
from services.training.messages import Event, Level, Note, SavedModel
from services.training.preparing import arrays_for, prepare
from services.training.spec import Spec
from services.training.spec.fields import Gate, Retrain
from services.training.tasks.task import Judged
from services.training.windows import training_steps

Baselines = Mapping[str, SavedModel | None]
"""By role: `warm_start` and `against`."""


@dataclass(frozen=True)
class Before:
    """The model to compare with, as far as it can be."""

    name: str
    answers: Tensor | None
    """To the test samples: (samples, output_size)."""
    trouble: str | None
    """Why there are none: a sentence without its subject."""
    has_seen: bool
    """Whether it may have been trained on some of them."""


class Retraining:
    """Of one run. Without `retrain` in its spec, or a service around it, there is nothing to it."""

    def __init__(self, spec: Spec, arrays: Arrays, device: torch.device, baselines: Baselines | None) -> None:
        self.spec = spec
        arrays = arrays_for(arrays, spec)
        self.retrain = spec.retrain if baselines is not None else None
        self.notes: list[Event] = []
        self.initial: dict[str, Tensor] | None = None
        self.before: Before | None = None
        self.profile: drift.Profile | None = None
        self.drift: dict[str, Any] | None = None
        self.warm: str | None = None
        self.cold: str | None = None  # why it is none, where one was asked for
        if self.retrain is None:
            self.data = prepare(arrays, spec)
            return
        named = baselines or {}
        self.data = self._begin(arrays, named.get("warm_start"))
        self._look_back(arrays, device, named.get("against"))

    def _begin(self, arrays: Arrays, named: SavedModel | None) -> Prepared:
        """The data as the run takes it: with the scaling of the model that it goes on from, if it does."""
        assert self.retrain is not None  # noqa: S101
        wanted = self.retrain.warm_start
        if wanted is None:
            return prepare(arrays, self.spec)
        if named is None:
            self.cold = f"There is no {self.retrain.model}@{wanted} yet: training begins from scratch."
            self._note("warm_start", self.cold)
            return prepare(arrays, self.spec)
        try:
            reference = load(named.model, named.directory)
            check_input(reference, arrays)
            check_preparation(reference, self.spec)
            prepared = prepare(arrays, self.spec, reference.card)
            check_task(reference, self.spec, prepared.card())
            check_words(reference, self.spec, arrays, prepared.rows["train"])
            self.initial = beginning(reference, self.spec, prepared)
        except Unusable as error:
            self.cold = f"{named.model} {error}: training begins from scratch."
            self._note("warm_start", self.cold, "warning", model=named.model)
            return prepare(arrays, self.spec)
        self.warm = named.model
        message = f"Training begins with the weights and the scaling of {self.warm}."
        self._note("warm_start", message, model=self.warm)
        return prepared

    def _look_back(self, arrays: Arrays, device: torch.device, named: SavedModel | None) -> None:
        """Ask the model to compare with what there is to be asked of it."""
        assert self.retrain is not None  # noqa: S101
        rows = self.data.rows
        if self.data.task.of_series:
            taken = drift.of_series(*training_steps(arrays, self.spec.data.split))
        else:
            taken = drift.sample(arrays, rows["train"])
        self.profile = drift.profile(taken)
        if named is None:
            return
        name = named.model
        try:
            reference = load(name, named.directory)
        except Unusable as error:
            self.before = Before(name, None, str(error), has_seen=False)
            return
        if self.retrain.drift and (profile := reference.card.get("profile")) is not None:
            self.drift = {"than": name, **drift.between(profile, taken)}
        if self.retrain.gate is None:
            return
        try:
            if (reference.spec.architecture.pooling == "none") != self.data.task.by_step:
                raise Unusable("has other targets than this data set")
            check_task(reference, self.spec, self.data.card())
            found = answered(reference, arrays, rows["test"], device)
            found = among(found, reference.classes, self.data.classes, "this data set")
            if found.shape[1] != self.data.output_size:
                raise Unusable("has other targets than this data set")
            if self.retrain.gate.metric == "loss" and not found.isfinite().all():
                raise Unusable("does not know all labels of this data set, so that its loss is not finite")
            self.before = Before(name, found, None, has_seen=not _has_not_seen(reference.spec, self.spec))
        except Unusable as error:
            self.before = Before(name, None, str(error), has_seen=False)

    def beginning(self) -> list[Event]:
        """The events of a run that starts at step 0; a run that resumes from a checkpoint has none."""
        return self.notes

    def conclude(self, run: Run) -> tuple[list[Event], dict[str, Any] | None]:
        """The events at the end, and the entry of the result. The run must have its best weights."""
        if self.retrain is None:
            return [], None
        self.notes = []
        if self.drift is not None:
            level: Level = "warning" if self.drift["shifted"] else "info"
            self._note("drift", drift.sentence(self.drift, self.drift["than"]), level, **self.drift)
        verdict = None if self.retrain.gate is None else self._judge(run, self.retrain, self.retrain.gate)
        if verdict is not None:
            self._note("gate", verdict["message"], **{key: verdict[key] for key in verdict if key != "message"})
        return self.notes, {"warm_start": self.warm, "gate": verdict, "drift": self.drift}

    def _judge(self, run: Run, retrain: Retrain, gate: Gate) -> dict[str, Any]:
        loss, part, before = self.spec.training.loss, self.data.test, self.before
        assert loss is not None, "check_data() fills in the loss"  # noqa: S101
        assert part is not None, "check_data() asks for a test part"  # noqa: S101
        task = self.data.task
        metric = gate.metric or measures.default(task.answers(self.data.output_size))
        weights = task.class_weights(loss, self.data.train.y, self.data.output_size)
        with evaluating():
            batch = run.state.batches.evaluation
            outputs = in_rows(*answers(run.model, part, run.device, run.training.precision, batch))
        scaling, targets = self.data.target_scaling, part.targets(torch.arange(part.answers))
        outputs, targets = task.in_unit(outputs, targets, scaling)  # both models are judged in the data's unit
        judged = Judged(outputs, targets, weights, scaling.scale, part.steps, part.weights)
        new = in_blocks(task.scores(metric, loss, judged), part.blocks)
        comparison = None
        if before is not None and before.answers is not None:
            old = in_blocks(task.scores(metric, loss, replace(judged, outputs=before.answers)), part.blocks)
            comparison = paired.compare(
                new,
                old,
                higher_is_better=MEASURES[metric].higher_is_better,
                error_rate=gate.error_rate,
                seed=self.spec.training.seed,
            )
        value = float(new.value(new.sums.sum(axis=0)))
        reason, message = verdict(gate, metric, value, retrain, before, comparison)
        if comparison is not None and before is not None and before.has_seen:
            message += f" ({before.name} may have been trained on some of these samples, which favours it.)"
        if self.cold is not None and before is not None:
            message += f" ({self.cold})"
        return {
            "metric": metric,
            "value": value if math.isfinite(value) else None,
            "samples": len(part),
            "against": None if before is None else before.name,
            "passed": reason in PASSED,
            "reason": reason,
            "message": message,
            **gate.model_dump(include={"margin", "error_rate", "at_least"}),
            "comparison": None if comparison is None else comparison.document(),
        }

    def _note(self, type: str, message: str, level: Level = "info", **data: Any) -> None:
        self.notes.append(Note(type, level, message, data))


PASSED = frozenset({"better", "first"})


def verdict(
    gate: Gate, metric: str, value: float, retrain: Retrain, before: Before | None, comparison: Comparison | None
) -> tuple[str, str]:
    """Why a model passes the gate or does not: a reason for machines and a sentence for people."""
    higher = MEASURES[metric].higher_is_better
    if not math.isfinite(value):
        return "not_finite", f"{metric} on the test samples is no finite number."
    if gate.at_least is not None and not (value >= gate.at_least if higher else value <= gate.at_least):
        bar = "at least" if higher else "at most"
        return "below_bar", f"{metric} is {value:.4g}, and gate.at_least asks for {bar} {gate.at_least:g}."
    if before is None:
        against = gate.against or retrain.promote
        return "first", f"There was no {retrain.model}@{against} to compare with: {metric} {value:.4g} is the first."
    if comparison is None:
        message = f"{before.name} {before.trouble}, so they cannot be compared"
        return "not_comparable", f"{message}: look at both, and promote by hand."
    c = comparison
    if not math.isfinite(c.improvement):
        return "not_comparable", f"{metric} of {before.name} on the test samples is no finite number: promote by hand."
    message = (
        f"{metric} {c.new:.4g}, and {c.old:.4g} of {before.name} on the same {c.samples:,} test samples "
        f"({_signed(c.improvement)}; they answer {c.differing:,} differently; p = {c.p_value:.2g})"
    )
    if c.improvement <= 0:
        return "not_better", f"It is no better: {message}."
    if c.p_value > gate.error_rate:
        return (
            "could_be_luck",
            f"It may be better by luck alone: {message}; the gate asks for p <= {gate.error_rate:g}.",
        )
    if gate.margin > 0 and c.at_least < gate.margin:
        sure = f"with a confidence of {1 - gate.error_rate:.4g} it is only {_signed(c.at_least)} or more"
        return (
            "below_margin",
            f"It is not better by enough: {message}; {sure}, and gate.margin asks for {gate.margin:g}.",
        )
    return "better", f"It is better: {message}."


def _signed(improvement: float) -> str:
    if improvement == 0:
        return "equally good"
    return f"{'better' if improvement > 0 else 'worse'} by {abs(improvement):.4g}"


def _has_not_seen(before: Spec, now: Spec) -> bool:
    """Whether the test samples of now were none to train on, or to choose by, before."""
    old, new = before.data.split, now.data.split
    if new.test in (None, "given"):
        return old.test in (None, "given")
    if old.method == new.method == "time":  # the border only moves on
        return old.test == new.test and old.validation == new.validation
    both = old.method == new.method == "content" and old.seed == new.seed
    return both and old.test == new.test and old.validation == new.validation
