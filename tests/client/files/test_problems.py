"""How problems of a file are told."""

from __future__ import annotations

from loopline.files.problems import FileInvalid, Problem


def test_the_same_problem_in_many_places_is_told_once() -> None:
    found = FileInvalid([*(Problem(f"line {number}", "no number") for number in range(1, 101)), Problem("", "no end")])
    assert found.problems == [Problem("line 1, line 2, line 3 and 97 more", "no number"), Problem("", "no end")]
    assert str(found) == "line 1, line 2, line 3 and 97 more: no number (and 1 more)"
