"""One Celery worker per GPU: finds the GPUs, tests each, starts a worker on each, and restarts workers that end.

Without a GPU, several workers share the CPU; see cores.py.

A member of the fleet is a device and its process. The process is first the self-test. If it passes, the process is a
Celery worker that sees only this device. If a worker exits, its member starts again with the self-test. So a lost GPU
is tested again, and no job is claimed on it meanwhile. A member whose self-test failed is listed as a `broken` worker.

The fleet exits with an error if no member works, or if a worker exits again and again. Then Docker, systemd or `make
run` restarts the fleet. In a container, only this restart makes a lost GPU usable again.

Every process has its own session, and the kernel sends it a signal when the fleet dies. This module imports no torch.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from services import db
from services.errors import Unavailable
from services.jobs import workers
from services.settings import Settings
from worker import cores, process
from worker.gpu.devices import CPU, Device, NoGpu, chosen

ROOT = Path(__file__).resolve().parent.parent
CELERY = ["worker.start", "worker.app"]
WORKER = [sys.executable, "-m", *CELERY]
UNHEARD = ["--without-heartbeat"]  # Celery's own, for its monitors
SELF_TEST = [sys.executable, "-m", "worker.selftest", "--json", "--device", "cuda"]

LOOK_SECONDS = 0.1
TEST_SECONDS = 180.0  # a driver that hangs is one that does not work
KILL_SECONDS = 2.0
STOP_SECONDS = 30.0  # above what a worker gives its trainer to write a checkpoint
MOST_RESTARTS = 5  # of a worker, in this many seconds; then something is wrong that starting again does not mend
RESTARTS_SECONDS = 60.0
FIRST_WAIT_SECONDS = 0.5  # before a worker is started again; it doubles with each time of late
RETEST_SECONDS = 60.0  # between self-tests of a device that failed one while others work; it doubles up to eight times
SAY_SECONDS = 15.0  # between signs of life of a member that is broken

log = logging.getLogger(__name__)


class GivenUp(Exception):
    """No worker can be kept up; the message says why."""


class Member:
    """A device, and the process that tests it or works on it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.process: subprocess.Popen[bytes] | None = None
        self.is_testing = False
        self.trouble: str | None = None
        """Why the self-test failed last; None when it passed, or has not ended yet."""
        self.failed_tests = 0
        self.started: list[float] = []
        self.begin_at = 0.0
        self.say_at = 0.0
        self.kill_at = float("inf")

    @property
    def row(self) -> str:
        """Its name among the workers while it is broken; else its worker has one of its own."""
        return f"{socket.gethostname()}:{self.device.label}"


class Fleet:
    """Runs until `stop` is set, or raises GivenUp; whatever happens, what it started is ended."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[Device],
        worker: Sequence[str],
        self_test: Sequence[str],
    ) -> None:
        self.settings, self.worker, self.self_test = settings, worker, self_test
        self.members = [Member(device) for device in devices]
        self.has_worked = False
        self.engine = db.engine(settings.database_url)

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                for member in self.members:
                    self._look(member)
                self._judge()
                stop.wait(LOOK_SECONDS)
            for member in self.members:
                if member.trouble is not None:
                    self._forget(member)
        finally:
            self._end()
            self.engine.dispose()

    def _look(self, member: Member) -> None:
        now = time.monotonic()
        if member.process is None:
            if now >= member.begin_at:
                self._begin(member)
            elif member.trouble is not None and now >= member.say_at:
                member.say_at = now + SAY_SECONDS
                self._report_broken(member)
        elif process.has_exited(member.process):
            status = self._reap(member)
            if member.is_testing:
                self._tested(member, status)
            else:
                self._ended(member, status)
        elif now >= member.kill_at:  # not even SIGKILL may end it soon, where the driver hangs
            member.kill_at = float("inf")
            process.kill_group(member.process.pid)
            member.trouble = f"The self-test did not end within {TEST_SECONDS:g} s: the driver may hang."

    def _begin(self, member: Member) -> None:
        """The self-test; on the CPU the worker at once: there the first spare trainer is test enough."""
        if member.device.uuid is None:
            self._work(member)
            return
        member.is_testing, member.kill_at = True, time.monotonic() + TEST_SECONDS
        member.process = self._start(member, self.self_test, stdout=subprocess.PIPE)

    def _tested(self, member: Member, status: int) -> None:
        if status == 0:
            member.trouble = None
            log.info("%s (%s) passed its self-test", member.device.label, member.device.name)
            member.failed_tests = 0
            self._forget(member)
            self._work(member)
            return
        wait = RETEST_SECONDS * 2 ** min(member.failed_tests, 3)
        member.failed_tests += 1
        member.begin_at, member.say_at = time.monotonic() + wait, time.monotonic() + SAY_SECONDS
        self._report_broken(member)
        log.error(
            "%s (%s) failed its self-test and takes no jobs: %s",
            member.device.label,
            member.device.name,
            member.trouble,
        )

    def _work(self, member: Member) -> None:
        self.has_worked, member.is_testing, member.kill_at = True, False, float("inf")
        recent = [at for at in member.started if at > time.monotonic() - RESTARTS_SECONDS]
        member.started = [*recent, time.monotonic()]
        member.process = self._start(member, [*self.worker, "--hostname", f"{member.device.label}@%h"])

    def _ended(self, member: Member, status: int) -> None:
        recent = [at for at in member.started if at > time.monotonic() - RESTARTS_SECONDS]
        how = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        if len(recent) > MOST_RESTARTS:
            raise GivenUp(
                f"The worker on {member.device.label} {how}, {len(recent)} times in {RESTARTS_SECONDS:g} s; its log "
                "lines above say why."
            )
        wait = FIRST_WAIT_SECONDS * 2 ** max(0, len(recent) - 1)
        member.begin_at = time.monotonic() + wait
        log.warning("the worker on %s %s; restarting it in %g s", member.device.label, how, wait)

    def _judge(self) -> None:
        """Raises GivenUp when every member is broken; where `auto` found GPUs of which none works, takes the CPU."""
        if not all(member.trouble is not None for member in self.members):
            return
        if self.settings.device == "auto" and not self.has_worked:
            log.warning("no GPU works, the worker uses the CPU; set LOOPLINE_DEVICE=cuda to fail instead")
            self.members = [Member(device) for device in cores.devices(self.settings)]
            return
        troubles = "; ".join(f"{member.device.label}: {member.trouble}" for member in self.members)
        raise GivenUp(f"No GPU can be used. {troubles}")

    # Processes

    def _start(self, member: Member, command: Sequence[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            process.tied(command),
            cwd=ROOT,
            env=environment(member.device, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            start_new_session=True,
        )

    def _reap(self, member: Member) -> int:
        """Its exit status; what a self-test said is noted, and what the process may have left behind is killed."""
        ended = member.process
        assert ended is not None, "it was looked at"  # noqa: S101
        process.kill_group(ended.pid)
        said, _ = ended.communicate()
        member.process = None
        if member.is_testing and ended.returncode and member.kill_at < float("inf"):
            member.trouble = _failure(said, ended.returncode)
        return ended.returncode

    def _end(self) -> None:
        """Tell every worker to give its job back, wait, and kill what does not end."""
        running = [member for member in self.members if member.process is not None]
        for member in running:
            assert member.process is not None  # noqa: S101
            member.process.send_signal(signal.SIGKILL if member.is_testing else signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for member in running:
            assert member.process is not None  # noqa: S101
            if not _wait(member.process, deadline):
                process.kill_group(member.process.pid)
                if not _wait(member.process, time.monotonic() + KILL_SECONDS):
                    log.error("cannot end process %d on %s", member.process.pid, member.device.label)
                    continue
            self._reap(member)

    # The list of workers

    def _report_broken(self, member: Member) -> None:
        """Say among the workers that there is one that cannot work."""
        self._write(
            lambda session: workers.beat(
                session,
                member.row,
                queues=self.settings.queue_names,
                state=workers.State.BROKEN,
                job_id=None,
                doorbell_seconds_ago=None,
            )
        )

    def _forget(self, member: Member) -> None:
        self._write(lambda session: workers.remove(session, member.row))

    def _write(self, write: Callable[[Any], None]) -> None:
        try:
            db.check_schema(self.engine)
            with db.session_scope(self.engine) as session:
                write(session)
        except Unavailable as error:
            log.warning("cannot write the list of workers: %s", error)


def environment(device: Device, inherited: Mapping[str, str]) -> dict[str, str]:
    """What a process on this device gets: it sees this one alone, as its first."""
    if device.uuid is None:
        threads = {} if device.threads is None else {"LOOPLINE_TRAINER_THREADS": str(device.threads)}
        return {**inherited, "LOOPLINE_DEVICE": "cpu", "LOOPLINE_CPU_WORKERS": str(device.workers), **threads}
    return {**inherited, "LOOPLINE_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": device.uuid}


def _wait(child: subprocess.Popen[bytes], deadline: float) -> bool:
    """Whether it has ended, waiting for that."""
    while not (ended := process.has_exited(child)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return ended


def _failure(said: bytes | None, status: int) -> str:
    """What a self-test that has failed found wrong."""
    try:
        steps = json.loads((said or b"").splitlines()[-1])["steps"]
        return " ".join(f"{step['name']}: {step['detail']}" for step in steps if not step["passed"])
    except (ValueError, KeyError, IndexError, TypeError):
        return f"The self-test ended with status {status} and said nothing."


def run(settings: Settings, worker: Sequence[str] = WORKER, self_test: Sequence[str] = SELF_TEST) -> int:
    """Keep workers up until SIGTERM or SIGINT. Returns the exit status: 1 when that cannot be done."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        devices = chosen(settings.device, os.environ, gpus=settings.gpus)
        if devices == [CPU]:
            devices = cores.devices(settings)
        log.info(
            "starting one worker for each of %s", ", ".join(f"{device.label} ({device.name})" for device in devices)
        )
        Fleet(settings, devices, [*worker, *([] if settings.celery_events else UNHEARD)], self_test).run(stop)
    except (GivenUp, NoGpu) as error:
        log.error("%s", error)
        return 1
    return 0
