"""The model card says what model.json says, in Markdown and pictures that no client's text breaks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.training.card import names, writing
from services.training.card.facts import Facts
from services.training.card.gathering import facts_of
from tests.client.prediction.cases import Trained

HOSTILE = (
    "<script>alert(1)</script>",
    "[a](http://evil.example)",
    "http://evil.example www.evil.example a@evil.example",
    "a|b\\|c\\",
    "`` `x` ``",
    "**bold** _thin_ ~~gone~~ $x$ &lt;",
    "line\nbreak\x1b[2J\u202e\ud800",
    "]]></text><image href='http://evil.example'/>",
    "",
    "x" * 5000,
)
CLASSES = ["Each class", "By length", "What is confused", "Calibration"]
SECTIONS = {
    "plain": CLASSES,
    "tags": CLASSES,
    "labels": ["Each label", "By length", "Calibration"],
    "values": ["Each target", "Predicted against actual"],
    "quantiles": ["Each step ahead", "Each quantile", "Forecasts"],
    "next": ["By step of a text", "A text that it wrote"],
}
PICTURES = {
    "plain": {"confusion.svg", "calibration.svg", "lengths.svg"},
    "tags": {"confusion.svg", "calibration.svg", "lengths.svg"},
    "labels": {"calibration.svg", "lengths.svg"},
    "values": {"predictions.svg"},
    "quantiles": {"forecast.svg", "horizon.svg"},
    "next": set[str](),
}
WORDS = {
    "loss.svg": ["Loss by epoch", "epoch", "loss", "training", "validation", "best epoch"],
    "gradients.svg": ["Gradient norm before clipping, by epoch", "epoch", "norm", "largest", "clipped to 1"],
    "confusion.svg": ["Confusion, test split", "true class", "answer of the model", "share of the row"],
    "calibration.svg": ["Calibration, test split", "probability", "share that came true", "a calibrated model"],
    "lengths.svg": [
        "Accuracy by length, test split",
        "steps of a sequence",
        "accuracy",
        "a range of lengths",
        "all sequences",
    ],
    "horizon.svg": ["MAE by step ahead, test split", "steps ahead", "MAE of load", "mean of all forecasts"],
    "forecast.svg": [
        "Forecasts beside the truth, test split",
        "steps ahead",
        "load",
        "actual",
        "forecast",
        "quantiles",
    ],
    "predictions.svg": ["Predicted against actual, test split", "actual", "predicted", "a perfect answer", "height"],
}
"""Title, axes and legend of each picture."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return facts(Trained.of("plain", tmp_path_factory.mktemp("plain")))


def facts(trained: Trained) -> Facts:
    model = json.loads((trained.folder / "model.json").read_text())
    return facts_of(trained.run, model, has_onnx=False)


def texts_of(picture: bytes) -> list[str]:
    found = ElementTree.fromstring(picture)  # noqa: S314  our own
    return [each.text or "" for each in found.iter() if each.tag.endswith(("}text", "}title"))]


def tokens_of(card: bytes) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(card.decode()):
        yield token
        yield from token.children or ()


def cells_of(card: str, head: str) -> list[list[str]]:
    """The rows of the table that begins with this column."""
    lines = card.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize("case", SECTIONS)
def test_the_card_of_each_task_has_its_sections_and_its_numbers(case: str, tmp_path: Path) -> None:
    trained = Trained.of(case, tmp_path)
    card = (tmp_path / "README.md").read_text()
    heads = [line.removeprefix("### ").partition(" (")[0] for line in card.splitlines() if line.startswith("### ")]
    assert heads == SECTIONS[case]
    parts = [line for line in card.splitlines() if line.startswith("## ")]
    expected = ["How good it is", "How it was trained", "Advice and limits", "How to use it"]
    assert parts == [f"## {each}" for each in expected]

    pictures = {path.name for path in tmp_path.glob("*.svg")}
    assert pictures == {"loss.svg", "gradients.svg", *PICTURES[case]}
    assert pictures == set(re.findall(r"\]\((\w+\.svg)\)", card))
    assert {"README.md", *pictures} <= set(names.NAMES)
    for name in pictures:
        said = texts_of((tmp_path / name).read_bytes())
        assert said[0] == WORDS[name][0]
        assert [word for word in WORDS[name] if not any(word in each for each in said)] == []

    model = json.loads((tmp_path / "model.json").read_text())
    assert f"{sum(each.numel() for each in trained.run.parameters):,}" in card
    head, *rows = cells_of(card, "metric")
    assert head == ["metric", "validation", "baseline", "test", "baseline"]
    shown = {
        f"{split}_{row[0].lower().replace(' ', '_').replace('²', '2')}": row
        for row in rows
        for split in ("validation", "test")
    }
    assert shown.keys() == model["metrics"].keys()
    for key, row in shown.items():
        place = 1 if key.startswith("validation") else 3
        assert float(row[place]) == pytest.approx(model["metrics"][key], rel=1e-3)
        plain = model["baseline"]["metrics"].get(key)
        assert row[place + 1] == "–" if plain is None else float(row[place + 1]) == pytest.approx(plain, rel=1e-3)


def test_the_card_of_a_forecast_names_its_columns_its_calendar_and_its_dates(tmp_path: Path) -> None:
    Trained.of("calendar", tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| reads | 3 features: `load`, `heat`, `wind`; the calendar is added: `hour`, `weekday`, `yearday` |" in card
    titles = [each for each in texts_of((tmp_path / "forecast.svg").read_bytes()) if re.match(r"\d: ", each)]
    assert len(titles) == 4
    assert all(re.fullmatch(r"\d: from 1970-01-0\d \d\d:00:00", each) for each in titles)


@pytest.mark.parametrize("case", ["plain", "next"])
def test_the_python_of_a_card_works(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Trained.of(case, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    card = (tmp_path / "model" / "README.md").read_text()
    code = re.findall("```python\n(.*?)```", card, re.DOTALL)[0]
    exec(code, {"x": [np.zeros((4, 3)), np.zeros((2, 3))]})  # noqa: S102
    assert capsys.readouterr().out.count("\n") >= 1


def test_rows_of_classes_and_confusions_are_those_of_the_result(plain: Facts) -> None:
    card = writing.files_of(plain)["README.md"].decode()
    details = plain.model["details"]["test"]
    rows = cells_of(card, "class")[1:-2]
    assert [row[0] for row in rows] == [f"`{name}`" for name in details["classes"]["name"]]
    assert [int(row[4]) for row in rows] == details["classes"]["support"]
    matrix = [row for row in card.splitlines() if re.fullmatch(r"\| `\d` \| \d+ \| \d+ \| \d+ \|", row)]
    assert [[int(cell) for cell in row.split("|")[2:-1]] for row in matrix] == details["confusion"]["matrix"]
    assert f"expected calibration error is {details['calibration']['error']:.4g}" in card


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"evaluate_test": False}, "It was not tested: its spec sets the test split aside."),
        ({"evaluate_test": True}, "There is no test split."),
        ({}, "There is no test split."),
    ],
)
def test_a_card_without_a_test_says_why(plain: Facts, split: dict[str, Any], said: str) -> None:
    whole = {key: value for key, value in plain.spec["data"]["split"].items() if key != "evaluate_test"}
    model = {**plain.model, "spec": {**plain.spec, "data": {**plain.spec["data"], "split": {**whole, **split}}}}
    samples = {name: count for name, count in plain.samples.items() if name != "test"}
    card = writing.files_of(replace(plain, model=model, samples=samples))["README.md"].decode()
    assert f"- {said} The validation split chose the best epoch" in card


def test_lengths_on_which_a_model_is_clearly_worse_are_told(plain: Facts) -> None:
    columns = {"shortest": [1, 4], "longest": [3, 4], "sequences": [1234, 25], "accuracy": [0.5, 0.25]}
    model = {**plain.model, "details": {"test": {"lengths": {**columns, "is_worse": [False, True]}}}}
    card = writing.files_of(replace(plain, model=model))["README.md"].decode()
    assert cells_of(card, "steps") == [
        ["steps", "sequences", "accuracy"],
        ["1 to 3", "1,234", "0.5"],
        ["4", "25", "0.25"],
    ]
    assert (
        "- It is clearly worse on sequences of 4 steps: accuracy is 0.25 on the 25 of the test split, and 0.6667 on "
        "all of it.\n"
    ) in card


@pytest.mark.parametrize(
    ("sequences", "are_quarters"), [([25, 24, 26, 25], True), ([90, 10], False), ([70, 10, 10, 10], False)]
)
def test_quarters_of_the_sequences_are_told_only_where_they_are(
    plain: Facts, sequences: list[int], are_quarters: bool
) -> None:
    ends = [10 * number for number in range(1, len(sequences) + 1)]
    columns = {"shortest": ends, "longest": ends, "sequences": sequences, "accuracy": [0.5] * len(ends)}
    model = {**plain.model, "details": {"test": {"lengths": {**columns, "is_worse": [False] * len(ends)}}}}
    card = writing.files_of(replace(plain, model=model))
    assert ("about a quarter of the sequences" in card["README.md"].decode()) is are_quarters
    assert ("Each row is a range of lengths." in card["README.md"].decode()) is not are_quarters
    assert ("a quarter of the sequences" in texts_of(card["lengths.svg"])) is are_quarters


def test_text_from_outside_is_no_markup(plain: Facts) -> None:
    card = writing.files_of(hostile(plain))
    found = list(tokens_of(card["README.md"]))
    assert [token for token in found if token.type.startswith(("html", "link", "s_open"))] == []
    assert {str(token.attrs["src"]) for token in found if token.type == "image"} == set(card) - {"README.md"}
    assert {
        token.content for token in found if token.type == "text" and re.search("://|www[.]|@evil", token.content)
    } == set()
    code = {token.content for token in found if token.type == "code_inline"}
    assert {"<script>alert(1)</script>", "[a](http://evil.example)", "`` `x` ``"} <= code
    assert card["README.md"].decode().startswith("# `a|b\\|c\\`\n")
    assert re.search("[\x1b\u202e]", card["README.md"].decode()) is None
    assert all(len(set(row)) == 1 for row in cells_of_each_row(found))


def hostile(facts: Facts) -> Facts:
    """The same with such names of classes, of columns, of the data set and in sentences."""
    labels, count = list(HOSTILE), len(HOSTILE)
    per = {name: [0.5] * count for name in ("precision", "recall", "f1", "auroc")}
    pairs = [{"actual": labels[0], "predicted": labels[1], "count": 3}]
    details = {
        "classes": {"name": labels, **per, "support": [3] * count},
        "confusion": {"matrix": np.eye(count, dtype=int).tolist(), "largest": pairs},
        "calibration": facts.details["calibration"],
    }
    message = f"The model does not beat {' '.join(HOSTILE[:-1])}."
    schema = {"group": [labels[2]], "order": labels[0], "target": labels}
    model = {
        **facts.model,
        "spec": {**facts.spec, "name": labels[3], "data": {**facts.spec["data"], "dataset": labels[1]}},
        "classes": labels,
        "data": {**facts.model["data"], "schema": schema},
        "preprocessing": {"features": [{"name": each} for each in HOSTILE]},
        "baseline": {**facts.model["baseline"], "is_beaten": False, "message": message, "answer": message},
        "details": {"test": details},
        "advice": [message],
    }
    return replace(facts, model=model)


def cells_of_each_row(tokens: list[Token]) -> Iterator[list[int]]:
    """Of each table, how many cells each of its rows has."""
    rows: list[int] = []
    for token in tokens:
        match token.type:
            case "table_open":
                rows = []
            case "tr_open":
                rows.append(0)
            case "th_open" | "td_open":
                rows[-1] += 1
            case "table_close":
                yield rows


def test_text_from_outside_is_text_in_pictures(plain: Facts) -> None:
    for name, picture in writing.files_of(hostile(plain)).items():
        if name.endswith(".svg"):
            tags = {each.tag.rpartition("}")[2] for each in ElementTree.fromstring(picture).iter()}  # noqa: S314
            assert tags <= {"svg", "g", "title", "text", "path", "rect"}
            assert b"\x1b" not in picture


def test_a_card_stays_small(plain: Facts) -> None:
    rng = np.random.default_rng(0)
    epochs = [
        {"train_loss": float(a), "validation_loss": float(b), "grad_norm_mean": float(a), "grad_norm_max": float(b)}
        for a, b in rng.random((20_000, 2))
    ]
    for count, matrix in ((50, rng.integers(0, 10**6, (50, 50)).tolist()), (2000, None)):
        labels = [f"a class with a long name {number}" for number in range(count)]
        per = {name: [0.5] * count for name in ("precision", "recall", "f1", "auroc")}
        pairs = [{"actual": each, "predicted": labels[0], "count": 3} for each in labels[1:21]]
        details = {
            "classes": {"name": labels, **per, "support": [3] * count},
            "confusion": {"matrix": matrix, "largest": pairs},
        }
        model = {**plain.model, "classes": labels, "details": {"test": details}}
        card = writing.files_of(replace(plain, model=model, epochs=epochs))
        assert ("confusion.svg" in card) == (matrix is not None)
        assert {name: len(data) for name, data in card.items() if len(data) > 60_000} == {}


def test_a_line_of_many_points_keeps_its_highest_and_its_lowest(plain: Facts) -> None:
    losses = [1.0] * 5000
    losses[1234], losses[4321] = 9.0, 0.25
    card = writing.files_of(replace(plain, epochs=[{"train_loss": loss} for loss in losses]))
    path = max(re.findall(r'd="(M[^"]+)"', card["loss.svg"].decode()), key=len)
    heights = [float(pair.split()[1]) for pair in re.split("[ML]", path)[1:]]
    assert 200 < len(heights) <= 500
    assert len(set(heights)) == 3


def test_folds_are_told_as_mean_and_spread(plain: Facts) -> None:
    more = {"folds": [{}, {}, {}], "mean": {"validation_accuracy": 0.75}, "std": {"validation_accuracy": 0.125}}
    card = writing.files_of(replace(plain, model={**plain.model, **more}))["README.md"].decode()
    folds, _, final = card.partition("The final model was then trained")
    assert "Mean and standard deviation of 3 folds, each judged on samples that it was not trained on:" in folds
    assert "| validation accuracy | 0.75 | 0.125 | " in folds
    assert "| test |" not in folds
    assert "| test |" in final


def test_equal_runs_have_equal_cards(plain: Facts) -> None:
    same = replace(plain, made_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    assert writing.files_of(same) == writing.files_of(same)
    assert b"2026-01-02 03:04 UTC" in writing.files_of(same)["README.md"]


def test_an_incomplete_model_says_so_first(plain: Facts) -> None:
    gone = {"complete": False, "incomplete_because": "time_limit", "epochs": 2, "details": None}
    model: dict[str, Any] = {key: value for key, value in plain.model.items() if key != "details"}
    card = writing.files_of(replace(plain, model={**model, **gone}))["README.md"].decode()
    assert card.splitlines()[2].startswith(
        "> **This model is not complete**: the job reached its time limit after 2 epochs of 3."
    )


def test_what_clipped_the_gradients_is_told(plain: Facts) -> None:
    for bounds, said in (
        ({"max_grad_norm": 0.5, "max_grad_value": 2.0}, "gradient norm clipped to 0.5, gradient elements clipped to 2"),
        ({"max_grad_norm": None, "max_grad_value": None}, "gradients not clipped"),
    ):
        training = {**plain.spec["training"], **bounds}
        model = {**plain.model, "spec": {**plain.spec, "training": training}}
        assert f", {said}, seed 0." in writing.files_of(replace(plain, model=model))["README.md"].decode()


def test_label_smoothing_is_told_beside_the_loss(plain: Facts) -> None:
    assert "smoothing" not in writing.files_of(plain)["README.md"].decode()
    training = {**plain.spec["training"], "loss": {"name": "cross_entropy", "label_smoothing": 0.1}}
    model = {**plain.model, "spec": {**plain.spec, "training": training}}
    card = writing.files_of(replace(plain, model=model))["README.md"].decode()
    assert "\nLabel smoothing (0.1) keeps the loss from reaching 0, even if every answer is right. With " in card


def test_short_names_below_a_confusion_matrix_are_level(plain: Facts) -> None:
    assert b"rotate(-90" in writing.files_of(plain)["confusion.svg"]  # the name of the axis
    assert writing.files_of(plain)["confusion.svg"].count(b"rotate(") == 1
    assert writing.files_of(hostile(plain))["confusion.svg"].count(b"rotate(") == 1 + len(HOSTILE) - 1  # one is empty


def test_advice_and_a_beaten_baseline_are_told(plain: Facts) -> None:
    told = {"is_beaten": True, "message": None, "metrics": {"test_accuracy": 0.25}, "interval": [0.3, 0.9]}
    baseline = {**plain.model["baseline"], **told}
    model = {**plain.model, "baseline": baseline, "advice": ["Raise training.epochs: the loss still falls."]}
    card = writing.files_of(replace(plain, model=model))["README.md"].decode()
    assert "It beats its baseline: test accuracy is 0.6667 (0.3 to 0.9 with a confidence of 95 %), and a linear" in card
    assert "- Raise training.epochs: the loss still falls.\n" in card
    assert "- It was trained on sequences of 1 to 6 steps." in card
