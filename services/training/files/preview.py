"""A look into a data set: how long its sequences are, how its columns are distributed, and a few sequences. Bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from loopline.files import store
from loopline.files.sequences import Column, Sequences
from numpy.typing import NDArray

from services.training.files import npz
from services.training.files.npz import Arrays, Limits
from services.training.files.steps import IN_FILE_FROM

MOST_SHOWN, MOST_STEPS, MOST_TEXT = 6, 300, 2000
"""Sequences that are shown, the last steps of each, and the characters of a text."""
MOST_SAMPLED, MOST_SAMPLED_STEPS = 300, 1000
"""Sequences whose steps are counted, evenly from the whole data set, and the last steps of each."""
MOST_COLUMNS, MOST_WORDS, BINS = 24, 20, 20
MOST_WHOLE = 1 << 40
LARGEST_PACKED = 64 << 20
"""Bytes of an `.npz` that has to be read as a whole."""


@dataclass(frozen=True)
class _Content:
    """A data set of either form. A function gets the number of a sequence."""

    lengths: NDArray[np.int64]
    columns: tuple[Column, ...]
    steps: Callable[[int], NDArray[Any]]
    """(steps, columns): the last of a sequence."""
    times: Callable[[int], list[Any] | None]
    target: Callable[[int], Any]
    """What there is to predict of the whole sequence; None if it is of steps."""
    identity: Callable[[int], str | None]
    text: Callable[[int], str | None]
    static: Callable[[int], dict[str, Any]]


def of(path: Path, limits: Limits, admit: Callable[[int], object]) -> dict[str, Any]:
    """As `GET /v1/datasets/{id}/preview` answers. Reads a part of the steps, if the file lets it.

    Raises DatasetInvalid, OSError, and ValueError if the file would have to be read as a whole and is too large for it.
    """
    if store.is_stored(path):
        content = _of_sequences(store.read(path))
    else:
        if path.stat().st_size > LARGEST_PACKED:
            raise ValueError("it is too large to be looked into")
        content = _of_arrays(npz.read(path, limits, admit=admit, in_file_from=min(IN_FILE_FROM, 1 << 20)))
    total = len(content.lengths)
    sampled = [content.steps(number)[-MOST_SAMPLED_STEPS:] for number in _spread(total, MOST_SAMPLED)]
    values = np.concatenate(sampled) if sampled else np.empty((0, len(content.columns)))
    shown = [*enumerate(content.columns)][:MOST_COLUMNS]
    return {
        "columns": [_column(column, values[:, place]) for place, column in shown],
        "more_columns": max(0, len(content.columns) - MOST_COLUMNS),
        "lengths": _counted(content.lengths.astype(np.float64)),
        "sequences": [_sequence(content, number) for number in _spread(total, MOST_SHOWN)],
        "sampled": {"sequences": len(sampled), "of": total},
    }


def _spread(total: int, most: int) -> list[int]:
    """Numbers of sequences, evenly from all of them."""
    return sorted({int(place) for place in np.linspace(0, total - 1, min(total, most))}) if total else []


def _sequence(content: _Content, number: int) -> dict[str, Any]:
    steps = content.steps(number)[-MOST_STEPS:]
    times, text = content.times(number), content.text(number)
    return {
        "id": content.identity(number),
        "length": int(content.lengths[number]) if text is None else len(text),
        "target": content.target(number),
        "times": None if times is None else times[-MOST_STEPS:],
        "values": [_words(column, steps[:, place]) for place, column in enumerate(content.columns[:MOST_COLUMNS])],
        "static": content.static(number),
        "text": None if text is None else text[:MOST_TEXT],
    }


def _column(column: Column, values: NDArray[Any]) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    kind: Literal["number", "category"] = "number" if column.categories is None else "category"
    found: dict[str, Any] = {"name": column.name, "kind": kind, "missing": len(values) - len(known)}
    if column.categories is None:
        return {**found, "bins": _counted(known), "words": None}
    numbers, counts = np.unique(known.astype(np.int64), return_counts=True)
    pairs = sorted(zip(numbers.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])[:MOST_WORDS]
    return {**found, "bins": None, "words": [[str(column.categories[number]), count] for number, count in pairs]}


def _counted(values: NDArray[np.float64]) -> list[dict[str, Any]]:
    """A histogram of equal widths, in whole numbers if all values are."""
    if not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [{"low": _short(low), "high": _short(high), "count": len(values)}]
    if high - low < MOST_WHOLE and (values == np.floor(values)).all():
        width = -(-int(high - low + 1) // BINS)
        counts = np.bincount((values - low).astype(np.int64) // width)
        ends = [(low + width * place, min(high, low + width * (place + 1) - 1)) for place in range(len(counts))]
    else:
        counts, edges = np.histogram(values.astype(np.float64), BINS, (low, high))
        ends = [(edges[place], edges[place + 1]) for place in range(BINS)]
    return [
        {"low": _short(first), "high": _short(last), "count": int(count)}
        for (first, last), count in zip(ends, counts, strict=True)
    ]


def _short(value: Any) -> float | None:
    """With six significant digits; None if it is no number."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _words(column: Column, values: Iterable[Any]) -> list[Any]:
    if column.categories is None:
        return [_short(value) for value in values]
    return [None if np.isnan(value) else str(column.categories[int(value)]) for value in values]


def _of_sequences(found: Sequences) -> _Content:
    starts = np.cumsum(found.lengths) - found.lengths
    columns, parts = found.features, [found.x]
    if found.y is not None and found.targets == "step_values":
        columns, parts = (*columns, *map(Column, found.target_names)), [found.x, found.y]
    elif found.y is not None and found.targets == "tags":
        [name] = found.target_names or ("tag",)
        tags = Column(name, "category", tuple(map(str, found.classes or ())))
        columns, parts = (*columns, tags), [found.x, found.y[:, np.newaxis]]

    def part(number: int) -> slice:
        end = int(starts[number] + found.lengths[number])
        return slice(max(int(starts[number]), end - MOST_SAMPLED_STEPS), end)

    return _Content(
        lengths=_text_lengths(found.texts) if found.texts is not None else found.lengths,
        columns=columns,
        steps=lambda number: np.concatenate([np.asarray(each[part(number)], np.float64) for each in parts], axis=1),
        times=lambda number: None if found.times is None else _times(found, found.times[part(number)]),
        target=lambda number: _target(found, number),
        identity=lambda number: None if found.ids is None else str(found.ids[number]),
        text=lambda number: None if found.texts is None else found.texts[number],
        static=lambda number: (
            {}
            if found.static is None
            else {
                column.name: _words(column, [found.static[number, place]])[0]
                for place, column in enumerate(found.static_columns[:MOST_COLUMNS])
            }
        ),
    )


def _text_lengths(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def _times(found: Sequences, times: NDArray[Any]) -> list[Any]:
    if found.time_kind != "time":
        return [_short(each) for each in times]
    zone = "+00:00" if found.zoned else ""
    return [
        f"{str(each).replace('T', ' ')}{zone}" for each in np.asarray(times, "datetime64[ns]").astype("datetime64[s]")
    ]


def _target(found: Sequences, number: int) -> Any:
    if found.y is None or found.targets in (None, "tags", "step_values"):
        return None
    if found.targets == "classes":
        return str((found.classes or ())[int(found.y[number])])
    if found.targets == "multilabel":
        return ", ".join(name for name, on in zip(found.target_names, found.y[number], strict=False) if on)
    return ", ".join(f"{value:.6g}" for value in found.y[number][:MOST_COLUMNS])


def _of_arrays(found: Arrays) -> _Content:
    def steps(number: int) -> NDArray[Any]:
        length = int(found.lengths[number])
        return np.asarray(found.x[number, max(0, length - MOST_SAMPLED_STEPS) : length], np.float64)

    def target(number: int) -> Any:
        y = found.y[number]
        return str(y) if found.y.ndim == 1 else ", ".join(map(str, y.ravel()[:MOST_COLUMNS].tolist()))

    return _Content(
        lengths=found.lengths,
        columns=tuple(Column(f"feature {number + 1}") for number in range(found.x.shape[2])),
        steps=steps,
        times=lambda _: None,
        target=target,
        identity=lambda _: None,
        text=lambda _: None,
        static=lambda _: {},
    )
