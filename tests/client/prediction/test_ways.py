"""Every way to ask a model gives the same answers about the same 200 sequences, for every task and every cell.

The sequences have different lengths, missing values, and words that training does not have. A further way to ask is a
function in `WAYS`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
import torch
from loopline import Client, load
from loopline.cli.app import app
from loopline.prediction.given import Given
from typer.testing import CliRunner

from services.training import predicting
from services.training.messages import Finished, Order, SavedModel
from services.training.spec import predict
from tests.client.conftest import SPEC, Service
from tests.client.prediction.cases import Trained
from tests.client.prediction.tables import Columns, from_file, without, written

TRAINED, ASKED = 40, 200
RELATIVE, OF_SPREAD = 1e-4, 1e-5
"""What docs/predict.md promises: a difference of less than 1e-4 of the number, or for numbers near zero, of 1e-5: of
probabilities as they are, of values in standard deviations of the answers."""
Rows = list[dict[str, Any]]
WALKS = {"group": ["walk"], "order": "second", "static": ["weight"]}
PLACES = {"group": ["place"], "order": "time", "target": ["load"]}
GAPS = {"missing": "forward", "scaling": "standard"}
CELLS: Mapping[str, Mapping[str, Any]] = {
    "tanh": {"cell": "rnn", "nonlinearity": "tanh"},
    "relu": {"cell": "rnn", "nonlinearity": "relu"},
    "lstm": {"cell": "lstm", "batch_norm": True},
    "gru": {"cell": "gru", "num_layers": 2},
}
TARGETS = ("kind", "tired", "hungry", "calories", "activity")


# ---- models


def walks(count: int, seed: int) -> Columns:
    """Steps of walks of 1 to 12 steps, with gaps, a word for each step, and everything that there is to predict."""
    rng = np.random.default_rng(seed)
    modes = ["flat", "stairs", "up", "swim"][: 3 if count == TRAINED else 4]
    found: Columns = {name: [] for name in ("walk", "second", "speed", "mode", "weight", *TARGETS)}
    for walk in range(count):
        for second in range(int(rng.integers(1, 9 if count == TRAINED else 13))):
            speed = float(rng.normal(walk % 3, 0.5))
            for name, value in (
                ("walk", f"w{walk:03d}"),
                ("second", second),
                ("speed", None if rng.random() < 0.1 else speed),
                ("mode", None if rng.random() < 0.1 else str(rng.choice(modes))),
                ("weight", 50.0 + walk % 40),
                ("kind", ["stroll", "walk", "run"][walk % 3]),
                ("tired", walk % 2),
                ("hungry", walk // 2 % 2),
                ("calories", 300.0 + 40.0 * (walk % 3) + walk % 7),
                ("activity", ["still", "moves", "flies"][int(np.clip(np.floor(speed + 0.5), 0, 2))]),
            ):
                found[name].append(value)
    return found


def places(count: int, seed: int, *, ahead: int = 0) -> Columns:
    """Loads by the hour, with gaps and a wind; in the last `ahead` rows of a place only the wind is known."""
    rng = np.random.default_rng(seed)
    found: Columns = {name: [] for name in ("place", "time", "load", "wind")}
    for place in range(count):
        size = 20 if count == TRAINED else int(rng.integers(9, 20))
        for hour in range(size):
            gap = hour >= size - ahead or (0 < hour < 4 and rng.random() < 0.1)
            found["place"].append(f"p{place:03d}")
            found["time"].append(str(datetime(2024, 1, 1) + timedelta(hours=hour)))
            found["load"].append(None if gap else rng.normal(5 + place % 3))
            found["wind"].append(float(rng.normal()))
    return found


def sayings(count: int, seed: int) -> Columns:
    """Texts of 1 to 12 words."""
    rng = np.random.default_rng(seed)
    words = ["the", "room", "was", "lovely", "awful", "cold,", "Great", "food!"]
    words = words if count == TRAINED else [*words, "unheard"]
    said = [" ".join(rng.choice(words, rng.integers(1, 9 if count == TRAINED else 13))) for _ in range(count)]
    return {"said": said, "mood": [("good", "bad")["awful" in each] for each in said]}


@dataclass(frozen=True)
class Kind:
    """A task with data to train on and data to ask about."""

    make: Callable[..., Columns]
    schema: Mapping[str, Any]
    changes: Mapping[str, Any]
    hidden: tuple[str, ...] = TARGETS
    """Columns that are not there when a model is asked."""
    ahead: int = 0


def of_walks(target: str | list[str], **changes: Any) -> Kind:
    schema = {**WALKS, "target": target, "features": ["speed", "mode"]}
    return Kind(walks, schema, {"data": GAPS, **changes})


KINDS = {
    "classification": of_walks("kind", architecture={"pooling": "attention"}),
    "multilabel": of_walks(["tired", "hungry"], architecture={"pooling": "max"}),
    "regression": of_walks("calories", architecture={"pooling": "mean"}),
    "tagging": of_walks("activity", architecture={"bidirectional": True}),
    "forecast": Kind(places, PLACES, {"data": GAPS}, ()),
    "quantiles": Kind(
        places,
        {**PLACES, "known_future": ["wind"]},
        {"data": {"missing": "forward", "scaling_over": "per_sequence"}, "task": {"quantiles": [0.1, 0.5, 0.9]}},
        (),
        ahead=3,
    ),
    "text": Kind(sayings, {"text": "said", "target": ["mood"]}, {}, ("mood",)),
    "next_step": Kind(
        sayings,
        {"text": "said"},
        {"task": {"name": "next_step", "joined": False}, "architecture": {"batch_norm": False}},
        ("mood",),
    ),
}


# ---- ways


@dataclass(frozen=True)
class Question:
    """What is asked, and of which model."""

    folder: Path
    """A downloaded model."""
    job_id: str
    """The same model in the service."""
    url: str
    client: Client
    columns: Columns
    table: Path
    """The columns as CSV."""
    given: Given
    """The table as the model reads it."""

    def loaded(self, backend: Literal["torch", "onnxruntime", "numpy"]) -> Rows:
        model = load(self.folder, backend)
        assert model.backend == backend
        return self.checked(model.predict(self.columns).to_dict())

    def over_http(self, body: bytes, kind: str, accept: str = "application/json") -> httpx.Response:
        headers = {"Content-Type": kind, "Accept": accept}
        answer = httpx.post(f"{self.url}/v1/jobs/{self.job_id}/predict", content=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer

    def by_command(self, model: str) -> Rows:
        done = CliRunner().invoke(app, ["predict", model, str(self.table), "--json"])
        assert done.exit_code == 0, done.output
        return self.checked(json.loads(done.stdout))

    def checked(self, document: Mapping[str, Any]) -> Rows:
        """The rows of an answer that has the warnings of every other. A line of a CSV is a row of a list."""
        warnings = [re.sub(r"^line .* more: ", "", each) for each in self.given.warnings]
        assert [re.sub(r"^(line|row) .* more: ", "", each) for each in document["warnings"]] == warnings
        return list(document["rows"])


def as_rows(question: Question) -> Rows:
    columns = question.columns
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return question.checked(question.over_http(json.dumps({"rows": rows}).encode(), "application/json").json())


def as_arrays(question: Question) -> Rows:
    """The numbers of the table, without times. It has no words any more, so it has fewer warnings."""
    given = question.given
    ids = list(given.ids) if given.has_ids else None
    if given.texts is not None:
        return [dict(row) for row in question.client.predict(question.job_id, given.texts.tolist(), ids=ids).rows]
    x = np.split(given.x, given.starts[1:])
    more = {"static": given.static, "future": given.future, "ids": ids}
    return [dict(row) for row in question.client.predict(question.job_id, x, **more).rows]


def as_csv(question: Question) -> Rows:
    return question.checked(question.over_http(question.table.read_bytes(), "text/csv").json())


def as_csv_to_csv(question: Question) -> Rows:
    answer = question.over_http(question.table.read_bytes(), "text/csv", "text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def by_a_job(question: Question) -> Rows:
    """What the trainer of a job of the kind `predict` writes. tests/worker/test_predictions.py has the whole job."""
    with tempfile.TemporaryDirectory() as folder:
        model = SavedModel("model@1", str(question.folder))
        spec = predict.parse({"kind": "predict", "model": "model@1", "data": {"dataset": "asked"}, "format": "csv"})
        asked = Order(
            spec=spec.document(),
            data=str(question.table),
            directory=folder,
            device="cpu",
            baselines={"predicts": model},
            ending=".csv",
        )
        *_, finished = predicting.events(asked, torch.device("cpu"))
        assert isinstance(finished, Finished)
        rows = list(csv.DictReader(io.StringIO((Path(folder) / "answers.csv").read_text())))
    return question.checked({"rows": rows, "warnings": finished.result["warnings"]})


WAYS: dict[str, Callable[[Question], Rows]] = {
    "numpy": lambda question: question.loaded("numpy"),
    "torch": lambda question: question.loaded("torch"),
    "ONNX Runtime": lambda question: question.loaded("onnxruntime"),
    "HTTP with rows": as_rows,
    "HTTP with arrays": as_arrays,
    "HTTP with CSV": as_csv,
    "HTTP with CSV, answered as CSV": as_csv_to_csv,
    "the command, of the service": lambda question: question.by_command(question.job_id),
    "the command, of a folder": lambda question: question.by_command(str(question.folder)),
    "a job, answered as CSV": by_a_job,
}


@pytest.fixture
def ask(
    service: Service, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Question]:
    """Trains a model of a task and a cell, and gives it to the service."""
    monkeypatch.setenv("LOOPLINE_URL", service.url)

    def make(kind: str, cell: str) -> Question:
        what = KINDS[kind]
        target = what.schema.get("target", ())
        hidden = [name for name in what.hidden if name not in (target if isinstance(target, list) else [target])]
        table = written(without(what.make(TRAINED, 1), *hidden), tmp_path / "train.csv")
        changes = {**what.changes, "architecture": {**CELLS[cell], **what.changes.get("architecture", {})}}
        trained, model = from_file(table, tmp_path / "model", what.schema, **changes)
        more = {"ahead": what.ahead} if what.ahead else {}
        columns = without(what.make(ASKED, 2, **more), *what.hidden)
        job = client.submit(SPEC)
        service.start(job.id)
        service.succeed(job.id, files=files_of(trained))
        asked = written(columns, tmp_path / "asked.csv")
        return Question(trained.folder, job.id, service.url, client, columns, asked, model.read(asked))

    return make


def files_of(trained: Trained) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in trained.folder.iterdir()}


def check_alike(found: Rows, wanted: Rows, way: str) -> None:
    assert len(found) == len(wanted), way
    for name in wanted[0]:
        if name == "time" and way == "HTTP with arrays":
            continue
        one, other = [row[name] for row in found], [row[name] for row in wanted]
        if not isinstance(other[0], float):
            words = {True: "true", False: "false"} if isinstance(other[0], bool) else {}
            in_csv = way.endswith("as CSV")
            assert one == ([words.get(each, str(each)) for each in other] if in_csv else other), (way, name)
            continue
        near_zero = OF_SPREAD * (1.0 if "probability" in name else float(np.std(other)))
        np.testing.assert_allclose(
            np.array(one, np.float64), other, rtol=RELATIVE, atol=near_zero, err_msg=f"{way}: {name}"
        )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_gives_the_same_answers(ask: Callable[[str, str], Question], kind: str, cell: str) -> None:
    question = ask(kind, cell)
    wanted = WAYS["numpy"](question)
    assert len({row["id"] for row in wanted}) == ASKED
    for name, way in WAYS.items():
        check_alike(way(question), wanted, name)
