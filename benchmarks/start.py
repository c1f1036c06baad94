"""How soon things begin: the whole service from nothing, and a job from its submission to its first recorded step.

The job is the tutorial's workload (1000 x 50 x 10, a 2-layer LSTM of 128, batch 64). It is submitted over HTTP, and
counts as begun when its first step can be read from the database. Beside the warm start stands the same service without
spare trainers, whose trainers are forked and take their first steps after the job was claimed.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent
STARTS, WARM, COLD = 3, 15, 3
START_SECONDS, FIRST_STEP_SECONDS = 6.0, 0.150  # what is promised

WORKLOAD: dict[str, Any] = {
    "architecture": {"cell": "lstm", "hidden_size": 128, "num_layers": 2},
    "training": {"epochs": 1000, "batch_size": 64, "max_grad_norm": 1.0},
    "data": {"synthetic": {"samples": 1000, "length": 50, "features": 10, "classes": 2}},
}


@contextmanager
def service(folder: Path, **settings: str) -> Iterator[tuple[str, float]]:
    """A service in a folder of its own: its address, and the seconds until it said that it was ready for jobs. It has
    one worker, so that it is known which processes have the job."""
    began = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")}
    port = free_port()
    own = {"LOOPLINE_DATA_DIR": str(folder), "LOOPLINE_PORT": str(port), "LOOPLINE_CPU_WORKERS": "1", **settings}
    command = [sys.executable, "-m", "local", "run"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment | own, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while not is_ready(url):
            assert process.poll() is None, "the service did not start"
            time.sleep(0.01)
        yield url, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def is_ready(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/v1/health/ready", timeout=5)
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and bool(answer.json()["status"] == "ready")


def free_port() -> int:
    from local.launcher import _free_port

    return _free_port("127.0.0.1")


def first_steps(folder: Path, url: str, times: int, *, spare: bool) -> list[float]:
    """Seconds from the submission to the first recorded step, of several jobs one after the other."""
    found = []
    database = sqlite3.connect(f"file:{folder}/loopline.db?mode=ro", uri=True, isolation_level=None)
    with closing(database), httpx.Client(base_url=url, timeout=30) as client:
        for _ in range(times):
            wait_for_quiet(trainers=1 if spare else 0)
            began = time.perf_counter()
            job_id = client.post("/v1/jobs", json=WORKLOAD).raise_for_status().json()["id"]
            # One short look every few milliseconds: a reader in the way would hold up the commit that it waits for.
            while not database.execute("SELECT step FROM jobs WHERE id = ?", [job_id]).fetchone()[0]:
                time.sleep(0.004)
            found.append(time.perf_counter() - began)
            client.post(f"/v1/jobs/{job_id}/cancel")
            while not client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["terminal"]:
                pass
    return found


def wait_for_quiet(trainers: int) -> None:
    """Until so many trainers stand by and have computed nothing for half a second: the spare is warm."""
    quiet, before = 0, -1.0
    while quiet < 5:
        standing = [one for one in psutil.Process().children(recursive=True) if is_trainer(one)]
        spent = sum(map(busy, standing))
        quiet = quiet + 1 if len(standing) == trainers and spent == before else 0
        before = spent
        time.sleep(0.1)


def is_trainer(process: psutil.Process) -> bool:
    """Whether it trains, or can; the template of trainers has their command line, and another name."""
    try:
        return "worker.trainer" in process.cmdline() and process.name() != "template"
    except psutil.Error:
        return False


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def busy(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def rows() -> list[dict[str, object]]:
    """Cold start of the service; warm start of a job beside that of a service without spares."""
    starts = []
    for _ in range(STARTS):  # with as many workers as it has by default
        with tempfile.TemporaryDirectory() as folder, service(Path(folder), LOOPLINE_CPU_WORKERS="") as (_, seconds):
            starts.append(seconds)
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as (url, _):
        warm = first_steps(Path(folder), url, WARM, spare=True)
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), LOOPLINE_SPARE_TRAINERS="0") as (url, _):
        cold = first_steps(Path(folder), url, COLD, spare=False)
    start, first, without = (statistics.median(times) for times in (starts, warm, cold))
    return [
        {
            "what": f"cold start of the whole service to ready, beside the promised {START_SECONDS:g} s",
            "ours": f"{start:.2f} s",
            "other": f"{START_SECONDS:.2f} s",
            "ratio": START_SECONDS / start,
            "at_least": 1.0,
        },
        {
            "what": f"submit to first recorded step, beside the promised {FIRST_STEP_SECONDS * 1000:.0f} ms",
            "ours": f"{first * 1000:.0f} ms",
            "other": f"{FIRST_STEP_SECONDS * 1000:.0f} ms",
            "ratio": FIRST_STEP_SECONDS / first,
            "at_least": 1.0,
        },
        {
            "what": "submit to first recorded step, beside a service without spare trainers",
            "ours": f"{first * 1000:.0f} ms",
            "other": f"{without * 1000:.0f} ms",
            "ratio": without / first,
            "at_least": None,
        },
    ]


if __name__ == "__main__":
    for row in rows():
        print(row)
