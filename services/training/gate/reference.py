"""A model that was trained before: what a new run may begin with, and what it has to beat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loopline.preprocessing.fitted import Choices, Preprocessing
from loopline.preprocessing.scaling import Scaling
from loopline.preprocessing.series import Fit
from loopline.preprocessing.texts import Vocabulary
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from services.errors import DatasetInvalid
from services.training import windows
from services.training.data import Prepared, part_of
from services.training.files.npz import Arrays
from services.training.files.series import calendar_columns
from services.training.loop import EVALUATION_BATCH, answers, in_rows, network
from services.training.model import SequenceModel
from services.training.preparing import target_scaling
from services.training.preprocessing import vocabularies
from services.training.preprocessing.missing import mismatch
from services.training.preprocessing.scaling import undone
from services.training.spec import Spec, tasks
from services.training.spec.fields import Forecast, Text
from services.training.spec.parsing import as_it_was
from services.training.tasks import forecast
from services.training.windows import Windows

MOST_LACKING = 0.05
"""Of what a new vocabulary knows of the training texts, the share that one may lack that a run goes on with."""


class Unusable(Exception):
    """The model cannot serve for this, and why; a sentence without its subject, the model."""


@dataclass(frozen=True)
class Reference:
    """A model as its files have it."""

    name: str
    """`vowels@3`"""
    spec: Spec
    card: Mapping[str, Any]
    """Its model.json."""
    weights: Mapping[str, Tensor]

    @property
    def classes(self) -> list[int | str] | None:
        classes: list[int | str] | None = self.card["classes"]
        return classes

    @cached_property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.read(self.card)

    @property
    def target_scaling(self) -> Scaling:
        return target_scaling(self.card)

    def network(self) -> SequenceModel:
        prepared = self.preprocessing
        model = SequenceModel(
            self.spec.architecture,
            self.card["input_size"],
            self.card["output_size"],
            static_size=self.card.get("static_size", 0),
            embeddings=prepared.embeddings,
            patch=prepared.steps.choices.patch,
        )
        model.load_state_dict(self.weights)
        return model


def load(name: str, directory: str | None) -> Reference:
    """The model whose files lie in a folder; None: it was deleted.

    Raises Unusable.
    """
    if directory is None:
        raise Unusable("was deleted meanwhile")
    try:
        card = json.loads((Path(directory) / "model.json").read_bytes())
        # It was judged when it came, maybe by other rules.
        spec = Spec.model_validate(as_it_was(card["spec"]), context={"accepted": True})
        found = Reference(name, spec, card, load_file(Path(directory) / "model.safetensors"))
        _ = found.classes, found.target_scaling, found.network()
    except FileNotFoundError as error:
        raise Unusable("is not there any more") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Unusable(f"cannot be read ({type(error).__name__})") from error
    return found


def answered(reference: Reference, arrays: Arrays, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """What it answers to these rows, in their order and in the unit of the data: (rows, its output_size), on the CPU.

    Raises Unusable where it takes other input, or does not fit the device.
    """
    if tasks.forecast(reference.spec) is None:
        check_input(reference, arrays.chosen(rows))
        part = part_of(arrays, rows, reference.preprocessing)
    else:
        check_input(reference, arrays)
        part = _windows(reference, arrays, rows)
    precision = reference.spec.training.precision
    batch = EVALUATION_BATCH
    while True:
        try:
            found = in_rows(*answers(reference.network().to(device), part, device, precision, batch))
            return _in_unit(reference, found, arrays, rows)
        except torch.OutOfMemoryError:
            batch //= 2
        if not batch:
            raise Unusable("does not fit the memory of the device")


def _windows(reference: Reference, arrays: Arrays, rows: NDArray[np.int64]) -> Windows:
    """The windows that predict the same steps, as the model sees them, whose look-back may be another one."""
    task = reference.spec.task
    assert isinstance(task, Forecast)  # noqa: S101
    part = windows.part_of(arrays, rows, Fit.read(reference.card), task)
    if (rows % part.longest < part.lookback).any():
        raise Unusable(f"reads {part.lookback:,} steps before a forecast, and some of these samples have fewer")
    return part


def _in_unit(reference: Reference, answers: Tensor, arrays: Arrays, rows: NDArray[np.int64]) -> Tensor:
    """Answers in the unit of the data."""
    if (task := tasks.forecast(reference.spec)) is None:
        return undone(answers, reference.target_scaling)
    units = windows.units(arrays, Fit.read(reference.card))
    judge = forecast.Forecast(tasks.window(task)[1], units.shift.shape[1], task.quantiles or (), units)
    return judge.unscaled(answers, torch.from_numpy(rows // arrays.x.shape[1]))


def check_task(reference: Reference, spec: Spec, said: Mapping[str, Any]) -> None:
    """Raises Unusable where it predicts something else. `said` is what model.json will say of the new model's task
    (`Prepared.card`)."""
    had = reference.card.get("forecast")
    wanted = said.get("forecast")
    if (had is None) != (wanted is None):
        raise Unusable("has other targets than this data set")
    if had is None or wanted is None:
        return
    for name in ("targets", "horizon", "quantiles", "known_future"):
        if had[name] != wanted[name]:
            raise Unusable(f"forecasts something else ({name} is {shown(had[name])} there, {shown(wanted[name])} here)")
    if (had["fit"]["inputs"] is None) != (wanted["fit"]["inputs"] is None):
        raise Unusable("scales its series otherwise (data.scaling_over)")


def among(answered: Tensor, known: list[int | str] | None, classes: list[int | str] | None, name: str) -> Tensor:
    """Answers of a model that knows other classes than the data has, as if asked among those: (samples, classes). A
    class that it does not know is never its answer.

    Raises Unusable where there are no classes to go by.
    """
    if known == classes:
        return answered
    if known is None or classes is None or answered.shape[1] != len(known):
        raise Unusable(f"has other targets than {name}")
    if not set(known) & set(classes):
        raise Unusable(f"knows none of the labels of {name}")
    found = torch.full((len(answered), len(classes)), -torch.inf)
    for place, label in enumerate(classes):
        if label in known:
            found[:, place] = answered[:, known.index(label)]
    return found


def beginning(reference: Reference, spec: Spec, prepared: Prepared) -> dict[str, Tensor]:
    """The weights to go on from. Of classes that it does not know, those that the seed draws.

    Raises Unusable where its network is another one.
    """
    if reference.spec.architecture != spec.architecture:
        raise Unusable("has another architecture")
    if not all(weight.isfinite().all() for weight in reference.weights.values()):
        raise Unusable("has weights that are not finite")
    if (reference.classes is None) != (prepared.classes is None):
        raise Unusable("has other targets")
    weights = dict(reference.weights)
    if reference.classes != prepared.classes and reference.card["output_size"] == len(reference.classes or ()):
        torch.manual_seed(spec.training.seed)
        drawn = network(spec.architecture, prepared).state_dict()
        for name in ("head.weight", "head.bias"):
            weights[name] = _by_label(weights[name], drawn[name], reference.classes or [], prepared.classes or [])
    elif reference.card["output_size"] != prepared.output_size:
        raise Unusable("has other targets")
    return weights


def _by_label(old: Tensor, drawn: Tensor, known: list[int | str], classes: list[int | str]) -> Tensor:
    rows = drawn.clone()
    for place, label in enumerate(classes):
        if label in known:
            rows[place] = old[known.index(label)]
    return rows


def check_input(reference: Reference, arrays: Arrays) -> None:
    """Raises Unusable where it takes other features, or has no way with the missing values of these samples."""
    if (task := tasks.forecast(reference.spec)) is not None:
        try:
            added = calendar_columns(arrays, tasks.calendar_of(task))
        except DatasetInvalid as error:
            raise Unusable(f"reads the calendar ({error.problems[0].detail})") from None
        _check_zone(reference.card["forecast"].get("zoned"), arrays.zoned)
        arrays = replace(arrays, features=(*arrays.columns, *added))  # of which no value is missing
    if (why := mismatch(reference.preprocessing, arrays)) is not None:
        raise Unusable(why)


def _check_zone(had: bool | None, has: bool | None) -> None:
    """Raises Unusable where its calendar is of times with a zone and these have none, or the other way round."""
    if None not in (had, has) and had != has:
        with_zone, without = "in UTC, because they had a zone", "as they were written, without a zone"
        there, here = (with_zone, "have none") if had else (without, "have one")
        raise Unusable(f"reads times {there}, and those of this data set {here} (task.calendar)")


def check_preparation(reference: Reference, spec: Spec) -> None:
    """Raises Unusable where it reads steps that are prepared otherwise than this spec says. What they are scaled by may
    differ: a run goes on with the numbers of the model."""
    calendars = [shown(task.calendar) for task in (tasks.forecast(reference.spec), tasks.forecast(spec)) if task]
    if len(set(calendars)) > 1:
        raise Unusable(f"prepares its input otherwise (task.calendar is {calendars[0]} there, and {calendars[1]} here)")
    had, wanted = reference.preprocessing.steps.choices, Choices.of(spec.data)
    for field in fields(Choices):
        old, new = getattr(had, field.name), getattr(wanted, field.name)
        if old != new and field.name != "scaling_over":
            raise Unusable(
                f"prepares its input otherwise (data.{field.name} is {shown(old)} there, and {shown(new)} here)"
            )
    if (vocabulary := reference.preprocessing.text) is not None and spec.data.text is not None:
        _check_vocabulary(vocabulary, spec.data.text)


def check_words(reference: Reference, spec: Spec, arrays: Arrays, train: NDArray[np.int64]) -> None:
    """Raises Unusable where its vocabulary lacks too much of the texts of training."""
    had, wanted = reference.preprocessing.text, spec.data.text
    if had is None or wanted is None or arrays.texts is None:
        return
    found, choices = arrays.texts[train], reference.preprocessing.steps.choices
    try:
        newer = vocabularies.fit(found, wanted, choices)
    except DatasetInvalid:  # nothing is frequent enough
        return
    if (share := had.lacks(newer, found, choices)) > MOST_LACKING:
        raise Unusable(
            f"has an old vocabulary, which lacks {share:.0%} of the {had.by} in the training texts that a new one has"
        )


def _check_vocabulary(had: Vocabulary, wanted: Text) -> None:
    """Raises Unusable where a vocabulary was made otherwise than this spec says. If it was made in the same way, its
    entries keep their vectors, and what is new since then is unknown."""
    for name, new in wanted.model_dump().items():
        old = getattr(had, name)
        if old != new and new is not None:
            raise Unusable(f"has another vocabulary (data.text.{name} is {shown(old)} there, and {shown(new)} here)")


def shown(value: Any) -> str:
    """A value as a spec has it."""
    return json.dumps(value).strip('"')
