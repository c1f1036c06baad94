"""Prepares a data set for the task of a spec: sequences as they are, windows of series, or streams of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loopline.preprocessing.fitted import Preprocessing
from loopline.preprocessing.scaling import UNSCALED, Scaling
from loopline.preprocessing.series import Fit

from services.training import bptt, continuation, data, windows
from services.training.data import Prepared
from services.training.files.npz import Arrays
from services.training.spec import Spec, tasks
from services.training.spec.fields import NextStep
from services.training.splits import Parts


def arrays_for(arrays: Arrays, spec: Spec) -> Arrays:
    """The data set as the task of the spec takes it."""
    if isinstance(spec.task, NextStep):
        return continuation.texts_alone(arrays)
    return windows.on_grid(arrays) if tasks.forecast(spec) else arrays


def prepare(arrays: Arrays, spec: Spec, card: Mapping[str, Any] | None = None, drawn: Parts | None = None) -> Prepared:
    """Splits and preprocesses a data set as the spec says, or as for the model of a model.json. `drawn` are the rows of
    each part, where they are known.

    Raises DatasetInvalid when a part of the split cannot be used.
    """
    prepared = _prepared(arrays, spec, card, drawn)
    return prepared if spec.data.split.evaluate_test else replace(prepared, test=None)


def _prepared(arrays: Arrays, spec: Spec, card: Mapping[str, Any] | None, drawn: Parts | None) -> Prepared:
    if tasks.forecast(spec):
        return windows.prepare(arrays, spec, None if card is None else Fit.read(card))
    if isinstance(spec.task, NextStep):
        return continuation.prepare(arrays, spec, None if card is None else Preprocessing.read(card).text)
    fitted = None if card is None else Preprocessing.read(card)
    scaling = None if card is None else target_scaling(card)
    prepared = data.prepare(arrays, spec, fitted, scaling, drawn)
    if spec.training.bptt_steps is None:
        return prepared
    return replace(prepared, train=bptt.unrolled(prepared.train, spec.training.bptt_steps))


def target_scaling(card: Mapping[str, Any]) -> Scaling:
    """That of a model.json; an old one has none."""
    return Scaling(**card["target_scaling"]) if "target_scaling" in card else UNSCALED
