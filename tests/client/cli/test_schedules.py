"""Schedules from the client's side: docs/schedules.md as it stands there, the views, and exit codes."""

from __future__ import annotations

import json
import re
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from loopline import BadRequest, Client, Conflict, NotFound, schedules
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from services import db
from services.jobs import attempts
from services.jobs.leases import Lease
from services.orm import Schedule
from services.schedules.outcomes import Outcome, Reason
from tests.client.cli.test_terminal import Terminal, command, environment
from tests.client.test_retries import hanging_up
from worker.scheduler.loop import keep_schedules

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
Run = Callable[..., Result]


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command against the service, in an empty folder."""
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    monkeypatch.setattr(schedules, "LOOK_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def nightly(tmp_path: Path, tiny: dict[str, Any]) -> Path:
    """A schedule of two jobs, as a file."""
    document = {
        "cron": "30 2 * * *",
        "time_zone": "Europe/Berlin",
        "submit": {"jobs": [tiny, tiny | {"name": "other"}]},
    }
    path = tmp_path / "nightly.yaml"
    path.write_text(json.dumps(document))  # which is YAML too, and has no aliases
    return path


def finish(service: Any, *, fail: int = 0) -> None:
    """Let every job that waits come to its end, the first `fail` of them badly."""
    with db.session_scope(service.engine) as session:
        while (job := attempts.claim(session, "default", worker="test:1", lease_seconds=60)) is not None:
            if fail > 0:
                attempts.fail(session, Lease.of(job), "diverged", "Training diverged at step 7.", retry=False)
            else:
                result = {"best_epoch": 3, "epochs": 3, "stopped_early": False, "metrics": {"test_accuracy": 0.75}}
                attempts.succeed(session, Lease.of(job), result, [])
            fail -= 1
    keep_schedules(service.engine)


def let_slots_come(service: Any, *, seconds_ago: float) -> None:
    """As if the next slot of every schedule had been due so long ago."""
    with db.session_scope(service.engine) as session:
        session.execute(sa.update(Schedule).values(due_at=db.now() - seconds_ago, next_slot=db.now() - seconds_ago))
    keep_schedules(service.engine)


def until_it_waits(service: Any) -> None:
    """Until a run that waits for its turn has looked for it."""
    deadline = time.monotonic() + 30
    while not any("/firings" in path for _, path, _ in service.requests):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def work(service: Any, ended: threading.Event) -> None:
    """Trains what comes, so to say."""
    while not ended.is_set():
        service.bell.was_rung.wait(0.05)
        finish(service)


@pytest.fixture
def working(service: Any, in_background: Callable[..., Any]) -> Any:
    """While the test runs, jobs are trained."""
    ended = threading.Event()
    thread = in_background(work, service, ended)
    yield
    ended.set()
    thread.join(30)


def test_the_page_works_from_top_to_bottom(run: Run, tmp_path: Path, working: None) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    [document] = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "nightly.yaml").write_text(document)
    told = {}
    for line in "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines():
        words = shlex.split(line)
        assert words[0] == "loopline"
        done = run(*words[1:])
        assert done.exit_code == 0, (line, done.output)
        told[words[2]] = done.stdout
    assert re.fullmatch(r"nightly: next \w{3} \d{4}-\d\d-\d\d 02:30 \(Europe/Berlin\), in \d+ (h|min)\.\n", told["set"])
    assert re.split(" {2,}", told["list"].splitlines()[1])[:2] == ["nightly", "30 2 * * * Europe/Berlin"]
    lines = told["run"].splitlines()
    assert re.fullmatch(r"Submitted batch_\w+ \(speakers\): 2 jobs\.", lines[0])
    assert [line.split()[0] for line in lines[1:3]] == ["succeeded", "succeeded"]
    assert re.fullmatch(r"Batch batch_\w+ \(speakers\): 2 jobs, 2 succeeded, in .+\.", lines[3])
    assert re.split(" {2,}", told["history"].splitlines()[0])[0] == "slot (Berlin)"
    assert re.split(" {2,}", told["history"].splitlines()[1])[:3] == ["by hand", "succeeded", "2 ok"]
    assert told["pause"] == "nightly is paused.\n"
    assert re.search(r"^overlap +skip$", told["show"], re.MULTILINE)
    assert "    training.optimizer.lr: [" in told["show"]
    assert told["delete"] == "Deleted nightly; its batches stay.\n"


def test_the_schedule_of_the_example_can_be_set(run: Run, client: Client) -> None:
    client.upload(ROOT / "data" / "japanese-vowels.npz", "speakers")
    done = run("schedules", "set", ROOT / "examples" / "nightly" / "schedule.yaml")
    assert done.exit_code == 0, done.output
    assert client.schedules.get("nightly").only_new_data
    assert run("schedules", "run", "nightly").exit_code == 0


def test_every_outcome_and_reason_is_on_the_page() -> None:
    tables = PAGE.split("## Outcomes of a slot\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| [^`]", tables, re.MULTILINE) == [str(outcome) for outcome in Outcome]
    assert re.findall(r"^\| `(\w+)` \| `", tables, re.MULTILINE) == [str(reason) for reason in Reason]


def test_nothing_there_says_how_to_begin(run: Run, nightly: Path) -> None:
    assert run("schedules", "list").stdout == "No schedules yet. Make one: loopline schedules set nightly.yaml\n"
    run("schedules", "set", nightly)
    done = run("schedules", "history", "nightly")
    assert done.stdout.startswith("Nothing was due yet. nightly: next ")
    assert done.stderr.startswith("Run it now with: loopline ")


def test_a_history_says_what_came_of_each_slot_and_why(run: Run, service: Any, nightly: Path) -> None:
    run("schedules", "set", nightly)
    for seconds_ago, fail in ((5, 0), (4, 1)):
        let_slots_come(service, seconds_ago=seconds_ago)
        finish(service, fail=fail)
    let_slots_come(service, seconds_ago=3)
    let_slots_come(service, seconds_ago=2)
    finish(service)
    shown = run("schedules", "history", "nightly").stdout
    rows = [re.split(" {2,}", line) for line in shown.splitlines()[1:]]
    assert [row[1:3] for row in rows] == [
        ["skipped", "-"],
        ["succeeded", "2 ok"],
        ["failed", "1 ok, 1 failed"],
        ["succeeded", "2 ok"],
    ]
    assert rows[0][-1].startswith("The batch before it had not ended.")
    assert rows[2][-1].startswith("1 of 2 jobs failed: `loopline batches show batch_")
    listed = run("schedules", "list").stdout.splitlines()[1]
    assert "skipped (overlap), just now" in listed
    assert run("schedules", "history", "nightly", "-n", "2").stderr.startswith("The newest 2 are shown")
    assert "\x1b" not in shown + listed


@pytest.mark.parametrize(("columns", "views"), [(80, ["list", "history nightly"]), (120, ["show nightly"])])
def test_a_terminal_of_any_width_shows_every_word(
    run: Run, service: Any, nightly: Path, columns: int, views: list[str]
) -> None:
    run("schedules", "set", nightly)
    let_slots_come(service, seconds_ago=5)
    finish(service, fail=1)
    let_slots_come(service, seconds_ago=4)
    for words in views:
        terminal = Terminal(command("schedules", *words.split()), environment(service.url), rows=40, columns=columns)
        assert terminal.end() == 0
        lines = terminal.text.replace("\r", "").splitlines()
        assert max(len(line) for line in lines) <= columns
        assert "…" not in terminal.text
        assert "fired" in terminal.text
        if words.startswith("history"):
            assert "1 ok, 1 failed" in terminal.text
            assert "\x1b[31mfailed" in terminal.written


def test_the_exit_code_of_a_run_is_that_of_its_batch(run: Run, service: Any, nightly: Path, working: None) -> None:
    run("schedules", "set", nightly)
    done = run("schedules", "run", "nightly", "--wait", "--json")
    assert (done.exit_code, json.loads(done.stdout)["status"]) == (0, "succeeded")
    assert run("schedules", "run", "nothing").exit_code == 2


def test_a_run_that_fails_says_so_to_cron(
    run: Run, service: Any, nightly: Path, in_background: Callable[..., Any]
) -> None:
    run("schedules", "set", nightly)

    def fail() -> None:
        assert service.bell.was_rung.wait(30)
        finish(service, fail=1)

    in_background(fail)
    done = run("schedules", "run", "nightly", "--wait")
    assert done.exit_code == 1
    assert "1 succeeded, 1 failed" in done.stdout


def test_a_run_waits_for_its_turn(
    run: Run, service: Any, client: Client, nightly: Path, in_background: Callable[..., Any]
) -> None:
    client.schedules.set(yaml.safe_load(nightly.read_text()) | {"overlap": "queue", "name": "nightly"})
    first = client.schedules.run("nightly")
    assert (first.outcome, first.reason) == ("fired", "run_now")

    def later() -> None:
        until_it_waits(service)
        for _ in range(2):
            finish(service)

    in_background(later)
    done = run("schedules", "run", "nightly", "--wait")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"nightly: waiting. It waits for the end of {first.batch_id}."
    assert lines[1].startswith("Submitted batch_")


def test_a_run_that_is_left_out_while_it_waits_was_cancelled(
    run: Run, service: Any, client: Client, nightly: Path, in_background: Callable[..., Any]
) -> None:
    client.schedules.set(yaml.safe_load(nightly.read_text()) | {"overlap": "queue", "name": "nightly"})
    client.schedules.run("nightly")

    def later() -> None:
        until_it_waits(service)
        client.schedules.pause("nightly")

    in_background(later)
    done = run("schedules", "run", "nightly", "--wait")
    assert done.exit_code == 4
    assert done.stderr.startswith("nightly: skipped. The schedule was paused while it waited")


def test_what_is_busy_says_the_way_out(run: Run, nightly: Path) -> None:
    run("schedules", "set", nightly)
    assert run("schedules", "run", "nightly").exit_code == 0
    done = run("schedules", "run", "nightly")
    assert done.exit_code == 2
    assert re.search(r"`loopline batches cancel batch_\w+`\), or set `overlap` to queue or replace\.", done.stderr)


def test_files_that_are_wrong_are_told_and_the_others_are_set(run: Run, nightly: Path, tmp_path: Path) -> None:
    (tmp_path / "at.yaml").write_text("cron: @daily\n")
    (tmp_path / "wrong.yaml").write_text('cron: "61 * * * *"\nsubmit: {preset: basic_gruu}\n')
    done = run("schedules", "set", "at.yaml", "wrong.yaml", nightly)
    assert done.exit_code == 2
    assert done.stdout.startswith("nightly: next ")
    assert 'A cron expression goes in quotes: cron: "30 2 * * *".' in done.stderr
    assert "wrong.yaml: The schedule has" in done.stderr
    assert "/submit/preset: must be one of" in done.stderr
    assert run("schedules", "set", nightly, nightly, "--name", "x").exit_code == 2
    named = run("schedules", "set", nightly, "--name", "other", "--json")
    assert [schedule["name"] for schedule in json.loads(named.stdout)] == ["other"]


def test_each_of_several_names_is_done(run: Run, nightly: Path) -> None:
    run("schedules", "set", nightly)
    for verb, said in (("pause", "nightly is paused."), ("resume", "nightly: next "), ("delete", "Deleted nightly")):
        done = run("schedules", verb, "nothing", "nightly")
        assert (done.exit_code, done.stderr) == (2, "Error: There is no schedule nothing.\n")
        assert done.stdout.startswith(said)


def test_the_library_says_the_same(client: Client, service: Any, tiny: dict[str, Any]) -> None:
    document = {"name": "nightly", "cron": "0 6 * * *", "time_zone": "Australia/Sydney", "submit": tiny}
    made = client.schedules.set(document)
    assert client.schedules.set(document) == made
    assert (made.last, len(made.next), made.next[0].hour) == (None, 3, 6)
    firing = client.schedules.run("nightly", idempotency_key="once")
    assert client.schedules.run("nightly", idempotency_key="once") == firing
    assert client.batches.get(firing.batch_id or "").schedule_id == made.id
    with pytest.raises(Conflict) as busy:
        client.schedules.run("nightly")
    assert busy.value.code == "schedule_busy"
    finish(service)
    [ended] = client.schedules.firings(made.id)
    assert (ended.outcome, ended.counts) == ("succeeded", {"succeeded": 1})
    assert [schedule.last for schedule in client.schedules.list()] == [ended]
    with pytest.raises(BadRequest, match="needs a name"):
        client.schedules.set({"cron": "@daily", "submit": tiny})
    with pytest.raises(NotFound):
        client.schedules.get("nothing")


def test_a_run_whose_answer_is_lost_is_one_run(client: Client, service: Any, tiny: dict[str, Any]) -> None:
    client.schedules.set({"name": "nightly", "cron": "@daily", "submit": tiny})
    answer = service.app.wsgi_app
    service.wrap(hanging_up(times=2, then=answer))
    client.schedules.run("nightly")
    service.wrap(answer)
    assert len([*client.schedules.firings("nightly")]) == 1
