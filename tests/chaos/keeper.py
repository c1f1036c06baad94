"""Keeps the processes of the service up, as Docker would, and tells which ones there are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from worker.process import tied

ROOT = Path(__file__).resolve().parent.parent.parent
RESTART_SECONDS = 0.3
NICE = 5


@dataclass
class Kept:
    """One process that is started again whenever it ends."""

    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    ended_at: float | None = None
    starts: int = 0


@dataclass
class Keeper:
    """Call `tend` often, always from one thread: Linux ties a child to the thread that started it."""

    folder: Path
    environment: Mapping[str, str]
    kept: list[Kept] = field(default_factory=list)
    exits: list[tuple[float, str, int]] = field(default_factory=list)
    """Every end of a process: when (since 1970), its name, its status."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, name: str, *command: str) -> None:
        """Start `python -m command` and keep it up."""
        one = Kept(name, [sys.executable, "-m", *command], self.folder / "log" / f"{name}.log")
        self._start(one)
        self.kept.append(one)

    def tend(self) -> None:
        """Start again what has ended since the last call."""
        for one in self.kept:
            if one.process is None:
                if one.ended_at is None or time.monotonic() >= one.ended_at + RESTART_SECONDS:
                    self._start(one)
            elif (status := one.process.poll()) is not None:
                self.exits.append((time.time(), one.name, status))
                with self._lock:
                    one.process, one.ended_at = None, time.monotonic()

    def pids(self, prefix: str) -> list[int]:
        """The process ids of those kept whose names begin so."""
        with self._lock:
            return [one.process.pid for one in self.kept if one.process and one.name.startswith(prefix)]

    def stop(self, seconds: float) -> list[str]:
        """Ask everything to end, and kill what does not; names of those that had to be killed."""
        running = [one for one in self.kept if one.process]
        for one in running:
            assert one.process
            one.process.terminate()
        deadline, killed = time.monotonic() + seconds, []
        for one in running:
            assert one.process
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(one.name)
                one.process.kill()
                one.process.wait()
            one.process = None
        self.kept = []
        return killed

    def _start(self, one: Kept) -> None:
        with one.log.open("ab") as out:
            process = subprocess.Popen(
                tied(one.command),
                cwd=ROOT,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        with self._lock:
            one.process = process
        one.starts += 1


def ours(folder: Path) -> list[psutil.Process]:
    """Every living process of the run in `folder`, known by its environment or, a trainer, by its command line."""
    found, mark = [], str(folder)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get("CHAOS_FOLDER") == mark or (mark in process.cmdline() and is_trainer(process)):
                found.append(process)
    return found


def is_trainer(process: psutil.Process) -> bool:
    """Whether it is a trainer, a spare one and the template of others included."""
    try:
        return "tests.chaos.trainer" in process.cmdline()
    except psutil.Error:
        return False


def is_template(process: psutil.Process) -> bool:
    """Whether trainers are forked of it. It has their command line."""
    try:
        return is_trainer(process) and process.name() == "template"
    except psutil.Error:
        return False


@dataclass(frozen=True)
class Trees:
    """The processes of the workers at one moment."""

    mains: list[psutil.Process]
    children: list[psutil.Process]
    """Celery's pool processes: each is a supervisor."""
    trainers: list[psutil.Process]
    """Those that have been given an order."""
    templates: list[psutil.Process]


def trees(folder: Path, mains: Sequence[int]) -> Trees:
    """Look at every process of the run."""
    everything = ours(folder)
    busy = {int(path.name.split("-")[0]) for path in (folder / "ticks").iterdir()}
    celery = [one for one in everything if _is_celery(one)]
    return Trees(
        mains=[one for one in celery if one.pid in mains],
        children=[one for one in celery if one.pid not in mains],
        trainers=[one for one in everything if is_trainer(one) and one.pid in busy],
        templates=[one for one in everything if is_template(one)],
    )


def _is_celery(process: psutil.Process) -> bool:
    try:
        return "tests.chaos.app" in process.cmdline()
    except psutil.Error:
        return False


def send(process: psutil.Process, number: int) -> bool:
    """Signal a process if it is still the one that was looked at; whether it was."""
    try:
        process.send_signal(number)
    except psutil.Error:
        return False
    return True


def end_all(processes: Sequence[psutil.Process]) -> None:
    """Kill what is left, the frozen included."""
    for process in processes:
        send(process, signal.SIGKILL)
    psutil.wait_procs(list(processes), timeout=5)


def append(path: Path, line: Mapping[str, object]) -> None:
    """Add a JSON line to a log, whole."""
    with path.open("ab", buffering=0) as log:
        log.write(json.dumps(line).encode() + b"\n")
