"""Real workers with a stub for a trainer; every process is killed at the end of its test, whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from services.blobs.storage import Storage
from services.settings import Settings
from tests import forking
from tests.worker.watching import Process, Watch
from worker import process
from worker.attempt import child, oom
from worker.attempt.child import Template
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares, trainer_command, trainer_environment
from worker.drain import Drain
from worker.scheduler.bell import CeleryDoorbell

ROOT = Path(__file__).parent.parent.parent
STUB = [sys.executable, "-m", "tests.worker.stub_trainer"]
TRAINER = trainer_command(device="cpu", threads=1)
"""The real one."""


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test asks for the other: what the databases do differently is tested with services.jobs."""
    url: str = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")
    return url


@pytest.fixture
def settings(database_url: str, broker_url: str, data_dir: Path) -> Settings:
    """Everything faster than in earnest."""
    return Settings(
        data_dir=data_dir,
        database_url=database_url,
        broker_url=broker_url,
        lease_seconds=4,
        renew_seconds=0.3,
        grace_seconds=0,
        retry_seconds=0,
        reconcile_seconds=0.2,
    )


@pytest.fixture(autouse=True)
def _forked_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers and templates of this process are forks as well."""

    def begin(command: list[str], **options: Any) -> Any:
        is_forked = command[:2] == STUB[:2] or command[:3] == TRAINER[:3]
        with_torch = "worker.trainer" in command
        return (
            forking.Popen(command, torch=with_torch, **options) if is_forked else subprocess.Popen(command, **options)
        )

    monkeypatch.setattr(child, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": begin}))


@pytest.fixture
def make_slot(engine: Engine, storage: Storage, database_url: str, data_dir: Path) -> Iterator[Callable[..., Slot]]:
    """A factory of what a pool process works with, in this process, without Celery or a broker."""
    slots: list[Slot] = []
    if sys.platform == "linux":
        forking.fork_server("service")  # it takes a while to begin: not while a lease runs

    def make(**changes: Any) -> Slot:
        settings = Settings(
            data_dir=data_dir, database_url=database_url, lease_seconds=10, renew_seconds=0.1, retry_seconds=0
        )
        slot = Slot(settings, engine, storage, Spares(STUB, count=0), Drain(), "here:1")
        slots.append(replace(slot, **changes))
        return slots[-1]

    yield make
    for slot in slots:
        slot.spares.end()
        slot.drain.close()


@pytest.fixture(scope="session")
def one_template() -> Iterator[Template]:
    made = Template(TRAINER, trainer_environment(os.environ))
    yield made
    made.end()


@pytest.fixture
def template(one_template: Template) -> Iterator[Template]:
    """The template of TRAINER, which imports torch once for all tests of this process."""
    one_template.start()
    yield one_template
    process.adopt_orphans(False)  # other tests leave theirs to the system


@pytest.fixture
def watch(engine: Engine) -> Watch:
    return Watch(engine)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a Python module as a process of the service, in the test's own world."""
    started: list[Process] = []

    def begin(*arguments: str, also: Mapping[str, str] | None = None, **changes: object) -> Process:
        log = tmp_path / f"process-{len(started)}.log"
        with log.open("wb") as out:
            popen = forking.Popen(
                [sys.executable, "-m", *arguments],
                family=arguments[0] != "tests.worker.run",  # tests look at the environment of what that starts
                cwd=ROOT,
                env={**environment(settings.model_copy(update=changes)), **(also or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(Process(popen, log))
        return started[-1]

    yield begin
    for one in started:
        if one.popen.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
        one.popen.wait()
        print(f"--- {one.log.name}\n{one.log.read_text(errors='replace')}")  # pytest shows it when the test failed


def environment(settings: Settings) -> dict[str, str]:
    """The environment from which `Settings()` reads these settings."""
    given = settings.model_dump(exclude_none=True, exclude_defaults=True)
    own = {f"LOOPLINE_{name.upper()}": str(value) for name, value in given.items()}
    settings.data_dir.mkdir(exist_ok=True)  # a folder that is not there is passed over for the system's
    own["TMPDIR"] = str(settings.data_dir)  # a worker that is killed leaves billiard's folder behind
    return {**{name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")}, **own}


@pytest.fixture
def start_worker(start: Callable[..., Process]) -> Callable[..., Process]:
    """Starts a Celery worker with a stub trainer; one of its processes dies once at each of the points `deaths`."""

    def begin(deaths: str = "", **changes: object) -> Process:
        return start(
            "worker.start", "tests.worker.stub_app", "--without-heartbeat", also={"STUB_DEATHS": deaths}, **changes
        )

    return begin


@pytest.fixture
def bell(settings: Settings) -> Iterator[CeleryDoorbell]:
    made = CeleryDoorbell(settings)
    yield made
    made.close()


@pytest.fixture
def kernel_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how often the kernel has killed for lack of memory, in a cgroup whose members are this thread's children."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text("0::/\n")
    (proc / "mountinfo").write_text(f"30 23 0:26 / {proc} rw - cgroup2 cgroup2 rw\n")
    (proc / "cgroup.procs").symlink_to(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    monkeypatch.setattr(oom, "PROC", proc)

    def count(kills: int) -> None:
        new = proc / "new"
        new.write_text(f"oom 0\noom_kill {kills}\n")
        new.replace(proc / "memory.events.local")  # at once: the attempt reads it at any time

    count(0)
    return count
