"""What the command says, and the code it leaves with."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from loopline import Client
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from api.resources import health
from services import db
from services.datasets import inbox
from services.jobs import attempts, workers
from services.orm import Job, Worker
from services.settings import Settings

Run = Callable[..., Result]
Background = Callable[..., threading.Thread]


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command against the service, as from a script in a folder of its own: stdout is no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOPLINE_URL", service.url)

    def invoke(*args: str | Path, input: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], input=input, catch_exceptions=False)

    return invoke


@pytest.fixture
def job_file(tmp_path: Path, tiny: dict[str, Any]) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_empty_lists_say_what_to_do_next(run: Run) -> None:
    assert run("list").stdout == "No jobs yet. Submit one: loopline submit job.yaml\n"
    assert run("datasets", "list").stdout == "No data sets yet. Upload one: loopline datasets upload FILE\n"
    assert run("list", "--status", "running").stdout == "No job fits.\n"
    assert run("list", "--json").stdout == "[]\n"


def test_submit_says_the_id_and_how_to_watch_it(run: Run, client: Client, job_file: Path) -> None:
    done = run("submit", job_file)
    job = client.job("last")
    assert done.exit_code == 0
    assert done.stdout == f"Submitted {job.id} (tiny).\n"
    assert done.stderr == f"Watch it with: loopline watch {job.id}\n"


def test_submit_changes_fields_and_the_name(run: Run, client: Client, job_file: Path) -> None:
    settings = ("--set", "training.epochs=7", "-s", "training.optimizer.lr=3e-4", "--name", "1e3")
    assert run("submit", job_file, *settings).exit_code == 0
    job = client.job("last")
    assert (job.name, job.spec["training"]["epochs"]) == ("1e3", 7)
    assert job.spec["training"]["optimizer"]["lr"] == 3e-4


def test_submit_reads_stdin(run: Run, client: Client, job_file: Path) -> None:
    assert run("submit", "-", input=job_file.read_text()).exit_code == 0
    assert client.job("last").name == "tiny"


def test_submit_with_json_prints_the_job_and_nothing_else(run: Run, job_file: Path) -> None:
    done = run("submit", job_file, "--json")
    assert json.loads(done.stdout)["status"] == "queued"
    assert done.stderr == ""


def test_submit_uploads_a_data_set_beside_the_spec_and_says_so(
    run: Run, client: Client, npz: Path, tiny: dict[str, Any]
) -> None:
    path = npz.parent / "job.yaml"
    path.write_text(yaml.safe_dump(tiny | {"data": {"dataset": "./small.npz"}}))
    done = run("submit", path)
    assert done.exit_code == 0, done.stderr
    assert f"Uploaded {npz} as small@1: 40 sequences of " in done.stderr
    assert client.job("last").dataset_name == "small"


def test_the_same_key_submits_once(run: Run, client: Client, job_file: Path) -> None:
    for _ in range(2):
        assert run("submit", job_file, "--idempotency-key", "nightly-2026-01-02").exit_code == 0
    assert len(list(client.jobs.list())) == 1


def test_a_spec_with_problems_lists_them_by_file_and_pointer(run: Run, job_file: Path) -> None:
    done = run("submit", job_file, "--set", "training.epochs=-1", "--set", "nonsense=1")
    assert done.exit_code == 2
    assert done.stdout == ""
    first, *problems = done.stderr.splitlines()
    assert first == "Error: The spec has 2 problems."
    assert {line.split(": ")[0] for line in problems} == {f"  {job_file} /training/epochs", f"  {job_file} /nonsense"}


@pytest.mark.parametrize("setting", ["training.epochs", "=5", "training..epochs=5", "name.x=1", "name=["])
def test_a_setting_that_is_none_is_refused(run: Run, job_file: Path, setting: str) -> None:
    done = run("submit", job_file, "--set", setting)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")


def test_a_job_that_is_watched_prints_a_line_for_each_epoch(
    run: Run, service: Any, client: Client, tiny: dict[str, Any], in_background: Background
) -> None:
    job = client.submit(tiny)
    in_background(service.complete, job.id)
    done = run("watch", job.id)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    lines = done.stdout.splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    assert epochs[0] == (
        "epoch 1/3  loss 1.0000  val loss 1.1000  val accuracy 0.6000  lr 1.00e-03  grad norm 0.5000  0.2 s"
    )
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert lines[-2].startswith(f"Job {job.id} succeeded after ")
    assert lines[-1].startswith("It beats its baseline: test accuracy is ")
    assert lines[-2].endswith("best epoch 3. validation_accuracy 0.8000, test_accuracy 0.7500")


def test_watch_leaves_with_the_code_of_the_end(run: Run, service: Any, client: Client, tiny: dict[str, Any]) -> None:
    cancelled = client.submit(tiny).cancel()
    failed = client.submit(tiny)
    service.start(failed.id)
    service.fail(failed.id)
    done = run("watch", failed.id)
    assert done.exit_code == 1
    assert "failed after" in done.stdout
    assert "(diverged): Training diverged at step 7." in done.stdout
    done = run("watch", cancelled.id)
    assert done.exit_code == 4
    assert done.stdout.startswith(f"Job {cancelled.id} was cancelled")


@pytest.mark.parametrize("how", ["--wait", "--watch"])
@pytest.mark.parametrize(("end", "code"), [("complete", 0), ("fail", 1), ("cancel", 4)])
def test_submit_leaves_with_the_code_of_the_end(
    run: Run, service: Any, client: Client, job_file: Path, in_background: Background, how: str, end: str, code: int
) -> None:
    def worker() -> None:
        assert service.bell.was_rung.wait(20)
        job = client.job("last")
        if end == "complete":
            service.complete(job.id)
        elif end == "cancel":
            job.cancel()
        else:
            service.start(job.id)
            service.fail(job.id)

    in_background(worker)
    done = run("submit", job_file, how)
    assert done.exit_code == code, done.output
    assert done.stdout.startswith("Submitted job_")


def test_submit_with_json_and_watch_keeps_stdout_for_the_job(
    run: Run, service: Any, client: Client, job_file: Path, in_background: Background
) -> None:
    def worker() -> None:
        assert service.bell.was_rung.wait(20)
        service.complete(client.job("last").id)

    in_background(worker)
    done = run("submit", job_file, "--watch", "--json")
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert "epoch 3/3" in done.stderr


def test_list_shows_a_line_for_each_job(run: Run, service: Any, client: Client, tiny: dict[str, Any]) -> None:
    first = client.submit(tiny)
    service.complete(first.id)
    second = client.submit(tiny | {"name": "a-rather-long-name-that-would-be-cut-on-a-narrow-terminal" * 2})
    header, *rows = run("list").stdout.splitlines()
    assert header.split() == ["id", "name", "status", "epoch", "best", "created", "took"]
    assert [row.split()[0] for row in rows] == [second.id, first.id]
    assert "  a-rather-long-na…narrow-terminal  queued" in rows[0]
    assert all(len(row) <= 120 for row in (header, *rows))
    assert second.name in run("show", second.id).stdout
    assert "succeeded  3/3    val loss 0.4333" in rows[1]
    assert [job["id"] for job in json.loads(run("list", "--json").stdout)] == [second.id, first.id]
    assert len(run("list", "--limit", "1").stdout.splitlines()) == 2
    assert len(run("list", "--status", "succeeded").stdout.splitlines()) == 2


def test_show_tells_everything_about_a_job(run: Run, service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny | {"tags": {"team": "speech"}})
    assert "default, next in its queue" in run("show", job.id).stdout
    service.complete(job.id)
    shown = run("show", "last").stdout
    for words in (
        job.id,
        "succeeded",
        "epoch 3/3, step 12/12 (100%)",
        "test_accuracy 0.7500",
        "test_accuracy 0.7500 with the most frequent class (1): beaten",
        "team: speech",
        "cell: gru",
    ):
        assert words in shown
    assert json.loads(run("show", job.id, "--json").stdout)["id"] == job.id


def test_text_that_a_model_wrote_is_shown_and_commands_no_terminal(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny).id
    service.start(job)
    text = "To be,\nor not\x1b[2J to be\x07.\n\nExeunt"
    service.succeed(job, sample={"text": text, "start": "", "steps": 31, "temperature": 0.8, "seed": 0})
    for command in ("watch", "show"):
        shown = run(command, job).stdout
        assert "ext that the model wrote (temperature 0.8, seed 0)" in shown
        lines = [line.strip() for line in shown.splitlines()]
        at = lines.index("To be,")
        assert lines[at : at + 4] == ["To be,", "or not to be.", "", "Exeunt"]
        assert "\x1b" not in shown


def test_a_model_that_does_not_beat_its_baseline_is_said_to(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.succeed(job.id, not_beaten="The model does not beat its baseline: 0.75 is no more than 0.75.")
    assert "with the most frequent class (1): not beaten" in run("show", job.id).stdout
    told = run("watch", job.id).stdout.splitlines()
    assert told[-1] == "The model does not beat its baseline: 0.75 is no more than 0.75."


def test_advice_and_gradients_are_lines_of_a_result(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    inside = {"gradient_reach": 14, "gradient_steps": 200, "clipped_fraction": 0.25, "dead_units": 1}
    service.succeed(job.id, advice=["Do this.", "Do that."], gradients={**inside, "saturated_fraction": None})
    shown = [" ".join(line.split()) for line in run("show", job.id).stdout.splitlines()]
    at = shown.index("gradients reach 14 of 200 steps, 25% of the updates clipped, 1 dead unit")
    assert shown[at + 1 : at + 3] == ["advice Do this.", "Do that."]
    for command in (["watch", job.id], ["show", job.id, "--json"]):
        assert "Do that." in run(*command).stdout
    assert run("watch", job.id).stdout.splitlines()[-2:] == ["Advice: Do this.", "Advice: Do that."]


def test_an_unknown_job_is_a_sentence_and_code_2(run: Run) -> None:
    done = run("show", "job_nope")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "Error: There is no job 'job_nope'.\n"
    assert run("watch", "last").stderr == "Error: There are no jobs yet.\n"


def test_cancel_says_what_happens(run: Run, service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    assert run("cancel", job.id).stdout == f"Job {job.id} is cancelled.\n"
    assert run("cancel", job.id).stdout == f"Job {job.id} had already ended: cancelled.\n"
    running = client.submit(tiny)
    service.start(running.id)
    assert run("cancel", "last").stdout == f"Job {running.id} is asked to stop; it will within a few seconds.\n"
    assert "running (cancelling)" in run("list").stdout


def test_show_tells_that_a_job_stopped_early_and_the_first_steps_of_a_long_horizon(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    horizon = {"step": [*range(1, 25)], "mae": [0.5] * 24}
    service.succeed(job.id, stopped_early=True, details={"test": {"horizon": horizon}})
    shown = run("show", job.id).stdout
    assert re.search(r"^progress +epoch \d+/3, step \d+/12, stopped early$", shown, re.MULTILINE)
    assert "steps of the horizon of the test split (the first 20 of 24)" in shown


def test_show_tells_the_scores_of_each_class_and_what_is_confused(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    tiny["training"]["loss"] = {"name": "cross_entropy", "label_smoothing": 0.1}
    job = client.submit(tiny)
    service.start(job.id)
    names = ["up\x1b[2Jwards", *range(1, 30)]
    classes = {
        "name": names,
        "precision": [None, *[0.5] * 29],
        "recall": [0.25] * 30,
        "f1": [0.125, *[number / 30 for number in range(1, 30)]],
        "support": [4] * 30,
        "auroc": [0.75] * 30,
    }
    average = {"precision": 0.4, "recall": 0.25, "f1": 0.3125, "auroc": 0.75}
    largest = [{"actual": 2, "predicted": "up\x1b[2Jwards", "count": 3}]
    confusion = {"matrix": None, "largest": largest}
    details = {"test": {"classes": classes, "macro": average, "weighted": average, "confusion": confusion}}
    service.succeed(job.id, details=details)
    shown = run("show", job.id).stdout
    assert "classes of the test split (the 20 worst of 30)" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["1", "0.5000", "0.2500", "0.0333", "4", "0.7500"] in lines
    assert ["macro", "0.4000", "0.2500", "0.3125", "0.7500"] in lines
    assert not any(line[:1] == ["29"] for line in lines)
    assert "\x1b" not in shown
    assert "2 taken for up" in shown
    assert re.search(r"^loss +Label smoothing \(0\.1\) keeps .* With 30 classes it is at least 0\.643\.$", shown, re.M)
    assert shown.count("wards: 3 times") == 1
    found = client.job(job.id).result
    assert found is not None
    assert found.details is not None
    assert found.details["test"]["classes"]["f1"] == classes["f1"]


def test_show_tells_the_errors_of_each_target_and_of_each_step_of_a_forecast(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    errors = {"mase": [0.5, None], "smape": [0.25, 0.75], "mae": [3.0, 4.0], "rmse": [5.0, 6.0]}
    horizon = {"step": [1, 2], **errors}
    lengths = {"shortest": [7, 15], "longest": [14, 29], "sequences": [1234, 25], "rmse": [1.5, 2.5]}
    details = {
        "horizon": horizon,
        "targets": {"name": ["load", "wind"], **errors},
        "lengths": {**lengths, "is_worse": [False, True]},
    }
    service.succeed(job.id, details={"validation": details})
    lines = [line.split() for line in run("show", job.id).stdout.splitlines()]
    assert ["load", "0.5000", "0.2500", "3.0000", "5.0000"] in lines
    assert ["2", "-", "0.7500", "4.0000", "6.0000"] in lines
    assert ["steps", "of", "the", "horizon", "of", "the", "validation", "split"] in lines
    assert ["shortest", "longest", "sequences", "rmse"] in lines
    assert ["15", "29", "25", "2.5000"] in lines


def test_a_model_that_is_incomplete_is_shown_and_downloaded_as_such(
    run: Run, service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.cut_short(job.id)
    what = "the best weights of epoch 2, after 3 epochs (time_limit)"
    assert f"incomplete: {what}" in " ".join(run("show", job.id).stdout.split())
    done = run("download", job.id, "--to", tmp_path / "model")
    assert done.exit_code == 0
    assert f"This model is incomplete: {what}." in done.stderr
    assert (tmp_path / "model" / "model.json").exists()
    found = client.job(job.id)
    assert found.result is not None
    assert (found.result.complete, found.result.incomplete_because) == (False, "time_limit")
    assert f"Its model is incomplete: {what}." in run("watch", job.id).stdout + run("watch", job.id).stderr


def test_download_lists_the_files(
    run: Run, service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = client.submit(tiny)
    assert run("download", job.id).exit_code == 2
    service.start(job.id)
    service.checkpoint(job.id, 4)
    assert (
        "has no checkpoint of step 1: it has those of steps 4." in run("download", job.id, "--checkpoint", "1").stderr
    )
    assert "checkpoints  step 4 (epoch 1, best)\n" in run("show", job.id).stdout
    assert "checkpoint-000000004.json (5 B)" in run("download", job.id, "--checkpoint", "4", "--to", "at-4").stdout
    service.succeed(job.id)
    assert run("download", "last").stdout.splitlines()[0] == f"{job.id}/model.safetensors (7 kB)"
    assert run("download", "last", "--to", tmp_path / "model").exit_code == 0
    assert (tmp_path / "model" / "model.json").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_a_job_that_failed_points_at_its_checkpoints(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.checkpoint(job.id, 4)
    service.fail(job.id)
    told = run("download", job.id).stderr
    assert not Path(job.id).exists()
    assert "ended as failed. Checkpoints are kept of steps 4: " in told
    assert f"`loopline download {job.id} --checkpoint STEP`" in told


def test_piped_tables_have_no_spaces_at_the_ends_of_lines(run: Run, client: Client, tiny: dict[str, Any]) -> None:
    client.submit(tiny)
    client.submit(tiny)
    done = run("list", "-n", "1")
    assert done.stderr == "Only the newest is shown; --limit shows more.\n"
    for line in (done.stdout + run("show", "last").stdout).splitlines():
        assert line == line.rstrip()


def test_presets_are_listed_and_shown_as_yaml(run: Run) -> None:
    assert "basic_gru" in run("presets").stdout
    assert len(json.loads(run("presets", "--json").stdout)) == 9
    shown = run("presets", "dropout_gru").stdout
    assert yaml.safe_load(shown)["architecture"]["cell"] == "gru"
    assert run("presets", "dropout_gruu").stderr == (
        "Error: There is no preset 'dropout_gruu'; did you mean dropout_gru?\n"
    )


def test_data_sets_are_uploaded_listed_and_shown(run: Run, npz: Path) -> None:
    done = run("datasets", "upload", npz, "--name", "vowels")
    assert done.exit_code == 0
    assert done.stdout.startswith("vowels@1 (ds_")
    assert "as vowels@1: 40 sequences of 5 to 9 steps, 3 features, 2 classes, " in done.stderr
    assert json.loads(run("datasets", "upload", npz, "--name", "vowels", "--json").stdout)["version"] == 1
    _, row = run("datasets", "list").stdout.splitlines()
    assert row.split()[:5] == ["vowels@1", "40", "3", "5", "to"]
    assert "2 classes" in row
    shown = run("datasets", "show", "vowels").stdout
    assert "5 to 9 steps" in shown
    assert "0      20" in shown
    assert json.loads(run("datasets", "list", "--json").stdout)[0]["name"] == "vowels"
    assert run("datasets", "show", "nope").exit_code == 2
    assert run("datasets", "upload", "none.npz").stderr == "Error: Cannot read none.npz: No such file or directory.\n"


def test_tags_are_counted_by_steps(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "tags.npz", x=np.ones((6, 4, 2)), y=np.arange(24).reshape(6, 4) % 3)
    done = run("datasets", "upload", tmp_path / "tags.npz", "--name", "words")
    assert "6 sequences of 4 steps, 2 features, 3 tags, one for each step, " in done.stderr
    shown = run("datasets", "show", "words").stdout
    assert "3 tags, one for each step" in shown
    assert [line.split() for line in shown.splitlines()[-4:]] == [["tag", "steps"], ["0", "8"], ["1", "8"], ["2", "8"]]


def test_content_of_an_older_version_is_said_not_to_be_the_newest(run: Run, npz: Path, tmp_path: Path) -> None:
    assert f"Uploaded {npz} as vowels@1: " in run("datasets", "upload", npz, "--name", "vowels").stderr
    second = run("datasets", "upload", npz, "--name", "vowels").stderr
    assert second.startswith(f"The content of {npz} was there already: vowels@1: 40 sequences")
    assert "stays the newest" not in second
    np.savez(tmp_path / "other.npz", x=np.ones((6, 4, 2)), y=np.arange(6) % 2)
    run("datasets", "upload", tmp_path / "other.npz", "--name", "vowels")
    again = run("datasets", "upload", npz, "--name", "vowels")
    assert again.exit_code == 0
    assert "was there already: vowels@1: " in again.stderr
    assert "vowels@2 stays the newest version: name vowels@1 in specs" in again.stderr


def test_what_came_of_files_in_the_inbox_is_listed(run: Run, service: Any, client: Client, npz: Path) -> None:
    assert run("datasets", "inbox").stdout.startswith("Nothing was taken in yet")
    root = npz.parent / "inbox" / "default" / "waves"
    root.mkdir(parents=True)
    (root / "whole.npz").write_bytes(npz.read_bytes())
    (root / "broken.npz").write_bytes(b"no zip")
    source = inbox.Folder(root.parent.parent)
    for entry in sorted(source.entries(), key=lambda entry: entry.file):
        inbox.ingest(service.engine, service.storage, source, entry, Settings(data_dir=npz.parent))
    whole, broken = client.datasets.inbox()
    assert (whole.id, whole.dataset, whole.error) == ("default/waves/whole.npz", "waves@1", None)
    assert (broken.dataset, broken.dataset_id) == (None, None)
    _, first, second = run("datasets", "inbox").stdout.splitlines()
    assert re.split(" {2,}", first) == ["default/waves/whole.npz", "just now", "waves@1"]
    assert re.search(
        "no data set: The file cannot be read as a data set: the file is named .npz, but its content has another",
        second,
    )
    page = json.loads(run("datasets", "inbox", "--json").stdout)
    assert [row["id"] for row in page] == [whole.id, broken.id]


def test_classes_that_were_saved_as_floats_are_pointed_out(run: Run, tmp_path: Path) -> None:
    x = np.ones((6, 4, 2))
    np.savez(tmp_path / "whole.npz", x=x, y=np.arange(6.0) % 3)
    np.savez(tmp_path / "values.npz", x=x, y=np.arange(6) / 4)
    told = run("datasets", "upload", tmp_path / "whole.npz").stderr
    assert "2 features, values to predict (float y)" in told
    assert "Warning: y holds 3 different whole numbers as floats, and is taken as values to predict." in told
    assert "whole number" not in run("datasets", "upload", tmp_path / "values.npz").stderr


def test_labels_and_values_are_counted(run: Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4, 2))
    labels = np.random.default_rng(1).integers(0, 2, (30, 5))
    np.savez(tmp_path / "labels.npz", x=x, y=labels)
    np.savez(tmp_path / "values.npz", x=x, y=labels + 0.5)
    assert "2 features, 5 yes-or-no labels, " in run("datasets", "upload", tmp_path / "labels.npz").stderr
    assert "2 features, 5 values to predict, " in run("datasets", "upload", tmp_path / "values.npz").stderr
    assert "5 yes-or-no labels" in run("datasets", "show", "labels").stdout


def test_warnings_are_told_at_upload_at_submission_and_by_show(
    run: Run, service: Any, client: Client, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((24, 4, 2))
    np.savez(tmp_path / "hot.npz", x=x, y=np.eye(3, dtype=np.int64)[np.arange(24) % 3])
    uploaded = run("datasets", "upload", tmp_path / "hot.npz")
    words = "For classes save y.argmax(axis=1)."
    assert uploaded.stderr.count("Warning: ") == uploaded.stderr.count(words) == 1
    assert words in " ".join(run("datasets", "show", "hot").stdout.split())
    [sentence] = client.datasets.get("hot").warnings

    job = tmp_path / "job.yaml"
    job.write_text("preset: basic_gru\ntraining: {epochs: 1}\ndata: {dataset: hot.npz}\n")
    submitted = run("submit", job)
    assert submitted.stderr.count(f"Warning: {sentence}\n") == 1  # once, though it is uploaded here as well
    assert "Warning" not in submitted.stdout
    [newest] = client.jobs.list()
    assert newest.warnings == [sentence]
    assert words in " ".join(run("show", "last").stdout.split())
    assert run("submit", job, "--set", "training.loss=bce").stderr.count("Warning: ") == 0
    both = run("submit", job, "--batch", "--json")
    assert both.stderr.count("Warning: ") == 1
    assert json.loads(both.stdout)["jobs"][0]["warnings"] == [sentence]

    folder = tmp_path / "inbox" / "default" / "hot"
    folder.mkdir(parents=True)
    (folder / "a.npz").write_bytes((tmp_path / "hot.npz").read_bytes())
    source = inbox.Folder(tmp_path / "inbox")
    for entry in source.entries():
        inbox.ingest(service.engine, service.storage, source, entry, Settings(data_dir=tmp_path))
    [file] = client.datasets.inbox()
    assert file.warnings == [sentence]
    assert "hot@1 (1 warning)" in run("datasets", "inbox").stdout


def test_health_leaves_with_3_when_the_service_cannot_work(
    run: Run, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.0)  # for so long an answer is used again
    done = run("health")
    assert (done.exit_code, "degraded" in done.stdout) == (0, True)
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    done = run("health", "--json")
    assert (done.exit_code, json.loads(done.stdout)["status"]) == (3, "unavailable")


def test_the_way_out_is_told_when_nothing_answers(run: Run, free_port: int) -> None:
    done = run("--url", f"http://127.0.0.1:{free_port}", "--retry-seconds", "0", "list")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == (
        f"Error: Nothing answers at http://127.0.0.1:{free_port} (Connection refused). "
        "Start it with `make run` (on a server `make up`), or point --url or LOOPLINE_URL at your server.\n"
    )


def test_the_address_may_stand_after_the_command_too(run: Run, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPLINE_URL")
    assert run("list", "--url", service.url).exit_code == 0
    assert run("list", f"--url={service.url}").exit_code == 0
    assert run("list", "--url").exit_code == 2


def test_coming_back_to_another_address_names_it(
    run: Run, service: Any, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOOPLINE_URL")
    done = run("--url", service.url, "submit", job_file)
    assert f"Watch it with: loopline --url {service.url} watch job_" in done.stderr


@pytest.mark.parametrize(
    "args", [["lst"], ["show"], ["list", "--limit", "x"], ["list", "--nope"], ["datasets", "nope"]]
)
def test_a_command_line_that_is_wrong_is_code_2(run: Run, args: list[str]) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert "Error" in done.stderr


def test_pause_and_resume_say_what_happens(run: Run, service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    assert run("resume", job.id).stdout == f"Job {job.id} is not paused: queued.\n"
    for _ in range(2):
        assert run("pause", job.id).stdout == f"Job {job.id} is paused. Resume it with: loopline resume {job.id}\n"
    shown = run("show", job.id).stdout
    assert "why it waits  The job was paused on request; resume it to go on from where it stands.\n" in shown
    assert f"resume it     loopline resume {job.id}\n" in shown
    assert run("resume", "last").stdout == f"Job {job.id} is queued again.\n"
    service.start(job.id)
    told = "is asked to pause; it will as soon as it has saved its place."
    assert run("pause", "last").stdout == f"Job {job.id} {told}\n"
    assert "running (pausing)" in run("list").stdout
    assert run("resume", "last").stdout == f"Job {job.id} will not be paused after all: running.\n"


def test_several_jobs_at_once_and_what_is_wrong_with_one_stops_no_other(
    run: Run, client: Client, tiny: dict[str, Any]
) -> None:
    first, second = client.submit(tiny), client.submit(tiny)
    done = run("cancel", first.id, "job_nope", second.id)
    assert (done.exit_code, done.stderr) == (2, "Error: There is no job 'job_nope'.\n")
    assert done.stdout == f"Job {first.id} is cancelled.\nJob {second.id} is cancelled.\n"
    done = run("pause", first.id)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"Error: The job {first.id} has ended (cancelled); there is nothing to pause.\n"
    third = client.submit(tiny)
    done = run("delete", first.id, third.id, second.id)
    assert done.exit_code == 2
    assert done.stdout == f"Deleted job {first.id}.\nDeleted job {second.id}.\n"
    assert "cancel it and wait for its end, then delete it." in done.stderr
    assert [job.id for job in client.jobs.list()] == [third.id]


def test_events_tell_the_story_of_a_job(run: Run, service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.checkpoint(job.id, 4)
    service.do(attempts.fail, job.id, "trainer_crashed", "It crashed.", retry=True, retry_seconds=60)
    assert "1 (1 of 2 retries used)" in run("show", job.id).stdout
    lines = [line.split("  ", 1)[1] for line in run("events", job.id).stdout.splitlines()]
    assert lines[:2] == ["queued", "queued -> running (attempt 1, test:1)"]
    assert lines[2].startswith("checkpoint: Checkpoint at step 4 (epoch 1)")
    assert lines[3].startswith("running -> queued (trainer_crashed): Attempt 1 failed (trainer_crashed) and is tried")
    found = [json.loads(line) for line in run("events", job.id, "--json").stdout.splitlines()]
    assert [event["type"] for event in found] == ["status", "status", "checkpoint", "status"]
    shown = run("show", job.id).stdout
    assert re.search(r"why it waits  trainer_crashed: Attempt 1 failed", shown)
    assert re.search(r"next attempt  not before 20\d\d-", shown)


def test_a_job_that_failed_says_how_to_see_its_log(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    assert run("logs", job.id).stderr == f"Job {job.id} has logged nothing yet.\n"
    service.start(job.id)
    service.log(job.id, "warning", "Careful.", "output", "a\x1b[31m red\x07 word")
    service.fail(job.id)
    assert f"its log   loopline logs {job.id}\n" in run("show", job.id).stdout
    assert run("watch", job.id).stderr == f"See what it logged with: loopline logs {job.id}\n"
    lines = run("logs", job.id).stdout.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["warning  Careful.", "output   a red word"]
    numbers = [json.loads(line)["number"] for line in run("logs", job.id, "--json").stdout.splitlines()]
    assert numbers == [1, 2]


def test_a_log_is_followed_until_the_job_ends(
    run: Run, service: Any, client: Client, tiny: dict[str, Any], in_background: Background
) -> None:
    job = client.submit(tiny)

    def worker() -> None:
        service.start(job.id)
        for n in range(5):
            service.log(job.id, "info", f"line {n}")
        service.succeed(job.id)

    in_background(worker)
    done = run("logs", job.id, "--follow")
    assert (done.exit_code, [line.split()[-1] for line in done.stdout.splitlines()]) == (0, list("01234"))


@pytest.mark.parametrize("how", ["--wait", "--watch"])
def test_a_paused_job_is_waited_for_and_says_so_once(
    run: Run, service: Any, client: Client, job_file: Path, in_background: Background, how: str
) -> None:
    def person_and_worker() -> None:
        assert service.bell.was_rung.wait(20)
        job = client.job("last").pause()
        service.seen(job.id)
        job.resume()
        service.complete(job.id)

    in_background(person_and_worker)
    done = run("submit", job_file, how)
    job = client.job("last")
    assert done.exit_code == 0, done.output
    assert done.stderr.count(f"Resume it with: loopline resume {job.id}") == 1
    assert done.output.count("paused") == 1 + (how == "--watch")
    assert "succeeded" in done.stdout.splitlines()[-2]


def test_workers_are_listed_and_their_absence_is_a_sentence(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    assert run("workers").stdout == "No workers are up. Jobs are accepted and wait until one starts.\n"
    job_id = client.submit(tiny).id
    with db.session_scope(service.engine) as session:
        workers.beat(session, "a:1", queues=["default", "night"], state="idle", job_id=None, doorbell_seconds_ago=None)
        what = {"state": "busy", "job_id": job_id, "device": "NVIDIA H200", "memory_bytes": 150_000_000_000}
        workers.beat(session, "b:2", queues=["default"], doorbell_seconds_ago=90, **what)
    header, idle, busy = run("workers").stdout.splitlines()
    titles = ["worker", "state", "job", "queues", "computes on", "started", "seen", "heard a bell"]
    assert re.split(" {2,}", header) == titles
    assert re.split(" {2,}", idle) == ["a:1", "idle", "-", "default, night", "-", "just now", "just now", "never"]
    device = "NVIDIA H200, 150 GB"
    assert re.split(" {2,}", busy) == ["b:2", "busy", job_id, "default", device, "just now", "just now", "1 min ago"]
    assert [worker["name"] for worker in json.loads(run("workers", "--json").stdout)] == ["a:1", "b:2"]


def test_a_data_set_is_deleted_by_version(run: Run, npz: Path, client: Client, tiny: dict[str, Any]) -> None:
    run("datasets", "upload", npz, "--name", "toy")
    job = client.submit(tiny | {"data": {"dataset": "toy"}})
    done = run("datasets", "delete", "toy@1")
    assert (done.exit_code, "1 job that has not ended uses" in done.stderr) == (2, True)
    job.cancel()
    assert run("datasets", "delete", "toy").stdout.startswith("Deleted toy@1 (ds_")
    assert run("datasets", "delete", "toy").exit_code == 2


def test_a_silent_worker_is_said_with_the_job_and_with_the_worker(
    run: Run, service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    with db.session_scope(service.engine) as session:
        workers.beat(session, "test:1", queues=["default"], state="busy", job_id=job.id, doorbell_seconds_ago=None)
        session.execute(sa.update(Worker).values(seen_at=db.now() - 40))
        session.execute(sa.update(Job).values(lease_until=db.now() + 20))  # of 60 seconds
    assert re.search(r"status +running, nothing heard for 4\d s\n", run("show", job.id).stdout)
    assert "running, nothing heard for 4" in run("list").stdout
    assert re.search(r"test:1 +busy, nothing heard for 4\d s +job_", run("workers").stdout)


def test_the_command_names_commands_where_the_service_names_routes(run: Run, tiny: dict[str, Any]) -> None:
    Path("job.yaml").write_text(yaml.safe_dump(tiny | {"data": {"dataset": "nothing"}}))
    done = run("submit", "job.yaml")
    assert "known: none yet; upload with `loopline datasets upload FILE --name NAME`" in done.stderr
    assert "/v1/" not in done.stderr
