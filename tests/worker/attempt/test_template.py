"""Trainers that are forks of a template: whose children they are, what they inherit, and what survives whose death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.blobs.storage import Storage
from services.orm import Job
from services.training.messages import Ready, Stop, StopReason
from tests.worker.conftest import ROOT, TRAINER
from tests.worker.watching import Watch, is_alive, wait_for_death, wait_until
from worker import process, tasks
from worker.attempt import child
from worker.attempt.child import Template, reason_against_forks
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares, Trainer, trainer_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="trainers are forked only on Linux")

SOURCE = """
import os, signal, subprocess, sys
from worker.attempt import template

if "--template" in sys.argv:
    template.serve(int(sys.argv[sys.argv.index("--parent") + 1]))
print("forked" if "--template" in sys.argv else "fresh", flush=True)
for line in sys.stdin:
    if "cancel" in line:
        sys.exit(7)
    if "pause" in line:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "drain" in line:
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
os._exit(3)
"""
"""A trainer without torch, as quick to start as its template."""
COMMAND = [sys.executable, "-m", "tests.worker.run", SOURCE]
SUPERVISOR = """
import os, signal, sys
from worker.attempt.child import Template
from worker.attempt.spare import Spares

command = [sys.executable, "-m", "tests.worker.run", sys.argv[2]]
template = Template(command, os.environ)
spares = Spares(command, template=template)
spares.prepare()
print(template.pid, spares.take().pid, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _forked_trainers() -> None:
    """Here templates are started as workers start them."""


@pytest.fixture
def stub() -> Iterator[Template]:
    """A template of COMMAND that waits for requests."""
    made = Template(COMMAND, os.environ)
    first = Trainer(command(), {}, made)
    assert said(first) == "forked"
    first.end()
    yield made
    made.end()
    process.adopt_orphans(False)


def command() -> list[str]:
    return [*COMMAND, "--parent", str(os.getpid())]


def said(trainer: Trainer) -> str:
    """The first line that it prints."""
    deadline = time.monotonic() + 20
    while not (lines := trainer.output.take()):
        trainer.wait(0.1)
        trainer.has_exited()
        assert time.monotonic() < deadline
    return lines[0]


def end_of(trainer: Trainer) -> int:
    """Its exit status, once it has ended by itself."""
    wait_until(trainer.has_exited)
    return trainer.end()


def alive(template: Template) -> int:
    assert template.pid is not None
    assert is_alive(template.pid)
    return template.pid


def test_a_fork_is_the_child_of_its_supervisor_and_leads_a_session(stub: Template) -> None:
    trainer = Trainer(command(), {}, stub)
    assert said(trainer) == "forked"
    assert psutil.Process(trainer.pid).ppid() == os.getpid()
    assert os.getsid(trainer.pid) == trainer.pid
    assert psutil.Process(alive(stub)).children() == []
    trainer.end()
    assert not psutil.pid_exists(trainer.pid)


@pytest.mark.parametrize(
    ("asked", "status"), [(StopReason.CANCEL, 7), (StopReason.PAUSE, -signal.SIGSEGV), (None, -signal.SIGTERM)]
)
def test_how_a_fork_ended_is_known(stub: Template, asked: StopReason | None, status: int) -> None:
    trainer = Trainer(command(), {}, stub)
    assert said(trainer) == "forked"
    if asked is None:
        os.kill(trainer.pid, signal.SIGTERM)
    else:
        trainer.send(Stop(asked))
    assert end_of(trainer) == status


def test_what_a_fork_leaves_behind_is_killed_and_reaped(stub: Template) -> None:
    trainer = Trainer(command(), {}, stub)
    assert said(trainer) == "forked"
    trainer.send(Stop(StopReason.DRAIN))
    left = int(said(trainer))
    os.kill(trainer.pid, signal.SIGKILL)
    assert end_of(trainer) == -signal.SIGKILL
    assert not psutil.pid_exists(left)


def test_trainers_survive_their_template_and_the_next_one_is_forked_by_another(stub: Template) -> None:
    trainer = Trainer(command(), {}, stub)
    assert said(trainer) == "forked"
    first = alive(stub)
    os.kill(first, signal.SIGKILL)
    wait_for_death(first, 5)
    following = Trainer(command(), {}, stub)
    assert said(following) == "forked"
    assert alive(stub) != first
    for one in (trainer, following):
        one.send(Stop(StopReason.CANCEL))
        assert end_of(one) == 7


def test_a_template_that_dies_before_it_forks_is_done_without(stub: Template) -> None:
    os.kill(alive(stub), signal.SIGSTOP)
    trainer = Trainer(command(), dict(os.environ), stub)
    trainer.send(Stop(StopReason.CANCEL))  # on the way already
    assert not trainer.has_exited()
    os.kill(alive(stub), signal.SIGKILL)
    assert said(trainer) == "fresh"
    assert end_of(trainer) == 7


def test_a_template_that_hangs_is_killed(stub: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "ANSWER_SECONDS", 0.2)
    hung = alive(stub)
    os.kill(hung, signal.SIGSTOP)
    trainer = Trainer(command(), dict(os.environ), stub)
    assert said(trainer) == "fresh"
    assert not is_alive(hung)
    trainer.end()


def test_a_trainer_that_cannot_be_started_closes_its_own_descriptors_once(stub: Template) -> None:
    os.kill(alive(stub), signal.SIGSTOP)
    trainer = Trainer(["/no/such/command"], {}, stub)
    os.kill(alive(stub), signal.SIGKILL)
    with pytest.raises(FileNotFoundError):
        wait_until(trainer.has_exited)
    others = [end for _ in range(8) for end in os.pipe()]  # they get the numbers that were given back
    assert trainer.has_exited()
    assert trainer.rest() == []
    assert trainer.end() == -signal.SIGKILL
    for end in others:
        os.close(end)


def test_a_trainer_that_is_ended_before_it_was_forked_never_begins(stub: Template) -> None:
    os.kill(alive(stub), signal.SIGSTOP)
    unwanted = Trainer(command(), {}, stub)
    unwanted.send(Stop(StopReason.CANCEL))
    assert unwanted.end() == -signal.SIGKILL
    os.kill(alive(stub), signal.SIGCONT)
    wanted = Trainer(command(), {}, stub)
    assert said(wanted) == "forked"
    children = {
        one.pid for one in psutil.Process().children() if one.cmdline()[1:] == psutil.Process(alive(stub)).cmdline()[1:]
    }
    assert children == {alive(stub), wanted.pid}
    wanted.end()


def test_a_supervisor_that_is_killed_takes_its_template_and_its_trainers_along() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.worker.run", SUPERVISOR, SOURCE], cwd=ROOT, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert all(map(is_alive, pids))
        supervisor.kill()
        for pid in pids:
            wait_for_death(pid, 5)


def test_a_process_with_threads_is_no_template() -> None:
    threads = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    source = [sys.executable, "-m", "tests.worker.run", threads + SOURCE]
    template = Template(source, os.environ)
    fresh = [*source, "--parent", str(os.getpid())]
    for _ in range(2):
        trainer = Trainer(fresh, dict(os.environ), template)
        assert said(trainer) == "fresh"
        trainer.end()
    assert template.pid is None  # and none is started again
    process.adopt_orphans(False)


def test_the_real_template_has_one_thread_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", "postgresql://u:secret@db/x")
    template = Template(TRAINER, trainer_environment(os.environ))
    spares = Spares(TRAINER, template=template)
    trainer = spares.take()
    try:
        while not any(isinstance(event, Ready) for event in trainer.wait(1)):
            assert not trainer.has_exited(), trainer.output.last_words()
        assert psutil.Process(alive(template)).num_threads() == 1
        for pid, name, score in ((alive(template), "template", 0), (trainer.pid, "trainer", 1000)):
            assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert psutil.Process(pid).name() == name
            assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= score
    finally:
        trainer.end()
        template.end()
        process.adopt_orphans(False)


def test_a_fork_trains_bit_for_bit_as_a_process_of_its_own(
    make_job: Callable[..., Job],
    make_slot: Callable[..., Slot],
    storage: Storage,
    template: Template,
    watch: Watch,
) -> None:
    spec: dict[str, Any] = {
        "architecture": {"cell": "gru", "dropout": 0.3, "num_layers": 2},
        "training": {"epochs": 4, "batch_size": 16},
        "data": {"synthetic": {"samples": 80, "length": 6, "features": 2, "classes": 2}},
    }
    made = []
    for spares in (Spares(TRAINER, count=0), Spares(TRAINER, count=0, template=template)):
        job = make_job(**spec)
        tasks.ring(make_slot(spares=spares), "default")
        assert watch.job(job.id).status == "succeeded"
        history = json.loads(storage.job_file(job.id, "history.json").read_text())["epochs"]
        numbers = [{key: value for key, value in epoch.items() if "second" not in key} for epoch in history]
        made.append((storage.job_file(job.id, "model.safetensors").read_bytes(), numbers))
    assert made[0] == made[1]


def test_trainers_are_forked_only_where_that_is_safe() -> None:
    assert reason_against_forks("cpu", "linux") is None
    assert "GPU" in (reason_against_forks("cuda", "linux") or "")
    assert "GPU" in (reason_against_forks("auto", "linux") or "")
    assert "Linux" in (reason_against_forks("cpu", "darwin") or "")
