"""Fits the preprocessing on steps that stay in their file: block by block, to the same numbers as `fitting.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from loopline.files.sequences import Column
from loopline.preprocessing import shape
from loopline.preprocessing.fitted import (
    WITH_GAPS_LEFT,
    Choices,
    Feature,
    Fitted,
    chosen_steps,
    filled,
    recoded,
    with_differences,
)
from loopline.preprocessing.scaling import QUARTILES, Scaling
from numpy.typing import NDArray

from services.training.files.steps import FileSteps, places_of
from services.training.preprocessing import quantiles, sums
from services.training.preprocessing.embeddings import with_embeddings
from services.training.preprocessing.scaling import of_steps, valid_steps

Block = tuple[NDArray[Any], NDArray[np.int64]]
"""x (samples, time, features) and its lengths."""


def fit(x: FileSteps, columns: Sequence[Column], choices: Choices, scaled: str) -> Fitted:
    """Fits everything on the samples of training."""
    features = tuple(Feature(column.name) for column in columns)
    if any(column.kind == "category" for column in columns):
        features = with_embeddings(_with_words(x, columns, choices), choices)
    if choices.missing not in WITH_GAPS_LEFT:
        features = _with_fills(x, columns, choices, features)
    numbers = [place for place, each in enumerate(features) if each.words is None]
    if choices.scaling_over == "per_sequence" or not numbers or scaled == "none":
        return Fitted(choices, features, Scaling(scaled))
    return Fitted(choices, features, _scaling(_Numbers.of(x, columns, choices, features), scaled))


def _blocks(x: FileSteps, choices: Choices) -> Iterator[Block]:
    """The steps that are read of all samples, in any order."""
    for rows, block in x.blocks():
        yield chosen_steps(block, x.lengths[rows], choices)


def _in_order(x: FileSteps, choices: Choices, work: Callable[[Block], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """What `work` makes of the steps that are read, (steps, numbers), of one sample after the other."""
    for group in x.groups():
        sizes = x.lengths[group]
        is_ordered = bool((sizes == sizes[0]).all())
        lengths = shape.lengths_read(sizes, choices.max_length, choices.stride, 1)
        found = None
        for rows, block in x.blocks_of_group(group):
            made = work(chosen_steps(block, x.lengths[rows], choices))
            if is_ordered:
                yield made
                continue
            if found is None:
                found = np.empty((int(lengths.sum()), made.shape[1]), made.dtype)
            found[places_of(lengths, rows - group[0])] = made
        if is_ordered:
            continue
        assert found is not None, "a group has samples"  # noqa: S101
        yield found


def _with_words(x: FileSteps, columns: Sequence[Column], choices: Choices) -> tuple[Feature, ...]:
    categories = [place for place, column in enumerate(columns) if column.kind == "category"]
    there = {place: np.zeros(len(columns[place].categories or ()), np.bool_) for place in categories}
    for block, lengths in _blocks(x, choices):
        steps = valid_steps(block, lengths)
        for place in categories:
            codes = steps[:, place]
            there[place][codes[~np.isnan(codes)].astype(np.int64)] = True
    return tuple(
        Feature(column.name, tuple(np.array(column.categories, np.object_)[there[place]].tolist()))
        if place in there
        else Feature(column.name)
        for place, column in enumerate(columns)
    )


def _with_fills(
    x: FileSteps, columns: Sequence[Column], choices: Choices, features: tuple[Feature, ...]
) -> tuple[Feature, ...]:
    """The features with what stands for their gaps, and whether they have some."""
    counts = np.zeros(len(features), np.int64)
    with_gaps = np.zeros(len(features), np.bool_)
    for block, lengths in _blocks(x, choices):
        missing = np.isnan(valid_steps(block, lengths))
        counts += (~missing).sum(axis=0)
        with_gaps |= missing.any(axis=0)
    totals = [sums.column(count, x.dtype) for count in counts.tolist()]
    words = [np.zeros(len(each.words or ()) + 1, np.int64) for each in features]
    for steps in _in_order(x, choices, lambda block: valid_steps(recoded(block[0], columns, features), block[1])):
        for place, each in enumerate(features):
            values = steps[:, place][~np.isnan(steps[:, place])]
            if each.words is None:
                totals[place].add(values)
            else:
                words[place] += np.bincount(values.astype(np.int64), minlength=len(words[place]))
    found = []
    for place, each in enumerate(features):
        fill = 0.0
        if counts[place]:
            fill = totals[place].total / int(counts[place]) if each.words is None else float(words[place].argmax())
        found.append(replace(each, fill=fill, mask=bool(with_gaps[place] and choices.missing_mask)))
    return tuple(found)


@dataclass(frozen=True)
class _Numbers:
    """The numbers that are scaled, at the valid steps of training."""

    x: FileSteps
    columns: Sequence[Column]
    choices: Choices
    features: tuple[Feature, ...]
    rows: int
    """Steps of all samples together."""
    width: int
    """Numbers of a step."""
    by_column: bool
    """Whether `fitting.py` has each column in one piece in memory."""

    @classmethod
    def of(cls, x: FileSteps, columns: Sequence[Column], choices: Choices, features: tuple[Feature, ...]) -> _Numbers:
        lengths, longest = (
            shape.lengths_read(each, choices.max_length, choices.stride, 1)
            for each in (x.lengths, np.array([x.longest]))
        )
        found = cls(x, columns, choices, features, int(lengths.sum()), 0, by_column=False)
        first = next(iter(found.blocks()))
        is_full = bool((lengths == longest).all())
        by_column = first.shape[1] == 1 or (is_full and first.strides[0] < first.strides[1])
        return replace(found, width=first.shape[1], by_column=by_column)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """(steps, numbers)"""
        yield from _in_order(self.x, self.choices, self._of_block)

    def _of_block(self, block: Block) -> NDArray[Any]:
        x, lengths = block
        numbers = [place for place, each in enumerate(self.features) if each.words is None]
        x = filled(recoded(x, self.columns, self.features), lengths, self.choices, self.features)
        x = x if len(numbers) == len(self.features) else x[:, :, numbers]
        return valid_steps(with_differences(x, self.choices.differences), lengths)

    def sum(self, *, squares_from: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Of each number, or of the squares of its distances from these: (numbers,)."""
        dtype = self.x.dtype if squares_from is None else np.dtype(np.float64)
        found = sums.of_rows(self.width, self.rows, dtype, by_column=self.by_column)
        for block in self.blocks():
            found.add(block if squares_from is None else np.square(block - squares_from))
        return found.total


def _scaling(numbers: _Numbers, name: str) -> Scaling:
    """As `scaling.fitted`."""
    if name == "standard":
        shift = numbers.sum() / numbers.rows
        return of_steps(name, shift, np.sqrt(numbers.sum(squares_from=shift) / numbers.rows))
    if name == "robust":
        low, shift, high = quantiles.of_columns(numbers.blocks, numbers.rows, numbers.width, numbers.x.dtype, QUARTILES)
        return of_steps(name, shift, high - low)
    least, most = np.full(numbers.width, np.inf), np.full(numbers.width, -np.inf)
    for block in numbers.blocks():
        least = np.minimum(least, block.min(axis=0).astype(np.float64))
        most = np.maximum(most, block.max(axis=0).astype(np.float64))
    return of_steps(name, least, most - least)
