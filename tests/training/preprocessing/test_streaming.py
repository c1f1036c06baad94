"""Statistics of data that comes block by block are those of numpy for all of it, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from loopline.preprocessing.scaling import QUARTILES
from numpy.typing import NDArray

from services.training.preprocessing import quantiles, sums
from tests.properties import examples

COUNTS = st.sampled_from([1, 2, 7, 128, 129, 1000, 8191, 8192, 8193, 70_001, 200_003])


def numbers(seed: int, rows: int, columns: int, dtype: str) -> NDArray[Any]:
    """Of very different sizes, so that each order of additions has another sum."""
    rng = np.random.default_rng(seed)
    found: NDArray[Any] = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-12, 12, (rows, columns))
    return found.astype(dtype)


def in_blocks(values: NDArray[Any], seed: int) -> Iterator[NDArray[Any]]:
    rng, start = np.random.default_rng(seed), 0
    while start < len(values):
        size = int(rng.integers(1, 30_000))
        yield values[start : start + size]
        start += size


@examples(40)
@given(
    seed=st.integers(0, 99),
    rows=COUNTS,
    columns=st.integers(1, 4),
    dtype=st.sampled_from(["f4", "f8"]),
    by_column=st.booleans(),
)
def test_a_sum_is_that_of_numpy(seed: int, rows: int, columns: int, dtype: str, by_column: bool) -> None:
    values = numbers(seed, rows, columns, dtype)
    values = np.asfortranarray(values) if by_column else values
    found = sums.of_rows(columns, rows, values.dtype, by_column=by_column)
    for block in in_blocks(values, seed):
        found.add(block)
    np.testing.assert_array_equal(found.total, values.sum(axis=0, dtype=np.float64))


def test_the_orders_of_addition_differ() -> None:
    """Else the test above could not fail."""
    values = numbers(0, 70_001, 2, "f4")
    orders = [values, np.asfortranarray(values), values.astype("f8"), np.asfortranarray(values.astype("f8"))]
    assert len({each.sum(axis=0, dtype=np.float64).tobytes() for each in orders}) == 3


@examples(40)
@given(
    seed=st.integers(0, 99),
    rows=COUNTS,
    columns=st.sampled_from([1, 3, 30]),
    dtype=st.sampled_from(["f4", "f8"]),
    repeated=st.booleans(),
)
def test_a_quantile_is_that_of_numpy(seed: int, rows: int, columns: int, dtype: str, repeated: bool) -> None:
    rows = min(rows, 9000)
    values = numbers(seed, rows, columns, dtype)
    values = np.round(values) % 5 - 2 + values.dtype.type(0) if repeated else values
    found = quantiles.of_columns(lambda: in_blocks(values, seed), rows, columns, values.dtype, QUARTILES)
    np.testing.assert_array_equal(found, np.quantile(values.astype(np.float64), QUARTILES, axis=0))
