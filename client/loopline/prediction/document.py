"""What model.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loopline.files import calendar
from loopline.files.grids import Step
from loopline.files.schema import Schema
from loopline.files.sequences import Column
from loopline.prediction.errors import ModelUnusable
from loopline.preprocessing.fitted import Feature, Preprocessing
from loopline.preprocessing.scaling import UNSCALED, Scaling
from loopline.preprocessing.series import Fit

Task = Literal["classification", "multilabel", "regression", "tagging", "forecast", "next_step"]
TASKS: Mapping[str, Task] = {
    "classes": "classification",
    "multilabel": "multilabel",
    "values": "regression",
    "tags": "tagging",
    "series": "forecast",
    "text": "next_step",
}
"""By what model.json calls them."""
NEWEST = 7
"""The newest format of a model.json that is read here, as in `loopline-model/7`."""
UNKNOWN_WORD = "\0"
"""Stands for all words that training does not have: number 0."""


@dataclass(frozen=True)
class Architecture:
    """The network: what a spec says of it, and its sizes."""

    cell: Literal["rnn", "lstm", "gru"]
    nonlinearity: Literal["tanh", "relu"]
    hidden_size: int
    num_layers: int
    bidirectional: bool
    pooling: Literal["last", "final", "mean", "max", "attention", "none"]
    batch_norm: bool
    input_size: int
    """Numbers of a step, before words are looked up."""
    static_size: int
    """Numbers that the head reads beside the pooled steps."""
    output_size: int
    embeddings: tuple[tuple[int, int], ...]
    """Of each of the last numbers of a step: how many vectors there are, and their size."""
    patch: int
    """Steps of the data that are side by side in a step of the network."""

    @property
    def width(self) -> int:
        """Numbers that the recurrent layers give at each step."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def read_size(self) -> int:
        """Numbers of a step that the recurrent layers read."""
        return self.input_size + self.patch * sum(size - 1 for _, size in self.embeddings)


@dataclass(frozen=True)
class Forecast:
    """What is forecast."""

    lookback: int
    horizon: int
    targets: tuple[str, ...]
    known_future: tuple[str, ...]
    """Columns that somebody gives ahead of time."""
    calendar: tuple[str, ...]
    """What is read of the times of steps."""
    zoned: bool | None
    """Whether those of training were written with a zone, and so read in UTC; None if nobody knows."""
    quantiles: tuple[float, ...]
    fit: Fit

    @property
    def known(self) -> tuple[str, ...]:
        """All columns that are known ahead of time."""
        return (*self.known_future, *(column.name for column in calendar.columns(self.calendar)))


@dataclass(frozen=True)
class Document:
    """A model.json."""

    task: Task
    architecture: Architecture
    preprocessing: Preprocessing
    target_scaling: Scaling
    classes: tuple[int | str, ...] | None
    """The sorted classes or tags."""
    target_names: tuple[str, ...]
    """Of labels, or of values. Where the data has no names they are numbers."""
    forecast: Forecast | None
    schema: Schema | None
    """That of the table that the model was trained on; None of arrays, and of older models."""
    lengths: tuple[int, int] | None
    """The steps of the shortest and of the longest sequence of training; for texts, of characters or words."""
    step: Step | None
    """The time between two steps of series."""
    plain: Mapping[str, Any]
    """All of it, as JSON."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """What the model reads at each step, in the order of x; none where it reads texts."""
        return self.preprocessing.steps.features

    @property
    def given(self) -> tuple[Feature, ...]:
        """Those features that somebody gives; the others are of the calendar."""
        added = 0 if self.forecast is None else len(calendar.columns(self.forecast.calendar))
        return self.features[: len(self.features) - added]

    @property
    def static(self) -> tuple[Feature, ...]:
        """What it reads of each sequence besides."""
        return () if self.preprocessing.static is None else self.preprocessing.static.features

    @property
    def has_one_logit(self) -> bool:
        """Whether the network answers two classes with one number (the loss `bce`)."""
        return self.task == "classification" and self.architecture.output_size == 1

    @property
    def width(self) -> int:
        """The most numbers that there are for each step, on the way from x to an answer."""
        a = self.architecture
        by_step = a.output_size if self.task in ("tagging", "next_step") else 1
        return max(a.width, a.read_size, by_step)

    @property
    def takes_gaps(self) -> bool:
        return self.preprocessing.steps.choices.missing not in ("refuse", "drop")


def columns_of(features: tuple[Feature, ...]) -> tuple[Column, ...]:
    """Columns whose categories are numbered as the model numbers them."""
    return tuple(
        Column(each.name) if each.words is None else Column(each.name, "category", (UNKNOWN_WORD, *each.words))
        for each in features
    )


def read(folder: Path) -> Document:
    """The model.json of a folder. Raises ModelUnusable."""
    path = folder / "model.json"
    if folder.is_file():
        raise ModelUnusable(f"{folder} is a file: give the folder of a model.")
    if not folder.exists():
        raise ModelUnusable(f"There is no folder {folder}: `loopline download` makes the folder of a model.")
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelUnusable(f"{folder} has no model.json: give the folder of a downloaded model.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(f"{path} cannot be read: {error}") from error
    _check_format(path, plain)
    try:
        return parsed(plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelUnusable(f"{path} cannot be understood: {type(error).__name__} {error}") from error


def _check_format(path: Path, plain: Any) -> None:
    said = plain.get("format") if isinstance(plain, dict) else None
    name, _, number = said.partition("/") if isinstance(said, str) else ("", "", "")
    if name != "loopline-model" or not number.isdecimal():
        raise ModelUnusable(f"{path} is not the description of a model.")
    if int(number) > NEWEST:
        raise ModelUnusable(
            f"{path} has the format {said}, and this version of loopline reads up to loopline-model/{NEWEST}: install "
            "a newer one (pip install --upgrade loopline)."
        )


def parsed(plain: Mapping[str, Any]) -> Document:
    """What the JSON of a model.json says. Raises KeyError, TypeError, ValueError or AttributeError where it is none."""
    preprocessing = Preprocessing.read(plain)
    task, classes = TASKS[plain["task"]], plain["classes"]
    if task == "multilabel" and classes is not None:
        task = "classification"  # two classes, by one number
    about = plain.get("data") or {}
    lengths = about.get("lengths")
    return Document(
        task=task,
        architecture=_architecture(plain, preprocessing),
        preprocessing=preprocessing,
        target_scaling=Scaling(**plain["target_scaling"]) if "target_scaling" in plain else UNSCALED,
        classes=None if classes is None else tuple(classes),
        target_names=tuple(about.get("targets") or map(str, range(plain["output_size"]))),
        forecast=_forecast(plain) if task == "forecast" else None,
        schema=Schema.from_document(about["schema"]) if about.get("schema") else None,
        lengths=None if lengths is None else (int(lengths["shortest"]), int(lengths["longest"])),
        step=Step.read(about["step"]) if about.get("step") else None,
        plain=plain,
    )


def _architecture(plain: Mapping[str, Any], preprocessing: Preprocessing) -> Architecture:
    said = plain["spec"]["architecture"]
    return Architecture(
        cell=said["cell"],
        nonlinearity=said.get("nonlinearity") or "tanh",
        hidden_size=int(said["hidden_size"]),
        num_layers=int(said["num_layers"]),
        bidirectional=bool(said["bidirectional"]),
        pooling="last" if plain["task"] == "text" else said["pooling"],  # of a next step only the last answer is new
        batch_norm=bool(said["batch_norm"]),
        input_size=int(plain["input_size"]),
        static_size=int(plain.get("static_size") or 0),
        output_size=int(plain["output_size"]),
        embeddings=tuple(preprocessing.embeddings),
        patch=preprocessing.steps.choices.patch,
    )


def _forecast(plain: Mapping[str, Any]) -> Forecast:
    said = plain["forecast"]
    return Forecast(
        lookback=int(said["lookback"]),
        horizon=int(said["horizon"]),
        targets=tuple(said["targets"]),
        known_future=tuple(said["known_future"]),
        calendar=tuple(said.get("calendar") or ()),
        zoned=None if said.get("zoned") is None else bool(said["zoned"]),
        quantiles=tuple(said["quantiles"] or ()),
        fit=Fit.read(plain),
    )
