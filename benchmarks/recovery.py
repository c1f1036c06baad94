"""How soon a job goes on after a fault, on default settings: from the fault to the next attempt's first step.

Beside each stands what docs/faults.md promises for it. Whatever ends is started again by `make run`, as Docker would.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.start import WORKLOAD, busy, command_of, service, wait_for_quiet
from services import db
from services.jobs import control
from services.training.spec import parse

LOST = 60.0 + 15.0 + 5.0  # the lease, the grace, the scheduler's next look
RETRY = 5.0 + 5.0  # the longest first wait, and the scheduler's next look
RESTART = 15.0  # a worker that ends is started again, with torch
BELL = 5.0  # the scheduler's next look
LONGEST_SECONDS = 150.0


def main_process() -> psutil.Process:
    """Celery's main process."""
    everyone = psutil.Process().children(recursive=True)
    celery = [one for one in everyone if "worker.app" in command_of(one)]
    return next(one for one in celery if one.ppid() not in {other.pid for other in celery})


def supervisor() -> psutil.Process:
    """The pool child."""
    return next(one for one in main_process().children() if "worker.app" in command_of(one))


def trainer() -> psutil.Process:
    """The trainer at work: the spare beside it has done next to nothing."""
    return max((one for one in supervisor().children() if one.name() != "template"), key=busy)


def kill_trainer() -> None:
    trainer().kill()


def kill_supervisor() -> None:
    supervisor().kill()


def kill_worker() -> None:
    main_process().kill()


def stop_worker() -> None:
    main_process().terminate()


FAULTS: list[tuple[str, Callable[[], None], float]] = [
    ("a trainer is killed", kill_trainer, RETRY),
    ("a worker is told to stop, and started again", stop_worker, RESTART),
    ("a supervisor is killed", kill_supervisor, LOST),
    ("a worker is killed, and started again", kill_worker, LOST),
]


@contextmanager
def running_job(client: httpx.Client, database: sqlite3.Connection) -> Iterator[str]:
    """A job that has trained for a few seconds; cancelled afterwards."""
    wait_for_quiet(trainers=1)
    job_id = client.post("/v1/jobs", json=WORKLOAD).raise_for_status().json()["id"]
    try:
        wait_until(lambda: database.execute("SELECT epoch FROM jobs WHERE id = ?", [job_id]).fetchone()[0] > 2)
        yield job_id
    finally:
        client.post(f"/v1/jobs/{job_id}/cancel")
        while not client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["terminal"]:
            pass


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"nothing within {LONGEST_SECONDS:g} s"
        time.sleep(0.02)


def goes_on(database: sqlite3.Connection, job_id: str, attempt: int) -> bool:
    """Whether an attempt after this one has made a step."""
    query = "SELECT attempt > ? AND status = 'running' AND progress_at > attempt_started_at FROM jobs WHERE id = ?"
    return bool(database.execute(query, [attempt, job_id]).fetchone()[0])


def recovery(client: httpx.Client, database: sqlite3.Connection, fault: Callable[[], None]) -> float:
    """Seconds from the fault to the next attempt's first step."""
    with running_job(client, database) as job_id:
        attempt = database.execute("SELECT attempt FROM jobs WHERE id = ?", [job_id]).fetchone()[0]
        began = time.perf_counter()
        fault()
        wait_until(lambda: goes_on(database, job_id, attempt))
        return time.perf_counter() - began


def lost_bell(client: httpx.Client, database: sqlite3.Connection, folder: Path) -> float:
    """Seconds from a job's arrival to its first step when nobody rings for it."""
    wait_for_quiet(trainers=1)
    engine = db.engine(f"sqlite:///{folder}/loopline.db")
    began = time.perf_counter()
    spec = parse(WORKLOAD | {"training": {"epochs": 1, "loss": "cross_entropy"}})
    with db.session_scope(engine) as session:
        [job] = control.create_all(session, [control.Wanted(spec, {}, dataset_id=None)])
        job_id = job.id
    wait_until(lambda: database.execute("SELECT step FROM jobs WHERE id = ?", [job_id]).fetchone()[0])
    took = time.perf_counter() - began
    client.get(f"/v1/jobs/{job_id}", params={"wait": 30})
    engine.dispose()
    return took


def taken_over(client: httpx.Client, database: sqlite3.Connection, folder: Path) -> float:
    """Seconds until a second worker goes on with the job of a frozen supervisor, which then thaws."""
    with running_job(client, database) as job_id:
        frozen = supervisor()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")}
        port = (folder / "valkey" / "port").read_text()
        own = {"LOOPLINE_DATA_DIR": str(folder), "LOOPLINE_BROKER_URL": f"redis://127.0.0.1:{port}/0"}
        command = [sys.executable, "-m", "worker.start", "worker.app"]
        began = time.perf_counter()
        frozen.suspend()
        second = subprocess.Popen(command, env=environment | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: goes_on(database, job_id, 1))
            return time.perf_counter() - began
        finally:
            frozen.resume()
            second.send_signal(signal.SIGTERM)
            second.wait(60)


def row(what: str, seconds: float, promised: float) -> dict[str, object]:
    return {
        "what": f"the job goes on when {what}, beside the {promised:g} s that are promised",
        "ours": f"{seconds:.1f} s",
        "other": f"{promised:g} s",
        "ratio": promised / seconds,
        "at_least": 1.0,
    }


def rows() -> Iterator[dict[str, object]]:
    """A fault a row, one after the other."""
    with tempfile.TemporaryDirectory() as name, service(Path(name)) as (url, _):
        database = sqlite3.connect(f"file:{name}/loopline.db?mode=ro", uri=True, isolation_level=None)
        with closing(database), httpx.Client(base_url=url, timeout=30) as client:
            yield row("its doorbell was lost", lost_bell(client, database, Path(name)), BELL + 1)
            for what, fault, promised in FAULTS:
                yield row(what, recovery(client, database, fault), promised)
            yield row("a supervisor is frozen, beside another worker", taken_over(client, database, Path(name)), LOST)
