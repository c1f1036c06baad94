"""The table of each task: its columns, and what a row is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
import pytest
from loopline import load

from tests.client.prediction.cases import Trained

Model = Callable[[str], Trained]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("plain", ["id", "label", "probability", "probability_0", "probability_1", "probability_2"]),
        ("labels", ["id", "0", "probability_0", "1", "probability_1", "2", "probability_2"]),
        ("values", ["id", "height", "id_"]),
        ("tags", ["id", "step", "label", "probability"]),
        ("forecast", ["id", "step", "load"]),
        ("quantiles", ["id", "step", "load", "load_q0.1", "load_q0.5", "load_q0.9"]),
        ("next", ["id", "rank", "entry", "probability"]),
    ],
)
def test_a_task_has_one_table(trained_model: Model, name: str, columns: list[str]) -> None:
    case = trained_model(name)
    model = load(case.folder)
    asked = {"x": ["ab", "c"]} if name == "next" else case.asked(model)
    answer = model.predict(**asked)
    rows = list(answer.rows())
    assert list(rows[0]) == columns == answer.to_arrow().column_names
    assert {row["id"] for row in rows} == set(answer.ids)
    said = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert said["task"] == model.task == answer.task
    assert said["rows"] == [json.loads(json.dumps(row)) for row in rows]


def test_a_data_frame_without_pandas_says_what_to_install(
    trained_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = trained_model("plain")
    answer = (model := load(case.folder)).predict(**case.asked(model))
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"^A data frame needs pandas: pip install pandas\.$"):
        answer.to_pandas()


def test_a_row_of_a_forecast_is_a_step_ahead(trained_model: Model) -> None:
    case = trained_model("quantiles")
    model = load(case.folder)
    asked = case.asked(model)
    answer = model.predict(**asked)
    rows = list(answer.rows())
    assert [row["step"] for row in rows[:4]] == [1, 2, 3, 1]
    assert [row["id"] for row in rows[:3]] == [asked["ids"][0]] * 3
    assert all(row["load_q0.1"] <= row["load_q0.5"] == row["load"] <= row["load_q0.9"] for row in rows)


def test_ids_are_given_or_count(trained_model: Model) -> None:
    model = load(trained_model("plain").folder)
    x = np.zeros((2, 4, 3))
    assert model.predict(x).ids == ("0", "1")
    assert model.predict(x, ids=["north", 7]).ids == ("north", "7")
