"""Each format becomes a table with the right types, and each row can be named to the owner of the file."""

from __future__ import annotations

import csv
import gzip
import io
import random
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopline.files import arrays, formats, source, spool
from loopline.files.limits import Limits
from loopline.files.problems import FileInvalid
from loopline.files.table import Table


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def read(content: str | bytes, work: Path, name: str = "file.csv", limits: Limits = Limits()) -> Table:  # noqa: B008
    path = work.parent / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = formats.read(path, work, limits)
    assert list(work.iterdir()) == []
    return table


def column(cells: list[str], work: Path) -> Any:
    """The type and the values of one column, beside another so that commas are no trouble."""
    text = io.StringIO()
    csv.writer(text).writerows([("a", "b"), *((cell, "x") for cell in cells)])
    table = read(text.getvalue(), work).data
    return str(table.schema.field("a").type), table.column("a").to_pylist()


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-2", "+3"], "int64", [1, -2, 3]),
        (["1", "2.5", "1e3", "-.5"], "double", [1.0, 2.5, 1000.0, -0.5]),
        (["12345678901234567890", "1"], "double", [12345678901234567890.0, 1.0]),
        (["1", "NA", "", "-", "NaN", "null", "N/A", "#N/A"], "int64", [1] + [None] * 7),
        ([" 1 ", "2", " NA "], "int64", [1, 2, None]),
        (["true", "FALSE", "True"], "bool", [True, False, True]),
        (["1,5", "2"], "double", [1.5, 2.0]),
        (["1.234,5", "12"], "double", [1234.5, 12.0]),
        (["1,234,567", "12"], "double", [1234567.0, 12.0]),
        (["1 234,5", "12,0"], "double", [1234.5, 12.0]),
        (["1.000.000", "5"], "double", [1000000.0, 5.0]),
        (["2024-04-03", "2024-12-31"], "date32[day]", [date(2024, 4, 3), date(2024, 12, 31)]),
        (["2024-04-03", "2024-04-03 10:30"], "timestamp[us]", [datetime(2024, 4, 3), datetime(2024, 4, 3, 10, 30)]),
        (["2024-04-03T10:30:00.123456789", ""], "timestamp[us]", [datetime(2024, 4, 3, 10, 30, 0, 123456), None]),
        (
            ["2024-04-03T10:30+02:00", "2024-04-03T10:30Z", "2024-04-03 10:30:00 UTC"],
            "timestamp[us, tz=UTC]",
            [datetime(2024, 4, 3, hour, 30, tzinfo=UTC) for hour in (8, 10, 10)],
        ),
        (["03.04.2024", "13.04.2024"], "date32[day]", [date(2024, 4, 3), date(2024, 4, 13)]),
        (
            ["4/3/24 1:05 PM", "4/13/24 1:05 am"],
            "timestamp[us]",
            [datetime(2024, 4, 3, 13, 5), datetime(2024, 4, 13, 1, 5)],
        ),
        (["2024/04/03 10:30:01"], "timestamp[us]", [datetime(2024, 4, 3, 10, 30, 1)]),
        (["3-Apr-2024", "13-apr-2024"], "date32[day]", [date(2024, 4, 3), date(2024, 4, 13)]),
        (["April 3, 2024"], "date32[day]", [date(2024, 4, 3)]),
        (["1.2.3", "10.11.12.13"], "string", ["1.2.3", "10.11.12.13"]),
        (["=1+2", "1"], "string", ["=1+2", "1"]),
        (["12 kg", "13 kg"], "string", ["12 kg", "13 kg"]),
        (["", ""], "null", [None, None]),
    ],
)
def test_cells_are_what_they_look_like(cells: list[str], kind: str, values: list[Any], work: Path) -> None:
    assert column(cells, work) == (kind, values)


def test_a_later_block_may_tell_more_about_a_column(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE", 1 << 10)
    monkeypatch.setattr(spool, "IN_MEMORY", 1 << 11)  # so that rows are on disk when they change
    rows = [("", 1, "03/04/2024", "1,500", "2024-04-03", "x")] * 500
    rows += [("7", 1.5, "13/04/2024", "1,5", "2024-04-03T12:00", "y")] * 500
    text = io.StringIO()
    csv.writer(text).writerows([tuple("abcdef"), *rows])
    table = read(text.getvalue(), work)
    kinds = ["int64", "double", "date32[day]", "double", "timestamp[us]", "string"]
    assert [str(field.type) for field in table.data.schema] == kinds
    for index, row in ((0, (None, 1.0, date(2024, 4, 3), 1.5, datetime(2024, 4, 3), "x")), (999, (7, 1.5))):
        assert tuple(table.data.slice(index, 1).to_pylist()[0].values())[: len(row)] == row
    assert "In column c the day comes first." in table.notes


def test_a_column_that_turns_out_to_be_words_keeps_its_cells_as_they_are(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PIECE", 1 << 10)
    table = read("a,b\n" + "007,1\n" * 500 + "x7,1\n" * 400, work)
    assert table.data.column("a").to_pylist() == ["007"] * 500 + ["x7"] * 400
    assert table.notes == ("Column a is words: 400 of 900 values are not a number, first 'x7' (line 502).",)


def random_table(rng: random.Random) -> tuple[bytes, list[list[str]]]:
    cells = {
        "words": lambda: rng.choice(["a", "b\nc", 'q"u,o', "x, y", "é", "", "several\n\nlines"]),
        "numbers": lambda: rng.choice([f"{rng.uniform(-3, 3):.3f}", str(rng.randint(0, 9)), ""]),
        "dates": lambda: f"{rng.randint(13, 28):02}/{rng.randint(1, 12):02}/2024",
    }
    names = [rng.choice(list(cells)) for _ in range(rng.randint(2, 5))]
    rows = [[cells[name]() for name in names] for _ in range(rng.randint(1, 60))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerows([[f"{name}_{number}" for number, name in enumerate(names)], *rows])
    return text.getvalue().encode(), rows


@pytest.mark.parametrize("seed", range(8))
def test_rows_and_their_lines_do_not_depend_on_where_blocks_end(
    seed: int, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        content, rows = random_table(rng)
        whole = read(content, work)
        monkeypatch.setattr(source, "PIECE", 300)
        parts = read(content, work)
        monkeypatch.undo()
        assert whole.data.to_pylist() == parts.data.to_pylist()
        lines = [whole.row_name(row) for row in range(len(rows))]
        assert lines == [parts.row_name(row) for row in range(len(rows))]
        starts = np.cumsum([2, *(1 + sum(cell.count("\n") for cell in row) for row in rows)])
        assert lines == [f"line {start}" for start in starts[:-1]]


def test_row_700001_is_named_by_its_line(work: Path) -> None:
    with pytest.raises(FileInvalid) as caught:
        read("a,b\n" + "1,2\n" * 699_999 + "1\n" + "1,2\n" * 10, work)
    assert [problem.where for problem in caught.value.problems] == ["line 700,001"]


def test_gzip_is_unpacked(work: Path) -> None:
    table = read(gzip.compress(b"a\tb\n1\tx\n"), work, "file.tsv.gz")
    assert (table.format, table.data.to_pylist()) == ("tsv", [{"a": 1, "b": "x"}])
    assert read(gzip.compress(b'{"a": 1}\n'), work, "file.jsonl.gz").format == "jsonl"


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("id,2019,2020,2021\nx,1,2,3\n", ["id", "2019", "2020", "2021"]),
        ("0,1,2\n5.5,1,3\n", ["0", "1", "2"]),
        ("0,1\n1,4\n2,9\n", ["column_1", "column_2"]),
        (",a\n0,1\n1,2\n", ["column_1", "a"]),
        ('"sep=;"\na;b\n1;2\n', ["a", "b"]),
        ("\n\na,b\n1,2\n", ["a", "b"]),
    ],
)
def test_a_header_is_found_by_looking(header: str, names: list[str], work: Path) -> None:
    assert read(header, work).data.column_names == names


def test_jsonl_has_lists_and_keys_that_come_later(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE", 1 << 10)
    lines = ['{"x": [1, 2], "t": "2024-04-03T10:00:00Z"}'] * 200 + ['{"x": [0.5], "late": true, "t": null}'] * 200
    table = read("\n".join(lines), work, "file.jsonl")
    assert [str(field.type) for field in table.data.schema] == ["list<item: double>", "timestamp[us, tz=UTC]", "bool"]
    assert table.data.slice(199, 2).to_pylist() == [
        {"x": [1.0, 2.0], "t": datetime(2024, 4, 3, 10, tzinfo=UTC), "late": None},
        {"x": [0.5], "t": None, "late": True},
    ]
    assert table.row_name(200) == "line 201"


def test_parquet_has_one_type_for_each_kind_of_column(work: Path) -> None:
    data = pa.table(
        {
            "small": pa.array([1, None], pa.int8()),
            "unsigned": pa.array([1, 2], pa.uint64()),
            "half": pa.array([0.5, float("nan")], pa.float16()),
            "single": pa.array([0.5, float("nan")], pa.float32()),
            "time": pa.array([datetime(2024, 4, 3, tzinfo=UTC)] * 2, pa.timestamp("ns", "Europe/Berlin")),
            "words": pa.array(["a", "b"]).dictionary_encode(),
            "text_time": ["2024-04-03", "2024-04-04"],
            "list": pa.array([[1, 2], None], pa.large_list(pa.int32())),
        }
    )
    path = work.parent / "file.parquet"
    pq.write_table(data, path)
    table = formats.read(path, work)
    assert {field.name: str(field.type) for field in table.data.schema} == {
        "small": "int64",
        "unsigned": "int64",
        "half": "double",
        "single": "float",
        "time": "timestamp[us, tz=UTC]",
        "words": "string",
        "text_time": "date32[day]",
        "list": "list<item: int64>",
    }
    assert table.data.slice(1, 1).select(["half", "single", "list"]).to_pylist() == [
        {"half": None, "single": None, "list": None}
    ]
    assert table.row_name(1) == "row 2"


def test_a_text_that_a_dictionary_repeats_is_counted_before_it_is_written_out(work: Path) -> None:
    path = work.parent / "file.parquet"
    text = "x" * 1_000_000
    pq.write_table(pa.table({"v": pa.array([text] * 300).dictionary_encode()}), path)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(FileInvalid, match=r"unpacks to more than|bytes of content"):
        formats.read(path, work, Limits(max_bytes=5 << 20))
    assert list(work.iterdir()) == []


def test_ts_has_a_row_for_each_step(work: Path) -> None:
    text = (
        "# about\n@problemName x\n@univariate false\n@missing true\n@classLabel true 1 2\n@data\n1,2,?:4,5,6:1\n7:8:2\n"
    )
    table = read(text, work, "file.ts")
    assert [tuple(row.values()) for row in table.data.to_pylist()] == [
        (0, 0, 1.0, 4.0, 1),
        (0, 1, 2.0, 5.0, 1),
        (0, 2, None, 6.0, 1),
        (1, 0, 7.0, 8.0, 2),
    ]
    assert table.data.column_names == ["id", "step", "dim_0", "dim_1", "label"]
    assert table.row_name(3) == "line 8, step 0"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("a fine film\tgood\na dull film\tbad\nanother fine film\tgood\n", {"text": "a fine film", "label": "good"}),
        ("1\ta fine film\n0\ta dull film\n1\tanother fine film\n", {"text": "a fine film", "label": 1}),
        ("a line\n\nanother\n", {"text": "a line"}),
        ("\n\nanother\n", {"text": ""}),
        ("\n\nanother", {"text": ""}),
    ],
)
def test_plain_text_is_a_text_a_line(text: str, row: dict[str, Any], work: Path) -> None:
    table = read(text, work, "file.txt")
    assert (table.format, table.data.to_pylist()[0]) == ("text", row)
    assert table.row_name(table.data.num_rows - 1) == "line 3"


def test_empty_lines_are_left_out_where_there_are_labels_and_kept_where_there_are_none(work: Path) -> None:
    labelled = read("a\tx\n\n \nb\ty\nc\tx\n", work, "file.txt")
    assert labelled.data.column("text").to_pylist() == ["a", "b", "c"]
    assert [labelled.row_name(row) for row in range(3)] == ["line 1", "line 4", "line 5"]
    assert any("Empty lines were left out (2)" in note for note in labelled.notes)
    plain = read("\none, two\n\n \nthree\n\n", work, "file.txt")
    assert plain.data.column("text").to_pylist() == ["", "one, two", "", " ", "three", ""]
    assert plain.notes == ()
    with pytest.raises(FileInvalid, match="the file is empty"):
        read(" \n\n\n\n", work, "blank.txt")


def files(folder: Path, members: dict[str, str]) -> Path:
    for name, text in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


WALKS = {
    "walk/1.csv": "t,v\n13/04/2024,1\n14/04/2024,2\n",
    "run/1.csv": "t,v\n01/04/2024,1.5\n",
    ".hidden": "x",
    "README.md": "x",
}


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_has_a_file_for_each_sequence_and_a_folder_for_each_class(packed: bool, work: Path) -> None:
    path = files(work.parent / "data", WALKS)
    if packed:
        path = work.parent / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in WALKS.items():
                archive.writestr(f"data/{name}", text)
    table = formats.read(path, work)
    assert table.data.to_pylist() == [  # one file tells the order of the days of all
        {"file": "run/1.csv", "folder": "run", "t": date(2024, 4, 1), "v": 1.5},
        {"file": "walk/1.csv", "folder": "walk", "t": date(2024, 4, 13), "v": 1.0},
        {"file": "walk/1.csv", "folder": "walk", "t": date(2024, 4, 14), "v": 2.0},
    ]
    assert table.row_name(2) == "walk/1.csv line 3"


def test_a_manifest_gives_files_their_labels(work: Path) -> None:
    members = {"manifest.csv": "file,label,age\n2.csv,b,7\n1.csv,a,\n", "1.csv": "v\n1\n", "2.csv": "v\n2\n"}
    table = formats.read(files(work.parent / "data", members), work)
    assert table.data.to_pylist() == [
        {"file": "1.csv", "label": "a", "age": None, "v": 1},
        {"file": "2.csv", "label": "b", "age": 7, "v": 2},
    ]


def test_folders_may_say_the_split_and_texts_are_whole_files(work: Path) -> None:
    members = {"train/pos/1.txt": "a fine\nfilm\n", "test/neg/2.txt": "a dull film\n"}
    table = formats.read(files(work.parent / "data", members), work)
    assert table.data.to_pylist() == [
        {"file": "test/neg/2.txt", "folder": "neg", "split": "test", "text": "a dull film"},
        {"file": "train/pos/1.txt", "folder": "pos", "split": "train", "text": "a fine\nfilm"},
    ]


def test_problems_of_a_folder_name_the_file_and_the_line(work: Path) -> None:
    path = files(
        work.parent / "data", {"1.csv": "v\n1\n" * 40, "2.csv": "v,w\n1\n", "3.csv": "v\n" + "1\n" * 50 + "x\n"}
    )
    with pytest.raises(FileInvalid) as caught:
        formats.read(path, work)
    assert [problem.where for problem in caught.value.problems] == ["2.csv line 2"]
    (path / "2.csv").unlink()
    with pytest.raises(FileInvalid) as caught:
        formats.read(path, work)
    assert [problem.where for problem in caught.value.problems] == ["3.csv line 52, column v"]


def test_a_zip_of_one_table_is_that_table(work: Path) -> None:
    with zipfile.ZipFile(work.parent / "one.zip", "w") as archive:
        archive.writestr("one.csv", "a\n1\n")
    table = formats.read(work.parent / "one.zip", work)
    assert (table.format, table.data.to_pylist()) == ("csv", [{"a": 1}])


def test_limits_hold(work: Path) -> None:
    with pytest.raises(FileInvalid, match="more than 5 rows"):
        read("a\n" + "1\n" * 6, work, limits=Limits(max_rows=5))
    with pytest.raises(FileInvalid, match="there are 3 columns; at most 2"):
        read("a,b,c\n1,2,3\n", work, limits=Limits(max_columns=2))
    with pytest.raises(FileInvalid, match="more than 10 bytes of content"):
        read("a\n" + "1\n" * 6, work, limits=Limits(max_bytes=10))
    with pytest.raises(FileInvalid, match="line 2: the line has more than 8 bytes"):
        read("a\n123456789\n", work, limits=Limits(max_cell_bytes=8))
    with pytest.raises(FileInvalid, match="more than 1 files"):
        formats.read(files(work.parent / "data", {"1.csv": "v\n1\n", "2.csv": "v\n1\n"}), work, Limits(max_files=1))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([{"a": 1}], object), "Python objects, which are never read"),
        (np.array(["a"]), "Save it as numbers"),
        (np.zeros(3), "the shape"),
        (np.zeros((0, 3)), "empty"),
    ],
)
def test_an_array_that_cannot_be_read_is_refused(array: Any, says: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(FileInvalid, match=says):
        arrays.read(tmp_path / "x.npy")


def test_an_array_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    found = arrays.read(tmp_path / "x.npy")
    assert (found.shape, found.dtype, found[1, 2, 0]) == ((2, 3, 1), np.float32, 5.0)
    (tmp_path / "lie.npy").write_bytes((tmp_path / "x.npy").read_bytes().replace(b"(2, 3)", b"(9, 9)"))
    with pytest.raises(FileInvalid, match=r"this is not an \.npy array, or it is damaged"):
        arrays.read(tmp_path / "lie.npy")


@pytest.mark.parametrize("in_memory", [0, 16 << 20])
def test_many_little_files_become_few_batches(in_memory: int, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", in_memory)
    path = files(work.parent / "data", {f"{number:03}.csv": f"v\n{number}\n" for number in range(520)})
    table = formats.read(path, work)
    assert table.data.column("v").to_pylist() == list(range(520))
    assert table.data.column("v").num_chunks < 20
    assert list(work.iterdir()) == []
