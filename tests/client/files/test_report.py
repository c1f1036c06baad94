"""What the report of a data set counts, and what it finds."""

from __future__ import annotations

import ast
import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import loopline.files
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopline.files.build import build
from loopline.files.inference import infer
from loopline.files.problems import FileInvalid
from loopline.files.remark import Remark
from loopline.files.report import MOST_BINS, Bin, Report, report
from loopline.files.schema import Schema
from loopline.files.table import Table

from tests.client.files.tables import from_rows, table

RNG = np.random.default_rng(0)


def reported(of: Table, *, named: bool = True, **given: Any) -> Report:
    sequences = build(of, infer(of, Schema.from_document(given)).schema)
    return report(sequences, of if named else None)


def remark(found: Report, kind: str) -> Remark:
    [one] = [remark for remark in found.remarks if remark.kind == kind]
    return one


def kinds(found: Report) -> list[str]:
    return [remark.kind for remark in found.remarks if remark.severity != "note"]


def windows(count: int = 24, steps: int = 6, **more: Any) -> dict[str, Any]:
    return {f"x_{step}": RNG.normal(size=count) for step in range(steps)} | {"label": ["a", "b"] * (count // 2)} | more


def test_a_good_file_has_counts_and_no_remarks() -> None:
    found = reported(table(**windows()))
    assert (found.sequences, found.steps, found.features) == (24, 144, ("x",))
    assert (found.min_length, found.median_length, found.max_length) == (6, 6, 6)
    assert found.lengths == (Bin(6, 6, 24),)
    assert (found.targets, found.target_names, found.classes) == ("classes", ("label",), (("a", 12), ("b", 12)))
    assert (found.missing, found.split, found.usual_step, found.remarks) == ((), None, None, ())
    assert found.is_trainable


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_the_histogram_counts_each_sequence_once(lengths: list[int]) -> None:
    ids = np.repeat(np.arange(len(lengths)), lengths)
    found = reported(table(id=ids, t=np.arange(len(ids)), v=np.arange(len(ids)) * 1.5), group="id", order="t")
    assert len(found.lengths) <= MOST_BINS
    assert (found.lengths[0].low, found.lengths[-1].high) == (min(lengths), max(lengths))
    for bin_ in found.lengths:
        assert bin_.count == sum(bin_.low <= length <= bin_.high for length in lengths)
    assert sum(bin_.count for bin_ in found.lengths) == len(lengths)


def test_a_report_is_plain_json() -> None:
    columns = windows(split=["train", "val", "test", "train"] * 6)
    columns["x_2"][3] = np.nan
    document = reported(table(**columns)).document()
    assert json.loads(json.dumps(document)) == document
    assert document["missing"] == {"x": 1}
    assert document["split"] == {"train": 12, "validation": 6, "test": 6}
    assert document["classes"] == [["a", 12], ["b", 12]]
    assert document["remarks"][0]["columns"] == ["x"]


def test_the_first_missing_value_is_the_first_of_the_file_whatever_the_order_of_its_steps() -> None:
    rows = [("b", 1, 1.0), ("b", 0, None), ("a", 1, None), ("a", 0, 2.0)]
    found = reported(from_rows("walk t v", *rows), group="walk", order="t")
    assert remark(found, "missing_values").where == "line 3"


def test_missing_values_are_named_by_their_first_row() -> None:
    columns = windows()
    columns["x_2"][3] = columns["x_4"][3] = columns["x_0"][7] = np.nan
    found = remark(reported(table(**columns)), "missing_values")
    assert str(found).startswith(
        "line 5, step 3: `x` has 3 missing values (2.1 %); a job fills them with the value before; a spec that"
    )
    assert (found.severity, found.columns) == ("warning", ("x",))
    rows = [(0, 1.0), (2, None), (1, 5.0), (3, 4.0)]
    assert remark(reported(from_rows("t v", *rows), order="t"), "missing_values").where == "line 3"
    assert (
        remark(reported(from_rows("t v", *rows), order="t", named=False), "missing_values").where
        == "sequence 1, step 3"
    )


def test_missing_targets_and_static_values_are_counted() -> None:
    rows = [("a", 0, 1.0, 1.5, 3), ("a", 1, 2.0, None, 3), ("b", 0, 4.0, 2.5, None), ("b", 1, 3.0, 0.5, None)]
    found = reported(from_rows("id t v load age", *rows), group="id", order="t", target="load", static="age")
    assert dict(found.missing) == {"age": 1, "load": 1}
    assert remark(found, "missing_targets").where == "line 3"
    assert remark(found, "missing_values").where == "sequence `b`"


def test_constant_and_empty_features() -> None:
    columns = {"t": np.arange(5), "v": RNG.normal(size=5), "same": [3.0] * 5, "none": [None] * 5}
    found = reported(table(**columns), order="t", features=["v", "same", "none"])
    assert remark(found, "constant_feature").columns == ("same",)
    assert remark(found, "empty_feature").severity == "problem"
    assert not found.is_trainable
    assert found.remarks[0].severity == "problem"


def hourly(count: int, without: tuple[int, ...] = ()) -> list[datetime]:
    return [datetime(2024, 3, 1) + timedelta(hours=hour) for hour in range(count) if hour not in without]


def test_gaps_in_time_are_counted_and_the_first_are_named() -> None:
    times = hourly(60, without=(10, 11, 12, 40))
    found = reported(
        table(timestamp=times, v=RNG.normal(size=len(times)), load=RNG.normal(size=len(times))), target="load"
    )
    assert (found.first_time, found.last_time) == ("2024-03-01 00:00:00", "2024-03-03 11:00:00")
    assert found.usual_step == "1 hour"
    gaps = remark(found, "gaps")
    said = (
        "2 gaps where the usual step is 1 hour: 3 steps after 2024-03-01 09:00:00 and 1 step after 2024-03-02 15:00:00"
    )
    assert gaps.detail.startswith(said)
    assert (gaps.where, gaps.columns) == ("line 11", ("timestamp",))


def test_gaps_are_found_within_each_series_and_not_between_them() -> None:
    times = [*hourly(20), *hourly(40, without=(35,))[20:]]
    columns = {"id": ["a"] * 20 + ["b"] * 19, "t": times, "v": RNG.normal(size=39)}
    gaps = remark(reported(table(**columns), group="id", order="t"), "gaps")
    assert "1 step after 2024-03-02 10:00:00 in sequence `b`" in gaps.detail


def test_months_are_even_and_events_are_not() -> None:
    months = [datetime(2020 + month // 12, 1 + month % 12, 1) for month in range(36)]
    assert kinds(reported(table(month=months, v=RNG.normal(size=36)), target="v")) == []
    events = np.cumsum(RNG.exponential(size=100))
    found = reported(table(t=events, v=RNG.normal(size=100)), order="t")
    assert found.usual_step is None
    assert remark(found, "uneven_steps").severity == "note"


def test_rows_that_were_sorted_are_noted() -> None:
    found = reported(from_rows("t v", (1, 1.0), (0, 2.0), (2, 3.0)), order="t")
    assert any("not in the order of `t`" in one.detail for one in found.remarks if one.severity == "note")


def test_equal_sequences_and_their_contradicting_labels() -> None:
    columns = windows()
    for step in range(6):
        columns[f"x_{step}"][[9, 11]] = columns[f"x_{step}"][2]
    found = reported(table(**columns))
    equal = remark(found, "equal_sequences")
    assert equal.detail.startswith("2 sequences are copies of others (for example line 11 and line 4)")
    contradiction = remark(found, "contradiction")
    assert contradiction.where == "line 11 and line 13"
    assert "have another class than a copy of it, for example line 4" in contradiction.detail


def test_a_sequence_of_a_wide_table_is_told_by_its_name_and_line() -> None:
    columns = windows(name=[f"s{number}" for number in range(24)])
    for step in range(6):
        columns[f"x_{step}"][9] = columns[f"x_{step}"][2]
    equal = remark(reported(table(**columns), group="name"), "equal_sequences")
    assert equal.where == "sequence `s9` (line 11)"
    assert "for example sequence `s9` (line 11) and sequence `s2` (line 4)" in equal.detail


def test_equal_steps_with_other_static_values_are_other_sequences() -> None:
    columns = windows(age=np.arange(24) % 7 * 1.5)
    for step in range(6):
        columns[f"x_{step}"][2] = columns[f"x_{step}"][1]
    assert "equal_sequences" not in kinds(reported(table(**columns)))


def test_equal_texts() -> None:
    found = reported(table("text", text=["a b", "c", "a b", "d"], label=["p", "q", "p", "q"]))
    assert remark(found, "equal_sequences").detail.startswith("1 sequence is a copy of another one (for example line 4")


def test_features_that_say_what_the_target_says() -> None:
    found = reported(table(**windows(code=[3, 7] * 12, other=RNG.integers(0, 2, 24))))
    assert remark(found, "leak").columns == ("code", "label")
    times = {"t": np.arange(40), "v": RNG.normal(size=40), "load": RNG.normal(size=40)}
    found = reported(table(**times, kilo=times["load"] / 1_000), order="t", target="load")
    assert remark(found, "leak").columns == ("kilo", "load")
    found = reported(table(**times, tag=["a", "b"] * 20, number=[5.0, 6.0] * 20), order="t", target="tag")
    assert remark(found, "leak").columns == ("number", "tag")
    assert "leak" not in kinds(reported(table(**times), order="t", target="load"))


def test_classes_that_cannot_be_learnt() -> None:
    assert remark(reported(table(**windows() | {"label": ["a"] * 24})), "one_class").severity == "problem"
    label = ["a", "b"] * 11 + ["c", "a"]
    rare = remark(reported(table(**windows() | {"label": label})), "rare_class")
    assert (rare.where, rare.severity) == ("line 24", "warning")
    split = ["train"] * 22 + ["test"] * 2
    unseen = remark(reported(table(**windows(split=split) | {"label": label})), "unseen_class")
    assert "training never sees the class 'c'" in unseen.detail
    nobody = remark(reported(table(**windows(split=["test"] * 24))), "no_training")
    assert nobody.severity == "problem"


def test_repeated_ids_and_groups_in_two_parts() -> None:
    subjects = np.repeat(["s1", "s2", "s3"], 8)
    found = reported(table(**windows(steps=12, subject=subjects)))
    assert remark(found, "repeated_ids").columns == ("subject",)
    assert "Split by group" in remark(found, "repeated_ids").detail
    split = ["train"] * 12 + ["test"] * 12
    found = reported(table(**windows(steps=12, subject=subjects, split=split)))
    assert "`s2` is in more than one part" in remark(found, "split_groups").detail


def test_layouts_that_were_taken_wrongly_stand_out() -> None:
    rows = table(id=np.arange(20), t=np.arange(20), v=RNG.normal(size=20), label=["a", "b"] * 10)
    assert "one_step" in kinds(reported(rows, layout="long", group="id", order="t"))
    one = reported(table(id=["a"] * 9, t=np.arange(9), v=RNG.normal(size=9), label=["a"] * 9), group="id", order="t")
    assert {"one_sequence", "one_class"} <= set(kinds(one))
    assert "no_target" in kinds(reported(table(t=np.arange(9), v=RNG.normal(size=9)), order="t"))
    assert "no_features" in kinds(reported(table(t=np.arange(9), label=list("aabbaabba")), order="t"))


def test_columns_with_one_value_for_each_sequence_are_proposed_as_targets() -> None:
    machine = np.repeat(["a", "b", "c"], 9)
    wear, age = (np.repeat(values, 9) for values in ([0.5, 1.5, 4.5], [3.0, 1.0, 2.0]))
    columns = {"machine": machine, "t": np.tile(np.arange(9), 3), "v": RNG.normal(size=27)}
    found = reported(table(**columns, wear=wear, age=age), group="machine", order="t")
    assert remark(found, "no_target").detail == (
        "there is nothing to predict but the next step; name a target (--target NAME, or data.schema.target in a "
        "spec), such as `wear` or `age`, with one value for each sequence"
    )


def test_a_forecast_of_a_series_alone_is_fine() -> None:
    assert reported(table(timestamp=hourly(50), load=RNG.normal(size=50)), target="load").is_trainable


def test_every_kind_of_remark_is_documented_with_its_severity() -> None:
    folder, page = Path(loopline.files.__path__[0]), Path(__file__).parents[3] / "docs" / "files.md"
    calls = [
        node
        for name in ("remarks.py", "leaks.py", "columns.py")
        for node in ast.walk(ast.parse((folder / name).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Remark"
    ]
    made = {tuple(ast.literal_eval(argument) for argument in reversed(call.args[:2])) for call in calls}
    rows = re.findall(r"^\| (`.*`) \| (problem|warning|note) \|", page.read_text(), re.MULTILINE)
    listed = {(kind.strip("`"), severity) for kinds_, severity in rows for kind in kinds_.split(", ")}
    assert listed == made - {("note", "note")}


def test_a_class_that_was_mistyped_in_one_row_is_told() -> None:
    ids, label = np.repeat(np.arange(30), 10), np.repeat(["walk", "run", "walk"], 100).astype("U9")
    label[14] = "wlak"
    found = reported(table(id=ids, t=np.tile(np.arange(10), 30), v=RNG.normal(size=300), label=label))
    assert not found.is_trainable
    told = str(remark(found, "mistyped_class"))
    assert told.startswith("line 16: `label` is 'wlak' here alone; did you mean 'walk'? Correct it")


@pytest.mark.parametrize("wrong", ["heathy", "Healthy", "HEALTHY"])
def test_a_class_that_was_mistyped_for_a_whole_sequence_is_told(wrong: str) -> None:
    found = reported(table(**windows(40) | {"label": [wrong, *["worn", "healthy"] * 19, "worn"]}))
    assert found.is_trainable
    assert kinds(found) == ["mistyped_class"]
    told = str(remark(found, "mistyped_class"))
    assert told.startswith(f"line 2: only 1 sequence has the class {wrong!r}; did you mean 'healthy'? Correct it")


def test_classes_that_change_within_few_sequences_are_told() -> None:
    ids, label = np.repeat(np.arange(30), 10), np.repeat(["a", "b", "a"], 100).astype("U9")
    label[14] = "bb"
    found = reported(table(id=ids, t=np.tile(np.arange(10), 30), v=RNG.normal(size=300), label=label))
    assert found.targets == "tags"
    told = str(remark(found, "nearly_constant_tags"))
    assert told.startswith("line 16: `label` changes within 1 of 30 sequences, and is taken as a class for each step;")


def test_rows_that_are_there_twice_are_used_once_and_told() -> None:
    ids, t, v = np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6), RNG.normal(size=60)
    rows = np.insert(np.arange(60), [8, 8, 31], [7, 7, 2])  # copies, also far from the row itself
    found = reported(table(id=ids[rows], t=t[rows], v=v[rows], label=ids[rows] % 2), group="id", order="t")
    assert found.is_trainable
    assert (found.sequences, found.steps, found.min_length) == (6, 60, 10)
    [note] = [one.detail for one in found.remarks if "copy" in one.detail]
    assert note == "line 10, line 11 and line 35: a copy of another row in all columns, so it is used once."


def test_rows_that_contradict_each_other_are_refused() -> None:
    t, v = np.array([0, 1, 1, 2, 2, 3]), np.array([5.0, 1.0, 2.0, 3.0, 3.0, 4.0])
    with pytest.raises(FileInvalid, match="line 4: `t` has the value of another row"):
        reported(table(t=t, v=v), order="t", group=[])


@given(st.lists(st.integers(0, 19), max_size=12), st.randoms(use_true_random=False))
def test_copies_of_rows_change_nothing(copied: list[int], random: Random) -> None:
    ids, t, v = np.repeat([1, 2], 10), np.tile(np.arange(10), 2), np.arange(20) * 1.5
    rows = [*range(20), *copied]
    random.shuffle(rows)
    schema = Schema.from_document({"group": "id", "order": "t", "features": "v", "target": "label"})
    whole, found = (
        build(of := table(id=ids[at], t=t[at], v=v[at], label=ids[at]), infer(of, schema).schema)
        for at in (np.arange(20), np.array(rows))
    )
    assert (found.lengths == whole.lengths).all()
    assert (found.x == whole.x).all()
    assert (found.y == whole.y).all()
    assert (found.times == whole.times).all()
