"""Fits the preprocessing on the training split; see the package for the order of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from loopline.files.sequences import Column
from loopline.preprocessing.fitted import (
    WITH_GAPS_LEFT,
    Choices,
    Feature,
    Fitted,
    Preprocessing,
    chosen_steps,
    filled,
    recoded,
    with_differences,
)
from loopline.preprocessing.scaling import Scaling
from numpy.typing import NDArray

from services.training.files.npz import Arrays
from services.training.files.steps import FileSteps
from services.training.preprocessing import scaling, streaming, vocabularies
from services.training.preprocessing.embeddings import with_embeddings
from services.training.preprocessing.scaling import valid_steps
from services.training.spec.fields import Data


def fit_all(arrays: Arrays, rows: NDArray[np.int64], data: Data) -> Preprocessing:
    """Fits the preprocessing that a spec asks for on the samples of training."""
    choices = Choices.of(data)
    needed = data.scaling != "none" or choices != Choices() or any(c.kind == "category" for c in arrays.columns)
    text = None
    if arrays.texts is not None:
        assert data.text is not None, "check_data() fills it in"  # noqa: S101
        text = vocabularies.fit(arrays.texts[rows], data.text, choices)
        steps = Fitted(choices, (), Scaling(data.scaling))
    elif needed and isinstance(arrays.x, FileSteps):
        steps = streaming.fit(arrays.x.chosen(rows), arrays.columns, choices, data.scaling)
    elif needed:
        x = arrays.x_in_memory
        is_whole = len(rows) == len(x) and x.flags.c_contiguous  # then a copy would be the same
        steps = fit(x if is_whole else x[rows], arrays.lengths[rows], arrays.columns, choices, data.scaling)
    else:
        steps = Fitted(choices, tuple(Feature(column.name) for column in arrays.columns), Scaling("none"))
    if arrays.static is None:
        return Preprocessing(steps, text=text)
    of_values = Choices(missing=choices.missing, missing_mask=choices.missing_mask)
    once = np.ones(len(rows), np.int64)
    static = fit(arrays.static[rows][:, None, :], once, arrays.static_columns, of_values, data.scaling)
    return Preprocessing(steps, static, text)


def fit(
    x: NDArray[Any], lengths: NDArray[np.int64], columns: Sequence[Column], choices: Choices, scaled: str
) -> Fitted:
    """Fits everything on the samples of training: x (samples, time, features) and their lengths."""
    x, lengths = chosen_steps(x, lengths, choices)
    features = tuple(
        Feature(column.name, _words(x[:, :, place], lengths, column.categories or ()))
        if column.kind == "category"
        else Feature(column.name)
        for place, column in enumerate(columns)
    )
    features = with_embeddings(features, choices)
    x = recoded(x, columns, features)
    if choices.missing not in WITH_GAPS_LEFT:
        with_gaps = np.isnan(x).any(axis=(0, 1)) & choices.missing_mask
        features = tuple(
            replace(each, fill=_fill(x[:, :, [place]], lengths, each), mask=bool(with_gaps[place]))
            for place, each in enumerate(features)
        )
        x = filled(x, lengths, choices, features)
    numbers = [place for place, each in enumerate(features) if each.words is None]
    if choices.scaling_over == "per_sequence" or not numbers:
        return Fitted(choices, features, Scaling(scaled))
    x = x if len(numbers) == len(features) else x[:, :, numbers]
    return Fitted(choices, features, scaling.fitted(scaled, with_differences(x, choices.differences), lengths))


def _words(codes: NDArray[Any], lengths: NDArray[np.int64], categories: Sequence[str]) -> tuple[str, ...]:
    """The words among the valid steps of codes (samples, time)."""
    found = np.unique(valid_steps(codes[:, :, None], lengths))
    return tuple(categories[int(code)] for code in found[~np.isnan(found)])


def _fill(x: NDArray[Any], lengths: NDArray[np.int64], feature: Feature) -> float:
    """The mean, or the commonest number of a word, of one feature (samples, time, 1); 0 where it has no value at
    all."""
    values = valid_steps(x, lengths)[:, 0]
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0
    if feature.words is None:
        return float(values.mean(dtype=np.float64))
    return float(np.bincount(values.astype(np.int64)).argmax())
