"""A few numbers that are written in another way than the rest of their column do not decide how the rest is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from loopline.files import formats, source
from loopline.files.inspection import inspect
from loopline.files.problems import FileInvalid
from loopline.files.schema import Schema
from loopline.files.table import Table

ROWS = 2540


@pytest.fixture(params=[2 << 20, 1 << 10], ids=["in one block", "in many blocks"], autouse=True)
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE", request.param)


def plain(row: int) -> str:
    return f"{20 + row % 90 / 10:.2f}"


def comma(row: int) -> str:
    return plain(row).replace(".", ",")


def whole_at_first(row: int) -> str:
    return str(row % 30) if row < ROWS // 2 else plain(row)


STYLES = {"plain": (plain, "1,5"), "comma": (comma, "1.5"), "whole at first": (whole_at_first, "1,5")}


def text_of(style: str, odd: Mapping[int, str], rows: int = ROWS) -> str:
    written = STYLES[style][0]
    return "t;v\n" + "".join(f"{row};{odd.get(row, written(row))}\n" for row in range(rows))


def read(text: str, folder: Path) -> Table:
    path = folder / "file.csv"
    path.write_text(text)
    return formats.read(path, folder)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "places",
    [[0], [1], [9], [1269], [1271], [2539], [0, 1, 2], [0, 1300, 2539], list(range(20)), [*range(5, 2500, 110)]],
)
def test_a_few_other_decimal_marks_are_refused_by_line(style: str, places: list[int], tmp_path: Path) -> None:
    odd = STYLES[style][1]
    with pytest.raises(FileInvalid) as caught:
        read(text_of(style, dict.fromkeys(places, odd)), tmp_path)
    (problem,) = caught.value.problems
    assert problem.where == ", ".join(f"line {place + 2:,}, column v" for place in places[:3])
    assert f"'{odd}' is not a number" in problem.detail
    assert f"({len(places)} of 2,540 are not)" in problem.detail


@pytest.mark.parametrize("style", ["plain", "whole at first"])
@pytest.mark.parametrize("places", [[0], [1269], [1271], [2539], [3, 1300, 2500]])
def test_a_few_commas_between_thousands_are_warned_of_by_line(style: str, places: list[int], tmp_path: Path) -> None:
    table = read(text_of(style, dict.fromkeys(places, "1,500")), tmp_path)
    assert table.data.column("v")[places[-1]].as_py() == 1500
    (remark,) = table.remarks
    assert (remark.severity, remark.columns, remark.where) == ("warning", ("v",), f"line {places[0] + 2:,}")
    assert f"only {len(places)} of 2,540 values of `v`" in remark.detail
    assert "'1,500' is read as 1500" in remark.detail


@pytest.mark.parametrize("places", [[0], [1269], [2539], [3, 1300, 2500]])
def test_a_few_points_between_thousands_are_warned_of_by_line(places: list[int], tmp_path: Path) -> None:
    table = read(text_of("comma", dict.fromkeys(places, "1.500")), tmp_path)
    assert table.data.column("v")[places[-1]].as_py() == 1500
    (remark,) = table.remarks
    assert (remark.severity, remark.columns, remark.where) == ("warning", ("v",), f"line {places[0] + 2:,}")
    assert f"a point is in only {len(places)} of 2,540 values of `v`" in remark.detail
    assert "'1.500' is read as 1500; leave the point out, or write a comma if it is a decimal point" in remark.detail


@pytest.mark.parametrize("places", [[0], [1269], [2539], [*range(2000, 2540)], [*range(0, 2540, 50)]])
def test_points_between_thousands_before_a_decimal_comma_are_read(places: list[int], tmp_path: Path) -> None:
    """`5,00` and, further down, `4.000,00`."""
    table = read(text_of("comma", dict.fromkeys(places, "4.000,00")), tmp_path)
    values = table.data.column("v").to_pylist()
    assert {values[place] for place in places} == {4000.0}
    assert [value for row, value in enumerate(values) if row not in places] == [
        float(plain(row)) for row in range(ROWS) if row not in places
    ]
    assert table.remarks == ()


def test_a_decimal_comma_makes_no_thousands_of_decimals(tmp_path: Path) -> None:
    rows = [f"{row}.{100 + row}" for row in range(1, 200)]
    with pytest.raises(FileInvalid) as caught:
        read("v;w\n" + "".join(f"{value};x\n" for value in [*rows, "1,5"]), tmp_path)
    assert "'1,5' is not a number" in caught.value.problems[0].detail


def test_columns_with_commas_between_thousands_throughout_are_not_warned_of(tmp_path: Path) -> None:
    all_large = "t;v;w\n" + "".join(f"{row}.5;{1000 + row:,};x\n" for row in range(200))
    assert read(all_large, tmp_path).remarks == ()
    sure = "v;w\n" + "".join(f"{row / 7:,.2f};x\n" for row in range(ROWS * 3)) + "1,500;x\n"
    assert read(sure, tmp_path).remarks == ()


def test_a_warning_about_a_comma_is_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(text_of("plain", {7: "1,500"}))
    report = inspect(path, Schema(), tmp_path).report
    assert report is not None
    assert [str(one) for one in report.remarks if one.kind == "thousands"] == [
        "line 9: a comma is in only 1 of 2,540 values of `v`, and '1,500' is read as 1500; leave the comma out, or"
        " write a point if it is a decimal comma"
    ]


def test_the_odd_file_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "1.csv").write_text(text_of("plain", {0: "1,5"}, 40))
    for name in "23456789":
        (folder / f"{name}.csv").write_text(text_of("plain", {}, 40))
    with pytest.raises(FileInvalid) as caught:
        formats.read(folder, tmp_path)
    assert [problem.where for problem in caught.value.problems] == ["1.csv line 2, column v"]


def test_the_odd_date_is_named_and_not_the_others(tmp_path: Path) -> None:
    rows = ["13/04/2024", *(f"04/{13 + row % 15}/2024" for row in range(200))]
    with pytest.raises(FileInvalid) as caught:
        read("d\n" + "\n".join(rows) + "\n", tmp_path)
    assert [problem.where for problem in caught.value.problems] == ["line 2, column d"]
