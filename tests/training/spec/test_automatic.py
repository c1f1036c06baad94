"""What is chosen for a data set if a spec names no network: never what it states, and always something that trains."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import SpecInvalid
from services.training.files.summary import Columns, DatasetSummary, SeriesSummary, TextSummary
from services.training.spec import automatic, check_data, completed, parse
from tests.properties import examples
from tests.training.spec.test_spec import summary

DATA = {"dataset": "d"}
LARGE = {"samples": 400, "max_length": 50, "class_counts": [200, 200]}
SERIES = SeriesSummary(targets=["load"], columns=1, known_future=[], gaps=0, steps=800, step="1 hour", seasons=[24])
TEXTS = TextSummary(characters=9000, words=2000, longest_in_words=90, shortest_in_words=4, median_in_words=20)


def chosen(document: dict[str, Any], **data: Any) -> dict[str, Any]:
    """What is chosen, by field."""
    return {each.field: each.value for each in automatic.choices(document, summary(**(LARGE | data)))}


@pytest.mark.parametrize(
    ("document", "is_open"),
    [
        ({"data": DATA}, True),
        ({"data": DATA, "architecture": None}, True),
        ({"data": DATA, "preset": None, "architecture": {"hidden_size": 8}}, True),
        ({"data": DATA, "preset": "basic_gru"}, False),
        ({"data": DATA, "architecture": {"cell": "gru"}}, False),
        ({}, False),
    ],
)
def test_a_spec_without_preset_and_cell_leaves_the_network_open(document: dict[str, Any], is_open: bool) -> None:
    assert automatic.is_open(document) == is_open


def test_a_spec_that_names_its_network_is_left_alone() -> None:
    document = {"architecture": {"cell": "lstm"}, "data": DATA}
    spec = parse(document)
    assert completed(spec, document, summary()) == (spec, ())


def test_only_what_is_not_stated_is_chosen() -> None:
    document = {
        "architecture": {"hidden_size": 7, "pooling": "last"},
        "training": {"optimizer": "sgd", "early_stopping": None, "lr_schedule": {"name": "step"}},
        "data": {**DATA, "scaling": "none"},
    }
    found = chosen(document)
    assert found["architecture.cell"] == "lstm"
    assert found["training.batch_size"] == 32
    stated = {"architecture.hidden_size", "architecture.pooling", "data.scaling"}
    stated |= {"training.optimizer", "training.early_stopping", "training.lr_schedule"}
    assert not stated & found.keys()
    spec, _ = completed(parse(document), document, summary(**LARGE))
    assert (spec.architecture.hidden_size, spec.training.optimizer.name, spec.training.early_stopping) == (
        7,
        "sgd",
        None,
    )


GAPS = {"inputs": Columns(numbers=3, categories=[], gaps=1)}


@pytest.mark.parametrize(
    ("stated", "data"),
    [
        ({"architecture": {"forget_gate_bias": 2.0}}, {}),
        ({"architecture": {"dropout": 0.2}}, {}),
        ({"data": {**DATA, "scaling_over": "per_sequence"}}, {}),
        ({"data": {**DATA, "missing_mask": True}}, GAPS),
        ({"training": {"lr_schedule": {"name": "cosine", "min_lr": 0.002}}}, {}),
    ],
)
def test_what_is_stated_is_judged_beside_what_is_chosen(stated: dict[str, Any], data: dict[str, Any]) -> None:
    document, found = {"data": DATA, **stated}, summary(**(LARGE | data))
    spec, _ = completed(parse(document), document, found)
    assert check_data(spec, found)


def test_what_does_not_go_with_what_is_chosen_is_refused_with_it() -> None:
    document: dict[str, Any] = {"data": DATA, "architecture": {"nonlinearity": "relu"}}
    parsed = parse(document)
    with pytest.raises(SpecInvalid) as refused:
        completed(parsed, document, summary(**LARGE))
    assert [each.pointer for each in refused.value.problems] == ["/architecture/nonlinearity"]


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"data": {}}, "/data"),
        ({"data": {"synthetic": {}, "split": {"test": "given"}}}, "/data/split/test"),
        ({"data": {**DATA, "split": {"folds": 3, "validation": 0.2}}}, "/data/split/validation"),
        ({"data": DATA, "retrain": {"model": "m", "promote": "latest"}}, "/retrain/promote"),
    ],
)
def test_what_is_wrong_whatever_is_chosen_is_refused_without_the_data(document: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        parse(document)
    assert pointer in [each.pointer for each in refused.value.problems]


def test_the_number_of_epochs_follows_the_batch_size_that_is_stated() -> None:
    assert chosen({"data": DATA, "training": {"batch_size": 320}})["training.epochs"] == 300
    assert chosen({"data": DATA})["training.epochs"] == 60  # ten updates each


def test_long_sequences_are_patched_unless_there_is_a_class_for_each_step() -> None:
    assert chosen({"data": DATA}, max_length=1000)["data.patch"] == 10
    assert chosen({"data": {**DATA, "stride": 10}}, max_length=1000).get("data.patch") is None
    tags = {"target": "tags", "max_length": 1000}
    assert "data.patch" not in chosen({"data": DATA}, **tags)


def test_what_is_trained_in_windows_is_read_in_one_direction() -> None:
    tags = summary(**(LARGE | {"target": "tags", "max_length": 1000}))
    for steps, both in ((20, False), (None, True)):
        document = {"data": DATA, "training": {"bptt_steps": steps}}
        spec, _ = completed(parse(document), document, tags)
        assert check_data(spec, tags).architecture.bidirectional is both


def test_sequences_of_very_different_sizes_are_each_scaled_by_themselves() -> None:
    assert chosen({"data": DATA}, spread=1000.0)["data.scaling_over"] == "per_sequence"
    for document, spread in (
        ({"data": DATA}, 999.0),
        ({"data": DATA}, None),
        ({"data": {**DATA, "scaling": "none"}}, 1e6),
        ({"data": {**DATA, "scaling_over": "train"}}, 1e6),
    ):
        assert "data.scaling_over" not in chosen(document, spread=spread)


def test_unequal_classes_are_weighted() -> None:
    plain = {"name": "cross_entropy", "label_smoothing": 0.1}
    assert chosen({"data": DATA})["training.loss"] == plain
    weighted = chosen({"data": DATA}, class_counts=[350, 50])["training.loss"]
    assert weighted == {**plain, "class_weights": "balanced"}
    assert "training.loss" not in chosen({"data": DATA, "task": "regression"}, class_counts=[350, 50])
    assert "training.loss" not in chosen({"data": DATA, "training": {"loss": "cross_entropy"}}, class_counts=[350, 50])


def test_few_samples_are_judged_by_folds_and_none_of_their_epochs_is_chosen() -> None:
    few = {"samples": 60, "class_counts": [30, 30]}
    found = chosen({"data": DATA}, **few)
    assert (found["data.split.folds"], found["training.keep"]) == (4, "last")
    assert "training.early_stopping" not in found
    stopping = chosen({"data": DATA, "training": {"early_stopping": {"patience": 3}}}, **few)
    assert "training.keep" not in stopping
    split = {"validation": 0.5}
    for document, data in (
        ({"data": {**DATA, "split": split}}, few),
        ({"data": DATA, "retrain": {"model": "m"}}, few),
        ({"data": DATA}, {"samples": 60, "class_counts": [57, 3]}),
        ({"data": DATA}, {**few, "given_split": {"train": 40, "validation": 20}}),
        ({"data": DATA}, {}),
    ):
        other = chosen(document, **data)
        assert "data.split.folds" not in other
        assert other["training.early_stopping"]


def test_gaps_are_filled_and_marked() -> None:
    gaps = Columns(numbers=3, categories=[], gaps=1)
    found = chosen({"data": DATA}, inputs=gaps)
    assert (found["data.missing"], found["data.missing_mask"]) == ("forward", True)
    assert not {"data.missing", "data.missing_mask"} & chosen({"data": {**DATA, "missing": "drop"}}, inputs=gaps).keys()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"texts": TEXTS},
        {"target": "series", "classes": None, "class_counts": None, "samples": 1, "max_length": 800, "series": SERIES},
    ],
    ids=["sequences", "texts", "series"],
)
def test_gaps_in_values_of_whole_sequences_are_filled(data: dict[str, Any]) -> None:
    document, found = {"data": DATA}, summary(**(LARGE | data | {"static": Columns(numbers=1, categories=[], gaps=1)}))
    spec, choices = completed(parse(document), document, found)
    assert check_data(spec, found).data.missing == "forward"
    [why] = [each.why for each in choices if each.field == "data.missing"]
    assert why == "values of whole sequences are missing, and they get the mean"


def test_a_series_is_forecast_and_a_text_is_continued() -> None:
    series = {"target": "series", "classes": None, "class_counts": None, "samples": 1, "max_length": 800}
    found = chosen({"data": DATA}, **series, series=SERIES)
    assert found == {"task": "forecast", "architecture.cell": "gru"}
    texts = {"target": "text", "classes": None, "class_counts": None, "texts": TEXTS}
    assert chosen({"data": DATA}, **texts)["task"] == "next_step"


def test_the_reasons_are_told_in_one_sentence() -> None:
    told = automatic.sentence(automatic.choices({"data": DATA}, summary(**LARGE)))
    assert told.startswith("The spec names no network. Chosen for this data: architecture.cell lstm, because ")
    assert "training.epochs 60, because this makes 600 updates" in told


# ---- whatever is stated, and whatever the data

STATED = {
    "architecture.hidden_size": st.integers(1, 64),
    "architecture.num_layers": st.integers(1, 3),
    "architecture.bidirectional": st.booleans(),
    "architecture.pooling": st.sampled_from(["last", "final", "mean", "max", "attention"]),
    "architecture.batch_norm": st.booleans(),
    "training.epochs": st.integers(1, 50),
    "training.batch_size": st.integers(2, 500),
    "training.optimizer": st.sampled_from(["sgd", "adam", {"name": "rmsprop", "lr": 0.1}, {"lr": 0.5}]),
    "training.lr_schedule": st.sampled_from(["constant", {"name": "cosine", "min_lr": 1e-5}]),
    "training.early_stopping": st.sampled_from([None, {}, {"patience": 2}]),
    "data.scaling": st.sampled_from(["none", "robust"]),
    "data.differences": st.sampled_from([None, "replace"]),
    "data.patch": st.integers(1, 40),
    "data.stride": st.integers(1, 40),
    "data.max_length": st.integers(1, 3000),
    "data.split": st.sampled_from(
        [{}, {"validation": 0.0}, {"test": 0.3}, {"folds": 3}, {"validation": 0.5, "test": 0.25}]
    ),
}
CLASSES = {"target": "classes", "classes": [0, 1]}
VALUES = {"target": "values", "classes": None, "class_counts": None, "target_dim": 2}
LABELS = {"target": "multilabel", "classes": None, "class_counts": None, "target_dim": 3}


@st.composite
def data(draw: st.DrawFn) -> DatasetSummary:
    counts = draw(st.lists(st.integers(8, 5000), min_size=2, max_size=2))
    kind = draw(st.sampled_from([CLASSES, VALUES, LABELS]))
    told = {"samples": sum(counts), "class_counts": counts, **kind}
    told |= {"max_length": draw(st.integers(1, 20_000)), "min_length": 1, "features": draw(st.integers(1, 100))}
    if draw(st.booleans()):
        told["inputs"] = Columns(numbers=told["features"], categories=[3], gaps=draw(st.integers(0, 1)))
    if draw(st.booleans()):
        told["static"] = Columns(numbers=1, categories=[], gaps=draw(st.integers(0, 1)))
    return summary(**told, spread=draw(st.sampled_from([None, 1.5, 1e5])))


def value(document: dict[str, Any], field: str) -> Any:
    found: Any = document
    for key in field.split("."):
        found = found[key]
    return found


@examples(200)
@given(stated=st.fixed_dictionaries({}, optional=STATED), found=data())
def test_whatever_is_stated_stays_and_the_rest_fits_it(stated: dict[str, Any], found: DatasetSummary) -> None:
    document: dict[str, Any] = {"data": dict(DATA)}
    for field, given_value in stated.items():
        head, _, last = field.partition(".")
        document.setdefault(head, {})[last] = given_value
    choices = automatic.choices(document, found)
    assert not {each.field for each in choices} & stated.keys()
    full = automatic.filled(document, choices)
    for field, given_value in stated.items():
        found_value = value(full, field)
        if isinstance(given_value, dict):  # what it does not state below may be chosen
            assert given_value.items() <= found_value.items()
        else:
            assert found_value == given_value
    if found.inputs is not None and found.inputs.gaps and document["data"].get("missing") is None:
        assert full["data"]["missing"] == "forward"
    spec, _ = completed(parse(document), document, found)
    assert parse(check_data(spec, found).document()) == check_data(spec, found)
