"""Checks what a stored file holds: the arrays against each other, and against the document beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from loopline.files.aligned import Damaged
from loopline.files.mapping import release
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Kind, Sequences, Targets

Arrays = dict[str, NDArray[Any]]
_BLOCK = 1 << 22


def checked(document: dict[str, Any], arrays: Arrays, file_bytes: int) -> Sequences:
    """The data set of a file that is so long. Raises Damaged, or ValueError, TypeError and KeyError for a document that
    has something else than it should."""
    x, lengths = arrays["x"], arrays["lengths"]
    _require(x.ndim == 2 and lengths.ndim == 1, "x and lengths")
    steps, sequences = len(x), len(lengths)
    _require(0 < sequences <= steps <= file_bytes, "the number of steps")
    _require(bool(lengths.min() >= 1 and lengths.max() <= steps) and int(lengths.sum()) == steps, "lengths")
    features, static_columns = _columns(document["features"]), _columns(document["static"])
    _require(len(features) == x.shape[1], "the number of features")
    _check_categories(x, features)
    texts = _words(arrays, "text", sequences)
    ids = _words(arrays, "id", sequences)
    _require(texts is None or (x.shape[1] == 0 and steps == sequences), "texts")
    classes = _classes(document["classes"])
    targets = document["targets"]
    names = _names(document["target_names"])
    y = arrays.get("y")
    _check_targets(y, targets, classes, len(names), (sequences, steps))
    _check_sides(arrays, static_columns, sequences)
    _check_times(arrays.get("times"), document["time_kind"], document.get("zoned"), steps)
    _require(isinstance(document["schema"], dict), "the schema")
    return Sequences(
        x=x,
        lengths=lengths,
        features=features,
        schema=Schema.from_document(document["schema"]),
        y=y,
        targets=targets,
        target_names=names,
        classes=classes,
        static=arrays.get("static"),
        static_columns=static_columns,
        weights=arrays.get("weights"),
        split=arrays.get("split"),
        ids=None if ids is None else np.array(ids, np.str_),
        times=arrays.get("times"),
        time_kind=document["time_kind"],
        zoned=document.get("zoned"),
        texts=None if texts is None else tuple(texts),
    )


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Damaged(f"{what} do not fit the rest" if " and " in what else f"{what} is wrong")


def _names(value: Any) -> tuple[str, ...]:
    _require(isinstance(value, list) and all(isinstance(name, str) for name in value), "a list of names")
    return tuple(value)


def _columns(value: Any) -> tuple[Column, ...]:
    _require(isinstance(value, list), "the list of columns")
    found = []
    for one in value:
        _require(isinstance(one, dict) and isinstance(one["name"], str) and one["kind"] in get_args(Kind), "a column")
        categories = None if one["categories"] is None else _names(one["categories"])
        _require((one["kind"] == "category") == (categories is not None), "the categories of a column")
        found.append(Column(one["name"], one["kind"], categories))
    return tuple(found)


def _classes(value: Any) -> tuple[int | str, ...] | None:
    if value is None:
        return None
    _require(isinstance(value, list) and len(value) > 0, "the list of classes")
    kind = type(value[0])
    _require(kind in (int, str) and all(type(label) is kind for label in value), "a class")
    _require(len(set(value)) == len(value) and value == sorted(value), "the order of classes")
    _require(kind is str or all(abs(label) < 1 << 63 for label in value), "a class")
    return tuple(value)


def _all(array: NDArray[Any], holds: Callable[[NDArray[Any]], Any]) -> bool:
    """Whether something holds for an array, looked at in pieces."""
    rows = max(1, _BLOCK // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), rows):
        found = bool(np.all(holds(array[start : start + rows])))
        release(array)
        if not found:
            return False
    return True


def _check_categories(x: NDArray[Any], features: tuple[Column, ...]) -> None:
    """A category outside the vocabulary would be a place outside the memory of an embedding."""
    for place, column in enumerate(features):
        if column.categories is not None:
            _check_codes(x[:, place], len(column.categories), column.name)


def _check_codes(codes: NDArray[Any], count: int, name: str) -> None:
    def holds(block: NDArray[Any]) -> Any:
        return np.isnan(block) | ((block >= 0) & (block < count) & (block == np.floor(block)))

    _require(_all(codes, holds), f"a category of {name[:40]}")


def _words(arrays: Arrays, name: str, count: int) -> list[str] | None:
    whole, ends = arrays.get(f"{name}_bytes"), arrays.get(f"{name}_ends")
    if whole is None and ends is None:
        return None
    if whole is None or ends is None or whole.ndim != 1 or ends.shape != (count,):
        raise Damaged(f"the {name}s are incomplete")
    _require(bool(ends[0] >= 0 and ends[-1] == len(whole) and (ends[1:] >= ends[:-1]).all()), f"where {name}s end")
    content = whole.tobytes()
    starts = [0, *ends[:-1].tolist()]
    return [content[start:end].decode() for start, end in zip(starts, ends.tolist(), strict=True)]


_FORMS: dict[str | None, tuple[str, int, bool]] = {
    "classes": ("<i8", 1, False),
    "tags": ("<i8", 1, True),
    "multilabel": ("|i1", 2, False),
    "values": ("<f8", 2, False),
    "step_values": ("<f8", 2, True),
}
"""Of each kind of targets the type, the dimensions, and whether there is one per step."""


def _check_targets(
    y: NDArray[Any] | None,
    targets: Targets | None,
    classes: tuple[int | str, ...] | None,
    names: int,
    counts: tuple[int, int],
) -> None:
    if y is None or targets is None:
        _require(y is None and targets is None and classes is None and names == 0, "the targets")
        return
    _require(isinstance(targets, str) and targets in _FORMS, "the kind of targets")
    type_, dimensions, by_step = _FORMS[targets]
    _require(y.dtype.str == type_ and y.ndim == dimensions and len(y) == counts[by_step], "y")
    _require(names == (1 if dimensions == 1 else y.shape[1]), "the names of targets")
    _require((classes is not None) == (dimensions == 1), "the classes")
    if classes is not None:
        count = len(classes)
        _require(_all(y, lambda block: (block >= 0) & (block < count)), "a class of y")
    elif targets == "multilabel":
        _require(_all(y, lambda block: (block == 0) | (block == 1)), "a label of y")
    elif targets == "values":
        _require(_all(y, np.isfinite), "a value of y")
    else:
        _require(_all(y, lambda block: ~np.isinf(block)), "a value of y")


def _check_sides(arrays: Arrays, columns: tuple[Column, ...], sequences: int) -> None:
    static, weights, split = arrays.get("static"), arrays.get("weights"), arrays.get("split")
    if static is None:
        _require(not columns, "the static columns")
    else:
        _require(static.shape == (sequences, len(columns)) and len(columns) > 0, "the shape of static")
        _require(_all(static, lambda block: ~np.isinf(block)), "a static value")
        _check_categories(static, columns)
    if weights is not None:
        _require(weights.shape == (sequences,), "the shape of weights")
        _require(_all(weights, lambda block: np.isfinite(block) & (block > 0)), "a weight")
    if split is not None:
        _require(split.shape == (sequences,) and _all(split, lambda block: (block >= 0) & (block <= 2)), "the split")


def _check_times(times: NDArray[Any] | None, kind: Any, zoned: Any, steps: int) -> None:
    _require(zoned is None or (isinstance(zoned, bool) and kind == "time"), "the zone of times")
    if times is None:
        _require(kind is None, "the kind of times")
        return
    _require(kind in ("number", "time") and times.shape == (steps,), "the shape of times")
    _require(times.dtype.str == ("<i8" if kind == "time" else "<f8"), "the type of times")
    _require(kind == "time" or _all(times, np.isfinite), "a time")
