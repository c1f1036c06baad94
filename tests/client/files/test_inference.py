"""What each column is taken for, with files as people have them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopline.files.inference import Inferred, infer
from loopline.files.problems import FileInvalid
from loopline.files.schema import Schema
from loopline.files.table import Table

from tests.client.files.tables import table

RNG = np.random.default_rng(0)


def noise(rows: int) -> Any:
    return RNG.normal(size=rows)


def steps(stem: str, count: int, rows: int, first: int = 0) -> dict[str, Any]:
    return {f"{stem}{number}": noise(rows) for number in range(first, first + count)}


def sure(found: Inferred, field: str) -> str:
    return next(reason.sure for reason in found.reasons if reason.field == field)


def why(found: Inferred, field: str, value: str | None = None) -> str:
    return next(one.why for one in found.reasons if one.field == field and value in (None, one.value))


def hours(count: int) -> list[datetime]:
    return [datetime(2023, 1, 1) + timedelta(hours=hour) for hour in range(count)]


LENGTHS = RNG.integers(20, 60, 120)
OF_RECORDING = np.repeat(np.arange(120), LENGTHS)
RECORDINGS = {
    "recording_id": OF_RECORDING,
    "t": np.concatenate([np.arange(length) * 20 for length in LENGTHS]),
    "ax": noise(len(OF_RECORDING)),
    "ay": noise(len(OF_RECORDING)),
    "height": noise(120)[OF_RECORDING],
    "label": np.array(["sit", "walk"])[OF_RECORDING % 2],
}


def test_windows_in_numbered_columns_are_wide() -> None:
    found = infer(table(**steps("acc_x_", 60, 30), **steps("acc_y_", 60, 30), label=["a", "b", "c"] * 10))
    assert found.schema == Schema("wide", (), None, ("acc_x", "acc_y"), (), None, ("label",), (), None, None)
    assert sure(found, "layout") == "likely"
    assert why(found, "features") == "2 features of 60 numbered columns"


def test_recordings_with_an_id_and_a_time_are_long() -> None:
    found = infer(table(**RECORDINGS))
    assert found.schema == Schema("long", ("recording_id",), "t", ("ax", "ay"), ("height",), None, ("label",), ())
    rows = f"{len(OF_RECORDING):,}"
    assert why(found, "group") == f"120 different values, each on adjacent rows, in a file of {rows} rows"
    assert sure(found, "group") == sure(found, "order") == "likely"


def test_every_field_has_one_reason_and_every_column_a_place() -> None:
    found = infer(table(**RECORDINGS, remark=[f"remark {row}" for row in range(len(OF_RECORDING))]))
    fields = [reason.field for reason in found.reasons if reason.field != "unused"]
    assert fields == list(Schema.__dataclass_fields__)
    assert "different words" in why(found, "unused", "remark")


def test_an_hourly_series_is_one_series_in_the_order_of_its_times() -> None:
    columns = {"timestamp": hours(480), "load_mw": noise(480), "temperature": noise(480), "is_holiday": [0, 1] * 240}
    found = infer(table(**columns))
    assert (found.schema.layout, found.schema.group, found.schema.order) == ("long", (), "timestamp")
    assert found.schema.target == ()
    assert "--target NAME" in why(found, "target")
    chosen = infer(table(**columns), Schema(target=("load_mw",), known_future=("is_holiday",)))
    assert chosen.schema.features == ("temperature", "is_holiday")
    assert sure(chosen, "target") == sure(chosen, "known_future") == "given"


def test_series_whose_rows_take_turns_are_told_apart() -> None:
    times = np.repeat(hours(200), 3)
    found = infer(table(origin=["EWR", "JFK", "LGA"] * 200, hour=np.repeat(np.arange(200) % 24, 3), time=times))
    assert (found.schema.group, found.schema.order, found.schema.features) == (("origin",), "time", ("hour",))


def test_two_columns_together_name_a_sequence() -> None:
    subject, trial = np.repeat([1, 2, 3], 40), np.tile(np.repeat([1, 2], 20), 3)
    found = infer(table(subject=subject, trial=trial, frame=np.tile(np.arange(20), 6), v=noise(120)))
    assert found.schema.group == ("subject", "trial")


def test_a_group_without_a_telling_name_is_found_by_its_runs_and_said_to_be_a_guess() -> None:
    found = infer(table(who=np.repeat(["ann", "bob", "cy"], 30), t=np.tile(np.arange(30), 3), v=noise(90)))
    assert found.schema.group == ("who",)
    assert sure(found, "group") == "guess"


def test_shuffled_rows_of_unnamed_sequences_are_found_by_their_counts() -> None:
    rows = RNG.permutation(len(OF_RECORDING))
    second = np.concatenate([np.arange(length) for length in LENGTHS])
    walks = np.array([f"w{number}" for number in OF_RECORDING])
    found = infer(table(walk=walks[rows], second=second[rows], ax=noise(len(rows)), label=RECORDINGS["label"][rows]))
    assert (found.schema.layout, found.schema.group, found.schema.order) == ("long", ("walk",), "second")
    assert (found.schema.target, sure(found, "group")) == (("label",), "guess")


def test_sensors_with_numbers_in_rows_of_cycles_are_features_and_no_steps() -> None:
    columns = {"unit": np.repeat(np.arange(20), 30), "cycle": np.tile(np.arange(1, 31), 20), **steps("s", 21, 600, 1)}
    found = infer(table(**columns))
    assert (found.schema.layout, found.schema.group, found.schema.order) == ("long", ("unit",), "cycle")
    assert len(found.schema.features or ()) == 21


def test_an_activity_per_second_is_tagged_along_one_series() -> None:
    found = infer(table(second=np.arange(300), ax=noise(300), activity=np.repeat(["sit", "walk", "sit"], 100)))
    assert (found.schema.layout, found.schema.order, found.schema.target) == ("long", "second", ("activity",))


def test_lines_of_text_are_texts() -> None:
    found = infer(
        table(review=[f"this is film number {row}" for row in range(40)], stars=[1, 5] * 20, label=[0, 1] * 20)
    )
    assert (found.schema.layout, found.schema.text, found.schema.target) == ("text", "review", ("label",))
    assert infer(table("text", text=["a", "b"], label=["x", "y"])).schema.text == "text"


def test_files_in_folders_are_sequences_with_a_class() -> None:
    files = np.repeat(["walk/a.csv", "walk/b.csv", "run/c.csv", "run/d.csv"], 5)
    columns = {"file": files, "folder": np.repeat(["walk", "run"], 10), "t": np.tile(np.arange(5), 4), "v": noise(20)}
    found = infer(table("folder", **columns))
    assert found.schema == Schema("files", ("file",), "t", ("v",), (), None, ("folder",), ())


def test_lists_are_wide() -> None:
    found = infer(table("jsonl", id=["p", "q", "r"], x=[[1.0], [2.0, 3.0], [4.0]], label=["a", "b", "a"]))
    assert (found.schema.layout, found.schema.features, found.schema.group) == ("wide", ("x",), ("id",))


def test_unnumbered_columns_are_steps_where_they_are_smooth_and_rows_are_not() -> None:
    waves = np.sin(np.linspace(0, 6, 24) + RNG.uniform(0, 6, (50, 1)))
    found = infer(table(**{f"point {letter}": waves[:, n] for n, letter in enumerate("abcdefghijklmnopqrstuvwx")}))
    assert (found.schema.layout, len(found.schema.features or ())) == ("wide", 24)
    assert sure(found, "layout") == "guess"
    walks = np.cumsum(RNG.normal(size=(400, 24)), axis=0)
    found = infer(table(**{f"point {letter}": walks[:, n] for n, letter in enumerate("abcdefghijklmnopqrstuvwx")}))
    assert found.schema.layout == "long"


def test_three_axes_are_no_target() -> None:
    found = infer(table(t=np.arange(50), x=noise(50), y=noise(50), z=noise(50)))
    assert (found.schema.target, found.schema.features) == ((), ("x", "y", "z"))


def test_a_column_that_numbers_the_rows_is_left_out() -> None:
    found = infer(table(**{"Unnamed: 0": np.arange(len(OF_RECORDING))}, **RECORDINGS))
    assert found.schema.features == ("ax", "ay")
    assert why(found, "unused") == "it counts the rows of the file"


def test_a_given_target_that_is_part_of_the_numbering_is_no_step() -> None:
    columns = {"column_1": [1, 2] * 10, **steps("column_", 30, 20, 2)}
    found = infer(table("tsv", **columns), Schema(target=("column_1",)))
    assert (found.schema.layout, found.schema.features, found.schema.target) == ("wide", ("column",), ("column_1",))


def test_a_label_before_the_readings_of_a_file_without_names_is_guessed() -> None:
    found = infer(table("tsv", **{"column_1": [1, 2] * 10, **steps("column_", 30, 20, 2)}))
    assert (found.schema.layout, found.schema.features, found.schema.target) == ("wide", ("column",), ("column_1",))
    assert sure(found, "target") == "guess"
    whole = {f"column_{number}": RNG.integers(0, 9, 20) for number in range(1, 30)}
    assert infer(table("tsv", **whole)).schema.target == ()


def test_a_target_that_names_numbered_columns_is_all_of_them() -> None:
    found = infer(table(**steps("x_", 20, 10), **steps("y_", 3, 10)), Schema(target=("y",)))
    assert found.schema.target == ("y_0", "y_1", "y_2")


def test_splits_and_weights_are_known_by_name_and_content() -> None:
    found = infer(table(**steps("x_", 20, 9), split=["train", "val", "test"] * 3, weight=noise(9)))
    assert (found.schema.split, found.schema.weight) == ("split", "weight")
    found = infer(table(**steps("x_", 20, 9), split=["a", "b", "c"] * 3))
    assert found.schema.split is None


def test_a_schema_that_was_decided_is_decided_again() -> None:
    first = infer(table(**RECORDINGS)).schema
    assert infer(table(**RECORDINGS), first).schema == first
    again = infer(table(**RECORDINGS), Schema.from_document(first.document())).schema
    assert again == first


NAMES = st.sampled_from(("lable", "acc", "Label ", "recording-id", "ax2", "height_", "zzz", ""))
ROLES = st.sampled_from(("group", "order", "features", "static", "text", "target", "known_future", "weight", "split"))


@given(NAMES, ROLES)
def test_unknown_names_are_refused_whatever_they_are_given_for(name: str, role: str) -> None:
    with pytest.raises(FileInvalid, match=f"there is no column `{name}`"):
        infer(table(**RECORDINGS), Schema.from_document({role: name}))


@given(st.text(max_size=12), ROLES)
def test_any_name_is_known_or_refused(name: str, role: str) -> None:
    known = {**RECORDINGS, "other": noise(len(OF_RECORDING))}
    if name in known:
        return
    with pytest.raises(FileInvalid) as caught:
        infer(table(**known), Schema.from_document({role: name}))
    assert caught.value.problems


def test_all_wrong_names_are_said_at_once_with_those_that_may_be_meant() -> None:
    with pytest.raises(FileInvalid) as caught:
        infer(table(**RECORDINGS), Schema(target=("lable",), group=("recording",), order="when"))
    said = [str(problem) for problem in caught.value.problems]
    assert said[0] == "group: there is no column `recording`; did you mean `recording_id`?"
    assert said[1].startswith("order: there is no column `when`; the columns are `recording_id`, `t`, `ax`")
    assert said[2] == "target: there is no column `lable`; did you mean `label`?"


def test_a_column_has_one_role() -> None:
    with pytest.raises(FileInvalid, match="`label` cannot be both static and target"):
        infer(table(**RECORDINGS), Schema(static=("label",), target=("label",)))
    infer(table(**RECORDINGS), Schema(features=("label",), target=("label",)))


def test_two_columns_of_one_name_are_refused() -> None:
    twice = Table(pa.table([[1], [2]], names=["a", "a"]), "csv", str)
    with pytest.raises(FileInvalid, match="two columns have the name `a`"):
        infer(twice)


def test_a_row_that_is_there_twice_does_not_hide_the_group() -> None:
    rows = np.insert(np.arange(len(OF_RECORDING)), 7, 7)
    found = infer(table(**{name: values[rows] for name, values in RECORDINGS.items()}))
    assert (found.schema.layout, found.schema.group, found.schema.order) == ("long", ("recording_id",), "t")
    assert why(found, "order") == "it has numbers that count up, different in nearly each row of one `recording_id`"


def test_a_layout_that_is_given_against_all_looks_is_told() -> None:
    found = infer(table(**RECORDINGS), Schema(layout="wide"))
    assert why(found, "layout").startswith("you gave it, though it looks long: `t` has the place of each row")
    assert why(infer(table(**RECORDINGS), Schema(layout="long")), "layout") == "you gave it"


def test_whom_a_sequence_belongs_to_may_be_split_by_and_is_learnt_from_only_if_you_say_so() -> None:
    subject = OF_RECORDING // 10
    found = infer(table(**RECORDINGS, subject=subject))
    assert (found.schema.group, found.schema.static) == (("subject", "recording_id"), ("height",))
    assert why(found, "group").endswith("; `subject` names whom a sequence belongs to")
    assert infer(table(**RECORDINGS, subject=subject), found.schema).schema == found.schema
    assert infer(table(**RECORDINGS, subject=subject), Schema(static=("subject",))).schema.static == ("subject",)
    given = infer(table(**RECORDINGS, subject=subject), Schema(group=("recording_id",)))
    assert (given.schema.group, given.schema.static) == (("recording_id",), ("height",))
    assert "learn by heart; to learn from it all the same, give --static" in why(given, "unused", "subject")
    wide = {**steps("x_", 20, 30), "subject": np.arange(30) // 6, "label": ["a", "b"] * 15}
    assert infer(table(**wide, window=range(30))).schema.group == ("subject",)
    found = infer(table(**wide, window_id=range(30)))
    assert (found.schema.group, found.schema.static) == (("subject", "window_id"), ())


def test_whom_a_sequence_belongs_to_is_seen_where_no_other_column_names_the_sequences() -> None:
    lists = [[1.0, 2.0]] * 6
    assert infer(table(t=lists, id=[True, False] * 3)).schema.static == ("id",)  # no name: it has two values
    numbered = {f"leg{number}_id": [1, 1, 2, 2, 3, 3] for number in range(1, 9)}  # numbered as steps are
    found = infer(table(t=lists, **numbered))
    assert set(found.schema.group or ()) == set(numbered)
    assert infer(table(t=lists, **numbered), found.schema).schema == found.schema


@pytest.mark.parametrize("owner", ["a/b", None])
def test_whom_a_sequence_belongs_to_is_left_out_where_names_could_not_be_told_apart(owner: str | None) -> None:
    subject = np.array([owner if number < 10 else "someone" for number in OF_RECORDING], object)
    found = infer(table(**RECORDINGS, subject=subject))
    assert (found.schema.group, found.schema.static) == (("recording_id",), ("height",))
    assert why(found, "unused", "subject").startswith("it names whom a sequence belongs to")


def test_texts_that_repeat_are_texts_if_their_column_is_named_so() -> None:
    message = ["please call me back", "where is my parcel now", "thank you so much"] * 20
    found = infer(table(message=message, label=["a", "b", "c"] * 20))
    assert (found.schema.layout, found.schema.text, found.schema.target) == ("text", "message", ("label",))
