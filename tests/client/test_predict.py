"""`Client.predict` and `loopline predict`: what the service answers, and what a downloaded model answers here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from loopline import BadRequest, Client, NotFound
from loopline.cli.app import app
from loopline.prediction.loading import TrainedModel
from typer.testing import CliRunner

from services.jobs import attempts
from tests.client.conftest import SPEC, Service
from tests.client.prediction.cases import Trained
from tests.client.prediction.tables import walks, without, written

Run = Callable[..., Any]


@pytest.fixture
def job_id(service: Service, client: Client, walking: tuple[Trained, TrainedModel]) -> str:
    """A job whose result is the model of walks, and version 1 of `walks`."""
    job = client.submit(SPEC)
    service.start(job.id)
    service.succeed(job.id, files={path.name: path.read_bytes() for path in walking[0].folder.iterdir()})
    client.models.register("walks", job.id)
    return job.id


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return written(without(walks(), "activity"), tmp_path / "new.csv")


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOOPLINE_URL", service.url)

    def invoke(*args: str, **options: Any) -> Any:
        return CliRunner().invoke(app, ["predict", *args], **options)

    return invoke


def test_the_client_asks_with_arrays_rows_and_csv(
    client: Client, job_id: str, walking: tuple[Trained, TrainedModel], table: Path
) -> None:
    case, model = walking
    asked = case.asked(model)
    wanted = model.predict(**asked)
    found = client.predict(job_id, **asked)
    assert [row["label"] for row in found.rows] == wanted.labels  # type: ignore[attr-defined]
    assert (found.task, found.reference, list(found.warnings)) == ("classification", job_id, list(wanted.warnings))
    columns = without(walks(), "activity")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_rows, by_csv = client.predict("walks@1", rows), client.predict("walks@latest", table)
    assert by_rows.rows == by_csv.rows
    assert by_csv.reference == "walks@1"
    assert client.predict(job_id, np.zeros((4, 2)), static=[[50.0]]).rows[0]["id"] == "0"
    for wrong in ([], 5, [object()], [[float("inf")]]):
        with pytest.raises(BadRequest):
            client.predict(job_id, wrong)
    with pytest.raises(NotFound, match=r"no alias 'production'.* by its number .1 to 1. or as walks@latest"):
        client.predict("walks", rows)
    with pytest.raises(BadRequest, match=r"is a file: give pathlib\.Path"):
        client.predict(job_id, str(table))
    for wrong in (table.with_suffix(".parquet"), table.with_name("none.csv")):
        with pytest.raises(BadRequest, match=r"new.parquet is no CSV|There is no file .*none.csv"):
            client.predict(job_id, wrong)


def test_a_name_alone_means_the_version_in_production(
    client: Client, run: Run, service: Service, job_id: str, walking: tuple[Trained, TrainedModel], table: Path
) -> None:
    client.models.promote("walks@1")
    newer = client.submit(SPEC)
    service.start(newer.id)
    service.succeed(newer.id, files={path.name: path.read_bytes() for path in walking[0].folder.iterdir()})
    client.models.register("walks", newer.id)
    assert client.predict("walks", table).reference == "walks@1"
    assert client.predict("walks@latest", table).reference == "walks@2"
    pyarrow.parquet.write_table(pyarrow.table(without(walks(), "activity")), table.with_suffix(".parquet"))
    shown = run("walks", str(table.with_suffix(".parquet")), "--json")
    assert json.loads(shown.stdout)["model"]["folder"].endswith(job_id)


def test_a_file_is_sent_or_answered_here_with_the_same_result(
    run: Run, service: Service, job_id: str, walking: tuple[Trained, TrainedModel], table: Path, tmp_path: Path
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(without(walks(), "activity")), tmp_path / "new.parquet")
    wanted = [row["label"] for row in walking[1].predict(table).rows()]
    for model, file in (
        *(("walks@1", table), ("last", table), (job_id, table), (walking[0].folder, table)),
        *(("walks@1", tmp_path / "new.parquet"), (job_id, tmp_path / "new.parquet")),
    ):
        shown = run(str(model), str(file), "--json")
        assert shown.exit_code == 0, shown.output
        assert [row["label"] for row in json.loads(shown.stdout)["rows"]] == wanted
    downloads = [path for method, path, _ in service.requests if method == "GET" and path.endswith("/model")]
    assert len(downloads) == 1  # of the model for Parquet, once
    piped = run("walks@1", "-", "--json", input=table.read_text())
    assert [row["label"] for row in json.loads(piped.stdout)["rows"]] == wanted


def test_answers_are_shown_and_saved(run: Run, job_id: str, table: Path, tmp_path: Path) -> None:
    shown = run("walks@1", str(table))
    assert shown.stdout.splitlines()[-1] == "24 rows by walks@1; the first 10 are shown, and --out saves all"
    assert len(shown.stdout.splitlines()) == 12
    saved = {}
    for kind in ("csv", "jsonl", "parquet"):
        done = run("walks@1", str(table), "--out", str(tmp_path / f"answers.{kind}"))
        assert (done.exit_code, done.stdout) == (0, "")
        assert f"Saved 24 rows to {tmp_path}/answers.{kind}." in done.stderr
        saved[kind] = (tmp_path / f"answers.{kind}").read_bytes()
    rows = [json.loads(line) for line in saved["jsonl"].splitlines()]
    assert pyarrow.parquet.read_table(tmp_path / "answers.parquet").to_pylist() == rows
    assert list(csv.DictReader(io.StringIO(saved["csv"].decode()))) == [
        {name: str(value) for name, value in row.items()} for row in rows
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("walks@1",), "Give a FILE, or --text"),
        (("walks@1", "x.csv", "--text", "a"), "Give a FILE, or --text"),
        (("walks@1", "none.parquet"), "There is no file none.parquet"),
        (("walks@1", "--text", "a"), "the model takes no texts"),
        (("walks@9", "new.csv"), "no version 9"),
        (("walks", "new.csv"), "or as walks@latest"),
        (("./modell", "new.csv"), "There is no folder ./modell."),
        (("./", "new.csv"), "./ has no model.json"),
        (("./new.csv", "new.csv"), "./new.csv is a file: give the folder of a model"),
        (("lst", "new.csv"), "Did you mean `last`"),
        (("walks@1", "new.csv", "--out", "a.xlsx"), "No format is known for a.xlsx"),
        (("walks@1", "wrong.csv"), "there is no column `speed`"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(
    run: Run, job_id: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(without(walks(), "speed"), tmp_path / "wrong.csv")
    done = run(*args)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_a_table_that_is_too_much_for_a_request_is_answered_here(
    run: Run, service: Service, job_id: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.prediction.predictor.MOST_SEQUENCES", 3)
    done = run("walks@1", str(table), "--json")
    assert len(json.loads(done.stdout)["rows"]) == 24
    statuses = [path for method, path, _ in service.requests if path.endswith("/predict")]
    assert len(statuses) == 1


def test_a_job_that_cannot_save_its_answers_is_refused(run: Run, job_id: str, table: Path) -> None:
    done = run("walks@1", str(table), "--job")
    assert (done.exit_code, "A job needs a MODEL of the service, a FILE, and --out" in done.stderr) == (2, True)


def test_the_same_call_comes_back_to_the_job_that_followed_a_lost_one(client: Client, job_id: str, table: Path) -> None:
    def asked() -> str:
        return client.predict_many("walks@1", table).id

    first = asked()
    found = [first]
    for _ in range(2):
        client.job(found[-1]).cancel()
        found.append(asked())
        assert asked() == found[-1]
    assert len({*found}) == 3
    assert client.predict_many("walks@1", table, format="csv").id not in found


def test_json_is_printed_when_a_job_answers(
    run: Run, service: Service, client: Client, job_id: str, table: Path, tmp_path: Path
) -> None:
    job = client.predict_many("walks@1", table, format="csv")
    answers = {"model": "walks@1", "file": "answers.csv", "format": "csv", "bytes": 9, "sequences": 1, "rows": 1}
    service.start(job.id)
    service.do(attempts.succeed, job.id, answers, service._written(job.id, {"answers.csv": b"id,label\n"}))
    done = run("walks@1", str(table), "--job", "--json", "--out", str(tmp_path / "answers.csv"))
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["id"], told["answers"]["rows"]) == (job.id, 1)
    assert "Saved 1 row to" in done.stderr
    assert "1 row of walks@1, " in CliRunner().invoke(app, ["show", job.id]).stdout
    assert "sequences, in 1 row." in CliRunner().invoke(app, ["watch", job.id]).stdout


def test_one_row_is_one_row(run: Run, job_id: str, tmp_path: Path) -> None:
    one = {name: column[:1] for name, column in without(walks(), "activity").items()}
    done = run("walks@1", str(written(one, tmp_path / "one.csv")), "--out", str(tmp_path / "answers.csv"))
    assert f"Saved 1 row to {tmp_path}/answers.csv." in done.stderr
