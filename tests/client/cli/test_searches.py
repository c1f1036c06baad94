"""Searches by the command: submitted and waited for, one table with the best trial first, and exit codes."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from loopline import Client, Search
from loopline.cli.app import app
from loopline.view import searches as view
from loopline.view import table
from rich.console import Console
from typer.testing import CliRunner, Result

from services import db
from services.jobs import attempts
from services.orm import Job
from tests.client.cli.test_terminal import Terminal, command, environment
from worker.scheduler import searches

Run = Callable[..., Result]
Background = Callable[..., threading.Thread]
SPACE = {
    "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "architecture.cell": ["lstm", "gru"],
    "architecture.forget_gate_bias": {"values": [0.5, 1.0], "when": {"architecture.cell": ["lstm"]}},
}


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command against the service, as from a script in a folder of its own: stdout is no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOPLINE_URL", service.url)

    def invoke(*args: str | Path) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)

    return invoke


@pytest.fixture
def file(tmp_path: Path, tiny: dict[str, Any]) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**tiny, "search": {"space": SPACE, "trials": 3, "final": False}}, sort_keys=False))
    return path


def newest(client: Client) -> Search:
    [search] = client.searches.list()
    return search.refresh()


def test_a_search_is_submitted_and_shown_with_its_best_trial_first(
    run: Run, client: Client, service: Any, file: Path
) -> None:
    done = run("search", file, "--name", "night")
    search = newest(client)
    assert (done.exit_code, done.stdout) == (0, f"Submitted {search.id} (night): 3 trials, by validation_loss.\n")
    assert done.stderr == f"Watch it with: loopline searches watch {search.id}\n"
    assert "night" in run("searches", "list").stdout
    service.trial(search.id, 0.5, 0.25, 0.75)
    shown = run("searches", "show", "last")
    head, *rows = shown.stdout.splitlines()
    assert head.split() == ["trial", "status", "loss", "lr", "cell", "forget_gate_bias", "took", "id"]
    assert [row.split()[0] for row in rows[:3]] == ["2", "1", "3"]
    best = newest(client).best
    assert best is not None
    assert rows[0].split()[1:4] == ["best", "succeeded", "0.2500"]
    assert rows[0].endswith(best.job_id)
    assert rows[3].startswith(f"Search {search.id} (night): 3 of 3 trials, 3 succeeded, in ")
    assert f"The best is trial 2: validation_loss 0.2500 (lr={best.choices['training.optimizer.lr']:.3g}" in rows[3]
    assert rows[4].startswith("Best so far █")
    assert shown.stderr == f"The spec of the best trial: loopline show {best.job_id}\n"
    assert json.loads(run("searches", "show", search.id, "--json").stdout)["best"]["trial"] == 2
    assert f"{search.id}, trial 2" in run("show", best.job_id).stdout


def test_what_would_help_is_told(run: Run, client: Client, service: Any, file: Path) -> None:
    run("search", file)
    search = newest(client).add(5)
    service.trial(search.id, 0.25, *[0.5] * 7)
    shown = run("searches", "show", "last").stdout
    assert (
        "Advice: The last 7 of 8 trials were not better than trial 1, so more will hardly help.\nAdvice: More" in shown
    )


def test_the_final_model_is_told(run: Run, client: Client, service: Any, tmp_path: Path, tiny: Any) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**tiny, "search": {"space": SPACE, "trials": 1, "minutes": 10}}, sort_keys=False))
    submitted = run("search", path)
    assert submitted.exit_code == 0, submitted.output
    assert "trials within 10 min, at most 1, by validation_loss" in submitted.stdout
    search = newest(client)
    service.trial(search.id, 0.5)
    waiting = newest(client).final
    assert waiting is not None
    assert f"The final model is {waiting.job_id}: queued." in run("searches", "show", "last").stdout
    assert f"{search.id}, the final model" in run("show", waiting.job_id).stdout
    service.final(search.id, test_accuracy=0.9, test_loss=0.3)
    shown = run("searches", "show", "last").stdout
    assert f"The final model is {waiting.job_id}: test_accuracy 0.9000, test_loss 0.3000." in shown
    assert "It beats its baseline: test accuracy is 0.9000, and 0.7500 with the most frequent class (1).\n" in shown
    assert newest(client).final.baseline["is_beaten"]  # type: ignore[union-attr,index]


def test_how_long_a_trial_takes_is_told_before(run: Run, client: Client, service: Any, file: Path) -> None:
    unknown = run("search", file, "--set", "search.minutes=0.001").stderr
    assert unknown.startswith("How long it takes is unknown: no job of the queue default has succeeded yet")
    assert "to compare with. The first trial is made in any case.\n" in unknown
    spec = {key: each for key, each in yaml.safe_load(file.read_text()).items() if key != "search"}
    service.complete(client.submit(spec).id)
    told = run("search", file).stderr
    assert re.match(r"A trial will take about [\d.]+ s at most\.\nWatch it with: ", told)
    within = run("search", file, "--set", "search.minutes=10").stderr
    assert re.match(r"A trial will take about [\d.]+ s at most\.\nWatch it with: ", within)
    longer = run("search", file, "--set", "search.minutes=0.001", "--set", "search.final=true").stderr
    said = "That is longer than the 0.06 s of the search. The first trial is made in any case and takes about so long, "
    assert f"{said}and then the final model is trained.\n" in longer
    assert "final model" not in run("search", file, "--set", "search.minutes=0.001").stderr


def test_a_dry_run_submits_nothing(run: Run, client: Client, service: Any, file: Path) -> None:
    spec = {key: each for key, each in yaml.safe_load(file.read_text()).items() if key != "search"}
    service.complete(client.submit(spec).id)
    done = run("search", file, "--dry-run", "--set", "search.minutes=0.001")
    assert (done.exit_code, done.stderr) == (0, "Nothing was submitted.\n")
    assert re.search(
        r"^time +A trial will take about .*, and the search about .*\. A trial takes longer", done.stdout, re.M
    )
    assert re.search(r"^trials +at most 3, within 0\.06 s, by validation_loss$", done.stdout, re.MULTILINE)
    assert re.search(r"^space +unbounded", done.stdout, re.MULTILINE)
    assert "architecture.cell: [" in done.stdout
    assert json.loads(run("search", file, "--dry-run", "--json").stdout)["trial"]["name"] == "tiny"
    wrong = run("search", file, "--dry-run", "--set", "training.epochs=0")
    assert (wrong.exit_code, f"  {file} /training/epochs: " in wrong.stderr) == (2, True)
    assert [*client.searches.list()] == []


def test_the_model_of_a_search_is_downloaded_and_asked(
    run: Run, client: Client, service: Any, tmp_path: Path, tiny: Any
) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**tiny, "search": {"space": SPACE, "trials": 1}}, sort_keys=False))
    run("search", path)
    search = newest(client)
    early = run("download", search.id)
    assert (early.exit_code, early.stderr) == (
        2,
        f"Error: Search {search.id} has no model: no trial has succeeded yet.\n",
    )
    service.trial(search.id, 0.5)
    [trial] = newest(client).trials
    best = run("download", search.id)
    said = f"The model of {search.id} is that of the best trial, {trial.job_id}, because the search goes on.\n"
    assert (best.exit_code, best.stderr) == (0, said)
    assert (tmp_path / str(trial.job_id) / "model.json").exists()
    service.final(search.id, test_accuracy=0.9)
    model = newest(client).final
    assert model is not None
    assert (
        run("download", search.id, "--to", "final").stderr
        == f"The model of {search.id} is its final model, {model.job_id}.\n"
    )
    assert (tmp_path / "final" / "model.json").exists()
    (tmp_path / "some.csv").write_text("a\n1\n")
    asked = run("predict", search.id, "some.csv")
    assert asked.stderr.startswith(f"The model of {search.id} is its final model, {model.job_id}.\nError: ")


def test_waiting_tells_each_trial_and_the_exit_code_says_how_it_ended(
    run: Run, client: Client, service: Any, file: Path, in_background: Background
) -> None:
    def work() -> None:
        service.bell.was_rung.wait(0)
        while not [*client.searches.list()]:
            pass
        service.trial(newest(client).id, 0.5, 0.25, 0.75)

    in_background(work)
    done = run("search", file, "--wait")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.startswith("trial ")]
    assert [line.split()[1] for line in told] == ["1", "2", "3", "status"]
    assert [line.endswith("best so far") for line in told[:3]] == [True, True, False]
    cancelled = client.searches.submit(yaml.safe_load(file.read_text())).cancel()
    assert run("searches", "watch", cancelled.id).exit_code == 4
    assert json.loads(run("searches", "watch", cancelled.id, "--json").stdout)["status"] == "cancelled"


def test_the_end_of_a_long_search_shows_its_best_trials(
    run: Run, client: Client, service: Any, file: Path, in_background: Background
) -> None:
    def work() -> None:
        while not [*client.searches.list()]:
            pass
        newest(client).add(9)
        service.trial(newest(client).id, *[0.5 - place / 100 for place in range(12)])

    in_background(work)
    done = run("search", file, "--wait")
    assert done.exit_code == 0, done.stderr
    rows = done.stdout[done.stdout.index("trial  ") :].splitlines()[1:11]
    assert [row.split()[0] for row in rows] == [str(number) for number in range(12, 2, -1)]
    assert f"... and 2 more: loopline searches show {newest(client).id}\n" in done.stderr
    assert len(run("searches", "show", "last").stdout.splitlines()) > 13


def test_searches_are_paused_resumed_extended_and_cancelled(run: Run, client: Client, file: Path) -> None:
    run("search", file)
    assert " paused: 0 of 3 trials." in run("searches", "pause", "last").stdout
    assert ": 0 of 3 trials." in run("searches", "resume", "last").stdout
    assert ": 0 of 5 trials." in run("searches", "add", "last", "2").stdout
    assert " cancelled: 0 of 5 trials" in run("searches", "cancel", "last").stdout
    again = run("searches", "pause", "last", "search_1")
    assert again.exit_code == 2
    assert "has ended (cancelled)" in again.stderr
    assert "There is no search 'search_1'." in again.stderr
    assert run("searches", "add", "last", "1000").exit_code == 2


def test_problems_are_told_by_the_name_of_the_file(run: Run, client: Client, file: Path) -> None:
    done = run("search", file, "--set", "search.space.architecture.cell=[lstm, gruu]")
    assert done.exit_code == 2
    done = run("search", file, "--set", "training.epochs=0")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"  {file} /training/epochs: " in done.stderr
    submitted = run("submit", file)
    assert submitted.exit_code == 2
    assert f"Submit it with `loopline search {file}`." in submitted.stderr
    assert [*client.searches.list()] == []
    assert run("searches", "list").stdout == "No searches yet. Submit one: loopline search search.yaml\n"
    assert "There are no searches yet." in run("searches", "show", "last").stderr


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_shows_one_line_that_fits_and_then_the_table(
    client: Client, service: Any, file: Path, in_background: Background, columns: int
) -> None:
    search = client.searches.submit(yaml.safe_load(file.read_text()))
    in_background(service.trial, search.id, 0.5, 0.25, 0.75)
    watching = command("searches", "watch", search.id)
    terminal = Terminal(watching, environment(service.url), rows=40, columns=columns)
    assert terminal.end() == 0
    rows = [row for row in terminal.text.replace("\r", "\n").splitlines() if "of 3 trials; the best" in row]
    assert all(len(row.strip()) < columns for row in rows)
    table = [
        row for row in terminal.text.replace("\r", "").splitlines() if " succeeded " in row and "Search" not in row
    ]
    assert max(map(len, table)) <= columns
    assert "2 best" in terminal.text


def test_a_trial_that_was_stopped_early_shows_how_far_it_got() -> None:
    best = {"trial": 1, "job_id": "job_1", "status": "succeeded", "value": 0.5, "epoch": 10, "epochs": 10}
    stopped = {"trial": 2, "job_id": "job_2", "status": "pruned", "message": "Stopped.", "epoch": 3, "epochs": 10}
    settings = {"space": {"training.optimizer.lr": {}}, "metric": "validation_loss"}
    counts = {"succeeded": 1, "pruned": 1, "cancelled": 0}
    given = {"id": "search_1", "status": "succeeded", "wanted": 2, "made": 2, "counts": counts, "settings": settings}
    search = Search.of({**given, "trials": [best, stopped]})
    console = Console(width=100, file=StringIO())
    console.print(view.Rows(search))
    assert isinstance(console.file, StringIO)
    _, first, second = console.file.getvalue().splitlines()
    assert first.split()[:3] == ["1", "succeeded", "0.5000"]
    assert second.split()[:4] == ["2", "pruned", "epoch", "3/10"]
    assert ": 2 of 2 trials, 1 succeeded, 1 pruned." in view.total(search)


def test_a_silent_worker_is_said_with_the_search(
    run: Run, client: Client, service: Any, file: Path, monkeypatch: pytest.MonkeyPatch, in_background: Background
) -> None:
    run("search", file)
    searches.look(service.engine, service.bell)
    search = newest(client)
    [trial] = search.trials
    service.start(trial.job_id)
    assert "othing has been heard" not in run("searches", "show", "last").stdout
    monkeypatch.setattr("loopline.polling.SILENCE_SECONDS", 0.0)
    monkeypatch.setattr("loopline.polling.POLL_SECONDS", 0.6)
    looks = client.searches.get(search.id).changes()
    assert not next(looks).silent
    with db.session_scope(service.engine) as session:
        left = db.now() + 20  # of 60 seconds
        session.execute(sa.update(Job).where(Job.id == trial.job_id).values(lease_until=left))
    assert list(next(looks).silent) == [trial.job_id]
    shown = run("searches", "show", "last").stdout
    assert re.search(r"^1 +running +epoch 0/3, nothing heard ", shown, re.MULTILINE)
    assert re.search(r"Nothing has been heard of the worker of trial 1 for 4\d s; the job is queued again when", shown)
    assert view.progress(newest(client)) == "0 of 3 trials; nothing is heard of a worker"

    before = len(service.requests)

    def cancel() -> None:
        while not [one for one in service.requests[before:] if one[2].get("HTTP_IF_NONE_MATCH")]:
            time.sleep(0.01)
        service.do(attempts.fail, trial.job_id, "diverged", "It diverged.", retry=False)
        client.searches.get(search.id).cancel()

    in_background(cancel)
    watched = run("searches", "watch", search.id)
    assert watched.stderr.count("Nothing has been heard of the worker of trial 1 for 4") == 1


def test_a_pruned_trial_is_listed_as_such(run: Run, client: Client, service: Any, file: Path) -> None:
    run("search", file)
    searches.look(service.engine, service.bell)
    [trial] = newest(client).trials
    service.start(trial.job_id)
    service.epoch(trial.job_id, 1)
    service.do(attempts.pruned, trial.job_id, "Stopped early after epoch 1.")
    assert re.search(rf"{trial.job_id}  tiny\[1\] +pruned +1/", run("list").stdout)
    assert "pruned" in run("list", "--status", "cancelled").stdout
    shown = run("show", trial.job_id).stdout
    assert re.search(r"status +cancelled\nreason +pruned: Stopped early after epoch 1\.", shown)


def test_short_names_are_the_ends_of_paths_that_no_other_has() -> None:
    paths = ["training.optimizer.lr", "training.lr_schedule.lr", "architecture.cell", "lr"]
    assert [*table.short_names(paths).values()] == ["optimizer.lr", "lr_schedule.lr", "cell", "lr"]
