"""Random data sets, for properties."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences

WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
NAMES = st.lists(WORDS, min_size=1, max_size=4, unique=True)


@st.composite
def sequences(draw: st.DrawFn) -> Sequences:
    """Any data set that `Sequences` can be."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    lengths = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=6)), np.int64)
    count = len(lengths)
    texts = tuple(draw(st.lists(WORDS, min_size=count, max_size=count))) if draw(st.integers(0, 4)) == 0 else None
    if texts is not None:
        lengths = np.ones(count, np.int64)
    steps = int(lengths.sum())
    features = () if texts is not None else tuple(draw(st.lists(_columns(), min_size=1, max_size=3)))
    static = tuple(draw(st.lists(_columns(), max_size=2)))
    time_kind = draw(st.sampled_from((None, "number", "time")))
    times: Any = {None: None, "number": rng.normal(size=steps), "time": rng.integers(-(1 << 60), 1 << 60, steps)}
    return Sequences(
        x=_values(rng, steps, features).astype(draw(st.sampled_from((np.float32, np.float64)))),
        lengths=lengths,
        features=features,
        schema=Schema(layout=draw(st.sampled_from(("wide", "long", "text"))), target=("a",), group=()),
        static=_values(rng, count, static) if static else None,
        static_columns=static,
        weights=rng.uniform(0.1, 2, count) if draw(st.booleans()) else None,
        split=rng.integers(0, 3, count).astype(np.int8) if draw(st.booleans()) else None,
        ids=np.array(draw(st.lists(WORDS, min_size=count, max_size=count)), np.str_) if draw(st.booleans()) else None,
        times=times[time_kind],
        time_kind=time_kind,
        zoned=draw(st.sampled_from((None, False, True))) if time_kind == "time" else None,
        texts=texts,
        **_targets(draw, rng, count, steps),
    )


def _targets(draw: st.DrawFn, rng: np.random.Generator, count: int, steps: int) -> dict[str, Any]:
    kind = draw(st.sampled_from((None, "classes", "tags", "multilabel", "values", "step_values")))
    if kind is None:
        return {}
    if kind in ("classes", "tags"):
        classes: tuple[Any, ...] = tuple(
            sorted(draw(NAMES | st.lists(st.integers(), min_size=1, max_size=4, unique=True)))
        )
        classes = tuple(label for label in classes if isinstance(label, str) or abs(label) < 1 << 63) or (0,)
        y = rng.integers(0, len(classes), count if kind == "classes" else steps)
        return {"y": y, "targets": kind, "classes": classes, "target_names": ("label",)}
    names = tuple(draw(NAMES))
    if kind == "multilabel":
        return {"y": rng.integers(0, 2, (count, len(names))).astype(np.int8), "targets": kind, "target_names": names}
    y = rng.normal(size=(steps if kind == "step_values" else count, len(names)))
    if kind == "step_values":
        y[rng.uniform(size=y.shape) < 0.2] = np.nan
    return {"y": y, "targets": kind, "target_names": names}


def _columns() -> st.SearchStrategy[Column]:
    kinds = st.sampled_from(("number", "boolean"))
    categories = NAMES.map(lambda words: tuple(sorted(words)))
    return st.builds(Column, WORDS, kinds) | st.builds(Column, WORDS, st.just("category"), categories)


def _values(rng: np.random.Generator, rows: int, columns: tuple[Column, ...]) -> Any:
    found = rng.normal(size=(rows, len(columns)))
    for place, column in enumerate(columns):
        if column.categories is not None:
            found[:, place] = rng.integers(0, len(column.categories), rows)
    found[rng.uniform(size=found.shape) < 0.2] = np.nan
    return found
