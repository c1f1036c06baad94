"""Batches by the client and the command: one submission, one table, the exit code of the worst job."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from loopline import BadRequest, Batch, Client, WaitTimeout
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from services import db
from services.orm import Job

CLIENT = Path(__file__).parents[3] / "client"
Run = Callable[..., Result]
Background = Callable[..., threading.Thread]


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command against the service, as from a script in a folder of its own: stdout is no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOPLINE_URL", service.url)

    def invoke(*args: str | Path) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)

    return invoke


@pytest.fixture
def files(tmp_path: Path, tiny: dict[str, Any]) -> list[str]:
    """Three specs, one of them JSON, by their names in the folder of `run`."""
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tiny | {"name": "a"}))
    (tmp_path / "b.yaml").write_text("# a comment\n" + yaml.safe_dump(tiny | {"name": "b"}))
    (tmp_path / "c.json").write_text(json.dumps(tiny | {"name": "c"}, indent="\t"))
    return ["a.yaml", "b.yaml", "c.json"]


@pytest.fixture
def sweep(tmp_path: Path, tiny: dict[str, Any]) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tiny) + "matrix: {training.optimizer.lr: [1e-3, 1e-4], training.seed: [1, 2]}\n")
    return path


def end(service: Any, client: Client, *outcomes: str) -> None:
    """Lets the jobs of the only batch end so, in order."""
    [batch] = client.batches.list()
    for row, outcome in zip(batch.refresh().jobs, outcomes, strict=True):
        if outcome == "succeeded":
            service.complete(row.id)
        elif outcome == "failed":
            service.start(row.id)
            service.epoch(row.id, 1)
            service.fail(row.id, message="Training diverged at\nstep 7.\x1b[2J")
        else:
            service.cancel(row.id)


def test_files_are_a_batch_and_each_word_arrives_as_it_was_written(
    run: Run, client: Client, files: list[str], tmp_path: Path
) -> None:
    (tmp_path / "b.yaml").write_text((tmp_path / "b.yaml").read_text() + "tags: {night: no, lr: '1e-3'}\n")
    done = run("submit", *files, "--name", "night", "-s", "training.optimizer.lr=3e-4")
    [batch] = client.batches.list()
    assert (done.exit_code, done.stdout) == (0, f"Submitted {batch.id} (night): 3 jobs.\n")
    assert done.stderr == f"Watch it with: loopline batches watch {batch.id}\n"
    batch = batch.refresh()
    assert [row.name for row in batch.jobs] == ["a", "b", "c"]
    jobs = [client.job(row.id) for row in batch.jobs]
    assert {job.spec["training"]["optimizer"]["lr"] for job in jobs} == {3e-4}
    assert jobs[1].tags == {"night": "no", "lr": "1e-3"}


def test_a_file_with_a_matrix_is_a_batch(run: Run, client: Client, sweep: Path) -> None:
    assert run("submit", sweep, "--name", "night").exit_code == 0
    [batch] = client.batches.list()
    batch = batch.refresh()
    assert (batch.name, batch.varied) == ("night", ("training.optimizer.lr", "training.seed"))
    assert [row.name for row in batch.jobs][:2] == ["night[lr=0.001, seed=1]", "night[lr=0.001, seed=2]"]
    assert batch.jobs[3].cell == {"training.optimizer.lr": 1e-4, "training.seed": 2}


def test_a_batch_of_one_has_a_name_and_its_job_keeps_its_own(run: Run, client: Client, files: list[str]) -> None:
    assert run("submit", "a.yaml", "--batch", "--name", "night").exit_code == 0
    [batch] = client.batches.list()
    assert (batch.name, [row.name for row in batch.refresh().jobs]) == ("night", ["a"])
    wrong = run("submit", "a.yaml", "--batch", "--name", "night", "--set", "training.epochs=0")
    assert wrong.exit_code == 2
    assert "  a.yaml /training/epochs: " in wrong.stderr


def test_data_sets_of_a_matrix_are_uploaded_where_they_are_files(
    run: Run, client: Client, npz: Path, tiny: dict[str, Any]
) -> None:
    client.upload(npz, "known")
    asked = {"data.dataset": ["known", "./small.npz"]}
    (npz.parent / "sweep.yaml").write_text(yaml.safe_dump(tiny | {"data": {}, "matrix": asked}))
    done = run("submit", "sweep.yaml")
    assert done.exit_code == 0, done.stderr
    [batch] = client.batches.list()
    assert [row.cell["data.dataset"] for row in batch.refresh().jobs] == ["known", "small@1"]
    (npz.parent / "sweep.yaml").write_text(
        yaml.safe_dump(tiny | {"data": {}, "matrix": {"data.dataset": ["./no.npz"]}})
    )
    done = run("submit", "sweep.yaml")
    assert done.exit_code == 2
    assert "/matrix/data.dataset/0: there is no file" in done.stderr


def test_problems_are_told_by_the_name_of_their_file(
    run: Run, client: Client, files: list[str], tmp_path: Path
) -> None:
    spec = yaml.safe_load((tmp_path / "b.yaml").read_text())
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(spec | {"nonsense": 1, "priority": "x"}))
    done = run("submit", *files, "--set", "training.epochs=-1")
    assert (done.exit_code, done.stdout) == (2, "")
    told = [line.split(":")[0] for line in done.stderr.splitlines()[1:]]
    assert sorted(told) == [
        "  a.yaml /training/epochs",
        *(f"  b.yaml /{field}" for field in ("nonsense", "priority", "training/epochs")),
        "  c.json /training/epochs",
    ]
    assert [*client.batches.list()] == [*client.jobs.list()] == []
    (tmp_path / "b.yaml").write_text("a: [")
    assert re.match(r"Error: b\.yaml: This is not YAML \(line ", run("submit", *files).stderr)
    assert (
        run("submit", "a.yaml", "nothing.yaml").stderr
        == "Error: Cannot read nothing.yaml: No such file or directory.\n"
    )


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (("succeeded", "succeeded", "succeeded"), 0),
        (("succeeded", "cancelled", "failed"), 1),
        (("succeeded", "cancelled", "succeeded"), 4),
    ],
)
def test_wait_prints_a_line_for_each_job_and_leaves_as_the_worst(
    run: Run, service: Any, client: Client, files: list[str], in_background: Background, outcomes: Any, code: int
) -> None:
    def work() -> None:
        assert service.bell.was_rung.wait(30)
        end(service, client, *outcomes)

    in_background(work)
    done = run("submit", *files, "--name", "night", "--wait", "--idempotency-key", "night-1")
    assert done.exit_code == code
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]| $", done.stdout, re.MULTILINE)
    submitted, *lines, total = done.stdout.splitlines()
    [batch] = client.batches.list()
    assert submitted == f"Submitted {batch.id} (night): 3 jobs."
    assert [tuple(line.split()[:2]) for line in lines] == [*zip(outcomes, "abc", strict=True)]
    assert re.search(rf"a  test_accuracy 0\.7500  +[0-9.]+ s +{batch.refresh().jobs[0].id}$", lines[0])
    if "failed" in outcomes:
        assert re.search(r"c  validation_loss 1.1000 .* diverged: Training diverged at step 7\.$", lines[2])
        assert done.stderr.endswith(f"See what it logged with: loopline logs {batch.refresh().jobs[2].id}\n")
    else:
        assert done.stderr == ""
    assert re.match(
        rf"Batch {batch.id} \(night\): 3 jobs, [123] succeeded.*, in [0-9.]+ s\."
        r"( The best is a: test_accuracy 0\.7500 \(job_.*\)\.)?$",
        total,
    )

    again = run("submit", *files, "--name", "night", "--wait", "--idempotency-key", "night-1")
    assert again.exit_code == code  # the same night, once more
    assert again.stdout.splitlines()[0] == (f"Submitted {batch.id} (night) before, with this idempotency key: 3 jobs.")
    assert again.stdout.splitlines()[1:] == done.stdout.splitlines()[1:]
    assert len([*client.jobs.list()]) == 3


def test_watching_elsewhere_than_on_a_terminal_prints_a_line_as_each_job_ends(
    run: Run, service: Any, client: Client, files: list[str], in_background: Background
) -> None:
    run("submit", *files)
    in_background(end, service, client, "succeeded", "failed", "cancelled")
    done = run("batches", "watch", "last")
    assert done.exit_code == 1
    ended = [line for line in done.stdout.splitlines() if not line.startswith("running")]
    assert [line.split("  ")[0] for line in ended[:-1]] == ["succeeded", "failed", "cancelled"]
    assert "\x1b" not in done.stdout
    assert json.loads(run("batches", "show", "last", "--json").stdout)["status"] == "failed"
    assert run("batches", "show", "last").stdout.splitlines()[-1] == ended[-1]


def test_a_silent_worker_is_said_with_the_batch(
    run: Run, service: Any, client: Client, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("submit", *files)
    [batch] = client.batches.list()
    job, *others = batch.refresh().jobs
    service.start(job.id)
    assert "nothing heard" not in run("batches", "show", "last").stdout
    monkeypatch.setattr("loopline.polling.SILENCE_SECONDS", 0.0)
    monkeypatch.setattr("loopline.polling.POLL_SECONDS", 0.6)
    looks = batch.changes()
    assert next(looks).jobs[0].silent_since is None
    with db.session_scope(service.engine) as session:
        left = db.now() + 20  # of 60 seconds
        session.execute(sa.update(Job).where(Job.id == job.id).values(lease_until=left))
    silent, *others_shown = next(looks).jobs
    assert silent.silent_since is not None
    assert [one.silent_since for one in others_shown] == [None for _ in others]
    shown = run("batches", "show", "last").stdout
    assert re.search(r"^running +a +epoch 0/\d+, nothing heard for 4\d s", shown, re.MULTILINE)
    assert shown.count("nothing heard") == 1


def test_batches_are_listed_and_cancelled(run: Run, client: Client, sweep: Path) -> None:
    assert run("batches", "list").stdout == "No batches yet. Submit one: loopline submit jobs/*.yaml\n"
    assert run("batches", "show", "last").stderr == "Error: There are no batches yet.\n"
    assert json.loads(run("submit", sweep, "--json").stdout)["total"] == 4
    [batch] = client.batches.list()
    assert re.search(rf"^{batch.id}  tiny  queued +4  +4 queued", run("batches", "list").stdout, re.MULTILINE)
    done = run("batches", "cancel", "last", "batch_nothing")
    assert done.exit_code == 2
    assert done.stdout.startswith(f"Batch {batch.id} (tiny): 4 jobs, 4 cancelled")
    assert "There is no batch" in done.stderr
    assert json.loads(run("batches", "list", "--json").stdout)[0]["counts"]["cancelled"] == 4


def test_the_client_submits_waits_for_and_cancels_a_batch(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        client.batches.submit([tiny, tiny | {"nonsense": 1}])
    assert [problem.pointer for problem in refused.value.problems] == ["/jobs/1/nonsense"]
    batch = client.batches.submit(tiny | {"matrix": {"training.seed": [1, 2]}}, name="night", idempotency_key="k")
    assert client.batches.submit(
        tiny | {"matrix": {"training.seed": [1, 2]}}, name="night", idempotency_key="k"
    ).replayed
    assert (batch.name, batch.status, batch.total, batch.replayed) == ("night", "queued", 2, False)
    with pytest.raises(WaitTimeout, match="is still queued after"):
        batch.wait(0.1)
    service.complete(batch.jobs[0].id)
    assert batch.cancel().status == "cancelled"
    ended = batch.wait(10)
    assert (ended.status, ended.terminal, ended.fraction) == ("cancelled", True, 1.0)
    assert ended.jobs[0].metrics["test_accuracy"] == 0.75
    assert ended.seconds is not None
    with pytest.raises(RuntimeError, match="not read through a Client"):
        Batch.of({"id": "batch_1", "status": "queued"}).refresh()


def test_on_a_terminal_the_table_is_drawn_in_place(
    service: Any, client: Client, tiny: dict[str, Any], in_background: Background
) -> None:
    batch = client.batches.submit(tiny | {"matrix": {"training.seed": [*range(30)]}})
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 14, 100, 0, 0))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CLIENT), "LOOPLINE_URL": service.url, "TERM": "xterm"}
    line = [sys.executable, "-m", "loopline.cli", "batches", "watch", batch.id]
    process = subprocess.Popen(line, env=environment, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    seen = b""
    worked = False
    while chunk := _read(ours):
        seen += chunk
        if not worked and b"more jobs not shown" in seen:
            worked = True
            in_background(end, service, client, "succeeded", "failed", *["cancelled"] * 28)
    os.close(ours)
    assert process.wait(30) == 1
    drawn = seen.decode()
    assert "(21 more jobs not shown)" in drawn
    assert "\x1b[?25h" in drawn  # the cursor is back
    last = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", drawn).splitlines()
    failed = batch.jobs[1]
    assert any(line.startswith("failed") and f"{failed.name}" in line for line in last[-33:])
    assert "  why: diverged: Training diverged at step 7." in [line.rstrip() for line in last]
    assert "30 jobs, 1 succeeded, 1 failed, 28 cancelled" in "".join(last[-4:])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end was closed
        return b""
