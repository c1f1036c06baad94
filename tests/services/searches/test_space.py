"""The space of a search: every refusal has a pointer and says what is allowed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from sqlalchemy.orm import Session

from services.blobs.storage import Storage
from services.datasets import versions
from services.errors import SpecInvalid
from services.searches import checking, reading
from tests.conftest import received

BASE: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 3},
    "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
}
LR = {"training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
CELLS = {"architecture.cell": ["lstm", "gru"]}


def document(space: Any, *, base: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {**(BASE if base is None else base), "search": {"space": space, **more}}


def refused(given: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(SpecInvalid) as caught:
        reading.read(given)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def checked(session: Session, given: dict[str, Any]) -> checking.Found:
    return checking.check(session, reading.read(given), "default")


def refused_by_check(session: Session, given: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(SpecInvalid) as caught:
        checked(session, given)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def at(path: str, below: str = "") -> str:
    return f"/search/space/{path}{below}"


@pytest.mark.parametrize(
    ("what", "pointer", "words"),
    [
        (7, "", "must be a list of values, or {low, high}"),
        ([], "", "at least"),
        ([1, 2, 1], "/2", "stands there twice"),
        (["x" * 3000], "/0", "is longer than 2,000 characters"),
        ({"values": []}, "/values", "at least"),
        ({"low": 1}, "/high", "required"),
        ({"low": "1", "high": 2}, "/low", "number"),
        ({"low": 1, "high": 1}, "/high", "must be greater than low"),
        ({"low": 2.0, "high": 1.0}, "/high", "must be greater than low, which is 2.0; got 1.0"),
        ({"low": -1e308, "high": 1e308}, "/high", "must be greater than low"),
        ({"low": 0.0, "high": 1.0, "log": True}, "/low", "must be greater than 0 with log"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "/step", "does not go with log"),
        ({"low": 1, "high": 9, "step": 0.5}, "/step", "must be a whole number"),
        ({"low": 1, "high": 9, "step": 10}, "/step", "is more than high - low"),
        ({"low": 1, "high": 9, "step": 0}, "/step", "greater than 0"),
        ({"low": 1, "high": 9, "prior": 3}, "/prior", "there is no such field"),
        ({"values": [1], "when": {"training.epochs": [3]}}, "/when/training.epochs", "is no field of this space"),
        ({"values": [1], "when": {"training.optimizer.lr": [3]}}, "/when/training.optimizer.lr", "is a range"),
        ({"values": [1], "when": {"architecture.cell": []}}, "/when/architecture.cell", "one value or more"),
        ({"values": [1], "when": {"architecture.cell": ["rnn"]}}, "/when/architecture.cell/0", "is no value of"),
    ],
)
def test_a_field_that_cannot_be_varied_is_refused(what: Any, pointer: str, words: str) -> None:
    problems = refused(document({**LR, **CELLS, "architecture.num_layers": what}))
    assert [*problems] == [at("architecture.num_layers", pointer)]
    assert words in problems[at("architecture.num_layers", pointer)]


def test_conditions_that_go_round_in_a_circle_are_refused() -> None:
    space = {
        "architecture.cell": {"values": ["lstm", "gru"], "when": {"architecture.num_layers": [1]}},
        "architecture.num_layers": {"values": [1, 2], "when": {"architecture.cell": ["lstm"]}},
    }
    assert refused(document(space)) == {at("architecture.cell", "/when"): "leads back to this field itself"}


@pytest.mark.parametrize(
    ("space", "pointer", "words"),
    [
        (None, "/search/space", "must name one path into the spec or more"),
        ({}, "/search/space", "must name one path into the spec or more"),
        ({"search.seed": [1, 2]}, at("search.seed"), "is no path into a spec"),
        ({"training..lr": [1, 2]}, at("training..lr"), "is no path into a spec"),
        ({"training": [{}], "training.epochs": [1]}, at("training.epochs"), "lies within `training`"),
        ({"architecture.cell.name": [1]}, at("architecture.cell.name"), "leads through architecture.cell"),
        ({f"tags.t{n}": [1] for n in range(31)}, "/search/space", "has 31 fields; a search varies at most 30"),
        ({"training.seed": [*range(101)]}, "/search/space", "has 101 values in its lists; at most 100"),
    ],
)
def test_a_space_that_is_none_is_refused(space: Any, pointer: str, words: str) -> None:
    problems = refused(document(space))
    assert words in problems[pointer]


@pytest.mark.parametrize(
    ("more", "pointer", "words"),
    [
        ({"algorithm": "annealing"}, "/search/algorithm", "must be one of"),
        ({"trials": 0}, "/search/trials", "at least 1"),
        ({"trials": 1001}, "/search/trials", "at most 1"),
        ({"parallel": 0}, "/search/parallel", "at least 1"),
        ({"seed": -1}, "/search/seed", "at least 0"),
        ({"budget": 3}, "/search/budget", "there is no such field"),
        ({"stop_early": True}, "/search/stop_early", "must be one of"),
        ({"stop_early": "hyperband"}, "/search/stop_early", "must be one of"),
        ({"metric": "test_accuracy"}, "/search/metric", "must be of validation data, such as validation_accuracy"),
        ({"metric": "train_loss"}, "/search/metric", "learns its training data by heart"),
        ({"metric": "beauty"}, "/search/metric", "must be one of validation_loss"),
        ({"algorithm": "grid"}, at("training.optimizer.lr"), "is a range, and a grid needs a list of values"),
    ],
)
def test_settings_of_a_search_that_are_not_right_are_refused(more: dict[str, Any], pointer: str, words: str) -> None:
    problems = refused(document(LR, **more))
    assert [*problems] == [pointer]
    assert words in problems[pointer]


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        ({"kind": "predict"}, "/kind", "must be train"),
        ({"retrain": {"model": "m"}}, "/retrain", "moves no alias"),
        ({"matrix": {"training.seed": [1]}}, "/matrix", "is for batches"),
        ({"data": {**BASE["data"], "split": {"validation": 0.0}}}, "/data/split/validation", "must be more than 0"),
    ],
)
def test_a_spec_that_cannot_be_searched_is_refused(changes: dict[str, Any], pointer: str, words: str) -> None:
    problems = refused(document(LR, base={**BASE, **changes}))
    assert [*problems] == [pointer]
    assert words in problems[pointer]


def test_a_document_without_a_search_says_what_one_looks_like() -> None:
    assert "must say what to vary" in refused(BASE)["/search"]


def test_trials_are_at_most_the_combinations_of_a_finite_space() -> None:
    space = {**CELLS, "training.seed": {"low": 0, "high": 5, "step": 2}}
    assert reading.read(document(space)).trials == 6
    assert reading.read(document(LR)).trials == 40
    assert "the space has 6 combinations" in refused(document(space, trials=7))["/search/trials"]
    many = {f"tags.t{n}": [1, 2] for n in range(10)}
    assert "more than 1,000 combinations" in refused(document(many, algorithm="grid"))["/search/space"]
    assert reading.read(document(many, algorithm="grid", trials=30)).trials == 30


def test_a_combination_has_only_the_fields_whose_conditions_are_met() -> None:
    space = {"architecture.forget_gate_bias": {"values": [0.0, 1.0], "when": {"architecture.cell": ["lstm"]}}, **CELLS}
    found = reading.read(document(space)).space
    assert [*found.cells()] == [
        {"architecture.cell": "lstm", "architecture.forget_gate_bias": 0.0},
        {"architecture.cell": "lstm", "architecture.forget_gate_bias": 1.0},
        {"architecture.cell": "gru"},
    ]


def test_true_and_one_are_different_values() -> None:
    space = {"architecture.num_layers": [1, 2], "training.epochs": {"values": [3], "when": {"tags.a": [1]}}}
    space["tags.a"] = [True, 1]
    found = reading.read(document(space)).space
    assert [cell for cell in found.cells() if cell["tags.a"] is True and "training.epochs" in cell] == []


# What the spec and its data say


def test_a_typing_error_in_a_path_is_found_where_it_lies(session: Session) -> None:
    problems = refused_by_check(session, document({"training.optimizr.lr": [1e-3, 1e-2], **CELLS}))
    assert [*problems] == [at("training.optimizr.lr")]
    assert "training.optimizr" in problems[at("training.optimizr.lr")]


def test_a_value_that_the_spec_refuses_is_named(session: Session) -> None:
    space = {"architecture.cell": ["lstm", "gruu"], "training.epochs": {"low": 0, "high": 4}, **LR}
    problems = refused_by_check(session, document(space))
    assert [*problems] == [at("architecture.cell", "/1"), at("training.epochs", "/low")]


def test_a_problem_of_the_spec_itself_is_reported_once(session: Session) -> None:
    base = {**BASE, "training": {"epochs": -1}}
    assert [*refused_by_check(session, document({**LR, **CELLS}, base=base))] == ["/training/epochs"]


def test_an_unknown_data_set_is_refused(session: Session) -> None:
    base = {**BASE, "data": {"dataset": "nowhere"}}
    problems = refused_by_check(session, document(LR, base=base))
    assert "no data set named `nowhere`" in problems["/data/dataset"]


def test_a_combination_that_does_not_go_together_is_no_problem(session: Session) -> None:
    space = {**CELLS, "architecture.forget_gate_bias": [0.5, 1.0]}
    assert checked(session, document(space)).metric == "validation_loss"


def test_a_space_without_any_valid_combination_is_refused(session: Session) -> None:
    space = {"architecture.cell": ["gru", "rnn"], "architecture.forget_gate_bias": [0.5, 1.0]}
    problems = refused_by_check(session, document(space))
    assert at("architecture.forget_gate_bias", "/0") in problems


@pytest.mark.parametrize(
    ("best_by", "metric", "expected"),
    [
        (None, None, "validation_loss"),
        ("accuracy", None, "validation_accuracy"),
        (None, "macro_f1", "validation_macro_f1"),
    ],
)
def test_the_metric_is_what_best_by_says_unless_one_is_named(
    session: Session, best_by: str | None, metric: str | None, expected: str
) -> None:
    base = {**BASE, "training": {"epochs": 3, **({"best_by": best_by} if best_by else {})}}
    found = checked(session, document(LR, base=base, **({"metric": metric} if metric else {})))
    assert (found.metric, found.higher_is_better) == (expected, expected != "validation_loss")


def test_a_metric_that_the_task_does_not_have_is_refused(session: Session) -> None:
    problems = refused_by_check(session, document(LR, metric="validation_mase"))
    assert "must be one of loss, accuracy" in problems["/search/metric"]


def test_losses_of_different_functions_are_not_compared(session: Session) -> None:
    space = {"training.loss": ["cross_entropy", {"name": "cross_entropy", "label_smoothing": 0.1}]}
    assert "the space varies training.loss" in refused_by_check(session, document(space))["/search/metric"]
    assert checked(session, document(space, metric="accuracy")).metric == "validation_accuracy"


def test_trials_use_the_version_that_the_data_set_has_now(session: Session, storage: Storage, npz_bytes: Any) -> None:
    versions.add(session, received(storage, BytesIO(npz_bytes())), name="toy")
    found = checked(session, document(LR, base={**BASE, "data": {"dataset": "toy"}}))
    assert found.datasets == {"toy": "toy@1"}
