"""`loopline submit --dry-run`, and what is found out before a file is uploaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from tests.client.conftest import SPEC, Service

Invoke = Callable[..., Result]
WRONG = {"architecture": {"cell": "gru", "dropout": 0.5}}


@pytest.fixture
def invoke(service: Service, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command against the service."""
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    return lambda *args: CliRunner().invoke(app, args, catch_exceptions=False)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Writes a spec, with changes, and gives its path."""

    def write(name: str = "job.yaml", **changes: Any) -> str:
        (tmp_path / name).write_text(yaml.safe_dump({**SPEC, **changes}))
        return str(tmp_path / name)

    return write


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """A table of 40 sequences."""
    lines = [f"{walk},{step},{walk * step % 7},{'ab'[walk % 2]}" for walk in range(40) for step in range(5)]
    (tmp_path / "walks.csv").write_text("\n".join(["walk,step,speed,gait", *lines]))
    return tmp_path / "walks.csv"


def sent(service: Service) -> list[str]:
    """What was posted."""
    return [path for method, path, _ in service.requests if method == "POST"]


LOCAL = {"dataset": "walks.csv", "schema": {"target": "gait", "group": "walk", "order": "step"}}


def test_a_dry_run_says_what_the_job_would_be(invoke: Invoke, service: Service, written: Callable[..., str]) -> None:
    shown = invoke("submit", written(training={"optimizer": {"name": "sgd", "lr": 30.0}}), "--dry-run")
    assert (shown.exit_code, sent(service)) == (0, ["/v1/jobs/dry-run"])
    for line in (
        "network   gru, 1 layer of 8 units: 330 parameters",
        "samples   51 to train on, 13 for validation",
        "training  20 epochs of 1 step, 20 in all; sgd with a learning rate of 30, cross_entropy",
        "time      How long it takes is unknown: no job of the queue default has succeeded yet",
        "warning   training.optimizer.lr is 30, which is high for sgd",
        "  preset: null",
    ):
        assert line in shown.stdout
    assert shown.stderr == "Nothing was submitted.\n"
    asked = invoke("submit", written(), "--dry-run", "--json")
    assert json.loads(asked.stdout)["parameters"] == 330


def test_a_dry_run_of_a_batch_has_a_row_for_each_job(
    invoke: Invoke, service: Service, written: Callable[..., str]
) -> None:
    file = written(matrix={"architecture.hidden_size": [8, 16]})
    shown = invoke("submit", file, "--dry-run")
    assert (shown.exit_code, sent(service)) == (0, ["/v1/batches/dry-run"])
    assert [line.split()[0] for line in shown.stdout.splitlines()[:3]] == [
        "job",
        *["tiny[hidden_size=8]", "tiny[hidden_size=16]"],
    ]
    wrong = invoke("submit", file, written("b.yaml", **WRONG), "--dry-run")
    assert wrong.exit_code == 2
    assert f"{written('b.yaml')} /architecture/dropout: acts between recurrent layers" in wrong.stderr


def test_a_dry_run_inspects_a_file_here_and_uploads_nothing(
    invoke: Invoke, service: Service, written: Callable[..., str], walks: Path
) -> None:
    shown = invoke("submit", written(data=LOCAL), "--dry-run")
    assert (shown.exit_code, sent(service)) == (0, ["/v1/jobs/dry-run"])
    assert f"data      {walks}, not uploaded" in shown.stdout
    assert "It can be trained on." in shown.stdout
    asked = json.loads(invoke("submit", written(data=LOCAL), "--dry-run", "--json").stdout)
    assert [each["trainable"] for each in asked["files"]] == [True]


@pytest.mark.parametrize("options", [["--dry-run"], ["--wait"]])
def test_mistakes_of_the_spec_and_of_the_file_are_told_together_before_the_upload(
    invoke: Invoke, service: Service, written: Callable[..., str], walks: Path, options: list[str]
) -> None:
    with walks.open("a") as file:
        file.write("\n40,1,fast,a")
    job = written(**WRONG, data=LOCAL)
    told = invoke("submit", job, *options)
    assert (told.exit_code, sent(service)) == (2, ["/v1/jobs/dry-run"])
    assert "Error: The spec has 2 problems." in told.stderr
    assert f"{job} /architecture/dropout: acts between" in told.stderr
    assert f"{job} /data/dataset: " in told.stderr
    assert "fast" in told.stderr


def test_a_missing_file_is_told_with_the_mistakes_of_the_spec(
    invoke: Invoke, service: Service, written: Callable[..., str]
) -> None:
    told = invoke("submit", written(**WRONG, data={"dataset": "walks.csv"}))
    assert "The spec has 2 problems." in told.stderr
    assert "there is no file" in told.stderr
    assert sent(service) == ["/v1/jobs/dry-run"]


def test_a_right_spec_costs_one_request_more_before_an_upload(
    invoke: Invoke, service: Service, written: Callable[..., str], walks: Path
) -> None:
    assert invoke("submit", written(data=LOCAL), "--json").exit_code == 0
    assert sent(service) == ["/v1/jobs/dry-run", "/v1/datasets", "/v1/jobs"]


def test_an_older_service_gets_the_upload_and_the_job_and_no_dry_run(
    invoke: Invoke, service: Service, written: Callable[..., str], walks: Path
) -> None:
    def without_dry_runs(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"].endswith("/dry-run"):  # as it answers to a POST to /v1/jobs/{job_id}
            environ = environ | {"PATH_INFO": "/v1/jobs/job_1"}
        return service.app.wsgi_app(environ, start_response)

    service.wrap(without_dry_runs)
    assert invoke("submit", written(data=LOCAL)).exit_code == 0
    assert [path for path in sent(service) if not path.endswith("dry-run")] == ["/v1/datasets", "/v1/jobs"]
    refused = invoke("submit", written(), "--dry-run")
    assert refused.exit_code == 3
    assert "is of an older version, which has no dry runs" in refused.stderr


def test_a_submission_says_how_long_the_job_takes_once_that_is_known(
    invoke: Invoke, service: Service, written: Callable[..., str]
) -> None:
    first = invoke("submit", written())
    assert "will take about" not in first.stderr
    service.complete(first.stdout.split()[1].rstrip("."))  # its epochs took 0.2 s
    second = invoke("submit", written())
    assert second.stderr.startswith("An epoch will take about 0.2 s, the job about 0.6 s at most.\n")


def test_a_dry_run_refuses_a_file_with_gaps_as_the_service_does(
    invoke: Invoke, service: Service, written: Callable[..., str], walks: Path
) -> None:
    walks.write_text(walks.read_text().replace("\n3,2,6,", "\n3,2,,"))
    job = written(data=LOCAL)
    dry, real = invoke("submit", job, "--dry-run"), invoke("submit", job)
    assert (dry.exit_code, real.exit_code) == (2, 2)
    told = f"{job} /data/missing: 1 feature has missing values: set it to forward, mean or linear to fill them"
    assert told in dry.stderr
    assert told in real.stderr
    filled = invoke("submit", written(data=LOCAL | {"missing": "forward"}), "--dry-run")
    assert filled.exit_code == 0
    assert "It can be trained on." in filled.stdout
    assert "data.missing" not in filled.stdout


def test_a_dry_run_reads_a_file_with_the_columns_of_the_version_before(
    invoke: Invoke, service: Service, written: Callable[..., str], walks: Path
) -> None:
    assert invoke("submit", written(data=LOCAL)).exit_code == 0
    assert (
        "gait: one class for each sequence"
        in invoke("submit", written(data={"dataset": "walks.csv"}), "--dry-run").stdout
    )
    walks.write_text(walks.read_text().replace("\n3,2,6,", "\n3,2,,"))
    refused = invoke("submit", written(data={"dataset": "walks.csv"}), "--dry-run")
    assert refused.exit_code == 2
    assert "/data/missing: 1 feature has missing values" in refused.stderr


def test_a_dry_run_refuses_missing_rows_of_a_forecast(
    invoke: Invoke, service: Service, written: Callable[..., str], tmp_path: Path
) -> None:
    hours = [f"2026-01-{1 + n // 24:02}T{n % 24:02}:00,{n % 24}.5" for n in range(480) if n != 50]
    (tmp_path / "load.csv").write_text("\n".join(["time,load", *hours]))
    data = {"dataset": "load.csv", "schema": {"order": "time"}}
    spec = {"data": data, "training": {"epochs": 1}, "task": {"name": "forecast", "horizon": 24}}
    refused = invoke("submit", written(**spec), "--dry-run")
    assert refused.exit_code == 2
    assert "/data/missing: a forecast needs equal steps in time" in refused.stderr
    shown = invoke("submit", written(**spec | {"data": data | {"missing": "forward"}}), "--dry-run")
    assert shown.exit_code == 0
    assert "Warnings" not in shown.stdout
