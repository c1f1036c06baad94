"""Makes sequences of a data set as the service stores it, for a model that may know other words and fewer columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.files.problems import refuse
from loopline.files.sequences import Column, Sequences
from loopline.prediction import inputs
from loopline.prediction.document import Document, columns_of
from loopline.prediction.given import Given
from loopline.preprocessing.fitted import Feature

_SHOWN = 3


def given(document: Document, found: Sequences) -> Given:
    """The sequences of a data set that may be mapped from its file. Steps stay there if their columns are those of the
    model, in its order.

    Raises FileInvalid.
    """
    reads_texts = document.preprocessing.text is not None
    if reads_texts != (found.texts is not None):
        raise refuse(
            "", "the model takes texts, and this data set has none" if reads_texts else "the model takes no texts"
        )
    columns, x = found.features, found.x
    if found.targets == "step_values" and found.y is not None:  # of series, which the model may read too
        columns, x = (*columns, *map(Column, found.target_names)), np.concatenate((x, found.y), axis=1)
    warnings: list[str] = []
    return Given(
        x=x if reads_texts else _chosen(x, columns, document.given, warnings),
        lengths=np.asarray(found.lengths, np.int64),
        columns=() if reads_texts else columns_of(document.given),
        static=_static(document, found, warnings),
        static_columns=columns_of(document.static),
        texts=None if found.texts is None else np.array([*found.texts, None], np.object_)[:-1],
        times=found.times,
        zoned=found.zoned,
        warnings=tuple(warnings),
        **inputs.names(len(found.lengths), None if found.ids is None else found.ids.tolist()),
    )


def _static(document: Document, found: Sequences, warnings: list[str]) -> NDArray[np.float64] | None:
    if not document.static:
        return None
    has = np.empty((len(found.lengths), 0)) if found.static is None else found.static
    return _chosen(has, found.static_columns, document.static, warnings).astype(np.float64)


def _chosen(x: NDArray[Any], columns: Sequence[Column], wanted: Sequence[Feature], warnings: list[str]) -> NDArray[Any]:
    """The columns that the model reads, in its order, with its numbers for words."""
    places = {column.name: place for place, column in enumerate(columns)}
    for feature in wanted:
        if feature.name not in places:
            there = ", ".join(f"`{name}`" for name in [*places][:10]) or "none"
            raise refuse("", f"there is no column `{feature.name}`, which the model reads; there are {there}")
        _check_kind(columns[places[feature.name]], feature)
    order = [places[feature.name] for feature in wanted]
    words = any(feature.words is not None for feature in wanted)
    if order == list(range(len(columns))) and not words:
        return x
    chosen = np.asarray(x[:, order])
    for place, feature in enumerate(wanted):
        if feature.words is not None:
            categories = columns[places[feature.name]].categories or ()
            chosen[:, place] = _coded(chosen[:, place], feature, categories, warnings)
    return chosen


def _check_kind(column: Column, feature: Feature) -> None:
    if column.kind == "category" and feature.words is None:
        shown = ", ".join(repr(word[:40]) for word in (column.categories or ())[:_SHOWN])
        detail = f"`{column.name}` has words ({shown}), and the model takes it as a number"
        raise refuse(f"column {column.name}", detail)
    if column.kind != "category" and feature.words is not None:
        detail = f"`{column.name}` has numbers, and the model takes it as words: upload the file with raw=true"
        raise refuse(f"column {column.name}", detail)


def _coded(
    codes: NDArray[Any], feature: Feature, categories: Sequence[str], warnings: list[str]
) -> NDArray[np.float64]:
    """Numbers of words as the model has them: from 1 on, 0 for one that training does not have."""
    known = {word: number for number, word in enumerate(feature.words or (), 1)}
    numbers = np.array([known.get(word, 0) for word in categories] or [0], np.float64)
    there = ~np.isnan(codes)
    found = np.full(len(codes), np.nan)
    found[there] = numbers[codes[there].astype(np.int64)]
    used = np.unique(codes[there].astype(np.int64)).tolist()
    unknown = [categories[code] for code in used if categories[code] not in known]
    if unknown:
        shown = ", ".join(repr(word[:40]) for word in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
        warnings.append(
            f"`{feature.name}` has words that are not in training ({shown}{more}): the model takes them as unknown"
        )
    return found
