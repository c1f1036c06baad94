"""What does not fit, or is gone, gets a clear answer: over HTTP, by the command of the service and of a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from loopline import Client
from loopline.cli.app import app
from loopline.prediction.loading import TrainedModel
from typer.testing import CliRunner

from services.prediction.predictor import MOST_SEQUENCES
from tests.client.conftest import SPEC, Service
from tests.client.prediction.cases import Trained
from tests.client.prediction.tables import Columns, walks, without, written

Walking = tuple[Trained, TrainedModel]
Command = Callable[..., Any]
FEW = {name: values[:8] for name, values in without(walks(), "activity").items()}


def of_steps(count: int) -> Columns:
    """One walk of so many steps."""
    return {"walk": ["w"] * count, "second": list(range(count)), "speed": [0.5] * count} | {
        "mode": ["flat"] * count,
        "weight": [60.0] * count,
    }


@pytest.fixture
def job_id(service: Service, client: Client, walking: Walking) -> str:
    """The model of walks: version 1 of `walks`."""
    made = published(service, client, walking[0].folder)
    client.models.register("walks", made)
    return made


def published(service: Service, client: Client, folder: Path) -> str:
    job = client.submit(SPEC)
    service.start(job.id)
    service.succeed(job.id, files={path.name: path.read_bytes() for path in folder.iterdir()})
    return job.id


@pytest.fixture
def command(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    return lambda *args: CliRunner().invoke(app, ["predict", *map(str, args)], catch_exceptions=False)


def asked(service: Service, path: str, content: bytes | str, kind: str = "text/csv") -> httpx.Response:
    return httpx.post(f"{service.url}/v1/{path}/predict", content=content, headers={"Content-Type": kind}, timeout=60)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (without(FEW, "speed"), "there is no column `speed`"),
        ({"walk": ["a", "b"]}, "there is no column `speed`"),
        ({**FEW, "speed": ["fast"] * 8}, "`speed` has words ('fast'), and the model takes it as a number"),
        ({**FEW, "speed": [1e300] * 8}, "`speed` is 1e+300"),
        ({**FEW, "speed": ["inf"] * 8}, "`speed`"),
        ({**FEW, "weight": list(range(8))}, "`weight` has another value than earlier in the same"),
        (
            {name: values[:0] for name, values in FEW.items()},
            "the file has a header, but no row below it. Export it again.",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_the_same_words(
    service: Service,
    job_id: str,
    walking: Walking,
    command: Command,
    tmp_path: Path,
    columns: Any,
    said: str,
) -> None:
    table = written(columns, tmp_path / "new.csv")
    answer = asked(service, f"jobs/{job_id}", table.read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (422, "input_invalid")
    assert said in answer.json()["errors"][0]["detail"]
    assert "--data-binary" not in answer.text
    for model in (job_id, "walks@1", walking[0].folder):
        done = command(model, table)
        assert (done.exit_code, done.stdout, said in done.stderr) == (2, "", True), done.stderr


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({**FEW, "more": list(range(8)), "activity": ["?"] * 8}, None),
        ({**FEW, "speed": ["nan"] * 8}, "`speed` has no value"),
        ({**FEW, "mode": ["swim"] * 8}, "`mode` has words that are not in training ('swim')"),
        ({**FEW, "speed": [1e6] * 8}, "`speed` is 1e+06"),
        (of_steps(1), "has 1 step, fewer than any in training"),
        (of_steps(2000), "has 2,000 steps, more than any in training"),
        (without(FEW, "walk"), "there is no column `walk`"),
    ],
)
def test_what_training_has_not_seen_is_answered_with_a_warning(
    service: Service,
    job_id: str,
    walking: Walking,
    command: Command,
    tmp_path: Path,
    columns: Any,
    said: str,
) -> None:
    columns = {**columns, "weight": [60.0] * len(columns["speed"])} if "walk" not in columns else columns
    table = written(columns, tmp_path / "new.csv")
    answer = asked(service, f"jobs/{job_id}", table.read_bytes())
    assert answer.status_code == 200
    assert any(said in warning for warning in answer.json()["warnings"]) if said else answer.json()["warnings"] == []
    for model in (job_id, walking[0].folder):
        done = command(model, table, "--json")
        assert (done.exit_code, json.loads(done.stdout)["warnings"]) == (0, answer.json()["warnings"]), done.stderr
        assert said is None or said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("x", "said", "said_here"),
    [
        (np.zeros((2, 4, 4)), "4 features at each step, and the model takes 3", None),
        (np.zeros((2, 4, 0)), "0 features at each step, and the model takes 3", "the array is empty"),
        (np.zeros((2, 0, 3)), "0 features at each step, and the model takes 3", "the array is empty"),
        (np.full((2, 4, 3), np.nan), "values are missing", None),
        (np.full((2, 4, 3), 1e300), "1e+300", None),
    ],
)
def test_an_array_that_does_not_fit_is_refused_in_a_sentence(
    service: Service,
    client: Client,
    trained_model: Callable[[str], Trained],
    command: Command,
    tmp_path: Path,
    x: Any,
    said: str,
    said_here: str | None,
) -> None:
    folder = trained_model("plain").folder
    job_id = published(service, client, folder)
    np.save(tmp_path / "x.npy", x)
    body = json.dumps({"x": x.tolist()}).replace("NaN", "null")
    answer = asked(service, f"jobs/{job_id}", body, "application/json")
    assert (answer.status_code, answer.json()["code"]) == (422, "input_invalid")
    assert said in answer.json()["errors"][0]["detail"]
    for model in (job_id, folder):
        done = command(model, tmp_path / "x.npy")
        assert (done.exit_code, done.stdout, (said_here or said) in done.stderr) == (2, "", True), done.stderr
    assert asked(service, f"jobs/{job_id}", '{"x": [[[NaN, 1, 2]]]}', "application/json").status_code == 400


def test_ten_thousand_sequences_are_answered_and_the_command_answers_about_more(
    service: Service, job_id: str, command: Command, tmp_path: Path
) -> None:
    for count, status in ((MOST_SEQUENCES, 200), (MOST_SEQUENCES + 1, 413)):
        columns = {**of_steps(count), "walk": list(range(count))}
        table = written(columns, tmp_path / "new.csv")
        answer = asked(service, f"jobs/{job_id}", table.read_bytes())
        assert answer.status_code == status
        if status == 413:
            assert "10,001 sequences, and 10,000 are the most. Send fewer" in answer.json()["detail"]
        done = command(job_id, table, "--json")
        assert (done.exit_code, len(json.loads(done.stdout)["rows"])) == (0, count)
    body = json.dumps({"x": [[[0.0, 1]]] * (MOST_SEQUENCES + 1), "static": [[60.0]] * (MOST_SEQUENCES + 1)})
    assert asked(service, f"jobs/{job_id}", body, "application/json").status_code == 413


@pytest.mark.parametrize(
    ("model", "path", "said"),
    [
        ("walks@staging", "models/walks/versions/staging", "no alias 'staging'"),
        ("walks@2", "models/walks/versions/2", "no version 2"),
        ("walk@1", "models/walk/versions/1", "no model"),
        ("job_01m8534rdzpk2b2nwmwmj4v6dg", "jobs/job_01m8534rdzpk2b2nwmwmj4v6dg", "no job"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    service: Service, job_id: str, command: Command, tmp_path: Path, model: str, path: str, said: str
) -> None:
    table = written(FEW, tmp_path / "new.csv")
    answer = asked(service, path, table.read_bytes())
    assert (answer.status_code, said in answer.json()["detail"].lower()) == (404, True), answer.text
    for file in (table, written(FEW, tmp_path / "new.tsv")):  # what is not sent needs the model here
        done = command(model, file)
        assert (done.exit_code, said in done.stderr.lower()) == (2, True), done.stderr


def test_an_alias_whose_version_is_deleted_points_at_nothing(
    service: Service, client: Client, job_id: str, command: Command, tmp_path: Path
) -> None:
    table = written(FEW, tmp_path / "new.csv")
    client.models.promote("walks@1")
    assert asked(service, "models/walks/versions/production", table.read_bytes()).status_code == 200
    assert httpx.delete(f"{service.url}/v1/jobs/{job_id}").status_code == 409  # the version needs it
    assert httpx.delete(f"{service.url}/v1/models/walks/versions/1").status_code == 409  # the alias needs it
    assert httpx.delete(f"{service.url}/v1/models/walks/aliases/production").status_code in (200, 204)
    assert asked(service, "models/walks/versions/production", table.read_bytes()).status_code == 404
    done = command("walks", table)
    assert (done.exit_code, "no alias 'production'" in done.stderr) == (2, True)


def test_a_model_that_is_deleted_while_it_is_asked_answers_or_is_gone(
    service: Service, client: Client, walking: Walking, command: Command, tmp_path: Path
) -> None:
    """Six ask on, from before a model is in memory until after it is deleted."""
    table = written(FEW, tmp_path / "new.csv")
    for warm in (True, False):
        job_id = published(service, client, walking[0].folder)
        deleted, begun = threading.Event(), threading.Barrier(7)

        def ask(job_id: str, deleted: threading.Event, begun: threading.Barrier, warm: bool) -> list[tuple[int, str]]:
            found = []
            begun.wait(30)
            while not deleted.is_set() or not found or found[-1][0] == 200:
                answer = asked(service, f"jobs/{job_id}", table.read_bytes())
                found.append((answer.status_code, answer.json().get("code", "answered")))
                if warm and len(found) == 3:
                    begun.wait(30)
            return found

        with ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(ask, job_id, deleted, begun, warm) for _ in range(6)]
            for _ in range(1 + warm):
                begun.wait(30)
            assert httpx.delete(f"{service.url}/v1/jobs/{job_id}", timeout=60).status_code == 204
            deleted.set()
            found = {each for one in asking for each in one.result(60)}
        assert found <= {(200, "answered"), (404, "job_not_found"), (404, "not_found")}
        assert (404, "job_not_found") in found
        done = command(job_id, table)
        assert (done.exit_code, "no job" in done.stderr) == (2, True)
