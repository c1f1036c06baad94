"""Tables in memory become files. tests/client/prediction/test_frames.py does this with the real pandas and polars."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from loopline import BadRequest
from loopline.files import formats, frames
from loopline.files.problems import FileInvalid
from loopline.frames import as_file


def test_words_as_polars_has_its_categories_are_written_as_words(tmp_path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.uint32()), pa.array(["a", "b"], pa.string_view()))
    for chunks in ([words], [words, words], []):
        table = pa.table({"x": pa.chunked_array(chunks, words.type), "__index_level_0__": pa.nulls(3 * len(chunks))})
        frames.write(table, tmp_path / "table.parquet")
        read = pa.parquet.read_table(tmp_path / "table.parquet")
        assert read.to_pydict() == {"x": ["b", None, "a"] * len(chunks)}


def test_a_table_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    spans = pa.table({"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(BadRequest, match=r"^This table cannot be read \(.*\): give columns of numbers or words.$"):
        as_file(spans, tmp_path)


def test_two_columns_of_one_name_are_told_as_in_a_file(tmp_path: Path) -> None:
    table = pa.table([[1.0, 2.0], ["a", "b"], ["c", "d"]], names=["x", "note", "note"])
    with pytest.raises(FileInvalid, match=r"^column note: several columns have this name"):
        formats.read(as_file(table, tmp_path), tmp_path)
