"""`python -m worker`: a worker a GPU, with a stub for a trainer, a script for nvidia-smi and one for the self-test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import Engine

from services.blobs.storage import Storage
from services.orm import Job
from services.settings import Settings
from tests.worker.attempt.test_supervisor import go
from tests.worker.gpu.test_devices import FIRST, SECOND, TWO
from tests.worker.test_heartbeat import listed, wait_until
from tests.worker.watching import Process, Watch, is_alive, wait_for_death
from worker import cores
from worker.fleet import CELERY
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
StartFleet = Callable[..., Process]

# Passes unless a file named after the GPU lies in the data folder; says what the real one would.
SELF_TEST = """
import json, os, pathlib, sys, time
folder, uuid = pathlib.Path(os.environ["LOOPLINE_DATA_DIR"]), os.environ["CUDA_VISIBLE_DEVICES"]
with (folder / f"tested-{uuid}").open("a") as file:
    file.write("x")
if (folder / f"hang-{uuid}").exists():
    time.sleep(60)
failed = (folder / f"bad-{uuid}").exists()
step = {"name": "allocate", "passed": not failed, "seconds": 0.1, "detail": "CUDA out of memory: others hold it."}
print(json.dumps({"passed": not failed, "steps": [step]}))
sys.exit(failed)
"""

FLEET = """
import json, os, sys
from services import logs
from services.settings import Settings
from services.blobs.storage import Storage
from worker import fleet, heartbeat
fleet.RETEST_SECONDS = 0.5
settings = Settings()
logs.configure(settings)
worker, test = json.loads(os.environ["STUB_COMMANDS"])
sys.exit(fleet.run(settings, worker, test))
"""


@pytest.fixture
def smi(tmp_path: Path) -> Path:
    """The folder of an nvidia-smi that lists two GPUs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{TWO}END\n")
    (folder / "nvidia-smi").chmod(0o755)
    return folder


@pytest.fixture
def start_fleet(start: Callable[..., Process], smi: Path) -> StartFleet:
    celery = [part if part != "worker.app" else "tests.worker.stub_app" for part in CELERY]

    def begin(*, worker: list[str] | None = None, also: Mapping[str, str] | None = None, **changes: object) -> Process:
        commands = [worker or [sys.executable, "-m", *celery], [sys.executable, "-c", SELF_TEST]]
        given = {"PATH": f"{smi}:{os.environ['PATH']}", "STUB_COMMANDS": json.dumps(commands), **(also or {})}
        return start("tests.worker.run", FLEET, also=given, **{"device": "cuda", **changes})

    return begin


def workers_of(fleet: Process, count: int) -> dict[str, psutil.Process]:
    """The Celery main processes that are up with their pool child, by the GPU that each sees."""

    def found() -> dict[str, psutil.Process]:
        up = {}
        for one in psutil.Process(fleet.pid).children():
            with suppress(psutil.NoSuchProcess):  # it ends between two looks
                if "worker.start" in one.cmdline() and one.children():
                    up[one.environ()["CUDA_VISIBLE_DEVICES"]] = one
        return up

    wait_until(lambda: len(found()) == count, 30)
    return found()


@pytest.mark.parametrize("wanted", [True, False])
def test_celery_speaks_to_its_own_monitors_where_that_is_wanted(start_fleet: StartFleet, wanted: bool) -> None:
    lines = [one.cmdline() for one in workers_of(start_fleet(celery_events=wanted), 2).values()]
    assert ["--without-heartbeat" in line for line in lines] == [not wanted] * 2


def test_each_gpu_gets_a_worker_that_sees_it_alone_and_jobs_run_side_by_side(
    make_job: MakeJob, start_fleet: StartFleet, bell: CeleryDoorbell, watch: Watch
) -> None:
    fleet = start_fleet()
    found = workers_of(fleet, 2)
    assert set(found) == {FIRST, SECOND}
    assert {one.environ()["LOOPLINE_DEVICE"] for one in found.values()} == {"cuda"}
    jobs = [make_job(tags={"stub": "hold"}) for _ in range(2)]
    seen = set()
    for job in jobs:
        bell.ring("default")
        trainer = watch.until(job.id, lambda job: job.step == 1).trainer
        assert trainer is not None
        seen.add(psutil.Process(trainer["pid"]).environ()["CUDA_VISIBLE_DEVICES"])
    assert seen == {FIRST, SECOND}
    family = psutil.Process(fleet.pid).children(recursive=True)
    assert fleet.stop(25) == 0
    for job in jobs:
        given = watch.job(job.id)
        assert (given.status, given.failures, given.lost, given.checkpoint_step) == ("queued", 0, 0, 1)
    assert [one for one in family if is_alive(one.pid)] == []


def test_a_killed_fleet_leaves_no_process(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    workers_of(fleet, 2)
    family = psutil.Process(fleet.pid).children(recursive=True)
    fleet.kill()
    for one in family:
        wait_for_death(one.pid, 20)


def test_a_worker_that_ends_is_tested_and_started_again_and_the_other_is_left_alone(
    start_fleet: StartFleet, settings: Settings
) -> None:
    fleet = start_fleet()
    found = workers_of(fleet, 2)
    found[FIRST].kill()
    wait_for_death(found[FIRST].pid, 5)
    again = workers_of(fleet, 2)
    assert again[FIRST] != found[FIRST]
    assert again[SECOND] == found[SECOND]
    assert [(settings.data_dir / f"tested-{uuid}").read_text() for uuid in (FIRST, SECOND)] == ["xx", "x"]
    assert "the worker on gpu-0 was ended by signal 9; restarting it" in fleet.log.read_text()


def test_a_gpu_that_fails_its_self_test_is_said_to_be_broken_until_it_passes(
    start_fleet: StartFleet, settings: Settings, engine: Engine
) -> None:
    settings.data_dir.mkdir()
    bad = settings.data_dir / f"bad-{SECOND}"
    bad.touch()
    fleet = start_fleet()
    assert list(workers_of(fleet, 1)) == [FIRST]
    wait_until(lambda: {row.state for row in listed(engine)} == {"idle", "broken"})
    [broken] = [row for row in listed(engine) if row.state == "broken"]
    assert broken.name.endswith(":gpu-1")
    assert "failed its self-test and takes no jobs: allocate: CUDA out of memory" in fleet.log.read_text()
    bad.unlink()
    workers_of(fleet, 2)
    wait_until(lambda: [row.state for row in listed(engine)] == ["idle", "idle"])


def test_a_fleet_none_of_whose_gpus_work_ends_with_an_error_and_the_reasons(
    start_fleet: StartFleet, settings: Settings, engine: Engine
) -> None:
    settings.data_dir.mkdir()
    for uuid in (FIRST, SECOND):
        (settings.data_dir / f"bad-{uuid}").touch()
    fleet = start_fleet()
    assert fleet.popen.wait(30) == 1
    assert "No GPU can be used. gpu-0: allocate: CUDA out of memory" in fleet.log.read_text()
    assert [row.state for row in listed(engine)] == ["broken", "broken"]


def test_a_lost_gpu_ends_the_fleet_so_that_its_container_is_started_again(
    start_fleet: StartFleet,
    settings: Settings,
    storage: Storage,
    tmp_path: Path,
    make_job: MakeJob,
    bell: CeleryDoorbell,
    watch: Watch,
) -> None:
    """`systemctl daemon-reload`: no process of the container may open a GPU any more, until the container is new."""
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "nvidiactl").touch()
    fleet = start_fleet(also={"STUB_DEV": str(dev)})
    workers_of(fleet, 2)
    job = make_job(tags={"stub": "hold"})
    bell.ring("default")
    watch.until(job.id, lambda job: job.step == 1)
    for uuid in (FIRST, SECOND):
        (settings.data_dir / f"bad-{uuid}").touch()
    (dev / "nvidiactl").unlink()
    wait_until(lambda: "the GPU is lost" in fleet.log.read_text())
    assert watch.job(job.id).status == "running", "its trainer holds the GPU open"
    go(storage, job)
    assert fleet.popen.wait(30) == 1
    assert watch.job(job.id).status == "succeeded"


def test_a_self_test_that_hangs_is_killed_and_has_failed(
    start_fleet: StartFleet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.data_dir.mkdir()
    for uuid in (FIRST, SECOND):
        (settings.data_dir / f"hang-{uuid}").touch()
    impatient = "from worker import fleet; fleet.TEST_SECONDS = 1.5\n"
    monkeypatch.setattr(sys.modules[__name__], "FLEET", impatient + FLEET)
    fleet = start_fleet()
    assert fleet.popen.wait(30) == 1
    assert "No GPU can be used. gpu-0: The self-test did not end within 1.5 s" in fleet.log.read_text()


def test_where_no_gpu_works_auto_takes_the_cpu(start_fleet: StartFleet, settings: Settings) -> None:
    settings.data_dir.mkdir()
    for uuid in (FIRST, SECOND):
        (settings.data_dir / f"bad-{uuid}").touch()
    fleet = start_fleet(device="auto", cpu_workers=2)
    wait_until(lambda: "no GPU works, the worker uses the CPU" in fleet.log.read_text(), 30)
    assert {one.environ()["LOOPLINE_DEVICE"] for one in cpu_workers_of(fleet, 2)} == {"cpu"}
    assert fleet.stop(25, signal.SIGINT) == 0


def test_workers_share_the_cpu_and_jobs_run_side_by_side(
    make_job: MakeJob, start_fleet: StartFleet, bell: CeleryDoorbell, watch: Watch
) -> None:
    fleet = start_fleet(device="cpu", cpu_workers=2)
    share = str(max(1, cores.count() // 2))
    assert [one.environ()["LOOPLINE_TRAINER_THREADS"] for one in cpu_workers_of(fleet, 2)] == [share] * 2
    jobs = [make_job(tags={"stub": "hold"}) for _ in range(2)]
    for job in jobs:
        bell.ring("default")
        watch.until(job.id, lambda job: job.step == 1)
    assert [watch.job(job.id).status for job in jobs] == ["running"] * 2
    assert len({watch.job(job.id).worker for job in jobs}) == 2
    assert fleet.stop(25) == 0


def cpu_workers_of(fleet: Process, count: int) -> list[psutil.Process]:
    """The Celery main processes that are up with their pool child."""

    def is_up(one: psutil.Process) -> bool:
        try:
            return bool(one.children())
        except psutil.NoSuchProcess:  # what tested a GPU has ended
            return False

    wait_until(lambda: sum(map(is_up, psutil.Process(fleet.pid).children())) == count, 30)
    return psutil.Process(fleet.pid).children()


def test_a_worker_that_ends_again_and_again_is_given_up(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = "import sys; from worker import fleet; fleet.FIRST_WAIT_SECONDS = 0.01\n"
    monkeypatch.setattr(sys.modules[__name__], "FLEET", quick + FLEET)
    fleet = start_fleet(worker=[sys.executable, "-c", "raise SystemExit('it cannot be')"], device="cpu", cpu_workers=1)
    assert fleet.popen.wait(60) == 1
    said = fleet.log.read_text()
    assert "The worker on cpu ended with exit status 1, 6 times in 60 s" in said
    assert said.count("it cannot be") == 6


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_with_the_fix(settings: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env={"PATH": str(tmp_path), "LOOPLINE_DEVICE": "cuda", "LOOPLINE_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "nvidia-ctk runtime configure" in done.stderr
