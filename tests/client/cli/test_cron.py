"""The line of docs/cron.md, in cron's bare environment; under a real cron with LOOPLINE_CRON=1."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopline import Client

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "cron.md").read_text()
Background = Callable[..., threading.Thread]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
CRON_SECONDS = 90
"""A line that is due every minute has run by then."""

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="the documented line needs flock (util-linux)")


class Night:
    """A folder as the document has it, and its crontab for this service."""

    def __init__(self, folder: Path, url: str, tiny: dict[str, Any], key: str) -> None:
        self.folder = folder
        (folder / "jobs").mkdir(parents=True)
        for name in ("prices", "speakers"):
            (folder / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(tiny | {"name": name}))
        (folder / "key").write_text(key)
        (folder / "key").chmod(0o600)
        [crontab] = re.findall(r"```crontab\n(.*?)```", DOCUMENT, re.DOTALL)
        for documented, ours in (
            ("http://127.0.0.1:8080", url),
            ("/srv/retrain", str(folder)),
            ("/opt/loopline/.venv/bin/loopline", str(Path(sys.executable).parent / "loopline")),
        ):
            assert documented in crontab
            crontab = crontab.replace(documented, ours)
        *variables, _, self.line = crontab.splitlines()
        self.variables = dict(variable.split("=", 1) for variable in variables)

    @property
    def command(self) -> str:
        """What cron hands to the shell: the line without its times, `\\%` as `%`."""
        return self.line.split(" ", 5)[5].replace(r"\%", "%")

    def run(self) -> subprocess.CompletedProcess[str]:
        """As cron does it: the environment is a handful of words and the crontab's own."""
        bare = {"HOME": "/", "LOGNAME": "nobody", "PATH": "/usr/bin:/bin", **self.variables}
        words = [
            "/usr/bin/env",
            "-i",
            *(f"{name}={value}" for name, value in bare.items()),
            "/bin/sh",
            "-c",
            self.command,
        ]
        return subprocess.run(
            words, cwd="/", capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )


@pytest.fixture
def night(keyed: Any, tmp_path: Path, tiny: dict[str, Any]) -> Night:
    from services import db
    from services.access import keys

    with db.session_scope(keyed.engine) as session:
        key = keys.create(session, "default", ["read", "submit"]).text
    return Night(tmp_path / "retrain", keyed.url, tiny, key)


@pytest.fixture
def looking(night: Night, keyed: Any) -> Iterator[Client]:
    with Client(keyed.url, api_key_file=night.folder / "key") as connected:
        yield connected


def work(service: Any, client: Client, *outcomes: str) -> None:
    """The worker's part: the jobs of the only batch end so, once they are there."""
    assert service.bell.was_rung.wait(CRON_SECONDS)
    [batch] = client.batches.list()
    for row, outcome in zip(batch.refresh().jobs, outcomes, strict=True):
        if outcome == "succeeded":
            service.complete(row.id)
        else:
            service.start(row.id)
            service.fail(row.id)


def test_the_documented_line_works_with_a_bare_environment_and_never_doubles_a_night(
    night: Night, keyed: Any, looking: Client, in_background: Background
) -> None:
    in_background(work, keyed, looking, "succeeded", "succeeded")
    done = night.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert not CONTROL.search(done.stdout)
    submitted, prices, speakers, total = done.stdout.splitlines()
    assert submitted.endswith(" (nightly): 2 jobs.")
    assert prices.startswith("succeeded  prices    test_accuracy 0.7500  ")
    assert speakers.startswith("succeeded  speakers  test_accuracy 0.7500  ")
    assert " (nightly): 2 jobs, 2 succeeded, in " in total
    again = night.run()
    assert (again.returncode, again.stdout.splitlines()[1:]) == (0, [prices, speakers, total])
    assert "before, with this idempotency key" in again.stdout
    assert len([*looking.jobs.list()]) == 2
    (night.folder / "jobs" / "prices.yaml").unlink()
    changed = night.run()
    assert (changed.returncode, changed.stdout) == (2, "")
    assert "Idempotency-Key was used before with another request" in changed.stderr


def test_a_night_that_is_still_going_on_is_not_begun_again(night: Night, keyed: Any, looking: Client) -> None:
    with (night.folder / "lock").open("w") as lock:
        subprocess.run(["flock", "-n", str(lock.fileno())], pass_fds=[lock.fileno()], check=True)
        locked = night.run()
    assert (locked.returncode, locked.stdout, locked.stderr) == (75, "", "")
    assert [*looking.batches.list()] == []


def test_a_failure_and_a_service_that_is_away_reach_crons_mail(
    night: Night, keyed: Any, looking: Client, in_background: Background
) -> None:
    in_background(work, keyed, looking, "failed", "succeeded")
    done = night.run()
    assert done.returncode == 1
    assert re.search(r"^failed +prices .* diverged: Training diverged at step 7\.$", done.stdout, re.MULTILINE)
    assert done.stderr.startswith("See what it logged with: loopline logs job_")
    night.variables["LOOPLINE_URL"] = "http://127.0.0.1:9"
    away = night.run()
    assert (away.returncode, away.stdout) == (3, "")
    assert away.stderr.startswith("Error: ")


@pytest.mark.skipif(
    "LOOPLINE_CRON" not in os.environ, reason="takes a minute and a crontab of this machine: LOOPLINE_CRON=1"
)
@pytest.mark.skipif(shutil.which("cron", path="/usr/sbin") is None, reason="there is no cron daemon")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a cron daemon")
@pytest.mark.timeout(300)
def test_a_real_cron_daemon_runs_the_line(night: Night, keyed: Any, looking: Client, in_background: Background) -> None:
    """The crontab of the document, due every minute, its output and code kept where cron would mail them."""
    in_background(work, keyed, looking, "failed", "succeeded")
    mail, code, environment = (night.folder / name for name in ("mail", "code", "environment"))
    line = night.line.replace("15 2 * * *", "* * * * * root env >" + str(environment) + ";", 1)
    crontab = Path("/etc/cron.d") / f"loopline-test-{uuid.uuid4().hex}"  # cron reads no name with a dot
    kept = [f"{name}={value}\n" for name, value in night.variables.items()]
    try:
        crontab.write_text("".join(kept) + f"{line} >{mail} 2>&1; echo $? >{code}\n")
        crontab.chmod(0o644)
        daemon = subprocess.Popen(["/usr/sbin/cron", "-f", "-L", "0"], env={"PATH": "/usr/sbin:/usr/bin:/bin"})
        try:
            deadline = time.monotonic() + CRON_SECONDS
            while not (code.exists() and code.read_text()):
                assert daemon.poll() is None, "this cron daemon has ended: is another one running?"
                assert time.monotonic() < deadline
                threading.Event().wait(0.2)
        finally:
            daemon.terminate()
            daemon.wait(30)
    finally:
        crontab.unlink(missing_ok=True)
    assert code.read_text() == "1\n"
    told = mail.read_text()
    assert not CONTROL.search(told)
    assert [line.split()[0] for line in told.splitlines()] == ["Submitted", "failed", "succeeded", "Batch", "See"]
    bare = dict(line.split("=", 1) for line in environment.read_text().splitlines())
    assert bare["PATH"] == "/usr/bin:/bin"
    assert bare.keys() - {"PWD", "_", *night.variables} == {"HOME", "LOGNAME", "PATH"}
