"""`loopline train`: from a file to a job, without a spec."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from loopline import Client
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from tests.client.cli.test_dry_runs import sent
from tests.client.conftest import Service

Invoke = Callable[..., Result]
COLUMNS = ("--target", "gait", "--group", "walk", "--order", "step")


@pytest.fixture
def invoke(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command against the service, in a folder with a table of 40 sequences."""
    lines = [f"{walk},{step},{walk * step % 7},{'ab'[walk % 2]}" for walk in range(40) for step in range(5)]
    (tmp_path / "walks.csv").write_text("\n".join(["walk,step,speed,gait", *lines]))
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, args, catch_exceptions=False)


def test_a_file_is_uploaded_and_trained_on_without_a_spec(invoke: Invoke, service: Service) -> None:
    done = invoke("train", "walks.csv", *COLUMNS, "--name", "gaits", "--set", "training.epochs=2", "--detach")
    assert done.exit_code == 0, done.output
    assert "Uploaded walks.csv as walks@1" in done.stderr
    assert "Columns: target gait; features speed; group walk; order step.\n" in " ".join(done.stderr.split(" "))
    assert "(gaits)" in done.stdout
    assert "Chosen for this data: architecture.cell lstm, architecture.forget_gate_bias 1.0, " in done.stderr
    assert "The reasons: loopline events job_" in done.stderr
    again = invoke("train", "walks", "--detach")
    assert again.exit_code == 0, again.output
    assert sent(service).count("/v1/jobs") == 2
    shown = invoke("show", "last", "--json").stdout
    assert '"pooling": "max"' in shown
    told = invoke("events", "last").stdout
    assert "Chosen for this data: architecture.cell lstm" in told


def test_a_target_that_nobody_named_is_told(invoke: Invoke) -> None:
    done = invoke("train", "walks.csv", "--group", "walk", "--detach")
    assert done.exit_code == 0, done.output
    assert "(walks)" in done.stdout  # it is named after its data
    assert "Columns: target gait (a guess: name it if it is another one); features speed; " in " ".join(
        done.stderr.split()
    )


@pytest.mark.parametrize(("ended", "shown"), [(100, [1, *range(5, 101, 5)]), (13, [1, 5, 10, 13])])
def test_a_pipe_gets_few_of_many_epochs_and_the_last(
    invoke: Invoke, service: Service, in_background: Callable[..., object], ended: int, shown: list[int]
) -> None:
    def work() -> None:
        service.bell.was_rung.wait(60)
        with Client(service.url) as client:
            [job] = client.jobs.list()
        service.start(job.id, epochs=100)
        for epoch in range(1, ended + 1):
            service.epoch(job.id, epoch)
        service.succeed(job.id)

    in_background(work)
    done = invoke("train", "walks.csv", *COLUMNS)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [int(line.split()[1].partition("/")[0]) for line in lines] == shown
    watched = invoke("watch", "last").stdout
    assert watched.count("\nepoch") + watched.startswith("epoch") == ended


def test_minutes_make_it_a_search(invoke: Invoke, service: Service) -> None:
    done = invoke("train", "walks.csv", *COLUMNS, "--minutes", "10", "--detach", "--set", "architecture.num_layers=1")
    assert done.exit_code == 0, done.output
    assert "trials within 10 min, at most 1,000, by validation_loss" in done.stdout
    assert "/v1/jobs" not in sent(service)
    shown = json.loads(invoke("searches", "show", "last", "--json").stdout)
    assert {"training.optimizer.lr", "architecture.hidden_size"} <= shown["settings"]["space"].keys()
    assert "architecture.num_layers" not in shown["settings"]["space"]
    assert shown["settings"]["base"]["data"]["split"]["folds"] == 4  # of forty sequences


def test_a_dry_run_uploads_nothing(invoke: Invoke, service: Service) -> None:
    done = invoke("train", "walks.csv", *COLUMNS, "--dry-run")
    assert done.exit_code == 0, done.output
    assert sent(service) == ["/v1/jobs/dry-run"]
    assert "chosen when the data is there" in " ".join(done.output.split())


def test_a_dry_run_of_a_search_needs_an_uploaded_data_set(invoke: Invoke) -> None:
    refused = invoke("train", "walks.csv", *COLUMNS, "--minutes", "10", "--dry-run")
    assert (refused.exit_code, "loopline datasets upload" in refused.stderr) == (2, True)
    assert invoke("datasets", "upload", "walks.csv", *COLUMNS).exit_code == 0
    done = invoke("train", "walks", "--minutes", "10", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "at most 1,000, within 10 min, by validation_loss" in done.stdout
    assert "training.optimizer.lr: {" in done.stdout


def test_what_is_chosen_for_an_uploaded_data_set_is_shown(invoke: Invoke) -> None:
    assert invoke("datasets", "upload", "walks.csv", *COLUMNS).exit_code == 0
    done = invoke("train", "walks", "--dry-run")
    assert "architecture.hidden_size: 64, because 30 training samples are few" in " ".join(done.output.split())


def test_a_file_that_is_not_there_is_told_before_anything_is_submitted(invoke: Invoke, service: Service) -> None:
    done = invoke("train", "walk.csv")
    assert done.exit_code == 2
    assert "walk.csv; did you mean walks.csv?" in " ".join(done.stderr.split())
    assert {"/v1/jobs", "/v1/datasets"}.isdisjoint(sent(service))


def test_values_that_are_missing_are_no_problem_without_a_spec(invoke: Invoke, tmp_path: Path) -> None:
    text = (tmp_path / "walks.csv").read_text().replace("3,2,6,b", "3,2,,b")
    (tmp_path / "walks.csv").write_text(text)
    done = invoke("train", "walks.csv", *COLUMNS, "--detach")
    assert done.exit_code == 0, done.output
    assert "data.missing forward, because" in invoke("events", "last").stdout


@pytest.mark.parametrize(
    ("head", "columns", "said"),
    [
        (
            "date,walk,speed,height",
            ("--group", "walk", "--order", "date"),
            "It has 2 sequences, so name a column with a class or a value for each sequence, or a column of numbers",
        ),
        ("date,speed,width,height", ("--order", "date"), "one series of 40 steps, so name a column of numbers to"),
        ("depth,speed,width,height", (), "--target NAME, or data.schema.target in a spec), such as `"),
        ("depth,speed,width,species", (), "if each row is a sample of its own, upload the file with --layout wide"),
    ],
)
def test_a_file_that_is_refused_is_told_what_it_looks_like(
    invoke: Invoke, tmp_path: Path, head: str, columns: tuple[str, ...], said: str
) -> None:
    last = "ab" if "species" in head else [50, 52, 51]
    for row in range(40):
        first = dt.date(2026, 1, 1) + dt.timedelta(days=row) if "date" in head else row * 7 % 11
        head += f"\n{first},{row // 20 if 'walk' in head else row * 3 % 17},{row * 5 % 13},{last[row % len(last)]}"
    (tmp_path / "rows.csv").write_text(head)
    done = invoke("train", "rows.csv", *columns, "--detach")
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.split())
