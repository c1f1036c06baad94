"""Sequences: what every file becomes, whatever its format and layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopline.files.schema import Schema

Kind = Literal["number", "category", "boolean", "time", "text"]
Targets = Literal["classes", "tags", "multilabel", "values", "step_values"]
"""One class, several yes-or-no labels, or values for each sequence; a class (`tags`) or values for each step."""


@dataclass(frozen=True)
class Column:
    """One feature, static value or target."""

    name: str
    kind: Kind = "number"
    categories: tuple[str, ...] | None = None
    """Of a category: its different values, sorted; the data has indices into them."""


@dataclass(frozen=True)
class Sequences:
    """Steps of all sequences, one sequence after the other, and what each sequence has besides."""

    x: NDArray[Any]
    """(steps, features) float32, or float64 where float32 cannot hold the differences of a feature. NaN is missing."""
    lengths: NDArray[np.int64]
    """(sequences,) steps of each sequence, at least 1."""
    features: tuple[Column, ...]
    schema: Schema
    y: NDArray[Any] | None = None
    """By `targets`. classes: int64 (sequences,), indices into `classes`. tags: int64 (steps,). multilabel: int8
    (sequences, k). values: float64 (sequences, k). step_values: float64 (steps, k), NaN where missing.
    None: there is nothing to predict but the sequences themselves."""
    targets: Targets | None = None
    target_names: tuple[str, ...] = ()
    classes: tuple[int | str, ...] | None = None
    """The sorted classes or tags."""
    static: NDArray[np.float64] | None = None
    """(sequences, static columns)."""
    static_columns: tuple[Column, ...] = ()
    weights: NDArray[np.float64] | None = None
    """(sequences,), above 0."""
    split: NDArray[np.int8] | None = None
    """(sequences,) 0 train, 1 validation, 2 test."""
    ids: NDArray[np.str_] | None = None
    """(sequences,) the value of `schema.group`, the file's name, or None where rows have no name."""
    times: NDArray[Any] | None = None
    """(steps,) int64 nanoseconds since 1970 where `time_kind` is `time`, else float64."""
    time_kind: Literal["number", "time"] | None = None
    zoned: bool | None = None
    """Whether the times were written with a zone. They are in UTC then, and as they were written otherwise. None of
    numbers, and of files that were stored before this was recorded."""
    texts: tuple[str, ...] | None = None
    """(sequences,) of the layout `text`; then x has no features and each length is 1."""
    notes: tuple[str, ...] = field(default=())
    """What was decided on the way, in sentences."""
