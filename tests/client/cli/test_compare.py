"""`loopline compare`, `batches show --sort`, and lists as CSV files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from loopline import BatchJob, Client, measures
from loopline.cli import export
from loopline.cli.app import app
from typer.testing import CliRunner, Result


@pytest.fixture
def batch(service: Any, client: Client, tiny: dict[str, Any]) -> Any:
    """Three jobs: two that reached something else, and one that failed."""
    spec = {**tiny, "name": "=sum", "matrix": {"training.optimizer.lr": [0.1, 0.01, 0.001]}}
    made = client.batches.submit(spec)
    for row, loss, accuracy in zip(made.jobs, (0.5, 0.25), (0.75, 0.5), strict=False):
        service.start(row.id)
        service.succeed(row.id, metrics={"test_loss": loss, "test_accuracy": accuracy, "validation_accuracy": 0.6})
    service.start(made.jobs[2].id)
    service.fail(made.jobs[2].id)
    return made.refresh()


@pytest.fixture
def run(service: Any) -> Any:
    def typed(*words: str) -> Result:
        return CliRunner().invoke(app, ["--url", service.url, *words])

    return typed


def rows(done: Result) -> list[dict[str, str]]:
    assert done.exit_code == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_jobs_are_compared_by_what_differs_and_what_they_reached(batch: Any, run: Any) -> None:
    first, second, third = (row.id for row in batch.jobs)
    shown = run("compare", batch.id, first).stdout.splitlines()
    assert shown[0].split("  ")[0] == "name"
    assert [word for word in ("status", "lr", "test accuracy", "test loss") if word not in shown[0]] == []
    assert "hidden_size" not in shown[0]
    assert [line.split()[-1] for line in shown[1:]] == [first, second, third]
    by_loss = rows(run("compare", batch.id, "--sort", "loss", "--csv", "-"))
    assert [row["id"] for row in by_loss] == [second, first, third]
    assert by_loss[0]["training.optimizer.lr"] == "0.01"
    assert (by_loss[0]["validation_accuracy"], by_loss[2]["test_loss"]) == ("0.6", "")
    by_field = json.loads(run("compare", first, second, third, "--sort", "lr", "--top", "2", "--json").stdout)
    assert [row["training.optimizer.lr"] for row in by_field] == [0.001, 0.01]
    wrong = run("compare", batch.id, "--sort", "f1")
    assert (wrong.exit_code, "cannot be sorted by 'f1'. There are: test_loss" in wrong.stderr) == (2, True)


def test_the_trials_of_a_search_are_compared(service: Any, client: Client, tiny: dict[str, Any], run: Any) -> None:
    search = client.searches.submit({**tiny, "search": {"trials": 2, "space": {"training.optimizer.lr": [0.1, 0.01]}}})
    assert "has none yet" in run("compare", search.id).stderr
    service.trial(search.id, 0.5, 0.25)
    found = client.jobs.compare(search.id)
    assert found.fields == ("training.optimizer.lr",)
    assert [each.metrics["validation_loss"] for each in found.jobs] == [0.25, 0.5]
    assert [*found.to_frame()["status"]] == ["succeeded", "succeeded"]
    assert found._repr_html_().count("<tr>") == 3


def test_a_batch_is_sorted_by_a_metric_and_its_first_jobs_are_shown(batch: Any, run: Any) -> None:
    first, second, third = (row.id for row in batch.jobs)
    shown = run("batches", "show", "last", "--sort", "loss", "--top", "2").stdout.splitlines()
    assert ["test_loss 0.2500" in shown[0], second in shown[0]] == [True, True]
    assert ["test_loss 0.5000" in shown[1], first in shown[1]] == [True, True]
    assert shown[2].startswith("Batch ")
    everything = rows(run("batches", "show", batch.id, "--csv", "-"))
    assert [row["id"] for row in everything] == [first, second, third]
    assert everything[0]["test_accuracy"] == "0.75"
    wrong = run("batches", "show", "last", "--sort", "f1")
    assert (wrong.exit_code, "has the metric 'f1'. There are: test_loss, test_accuracy" in wrong.stderr) == (2, True)


def test_lists_are_saved_as_csv_and_no_cell_is_a_formula(batch: Any, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "batches.csv"
    done = run("batches", "list", "--csv", str(file))
    assert (done.stdout, done.stderr) == ("", f"Saved 1 row to {file}.\n")
    [row] = csv.DictReader(file.read_text().splitlines())
    assert (row["id"], row["name"], row["counts.failed"]) == (batch.id, "'=sum", "1")
    jobs = rows(run("list", "--csv", "-"))
    assert {row["id"] for row in jobs} == {row.id for row in batch.jobs}
    assert all(row["name"].startswith("'=") for row in jobs)
    assert run("keys", "list", "--csv", str(tmp_path / "none" / "x.csv")).exit_code == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("\x1b[0m=1+1", "'=1+1"),
        ("\u200b=2", "'=2"),
        ("\r=3", "'=3"),
        ("\t@SUM(A1)", "'    @SUM(A1)"),
        ("two\nlines\rof text", "two\nlinesof text"),
        (-1.5, "-1.5"),
        ([1, "=1"], '[1, "=1"]'),
    ],
)
def test_nothing_invisible_hides_a_formula(value: Any, expected: str, tmp_path: Path) -> None:
    export.save([{"name": value, "next": "x"}], str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert [*csv.reader(file)] == [["name", "next"], [expected, "x"]]


def test_lists_and_mappings_that_a_matrix_varies_are_columns(tmp_path: Path) -> None:
    job = BatchJob("job_1", "queued", cell={"training.schedule": {"name": "step"}, "data.features": ["a", "b"]})
    export.save([job], str(tmp_path / "jobs.csv"))
    [row] = csv.DictReader((tmp_path / "jobs.csv").read_text().splitlines())
    assert (json.loads(row["training.schedule"]), json.loads(row["data.features"])) == ({"name": "step"}, ["a", "b"])


def test_the_table_and_the_csv_of_a_batch_have_the_same_jobs(
    service: Any, client: Client, tiny: dict[str, Any], run: Any
) -> None:
    jobs = [row.id for row in client.batches.submit([tiny, tiny]).jobs]
    for job_id, accuracy in zip(jobs, (0.5, 0.75), strict=True):
        service.start(job_id)
        service.succeed(job_id, metrics={"test_accuracy": accuracy})
    shown = run("batches", "show", "last", "--top", "1").stdout
    [saved] = rows(run("batches", "show", "last", "--top", "1", "--csv", "-"))
    assert (jobs[1] in shown, saved["id"]) == (True, jobs[1])


def test_a_job_that_is_named_twice_is_compared_once(client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    assert [each.job.id for each in client.jobs.compare("last", job.id).jobs] == [job.id]


def test_the_best_of_a_metric_comes_first_and_what_has_none_last() -> None:
    found = [{"test_loss": 2.0}, {}, {"test_loss": 1.0}]
    assert measures.ranked(found, "test_loss", lambda each: each.get("test_loss")) == [found[2], found[0], found[1]]
    assert measures.ranked(found, None, lambda each: None) == found
    assert measures.ranked(["gru", 2, "lstm", 1], "cell", lambda each: each) == [1, 2, "gru", "lstm"]
    assert measures.recorded_as("accuracy", ["train_accuracy", "validation_accuracy"]) == "validation_accuracy"
    assert measures.main_of(["test_loss", "test_macro_f1", "validation_accuracy"]) == "test_macro_f1"
    assert measures.main_of([]) is None
