"""From arrays to batches: scaling, the order of an epoch, and what a batch holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.errors import DatasetInvalid
from services.training import data
from services.training.data import MiniBatch, Order, Part, batches_of, in_order, order_of, prepare
from services.training.files.npz import Arrays
from services.training.spec.fields import Split
from services.training.splits import split_rows
from tests.properties import examples
from tests.training.building import classes, make_run, of_many_lengths, spec_for, trained, values

CPU = torch.device("cpu")


def prepared(arrays: Arrays, scaling: str, **split: Any) -> data.Prepared:
    return prepare(arrays, spec_for(arrays, data={"scaling": scaling, "split": split}))


def scattered() -> Arrays:
    """Variable lengths, features of other scales, the last of them constant."""
    arrays = of_many_lengths(classes(40, features=4), least=2)
    x = arrays.x * np.array([1, 100, 1e-3, 0], np.float32) + np.array([0, 1e4, 5, 7], np.float32)
    x[np.arange(6) >= arrays.lengths[:, None]] = 0.0
    return Arrays(x=x.astype(np.float32), lengths=arrays.lengths, y=arrays.y)


def valid_steps(part: Part) -> NDArray[np.float32]:
    lengths = np.full(len(part), part.x.shape[1]) if part.lengths is None else part.lengths.numpy()
    return part.x.numpy()[np.arange(part.x.shape[1]) < lengths[:, None]]


def test_standard_scaling_gives_the_training_steps_mean_zero_and_deviation_one() -> None:
    steps = valid_steps(prepared(scattered(), "standard").train)
    assert np.abs(steps.mean(axis=0)).max() < 1e-4  # of float32 numbers of about 1e4 before
    np.testing.assert_allclose(steps.std(axis=0)[:3], 1.0, atol=1e-3)


def test_minmax_scaling_puts_the_training_steps_between_zero_and_one() -> None:
    steps = valid_steps(prepared(scattered(), "minmax").train)
    np.testing.assert_allclose(steps.min(axis=0)[:3], 0.0, atol=1e-6)
    np.testing.assert_allclose(steps.max(axis=0)[:3], 1.0, atol=1e-6)


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
def test_a_constant_feature_becomes_zero(scaling: str) -> None:
    found = prepared(scattered(), scaling)
    assert not valid_steps(found.train)[:, 3].any()
    assert found.scaling.scale is not None
    assert found.scaling.scale[3] == 1.0


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
def test_scaling_knows_the_valid_training_steps_and_nothing_else(scaling: str) -> None:
    arrays = scattered()
    rows = split_rows(arrays, Split(validation=0.25))
    train = arrays.x[rows["train"]]
    steps = train[np.arange(6) < arrays.lengths[rows["train"]][:, None]].astype(np.float64)
    shift = steps.mean(axis=0) if scaling == "standard" else steps.min(axis=0)
    scale = steps.std(axis=0) if scaling == "standard" else steps.max(axis=0) - steps.min(axis=0)
    scale[3] = 1.0
    found = prepared(arrays, scaling, validation=0.25)
    np.testing.assert_allclose(found.scaling.shift, shift, rtol=1e-12)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.scaling.scale, scale, rtol=1e-12)  # type: ignore[arg-type]
    assert found.validation is not None
    chosen = arrays.x[rows["validation"]][:, : found.validation.x.shape[1]]
    expected = (chosen - shift.astype(np.float32)) / scale.astype(np.float32)
    valid = np.arange(chosen.shape[1]) < arrays.lengths[rows["validation"]][:, None]
    np.testing.assert_array_equal(found.validation.x.numpy()[valid], expected[valid])


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
def test_padding_stays_zero_and_the_arrays_stay_as_they_were(scaling: str) -> None:
    arrays = scattered()
    before = arrays.x.copy()
    part = prepared(arrays, scaling).train
    assert part.lengths is not None
    assert not part.x.numpy()[np.arange(6) >= part.lengths.numpy()[:, None]].any()
    np.testing.assert_array_equal(arrays.x, before)


def test_without_scaling_the_numbers_are_as_they_came() -> None:
    arrays = classes()
    found = prepared(arrays, "none", validation=0.0)
    assert found.scaling.document() == {"name": "none", "shift": None, "scale": None}
    np.testing.assert_array_equal(found.train.x.numpy(), arrays.x)


def test_targets_are_indices_of_the_sorted_classes() -> None:
    arrays = classes(kinds=3)
    words = Arrays(x=arrays.x, lengths=arrays.lengths, y=np.array(["c", "a", "b"])[arrays.y])
    found = prepared(words, "none", validation=0.0)
    assert (found.classes, found.output_size) == (["a", "b", "c"], 3)
    assert found.train.y.tolist() == np.array([2, 0, 1])[arrays.y].tolist()


def test_two_classes_under_bce_are_one_column_of_zeros_and_ones() -> None:
    arrays = classes(kinds=2)
    arrays = Arrays(x=arrays.x, lengths=arrays.lengths, y=arrays.y * 7 - 3)
    found = prepare(arrays, spec_for(arrays, training={"loss": "bce"}, data={"split": {"validation": 0.0}}))
    assert (found.classes, found.output_size, found.train.y.dtype) == ([-3, 4], 1, torch.float32)
    assert found.train.y[:, 0].tolist() == [0.0, 1.0] * 12


@pytest.mark.parametrize("columns", [1, 2])
def test_values_are_columns(columns: int) -> None:
    arrays = values(columns=columns)
    flat = Arrays(x=arrays.x, lengths=arrays.lengths, y=arrays.y[:, 0] if columns == 1 else arrays.y)
    spec = spec_for(flat, data={"split": {"validation": 0.0}, "target_scaling": "none"})
    found = prepare(flat, spec)
    assert (found.classes, found.output_size) == (None, columns)
    np.testing.assert_array_equal(found.train.y.numpy(), arrays.y)


def test_class_numbers_under_a_loss_for_values_are_values() -> None:
    arrays = classes()
    found = prepare(
        arrays,
        spec_for(arrays, training={"loss": "mae"}, data={"split": {"validation": 0.0}, "target_scaling": "none"}),
    )
    assert (found.classes, found.output_size) == (None, 1)
    assert found.train.y[:, 0].tolist() == arrays.y.tolist()


def test_several_yes_or_no_targets_are_columns() -> None:
    arrays = classes()
    y = np.stack([arrays.y == 0, arrays.y > 0, arrays.y > 1], axis=1).astype(np.int64)
    found = prepared(Arrays(x=arrays.x, lengths=arrays.lengths, y=y), "none", validation=0.0)
    assert (found.output_size, found.train.y.dtype) == (3, torch.float32)
    assert found.train.y.tolist() == y.tolist()


def test_a_part_is_as_long_as_its_longest_and_knows_when_all_are_full() -> None:
    arrays = of_many_lengths(classes(40), least=2)
    found = prepared(arrays, "none")
    for part in (found.train, found.validation):
        assert part is not None
        assert part.lengths is None or part.x.shape[1] == int(part.lengths.max())
    full = Arrays(x=arrays.x, lengths=np.full(40, 4), y=arrays.y)
    part = prepared(full, "none").train
    assert part.lengths is None
    assert part.x.shape[1] == 4


LENGTHS = np.random.default_rng(3).integers(5, 200, 1000)


def batches(**changes: Any) -> list[list[int]]:
    options: dict[str, Any] = {"seed": 0, "samples": 1000, "batch_size": 16} | changes
    return [rows.tolist() for rows in order_of(options.pop("epoch", 1), **options).batches]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["shuffled", "bucketed"])
def test_an_order_is_a_function_of_seed_and_epoch(lengths: NDArray[np.int64] | None) -> None:
    assert batches(lengths=lengths) == batches(lengths=lengths)
    assert batches(lengths=lengths) != batches(lengths=lengths, epoch=2)
    assert batches(lengths=lengths) != batches(lengths=lengths, seed=1)


@examples(80)
@given(
    samples=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    least=st.integers(1, 2),
    bucketed=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_takes_every_sample_exactly_once(
    samples: int, batch_size: int, least: int, bucketed: bool, seed: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, samples) if bucketed else None
    order = order_of(1, seed=seed, samples=samples, batch_size=batch_size, lengths=lengths, least=least)
    assert sorted(np.concatenate(order.batches)) == list(range(samples))
    sizes = sorted((len(rows) for rows in order.batches), reverse=True)
    assert max(sizes) <= batch_size + least - 1
    assert len(sizes) == 1 or min(sizes) >= min(least, batch_size)
    assert sum(size != batch_size for size in sizes) <= 1


def test_a_last_batch_of_one_joins_the_one_before_where_two_are_needed() -> None:
    assert [len(rows) for rows in batches(samples=9, batch_size=4)] == [4, 4, 1]
    assert [len(rows) for rows in batches(samples=9, batch_size=4, least=2)] == [4, 5]
    assert [len(rows) for rows in batches(samples=10, batch_size=4, least=2)] == [4, 4, 2]


def test_bucketed_batches_hold_similar_lengths_and_waste_little() -> None:
    def waste(lengths: NDArray[np.int64] | None) -> float:
        padded = sum(len(rows) * max(LENGTHS[rows]) for rows in batches(lengths=lengths))
        return 1.0 - LENGTHS.sum() / padded

    assert waste(None) > 0.35
    assert waste(LENGTHS) < 0.08


def test_bucketed_batches_do_not_come_by_length() -> None:
    means = [LENGTHS[rows].mean() for rows in batches(samples=256, lengths=LENGTHS[:256])]  # of one pool
    assert abs(np.corrcoef(means, np.arange(16))[0, 1]) < 0.6  # by length it would be 1


def test_bucketed_company_changes_with_the_epoch() -> None:
    first, second = ({frozenset(rows) for rows in batches(lengths=LENGTHS, epoch=epoch)} for epoch in (1, 2))
    assert not first & second


def test_the_mean_loss_of_an_epoch_is_the_same_bucketed_or_not() -> None:
    arrays = of_many_lengths(classes(60, length=12))
    optimizer = {"name": "sgd", "lr": 1e-30}  # weights that stay where they are
    records = []
    for bucketing in (True, False):
        run = make_run(arrays, training={"optimizer": optimizer, "epochs": 1}, data={"bucketing": bucketing})
        records += trained(run)
    assert records[0]["train_loss"] == pytest.approx(records[1]["train_loss"], rel=1e-6)
    assert records[0]["train_accuracy"] == records[1]["train_accuracy"]
    assert records[0]["train_macro_f1"] == records[1]["train_macro_f1"]


def a_part(lengths: bool) -> Part:
    x = torch.arange(20 * 5, dtype=torch.float32).reshape(20, 5, 1)
    chosen = torch.tensor([1, 2, 3, 4, 5] * 4) if lengths else None
    return Part(x=x, lengths=chosen, y=torch.arange(20))


def flat(found: Iterator[MiniBatch]) -> list[tuple[Any, Any, Any]]:
    return [(b.x.tolist(), None if b.lengths is None else b.lengths.tolist(), b.y.tolist()) for b in found]


@pytest.mark.parametrize("lengths", [False, True])
def test_batches_hold_the_rows_of_the_order_cut_to_their_longest(lengths: bool) -> None:
    part = a_part(lengths)
    order = order_of(1, seed=0, samples=20, batch_size=6)
    for rows, batch in zip(order.batches, batches_of(part, order, CPU), strict=True):
        assert batch.y.tolist() == rows.tolist()
        longest = 5 if part.lengths is None else int(part.lengths[rows].max())
        assert torch.equal(batch.x, part.x[rows, :longest])
        assert (batch.lengths is None) == (part.lengths is None)
        if part.lengths is not None and batch.lengths is not None:
            assert batch.lengths.tolist() == part.lengths[rows].tolist()


def test_a_batch_of_equal_lengths_needs_no_lengths() -> None:
    order = Order([np.array([0, 5, 10]), np.array([0, 1])])
    uniform, mixed = batches_of(a_part(lengths=True), order, CPU)
    assert (uniform.lengths, uniform.x.shape) == (None, (3, 1, 1))
    assert mixed.lengths is not None
    assert mixed.lengths.tolist() == [1, 2]


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("window", [1, 20 * 5, 3 * 4 * 20, 1 << 20])
def test_batches_do_not_depend_on_how_many_are_gathered_at_once(
    lengths: bool, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, order = a_part(lengths), order_of(1, seed=0, samples=20, batch_size=4)
    expected = flat(batches_of(part, order, CPU))
    monkeypatch.setattr(data, "WINDOW_BYTES", window)
    assert flat(batches_of(part, order, CPU)) == expected


@pytest.mark.parametrize("skip", [0, 1, 4, 5])
def test_skipped_batches_leave_the_rest_as_they_were(skip: int) -> None:
    part, order = a_part(lengths=True), order_of(1, seed=0, samples=20, batch_size=4)
    assert flat(batches_of(part, order, CPU, skip=skip)) == flat(batches_of(part, order, CPU))[skip:]


def test_evaluation_takes_every_sample_once_sorted_by_length() -> None:
    order = in_order(10, 4)
    assert np.concatenate(order.batches).tolist() == list(range(10))
    assert max(len(rows) for rows in order.batches) <= 4
    lengths = np.array([3, 1, 2, 5, 4])
    assert np.concatenate(in_order(5, 2, lengths).batches).tolist() == [1, 2, 0, 4, 3]


def test_a_cpu_keeps_the_data_where_it_is() -> None:
    part = a_part(lengths=True)
    assert data.place(part, CPU) is part


@pytest.mark.parametrize("size", [2.0**64, 3e38])
def test_training_data_whose_squares_float32_cannot_hold_is_told_as_data(size: float) -> None:
    arrays = classes(24)
    arrays.x[[3, 7], 2, 1] = -size
    spec = spec_for(arrays, data={"split": {"validation": 0.0}})
    told = rf"x of training rows 3, 7 holds numbers of {size:.3g} as .*: set data\.scaling to standard, or rescale x"
    with pytest.raises(DatasetInvalid, match=told.replace("+", r"\+")) as caught:
        prepare(arrays, spec)
    assert [problem.pointer for problem in caught.value.problems] == ["/x"]
    scaled = prepare(arrays, spec_for(arrays, data={"split": {"validation": 0.0}, "scaling": "standard"}))
    assert scaled.train.x.isfinite().all()
    arrays.x[[3, 7], 2, 1] = 2.0**63
    prepare(arrays, spec)


def test_values_to_predict_whose_squares_float32_cannot_hold_are_told_as_data() -> None:
    arrays = values(24)
    arrays.y[5] = 1e20
    split = {"validation": 0.0}
    with pytest.raises(DatasetInvalid, match=r"y of training rows 5 holds .*: set data\.target_scaling to standard"):
        prepare(arrays, spec_for(arrays, data={"split": split, "target_scaling": "none"}))
    prepare(arrays, spec_for(arrays, data={"split": split}))


@pytest.mark.parametrize(
    ("judging", "count", "said"),
    [
        ("validation", 6, "validation split, because the targets of its 6 samples are all the same"),
        ("validation", 1, "validation split, because it has only one sample"),
        ("train", 0, "train split, because the targets of its 20 samples are all the same"),
    ],
)
def test_a_best_epoch_by_r2_needs_targets_that_vary(judging: str, count: int, said: str) -> None:
    arrays = values(samples=20 + count, columns=1)
    part = np.repeat(np.array([0, 1], np.int8), [20, count])
    arrays = replace(arrays, split=part if count else None)
    data = {"split": {"validation": "given" if count else 0.0}}
    arrays.y[part == (1 if count else 0)] = arrays.y[0]
    with pytest.raises(DatasetInvalid) as refused:
        make_run(arrays, training={"best_by": "r2"}, data=data)
    [problem] = refused.value.problems
    assert problem.pointer == "/training/best_by"
    assert said in problem.detail
    make_run(arrays, training={"best_by": "rmse"}, data=data)
    make_run(values(), training={"best_by": "r2"})
