"""From a table and a schema to sequences: the same ones whatever the layout and the order of rows."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopline.files.build import build
from loopline.files.inference import infer
from loopline.files.problems import FileInvalid
from loopline.files.schema import Schema
from loopline.files.sequences import Column, Sequences
from loopline.files.table import Table

from tests.client.files.tables import differences, from_rows, table
from tests.properties import examples


def built(of: Table, **given: Any) -> Sequences:
    return build(of, infer(of, Schema.from_document(given)).schema)


def problems(of: Table, **given: Any) -> list[str]:
    with pytest.raises(FileInvalid) as caught:
        built(of, **given)
    return [str(problem) for problem in caught.value.problems]


# ---- properties

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.integers(-50, 50).map(float)
FAR = st.integers(1_700_000_000_000, 1_700_000_100_000).map(float)


@st.composite
def sequences(draw: st.DrawFn) -> dict[str, Any]:
    """Random sequences: for each an id, steps of two features, a class and a static value."""
    count = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    of = draw(st.sampled_from((NUMBERS, NUMBERS, FAR)))
    x = [[(draw(of), draw(NUMBERS | st.none())) for _ in range(length)] for length in lengths]
    labels = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    return {"x": x, "label": labels, "static": draw(st.lists(NUMBERS, min_size=count, max_size=count))}


def as_wide(drawn: dict[str, Any], steps: int = 6) -> Table:
    columns: dict[str, Any] = {"id": [f"r{number}" for number in range(len(drawn["x"]))]}
    for place, feature in enumerate("uv"):
        for step in range(steps):
            cells = [x[step][place] if step < len(x) else None for x in drawn["x"]]
            columns[f"{feature}_{step}"] = pa.array(cells, pa.float64())
    return table(**columns, height=drawn["static"], label=drawn["label"])


def as_lists(drawn: dict[str, Any]) -> Table:
    lists = {
        feature: pa.array([[step[place] for step in x] for x in drawn["x"]], pa.list_(pa.float64()))
        for place, feature in enumerate("uv")
    }
    ids = [f"r{number}" for number in range(len(drawn["x"]))]
    return table("jsonl", id=ids, **lists, height=drawn["static"], label=drawn["label"])


def as_long(drawn: dict[str, Any], order: list[int] | None = None) -> Table:
    rows = [
        (f"r{number}", step, u, v, drawn["static"][number], drawn["label"][number])
        for number, x in enumerate(drawn["x"])
        for step, (u, v) in enumerate(x)
    ]
    rows = rows if order is None else [rows[place] for place in order]
    names = "id", "t", "u", "v", "height", "label"
    types = pa.string(), pa.int64(), pa.float64(), pa.float64(), pa.float64(), pa.string()
    columns = zip(*rows, strict=True)
    return table(**{n: pa.array(list(c), t) for n, c, t in zip(names, columns, types, strict=True)})


SAME = {"features": ["u", "v"], "group": "id", "static": "height", "target": "label"}


@given(sequences())
@examples(25)
def test_wide_lists_and_long_forms_of_the_same_sequences_build_equal_ones(drawn: dict[str, Any]) -> None:
    # A row ends with its last value: make sure that there is one.
    drawn["x"] = [[*x[:-1], (x[-1][0], 1.0)] for x in drawn["x"]]
    wide = built(as_wide(drawn), layout="wide", **SAME)
    long = built(as_long(drawn), layout="long", order="t", **SAME)
    assert differences(wide, long) == ["time_kind", "times"]
    assert differences(wide, built(as_lists(drawn), layout="wide", **SAME)) == []


@given(sequences(), st.randoms(use_true_random=False))
@examples(25)
def test_the_order_of_rows_does_not_matter(drawn: dict[str, Any], random: Any) -> None:
    order = list(range(sum(map(len, drawn["x"]))))
    expected = built(as_long(drawn, order), layout="long", order="t", **SAME)
    random.shuffle(order)
    assert differences(built(as_long(drawn, order), layout="long", order="t", **SAME), expected) == []


@given(sequences())
@examples(25)
def test_float64_is_kept_exactly_where_it_is_needed(drawn: dict[str, Any]) -> None:
    found = built(as_long(drawn), layout="long", order="t", **SAME)
    expected = np.array([step for x in drawn["x"] for step in x], np.float64)
    assert np.array_equal(found.x, expected.astype(found.x.dtype), equal_nan=True)
    assert found.lengths.tolist() == [len(x) for x in drawn["x"]]


# ---- x


def test_trailing_empty_cells_are_padding_and_inner_ones_are_missing() -> None:
    found = built(from_rows("a_0 a_1 a_2 label", (1.0, None, 3.0, "p"), (4.0, None, None, "q"), (None, 5.0, None, "p")))
    assert found.lengths.tolist() == [3, 1, 2]
    assert np.array_equal(found.x[:, 0], [1, np.nan, 3, 4, np.nan, 5], equal_nan=True)


def test_milliseconds_are_kept_in_float64_and_readings_in_float32() -> None:
    ids, steps = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    stamps = 1_700_000_000_000 + 1_000 * np.arange(200)
    found = built(table(id=ids, t=steps, stamp=stamps), layout="long", features=["stamp"])
    assert found.x.dtype == np.float64
    assert np.array_equal(found.x[:, 0], stamps)
    assert built(table(id=ids, t=steps, v=stamps % 997), features=["v"], layout="long").x.dtype == np.float32


def test_one_long_series_of_far_numbers_is_kept_in_float64() -> None:
    found = built(table(t=np.arange(500), stamp=1_700_000_000_000 + np.arange(500)), layout="long", features=["stamp"])
    assert found.x.dtype == np.float64


def test_words_and_booleans_become_numbers() -> None:
    columns = {"t": [0, 1, 2], "on": [True, None, False], "mode": ["heat", "cool", None]}
    found = built(table(**columns), layout="long", order="t")
    assert found.features == (Column("on", "boolean"), Column("mode", "category", ("cool", "heat")))
    assert np.array_equal(found.x, [[1, 1], [np.nan, 0], [0, np.nan]], equal_nan=True)


def test_words_in_numbered_columns_and_lists_share_their_categories() -> None:
    expected = Column("w", "category", ("a", "b", "c"))
    wide = built(from_rows("w_0 w_1 w_2 label", ("a", "b", None, 0), ("c", "a", "b", 1)))
    assert (wide.features, wide.x[:, 0].tolist()) == ((expected,), [0, 1, 2, 0, 1])
    lists = built(table("jsonl", w=[["a", "b"], ["c", "a", "b"]], label=[0, 1]))
    assert (lists.features, lists.x[:, 0].tolist()) == ((expected,), [0, 1, 2, 0, 1])


def test_lists_of_lists_are_several_features() -> None:
    found = built(table("jsonl", x=[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]], label=["a", "b"]))
    assert found.x.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert [column.name for column in found.features] == ["x[0]", "x[1]"]


@pytest.mark.parametrize("names", ["t{}", "t_{}", "t.{}", "t[{}]", "{}", "t{:02d}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_columns_are_in_the_order_of_their_numbers(names: str, first: int) -> None:
    columns = {names.format(number): [float(number), float(-number)] for number in reversed(range(first, first + 12))}
    found = built(table(**columns))
    assert found.lengths.tolist() == [12, 12]
    assert found.x[:12, 0].tolist() == list(range(first, first + 12))


def test_columns_of_one_name_as_pandas_numbers_them_are_steps() -> None:
    found = built(table(**{"x": [1.0, 5.0], "x.1": [2.0, 6.0], "x.2": [3.0, 7.0], "label": ["a", "b"]}))
    assert found.x[:, 0].tolist() == [1, 2, 3, 5, 6, 7]


def test_lags_with_a_minus_stay_in_the_order_of_the_file() -> None:
    found = built(table(**{"t-3": [1.0], "t-2": [2.0], "t-1": [3.0]}), layout="wide")
    assert found.x[:, 0].tolist() == [1, 2, 3]


# ---- order and groups


def test_rows_are_sorted_and_it_is_said() -> None:
    found = built(from_rows("id t v", ("b", 2, 5.0), ("a", 1, 2.0), ("b", 1, 4.0), ("a", 0, 1.0)))
    assert found.ids is not None
    assert (found.ids.tolist(), found.x[:, 0].tolist()) == (["a", "b"], [1, 2, 4, 5])
    assert found.times is not None
    assert found.times.tolist() == [0, 1, 1, 2]
    assert found.notes == (
        "The rows of some sequences are not adjacent (2 sequences in 4 pieces); they are put together.",
        "The rows of 2 of 2 sequences are not in the order of `t`; they are sorted by it.",
    )
    assert built(from_rows("id t v", ("a", 0, 1.0), ("a", 1, 2.0), ("b", 0, 3.0), ("b", 1, 3.0))).notes == ()


@pytest.mark.parametrize(
    "times",
    [
        [datetime(2024, 3, 1, 5), datetime(2024, 3, 1, 6)],
        ["2024-03-01T05:00:00", "2024-03-01 06:00:00"],
        ["2024-03-01T07:00:00+02:00", "2024-03-01T06:00:00Z"],
        [1_709_269_200_000_000_000, 1_709_272_800_000_000_000],
    ],
)
def test_times_are_nanoseconds_in_utc(times: list[Any]) -> None:
    found = built(table(when=times, v=[1.0, 2.0]), order="when")
    assert found.time_kind == "time"
    assert found.times is not None
    assert found.times.tolist() == [1_709_269_200_000_000_000, 1_709_272_800_000_000_000]


def test_dates_are_times_and_numbers_stay_numbers() -> None:
    assert built(table(day=[date(2024, 1, 2), date(2024, 1, 1)], v=[1.0, 2.0])).x[:, 0].tolist() == [2, 1]
    found = built(table(t=[0.5, 0.25], v=[1.0, 2.0]), order="t")
    assert (found.time_kind, found.x[:, 0].tolist()) == ("number", [2, 1])


def test_equal_places_are_refused_by_row_with_the_way_out() -> None:
    [said] = problems(from_rows("t v", (0, 1.0), (1, 2.0), (0, 3.0)), order="t")
    assert said == (
        "line 4: `t` has the value of another row: it is 0 in line 2 and in line 4; give the column that names the "
        "sequence or series of a row (--group NAME), or delete one of each"
    )
    [said] = problems(from_rows("id t v", ("a", 0, 1.0), ("b", 0, 2.0), ("a", 0, 3.0)), group="id", order="t")
    assert said.startswith("line 4: `t` has the value of a row of the same sequence")
    empty = problems(from_rows("id t v", (None, 0, 1.0), (None, 0, 2.0)), group="id", order="t")
    assert "`id` is empty; every row needs the sequence that it belongs to, or goes" in empty[0]


def test_times_in_several_forms_are_refused_by_row() -> None:
    [said] = problems(table(when=["2024-03-01", "01/02/2024", "5 pm"], v=[1.0, 2.0, 3.0]), order="when")
    assert said.startswith("line 3 and line 4: `when` is '01/02/2024', which is no time")
    times = ["2024-03-01T05:00:00", "2024-03-01T06:00:00", "2024-03-01T07:00:00Z"]
    [said] = problems(table(when=times, v=[1.0, 2.0, 3.0]), order="when")
    assert said.startswith("line 4: `when` has times with and without a zone")


def test_several_group_columns_name_a_sequence_together() -> None:
    of = from_rows("who trial t v", (2, 1, 0, 3.0), (1, 2, 0, 2.0), (1, 1, 0, 1.0))
    found = built(of, group=["who", "trial"], order="t", layout="long", features=["v"])
    assert found.ids is not None
    assert (found.ids.tolist(), found.x[:, 0].tolist()) == (["1/1", "1/2", "2/1"], [1, 2, 3])


# ---- targets


def test_a_target_that_is_constant_in_each_sequence_is_one_per_sequence() -> None:
    rows = (("a", 0, 1.0, "p"), ("a", 1, 2.0, "p"), ("b", 0, 3.0, "q"))
    found = built(from_rows("id t v label", *rows), group="id", order="t")
    assert found.y is not None
    assert (found.targets, found.classes, found.y.tolist()) == ("classes", ("p", "q"), [0, 1])
    found = built(from_rows("id t v label", *rows, ("b", 1, 4.0, "p")), group="id", order="t")
    assert found.y is not None
    assert (found.targets, found.y.tolist()) == ("tags", [0, 0, 1, 0])


@pytest.mark.parametrize(
    ("values", "targets", "classes"),
    [
        ([3, 1, 3, 1], "classes", (1, 3)),
        ([True, False, True, False], "classes", (0, 1)),
        (["10", "9", "10", "9"], "classes", ("10", "9")),
        ([1.0, 2.0, 1.0, 2.0], "classes", (1, 2)),
        ([-1.0, 1.0, 1.0, -1.0], "classes", (-1, 1)),
        ([100.0, 250.0, 100.0, 250.0], "values", None),
        ([0.5, 1.5, 2.5, 0.5], "values", None),
        ([1001, 2002, 3003, 4004], "values", None),
    ],
)
def test_classes_and_values_are_told_apart(values: list[Any], targets: str, classes: Any) -> None:
    found = built(table(x_0=[1.0] * 4, x_1=[2.0] * 4, x_2=[3.0] * 4, label=values))
    assert (found.targets, found.classes) == (targets, classes)
    if classes is None:
        assert found.y is not None
        assert (found.y.dtype, found.y.shape) == (np.float64, (4, 1))


def test_several_targets_are_labels_or_values() -> None:
    x = {f"x_{step}": [1.0, 2.0] for step in range(3)}
    found = built(table(**x, a=[1, 0], b=[True, False]), target=["a", "b"])
    assert found.y is not None
    assert (found.targets, found.y.tolist()) == ("multilabel", [[1, 1], [0, 0]])
    found = built(table(**x, a=[1.5, 0.0], b=[3, 4]), target=["a", "b"])
    assert found.y is not None
    assert (found.targets, found.y.tolist(), found.target_names) == ("values", [[1.5, 3], [0, 4]], ("a", "b"))
    assert "several targets must be numbers" in problems(table(**x, a=["p", "q"], b=[3, 4]), target=["a", "b"])[0]


def test_a_series_has_targets_per_step_and_missing_values_stay_missing() -> None:
    found = built(table(t=[0, 1, 2], v=[1.0, 2.0, 3.0], load=[1.5, None, 2.5]), target="load")
    assert found.y is not None
    assert found.targets == "step_values"
    assert np.array_equal(found.y, [[1.5], [np.nan], [2.5]], equal_nan=True)


def test_tags_in_lists_and_in_numbered_columns() -> None:
    found = built(table("jsonl", words=[["a", "b"], ["c"]], tags=[["N", "V"], ["N"]]), target="tags")
    assert found.y is not None
    assert (found.targets, found.classes, found.y.tolist()) == ("tags", ("N", "V"), [0, 1, 0])
    columns = {f"{stem}_{step}": [step % 2, 1] for stem in ("x", "s") for step in range(4)}
    found = built(table(**columns), target="s")
    assert found.y is not None
    assert (found.targets, found.y.tolist(), len(found.features)) == ("tags", [0, 1, 0, 1, 1, 1, 1, 1], 1)


def test_texts() -> None:
    found = built(table("text", text=["hello there", "=1+2"], label=["p", "q"]))
    assert (found.texts, found.classes, found.x.shape) == (("hello there", "=1+2"), ("p", "q"), (2, 0))


def test_weights_and_splits_are_one_per_sequence() -> None:
    rows = (("a", 0, 1.0, 2.0, "train"), ("a", 1, 2.0, 2.0, "train"), ("b", 0, 3.0, 0.5, "Val"))
    found = built(from_rows("id t v weight split", *rows), group="id", order="t")
    assert found.weights is not None
    assert found.split is not None
    assert (found.weights.tolist(), found.split.tolist()) == ([2, 0.5], [0, 1])
    assert built(table(x_0=[1, 2], x_1=[3, 4], x_2=[5, 6], split=[0, 2])).split.tolist() == [0, 2]  # type: ignore[union-attr]


# ---- what is refused, all of it at once


def test_everything_wrong_is_said_at_once_by_row_and_column() -> None:
    x = {f"x_{step}": [1.0, 2.0, 3.0] for step in range(3)}
    said = problems(
        table(**x, part=["train", "tset", "test"], w=[1.0, 0.0, None], label=["p", None, "q"]), split="part", weight="w"
    )
    assert said == [
        "line 3: the target `label` is empty; give it a value, or delete these rows",
        "line 3 and line 4: the weight `w` must be above 0; to leave a sequence out, delete its rows",
        "line 3: the split `part` is 'tset'; write train, validation or test (or 0, 1, 2)",
    ]


def test_rows_are_named_first_and_then_counted() -> None:
    label = ["p", "q", *[None] * 5]
    [said] = problems(table(x_0=[1] * 7, x_1=[1] * 7, x_2=[1] * 7, label=label))
    assert said.startswith("line 4, line 5, line 6 and 2 more: the target `label` is empty")


def test_a_word_among_numbers_is_named_by_its_row() -> None:
    values = ["1", "2.5", "n/a", "4", "5"]
    [said] = problems(table(t=[0, 1, 2, 3, 4], v=values), features=["v"], layout="long")
    assert said.startswith("line 4: `v` has numbers, but here it has the words 'n/a'")
    columns: dict[str, Any] = {"x_0": [1.0, 2.0], "x_1": ["3", "broken"], "x_2": [4.0, 5.0], "label": ["a", "b"]}
    [said] = problems(table(**columns))
    assert said.startswith("line 3: `x_1` has the words 'broken', and other steps of `x` have numbers")


def test_a_gap_in_the_numbering_is_refused() -> None:
    columns = {f"x{step}": [1.0, 2.0] for step in range(20) if step != 7}
    [said] = problems(table(**columns))
    assert said.startswith("column x7: there is no column `x7` between `x0` and `x19`")


def test_features_of_different_lengths_are_refused() -> None:
    columns = {f"x{step}": [1.0] for step in range(20)} | {f"y_{step}": [1.0] for step in range(19)}
    assert "`y` has 19 numbered columns and `x` 20" in problems(table(**columns))[0]
    assert built(table(**columns), features=["x"]).lengths.tolist() == [20]
    lists = table("jsonl", a=[[1.0], [1.0, 2.0]], b=[[1.0], [1.0]])
    assert problems(lists)[0].startswith("line 3: `b` has 1 steps and `a` 2")


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_numbers_that_a_network_cannot_take_are_refused(value: float) -> None:
    [said] = problems(table(t=[0, 1], v=[1.0, value]), order="t")
    assert said.startswith(f"line 3: `v` is {value:g}, and a network computes with numbers up to 3.4e+38")


def test_a_time_is_no_feature() -> None:
    of = table(t=[0, 1], seen=[date(2024, 1, 1), date(2024, 1, 2)])
    [said] = problems(of, order="t", features=["seen"])
    assert "give it as the order (--order seen)" in said


def test_a_row_without_values_and_a_file_without_rows_are_refused() -> None:
    assert problems(from_rows("x_0 x_1 x_2", (1.0, 2.0, 3.0), (None, None, None)))[0].startswith(
        "line 3: the row has no"
    )
    empty = table(t=pa.array([], pa.int64()), v=pa.array([], pa.float64()))
    assert problems(empty, order="t") == ["the file has no rows"]


def test_a_static_column_that_changes_is_refused() -> None:
    rows = (("a", 0, 1.0, 5), ("a", 1, 2.0, 6), ("b", 0, 3.0, 5))
    [said] = problems(from_rows("id t v age", *rows), group="id", order="t", static="age")
    assert said == "line 3: `age` has another value than earlier in the same sequence; make it a feature"


def test_an_empty_group_or_order_is_refused() -> None:
    said = problems(from_rows("id t v", ("a", 0, 1.0), (None, 1, 2.0), ("b", None, 3.0)), group="id", order="t")
    assert [one.split(" is empty")[0] for one in said] == ["line 3: `id`", "line 4: `t`"]
