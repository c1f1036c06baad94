"""What the command says while the service checks a file for long, and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from loopline import Client
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from services.settings import Settings
from tests.checking import UNCHECKED_SECONDS, do_checks
from tests.client.cli.test_terminal import Terminal, command, environment
from tests.client.conftest import Service
from tests.worker.scheduler.test_checks import table
from worker.scheduler import checks

Run = Callable[..., Result]


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "service", database_url=sqlite_url)


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    """A service that waits for no check."""
    running = Service(tmp_path / "service", sqlite_url, check_wait_seconds=UNCHECKED_SECONDS)
    yield running
    running.close()


@pytest.fixture
def scheduler(service: Service, settings: Settings) -> Iterator[None]:
    """The part of the scheduler that does the checks."""
    with checks.checking(settings, service.engine):
        yield


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    (tmp_path / "walks.csv").write_bytes(table())
    (tmp_path / "bad.csv").write_bytes(table(bad=True))

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(app, args, catch_exceptions=False)

    return invoke


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.usefixtures("scheduler")
def test_an_upload_waits_for_its_check_and_shows_the_time(run: Run) -> None:
    done = run("datasets", "upload", "walks.csv", "--target", "kind")
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(r"walks@1 \(ds_\w+\)\n", done.stdout)
    first, second, *_ = done.stderr.splitlines()
    assert first == "Checking walks@1, 0 s"
    assert second.startswith("Uploaded walks.csv as walks@1: 12 sequences of 6 steps")


@pytest.mark.usefixtures("scheduler")
def test_a_file_that_is_rejected_is_an_error_as_any_other(run: Run, service: Service, tmp_path: Path) -> None:
    patient = Service(tmp_path / "service", str(service.engine.url), check_wait_seconds=60)
    try:
        short = run("--url", patient.url, "datasets", "upload", "bad.csv")
    finally:
        patient.close()
    done = run("datasets", "upload", "bad.csv")
    assert (short.exit_code, done.exit_code, done.stdout) == (2, 2, "")
    assert done.stderr == f"Checking bad@1, 0 s\n{short.stderr}"
    assert "inf" in short.stderr
    shown = words(run("datasets", "show", "bad").stdout)
    assert "status rejected" in shown
    assert words(short.stderr.splitlines()[0].removeprefix("Error: ")) in shown
    assert re.search(r"bad@1 +- +- +- +rejected", run("datasets", "list").stdout)
    assert run("datasets", "delete", "bad@1").exit_code == 0
    assert "No data sets yet" in run("datasets", "list").stdout


def test_an_upload_that_does_not_wait_says_where_to_look(run: Run, service: Service, settings: Settings) -> None:
    done = run("datasets", "upload", "walks.csv", "--no-wait")
    assert (done.exit_code, done.stdout[:8]) == (0, "walks@1 ")
    assert "still checking. See how it ends with: loopline datasets show walks@1" in words(done.stderr)
    assert "status being checked" in words(run("datasets", "show", "walks@1").stdout)
    assert re.search(r"walks@1 +- +- +- +being checked", run("datasets", "list").stdout)
    Path("job.yaml").write_text(yaml.safe_dump({"preset": "basic_rnn", "data": {"dataset": "walks"}}))
    early = run("submit", "job.yaml")
    assert early.exit_code == 2
    assert "walks@1 is still being checked, so no job can use it yet; `loopline datasets show walks@1`" in early.stderr
    assert do_checks(settings, service.engine) == 1
    assert run("submit", "job.yaml").exit_code == 0
    assert run("datasets", "upload", "bad.csv", "--no-wait").exit_code == 0
    assert do_checks(settings, service.engine) == 1
    Path("job.yaml").write_text(yaml.safe_dump({"preset": "basic_rnn", "data": {"dataset": "bad"}}))
    refused = run("submit", "job.yaml")
    assert refused.exit_code == 2
    assert "bad@1 was rejected when it was checked:" in refused.stderr


@pytest.mark.usefixtures("scheduler")
def test_a_spec_that_names_a_file_is_submitted_when_the_file_is_checked(run: Run, client: Client) -> None:
    spec = {"preset": "basic_rnn", "data": {"dataset": "./walks.csv", "schema": {"target": "kind"}}}
    Path("job.yaml").write_text(yaml.safe_dump(spec))
    done = run("submit", "job.yaml")
    assert done.exit_code == 0, done.stderr
    assert "Checking walks@1, 0 s" in done.stderr
    assert client.job("last").spec["data"]["dataset"] == "walks@1"
    spec["data"] = {"dataset": "./bad.csv"}
    Path("job.yaml").write_text(yaml.safe_dump(spec))
    refused = run("submit", "job.yaml")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert len([*client.jobs.list()]) == 1


def test_who_stops_waiting_hears_that_the_check_goes_on(service: Service, client: Client, tmp_path: Path) -> None:
    (tmp_path / "walks.csv").write_bytes(table())
    uploading = subprocess.Popen(
        command("datasets", "upload", "walks.csv"),
        cwd=tmp_path,
        env=environment(service.url),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert uploading.stderr is not None
    with uploading, uploading.stderr as told:
        assert told.readline() == "Checking walks@1, 0 s\n"
        uploading.send_signal(signal.SIGINT)
        assert (
            words(told.read()) == "The check of walks@1 goes on. Come back to it with: loopline datasets show walks@1"
        )
    assert uploading.returncode == 130
    assert client.datasets.get("walks").status == "validating"


def test_a_terminal_shows_the_time_in_place(service: Service, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "walks.csv").write_bytes(table())
    args = command("datasets", "upload", str(tmp_path / "walks.csv"))
    terminal = Terminal(args, environment(service.url), rows=24, columns=120)
    terminal.read_until("Checking walks@1, 1 s")
    assert do_checks(settings, service.engine) == 1
    assert terminal.end() == 0
    assert "\r\x1b[2KChecking walks@1, 1 s" in terminal.written
    assert terminal.text.splitlines()[-1].startswith("walks@1 (ds_")
