"""What a batch's document stands for, and where its problems are told."""

from __future__ import annotations

from typing import Any

import pytest

from services.errors import Problem, SpecInvalid
from services.jobs import matrix

BASE: dict[str, Any] = {"name": "vowels", "training": {"epochs": 5}, "data": {"dataset": "a"}}


def test_every_combination_is_a_spec_with_a_name_of_its_own_and_the_last_path_changes_fastest() -> None:
    asked = {"data.dataset": ["a", "b"], "training.optimizer.lr": [1e-3, 0.1]}
    cells = matrix.expand(BASE | {"matrix": asked})
    assert [cell.spec["name"] for cell in cells] == [
        "vowels[dataset=a, lr=0.001]",
        "vowels[dataset=a, lr=0.1]",
        "vowels[dataset=b, lr=0.001]",
        "vowels[dataset=b, lr=0.1]",
    ]
    assert cells[3].spec["training"] == {"epochs": 5, "optimizer": {"lr": 0.1}}
    assert BASE["training"] == {"epochs": 5}
    assert all("matrix" not in cell.spec for cell in cells)


def test_a_value_may_be_anything_and_names_stay_short_and_printable() -> None:
    values = [{"name": "adam"}, {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, None, "a\nb"]
    [*names] = [cell.spec["name"] for cell in matrix.expand(BASE | {"matrix": {"training.optimizer": values}})]
    assert names == [
        'vowels[optimizer={"name": "adam"}]',
        "vowels[optimizer=#2]",
        "vowels[optimizer=null]",
        "vowels[optimizer=ab]",
    ]
    [first, _] = matrix.expand({"name": "x" * 199, "matrix": {"a.b": [1, 2]}})
    assert first.spec["name"] == "x" * 199 + "[1]"


def test_paths_that_end_alike_are_told_apart() -> None:
    [cell] = matrix.expand({"matrix": {"a.lr": [1], "b.lr": [2], "c": [3]}})
    assert cell.label == "a.lr=1, b.lr=2, c=3"


@pytest.mark.parametrize(
    ("asked", "pointer", "says"),
    [
        (None, "/matrix", "one path"),
        ([], "/matrix", "one path"),
        ({}, "/matrix", "one path"),
        ({"training": {"epochs": [1]}}, "/matrix/training", "a list of one value or more"),
        ({"training.epochs": []}, "/matrix/training.epochs", "a list of one value or more"),
        ({"training.epochs": [1, 2, 1]}, "/matrix/training.epochs", "a value twice"),
        ({"training..epochs": [1]}, "/matrix/training..epochs", "no path"),
        ({"a/b~": 1}, "/matrix/a~1b~0", "a list of one value"),
        ({"training.epochs": [1], "training": [{}]}, "/matrix/training.epochs", "lies within `training`"),
        ({"name.first": ["x"]}, "/matrix/name.first", "leads through name, which is no mapping"),
    ],
)
def test_a_matrix_that_is_none_is_refused(asked: Any, pointer: str, says: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        matrix.read({"jobs": [BASE, BASE | {"matrix": asked}]})
    [problem] = refused.value.problems
    assert problem.pointer == f"/jobs/1{pointer}"
    assert says in problem.detail


@pytest.mark.parametrize("name", ["", "a\nb", 5, "x" * 201])
def test_a_list_that_is_none_is_refused_with_every_problem(name: Any) -> None:
    for jobs, pointers in (([], {"/jobs"}), ({}, {"/jobs"}), ([BASE, 1, "x"], {"/jobs/1", "/jobs/2"})):
        with pytest.raises(SpecInvalid) as refused:
            matrix.read({"name": name, "jobs": jobs, "a/b": 1})
        assert {problem.pointer for problem in refused.value.problems} == {"/name", "/a~1b", *pointers}


def test_a_batch_is_bounded_before_it_is_made() -> None:
    huge = {"matrix": {f"a{path}": list(range(100)) for path in range(20)}}
    with pytest.raises(SpecInvalid, match=r"/matrix: stands for 10(,000){13} jobs; a batch has at most 1,000"):
        matrix.read(huge)
    with pytest.raises(SpecInvalid, match="/jobs: stands for 1,001 jobs"):
        matrix.read({"jobs": [{"matrix": {"a": list(range(1000))}}, {}]})
    assert len(matrix.read({"jobs": [{}] * 1000})[1]) == 1000


def test_problems_are_told_once_where_they_lie_in_the_document() -> None:
    asked = {"training.optimizer": ["adam", "sgd"], "training.epochs": [1, -1]}
    [source] = matrix.read({"jobs": [{"name": "a", "matrix": asked}]})[1]
    everywhere, some = Problem("/data", "missing"), Problem("/architecture", "does not go with sgd")
    wrong = [(source, cell, [everywhere]) for cell in source.cells]
    wrong += [(source, cell, [some]) for cell in source.cells[2:]]
    wrong += [(source, cell, [Problem("/training/epochs", "too few")]) for cell in source.cells[1::2]]
    wrong += [(source, source.cells[3], [Problem("/training/optimizer/lr", "too low")])]
    assert matrix.located(wrong) == [
        Problem("/jobs/0/data", "missing"),
        Problem("/jobs/0/architecture", f"{some.detail} (in 2 of 4 combinations, such as optimizer=sgd, epochs=1)"),
        Problem("/jobs/0/matrix/training.epochs/1", "too few"),
        Problem("/jobs/0/matrix/training.optimizer/1/lr", "too low"),
    ]
    many = [(source, source.cells[0], [Problem(f"/{number}", "no") for number in range(150)])]
    assert len(matrix.located(many)) == matrix.MAX_PROBLEMS + 1
    assert matrix.located(many)[-1].detail == "and 50 more problems"
