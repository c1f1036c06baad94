"""What holds of every preprocessing: padding changes no answer, a resumed run is the same run, and nothing but the
training split decides what is fitted."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopline.files.sequences import Column

from services.training import checkpoint
from services.training.data import part_of, prepare
from services.training.files.npz import Arrays
from services.training.loop import Run, answers, fit, in_rows
from tests.properties import examples
from tests.training.building import make_run, mixed, same, spec_for, timeless, trained, weights_of

CPU = torch.device("cpu")


@st.composite
def preparations(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of `data` that go together."""
    missing = draw(st.sampled_from(["drop", "forward", "mean", "linear"]))
    scaling = draw(st.sampled_from(["none", "standard", "minmax", "robust"]))
    max_length = draw(st.sampled_from([None, 1, 4, 9]))
    return {
        "missing": missing,
        "missing_mask": missing != "drop" and draw(st.booleans()),
        "differences": draw(st.sampled_from([None, "append", "replace"])),
        "categories": draw(st.sampled_from(["one_hot", "embedding"])),
        "scaling": scaling,
        "scaling_over": "train" if scaling == "none" else draw(st.sampled_from(["train", "per_sequence"])),
        "patch": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 3)),
        "max_length": max_length,
        "cut": "end" if max_length is None else draw(st.sampled_from(["start", "end"])),
        "split": {"validation": 0.2, "test": 0.2, "seed": draw(st.integers(0, 3))},
    }


ARCHITECTURES = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(["rnn", "lstm", "gru"]),
        "bidirectional": st.booleans(),
        "pooling": st.sampled_from(["last", "final", "mean", "max", "attention"]),
        "hidden_size": st.just(4),
    }
)


def data_for(preparation: dict[str, Any], seed: int = 5) -> Arrays:
    arrays = mixed(40, seed=seed)
    if preparation["missing"] != "drop":
        return arrays
    whole = mixed(40, gaps=False, seed=seed)
    keep = np.arange(40) % 4 != 0  # the others keep their gaps
    assert arrays.static is not None
    assert whole.static is not None
    x, static = arrays.x.copy(), arrays.static.copy()
    x[keep], static[keep] = whole.x[keep], whole.static[keep]
    return replace(arrays, x=x, static=static)


SHAPES = ("patch", "stride", "max_length", "cut")
"""Fields that leave no answer for each step."""


def with_tags(arrays: Arrays) -> Arrays:
    """The same sequences, with a tag for each step."""
    steps = arrays.x.shape[1]
    y = (np.arange(steps) + arrays.y[:, None])[:, :, None] % 3
    y[np.arange(steps) >= arrays.lengths[:, None]] = -1
    return replace(arrays, y=y)


def padded(arrays: Arrays, steps: int) -> Arrays:
    """The same data with more padding."""
    more = ((0, 0), (0, steps), (0, 0))
    y = np.pad(arrays.y, more, constant_values=-1) if arrays.y.ndim == 3 else arrays.y
    return replace(arrays, x=np.pad(arrays.x, more), y=y)


@examples(25)
@given(preparation=preparations(), architecture=ARCHITECTURES, tags=st.booleans())
def test_padding_never_changes_an_answer(preparation: dict[str, Any], architecture: dict[str, Any], tags: bool) -> None:
    arrays = data_for(preparation)
    if tags:
        arrays = with_tags(arrays)
        preparation = {key: value for key, value in preparation.items() if key not in SHAPES}
        architecture = {**architecture, "pooling": "none"}
    run = make_run(arrays, data=preparation, architecture=architecture)
    fitted = run.data.preprocessing
    assert prepare(padded(arrays, 5), run.spec).preprocessing == fitted
    rows = run.data.rows["train"]

    def answered(arrays: Arrays, rows: np.ndarray[Any, Any], batch: int) -> torch.Tensor:
        part = part_of(arrays, rows, fitted)
        return in_rows(*answers(run.model, part, CPU, "float32", batch))

    together = answered(arrays, rows, len(rows))
    torch.testing.assert_close(answered(padded(arrays, 5), rows, len(rows)), together, rtol=0, atol=1e-5)
    alone = torch.cat([answered(arrays, rows[[place]], 1) for place in range(len(rows))])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@examples(12)
@given(preparation=preparations(), updates=st.integers(1, 14))
def test_a_resumed_run_is_the_same_run(preparation: dict[str, Any], updates: int) -> None:
    arrays = data_for(preparation)

    def begun() -> Run:
        return make_run(arrays, data=preparation, architecture={"head_dropout": 0.3}, training={"epochs": 3})

    whole = begun()
    trained(whole)
    part = begun()
    for _ in islice(fit(part), updates):
        pass
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(part, Path(folder))
        again = begun()
        assert checkpoint.resume(again, Path(folder)) is not None
    trained(again)
    assert timeless(again.state.history) == timeless(whole.state.history)
    assert same(weights_of(again), weights_of(whole))


def planted(arrays: Arrays, rows: np.ndarray[Any, Any], *, gaps: bool) -> Arrays:
    """The same data, but the test rows have huge values, other weights, a word that no other row has, and gaps in
    features that have none elsewhere. The new word changes the numbers of all words."""
    assert arrays.features is not None
    assert arrays.static is not None
    assert arrays.weights is not None
    x, static, weights = arrays.x.copy(), arrays.static.copy(), arrays.weights.copy()
    x[:, :, 2] += 1.0
    static[:, 1] += 1.0
    for row in rows:
        x[row, : arrays.lengths[row], :2] = 1e6 * (1 + arrays.y[row])
        x[row, : arrays.lengths[row], 2] = 0.0
        if gaps:
            x[row, 0, 3] = np.nan
    static[rows] = (1e9, 0.0)
    weights[rows] = 1e3
    x[np.arange(x.shape[1]) >= arrays.lengths[:, None]] = 0.0
    features = tuple(
        Column("mode", "category", ("auto", *(each.categories or ()))) if each.kind == "category" else each
        for each in arrays.features
    )
    static_columns = (arrays.static_columns[0], Column("sex", "category", ("d", "f", "m")))
    return replace(arrays, x=x, static=static, weights=weights, features=features, static_columns=static_columns)


@examples(12)
@given(preparation=preparations())
def test_a_signal_in_the_test_split_alone_changes_nothing_that_was_learnt(preparation: dict[str, Any]) -> None:
    arrays = data_for(preparation)
    x = arrays.x.copy()
    x[:, :, 3] = np.where(np.isnan(x[:, :, 3]), 0.5, x[:, :, 3])  # elsewhere it has no gaps
    marks = (np.arange(40) % 5 == 1).astype(np.int8) * 2 + (np.arange(40) % 5 == 2)
    arrays = replace(arrays, x=x, split=marks.astype(np.int8))
    changed = planted(arrays, np.flatnonzero(arrays.split == 2), gaps=preparation["missing"] != "drop")
    preparation = {**preparation, "split": {"validation": "given", "test": "given"}}
    runs = []
    for each in (arrays, changed):
        spec = spec_for(each, data=preparation, training={"epochs": 2})
        runs.append(Run(spec, prepare(each, spec)))
        trained(runs[-1])
    before, after = runs
    assert before.data.preprocessing == after.data.preprocessing
    assert same(weights_of(before), weights_of(after))
    assert timeless(before.state.history) == timeless(after.state.history)
