"""A file is read by the ending of the name that its sender gave it, wherever the service keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.training.files import fitting


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("walks.csv", ".csv"),
        ("csv", ".csv"),
        ("Walks.JSONL.gz", ".jsonl.gz"),
        ("walks", ""),
        ("../walks.sh", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_file_has_the_ending_of_its_name_and_no_other(tmp_path: Path, name: str | None, ending: str) -> None:
    """Whatever was uploaded is kept as `HASH.npz`."""
    (kept := tmp_path / "1234.npz").write_text("a,b")
    work = tmp_path / "work"
    work.mkdir()
    for _ in range(2):  # a check that crashed has left the first link
        found = fitting.named(kept, name, work)
    assert (found.read_text(), found.parent) == ("a,b", work)
    assert found.name.partition(".")[2] == ending.removeprefix(".")


def test_a_file_that_came_from_the_store_stays(tmp_path: Path) -> None:
    (fetched := tmp_path / "upload").write_text("a,b")
    assert fitting.named(fetched, "", tmp_path).read_text() == "a,b"
