"""The nemesis: at random moments, a random fault. Every one is written down, and undone in time."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from services.errors import LooplineError
from services.jobs.doorbell import RING
from services.settings import Settings
from tests.chaos import points
from tests.chaos.keeper import Keeper, Trees, append, is_trainer, ours, send, trees
from tests.chaos.load import TERMINAL
from tests.chaos.monitor import Monitor
from tests.chaos.servers import PostgreSQL, Valkey
from worker.scheduler.bell import CeleryDoorbell

LOG = "faults.jsonl"
FROZEN = "frozen.jsonl"
IN_THE_WAY = (
    OSError,
    TimeoutError,
    subprocess.SubprocessError,
    redis.RedisError,
    OperationalError,
    SQLAlchemyError,
    LooplineError,
)
"""What a fault may meet because another one is at work, a server that is down already for instance."""


@dataclass
class Nemesis:
    """Breaks things. `strike` does one fault; everything that has to be taken back later is, by `due` or `heal`."""

    folder: Path
    keeper: Keeper
    postgresql: PostgreSQL
    valkey: Valkey
    monitor: Monitor
    settings: Settings
    seed: int
    began: float
    say: Callable[[str], None]
    mean_seconds: float = 4.5
    counts: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    """How often a fault was drawn for which there was no victim at that moment."""
    trouble: list[str] = field(default_factory=list)
    """Faults that could not be done: a mistake of ours, or of a server."""
    trainers: dict[int, str] = field(default_factory=dict)
    """Environment and command line of every trainer that was looked at."""

    def __post_init__(self) -> None:
        self.dice = random.Random(f"nemesis {self.seed}")
        self._later: list[tuple[float, str, Callable[[], object]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nemesis")
        self._words = 0
        self._damaged: dict[str, int] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No more faults, and those that last are taken back."""
        self._stop.set()
        self._thread.join()
        (self.folder / points.CALM).touch()
        while self._later:
            self._take_back(self._later.pop(0))
        self.read_last_words()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        names, weights = zip(*((name, weight) for name, (weight, _) in FAULTS.items()), strict=True)
        next_at = time.monotonic() + 1.0
        while not self._stop.wait(0.1):
            self._due()
            self.read_last_words()
            if time.monotonic() >= next_at:
                self.strike(self.dice.choices(names, weights)[0])
                next_at = time.monotonic() + min(0.3 + self.dice.expovariate(1 / self.mean_seconds), 15.0)

    def strike(self, name: str) -> None:
        """Do this fault now."""
        try:
            done = FAULTS[name][1](self)
        except IN_THE_WAY as error:
            self.trouble.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            return
        if done is None:
            self.empty += 1

    def done(self, kind: str, detail: str, jobs: Sequence[str] = (), *, deadly: bool = False) -> str:
        """Write a fault down and start the clocks of the jobs it hit."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        at = time.monotonic() - self.began
        line = {"at": round(at, 3), "wall": time.time(), "ns": time.monotonic_ns(), "kind": kind, "detail": detail}
        append(self.folder / LOG, {**line, "jobs": list(jobs)})
        self.say(f"{at:8.2f} s  {kind:<24} {detail}" + (f"  [{', '.join(jobs)}]" if jobs else ""))
        self.monitor.hit(kind, jobs, deadly=deadly)
        return kind

    def later(self, seconds: float, what: str, undo: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, what, undo))

    def look(self) -> Trees:
        found = trees(self.folder, self.keeper.pids("worker"))
        for one in [*found.trainers, *found.templates]:
            with suppress(psutil.Error):
                self.trainers.setdefault(one.pid, f"{one.environ()} {one.cmdline()}")
        return found

    def pick(self, processes: Sequence[psutil.Process]) -> psutil.Process | None:
        return self.dice.choice(sorted(processes, key=lambda one: one.pid)) if processes else None

    def job_of_trainer(self, pid: int) -> list[str]:
        """The job whose trainer this is, by its tick log."""
        logs = sorted((self.folder / "ticks").glob(f"{pid}-*"))
        return [logs[-1].read_text().split(" ", 2)[1]] if logs else []

    def freeze(self, processes: Sequence[psutil.Process], seconds: float) -> None:
        """SIGSTOP now, SIGCONT later. What was frozen when is written down: a trainer may be in the middle of a step
        when it is thawed."""
        stopped = [(one, time.monotonic_ns()) for one in processes if send(one, signal.SIGSTOP)]

        def thaw() -> None:
            for one, since in reversed(stopped):  # the trainer before its supervisor: the harder order
                line = {"pid": one.pid, "from_ns": since, "to_ns": time.monotonic_ns(), "trainer": is_trainer(one)}
                append(self.folder / FROZEN, line)
                send(one, signal.SIGCONT)

        self.later(seconds, "thaw", thaw)

    def read_last_words(self) -> None:
        """Faults that processes did to themselves at armed points."""
        path = self.folder / points.LOG
        if not path.exists():
            return
        lines = path.read_text().splitlines()
        for line in lines[self._words :]:
            said = json.loads(line)
            job = self.job_of_trainer(said["pid"]) or self.monitor.running([said["pid"]])
            self.done(f"at {said['point']}", f"killed itself, process {said['pid']}", job, deadly=True)
        self._words = len(lines)

    def may_damage(self, job: str) -> bool:
        self._damaged[job] = self._damaged.get(job, 0) + 1
        return self._damaged[job] <= 3

    def _due(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            self._take_back(entry)

    def _take_back(self, entry: tuple[float, str, Callable[[], object]]) -> None:
        try:
            entry[2]()
        except IN_THE_WAY as error:
            self.trouble.append(f"{entry[1]}: {type(error).__name__}: {str(error)[:200]}")


# Processes


def kill_trainer(n: Nemesis) -> str | None:
    one = n.pick(n.look().trainers)
    if one is None:
        return None
    jobs = n.job_of_trainer(one.pid)
    send(one, signal.SIGKILL)
    return n.done("kill trainer", f"process {one.pid}", n_running(n, jobs), deadly=True)


def kill_template(n: Nemesis) -> str | None:
    """Its trainers go on: this stops no job."""
    one = n.pick(n.look().templates)
    if one is None:
        return None
    send(one, signal.SIGKILL)
    return n.done("kill template", f"process {one.pid}")


def kill_child(n: Nemesis) -> str | None:
    one = n.pick(n.look().children)
    if one is None:
        return None
    send(one, signal.SIGKILL)
    return n.done("kill supervisor", f"pool process {one.pid}", n.monitor.running([one.pid]), deadly=True)


def kill_main(n: Nemesis) -> str | None:
    one = n.pick(n.look().mains)
    if one is None:
        return None
    send(one, signal.SIGKILL)
    return n.done("kill celery main", f"process {one.pid}; what it leaves behind stays")


def kill_host(n: Nemesis) -> str | None:
    """A worker with all that belongs to it, as when a container is killed."""
    one = n.pick(n.look().mains)
    if one is None:
        return None
    family = [one, *one.children(recursive=True)]
    for process in family:
        send(process, signal.SIGKILL)
    jobs = n.monitor.running([process.pid for process in family])
    return n.done("kill whole worker", f"process {one.pid} and {len(family) - 1} below it", jobs, deadly=True)


def kill_scheduler(n: Nemesis) -> str | None:
    pids = n.keeper.pids("scheduler")
    if not pids:
        return None
    pid = n.dice.choice(pids)
    send(psutil.Process(pid), signal.SIGKILL)
    return n.done("kill scheduler", f"process {pid}")


def kill_api(n: Nemesis) -> str | None:
    pids = n.keeper.pids("api")
    if not pids:
        return None
    master = psutil.Process(pids[0])
    one = n.pick([master, *master.children()])
    assert one is not None
    send(one, signal.SIGKILL)
    return n.done("kill api", f"{'master' if one == master else 'one of its processes'} {one.pid}")


def kill_everything(n: Nemesis) -> str | None:
    processes = ours(n.folder)
    for process in processes:
        send(process, signal.SIGKILL)
    n.valkey.kill()
    n.later(0.5, "broker again", n.valkey.start)
    jobs = n.monitor.running()
    return n.done("kill everything", f"{len(processes)} processes and the broker", jobs, deadly=True)


def term_worker(n: Nemesis) -> str | None:
    one = n.pick(n.look().mains)
    if one is None:
        return None
    jobs = n.monitor.running([child.pid for child in one.children()])
    send(one, signal.SIGTERM)
    return n.done("terminate worker", f"process {one.pid}", jobs, deadly=True)


def freeze_trainer(n: Nemesis) -> str | None:
    one = n.pick(n.look().trainers)
    if one is None:
        return None
    seconds = n.dice.choice((0.5, 2.0, 4.0, 9.0, 24.0))
    jobs = n.job_of_trainer(one.pid)
    n.freeze([one], seconds)
    return n.done("freeze trainer", f"process {one.pid} for {seconds:g} s", n_running(n, jobs))


def freeze_child(n: Nemesis) -> str | None:
    one = n.pick(n.look().children)
    if one is None:
        return None
    seconds = n.dice.uniform(0.5, 3.0)
    n.freeze([one], seconds)
    detail = f"pool process {one.pid} for {seconds:.1f} s"
    return n.done("freeze supervisor", detail, n.monitor.running([one.pid]))


def freeze_child_past_lease(n: Nemesis) -> str | None:
    one = n.pick([child for child in n.look().children if n.monitor.running([child.pid])])
    if one is None:
        return None
    seconds = n.settings.lease_seconds + n.settings.grace_seconds + n.dice.uniform(0.5, 4.0)
    n.freeze([one], seconds)
    detail = f"pool process {one.pid} for {seconds:.1f} s, past its lease"
    return n.done("freeze past lease", detail, n.monitor.running([one.pid]), deadly=True)


def freeze_host(n: Nemesis) -> str | None:
    """Supervisor and trainer together, past the lease, as a machine that sleeps: both wake as zombies."""
    one = n.pick([child for child in n.look().children if n.monitor.running([child.pid])])
    if one is None:
        return None
    seconds = n.settings.lease_seconds + n.settings.grace_seconds + n.dice.uniform(0.5, 4.0)
    jobs = n.monitor.running([one.pid])
    n.freeze([one, *one.children()], seconds)
    detail = f"pool process {one.pid} and its trainers for {seconds:.1f} s"
    return n.done("freeze whole worker", detail, jobs, deadly=True)


def freeze_main(n: Nemesis) -> str | None:
    one = n.pick(n.look().mains)
    if one is None:
        return None
    seconds = n.dice.uniform(1.0, 9.0)
    n.freeze([one], seconds)
    return n.done("freeze celery main", f"process {one.pid} for {seconds:.1f} s")


def freeze_scheduler(n: Nemesis) -> str | None:
    """It may hold the row of a search or of a schedule; the other scheduler must not wait for that."""
    pids = n.keeper.pids("scheduler")
    if not pids:
        return None
    one, seconds = psutil.Process(n.dice.choice(pids)), n.dice.choice((1.0, 4.0, 12.0))
    n.freeze([one], seconds)
    return n.done("freeze scheduler", f"process {one.pid} for {seconds:g} s")


# The broker


def broker_flush(n: Nemesis) -> str:
    with n.valkey.client() as client:
        client.flushall()
    return n.done("broker FLUSHALL", "every bell is gone")


def broker_restart(n: Nemesis) -> str | None:
    if not n.valkey.is_up():
        return None
    forget, seconds = n.dice.random() < 0.5, n.dice.choice((0.1, 1.0, 4.0))
    n.valkey.kill(forget=forget)
    n.later(seconds, "broker again", n.valkey.start)
    return n.done("broker killed", f"{'without' if forget else 'with'} its data, back after {seconds:g} s")


def broker_freeze(n: Nemesis) -> str | None:
    if not n.valkey.is_up():
        return None
    seconds = n.dice.choice((1.0, 3.0, 12.0))
    n.valkey.signal(signal.SIGSTOP)
    n.later(seconds, "thaw the broker", lambda: n.valkey.signal(signal.SIGCONT))
    return n.done("broker frozen", f"for {seconds:g} s")


def broker_pause(n: Nemesis) -> str:
    milliseconds = n.dice.choice((1000, 4000))
    with n.valkey.client() as client:
        client.execute_command("CLIENT", "PAUSE", milliseconds, "ALL")
    return n.done("broker CLIENT PAUSE", f"for {milliseconds} ms")


def bell_garbage(n: Nemesis) -> str:
    what = n.dice.choice(("no JSON", "no envelope", "unknown queue", "no name", "pickle", "unknown task"))
    queue = n.settings.queue_names[0]
    with n.valkey.client() as client:
        if what == "no JSON":
            client.lpush(queue, b"\x80\x04 what is this")
        elif what == "no envelope":
            client.lpush(queue, json.dumps({"hello": [1, 2, 3]}))
        else:
            _send_bell(n, what, queue)
    return n.done("bell: garbage", what)


def bell_duplicates(n: Nemesis) -> str:
    with n.valkey.client() as client:
        client.ping()
    _send_bell(n, "duplicates", n.settings.queue_names[0], times=50)
    return n.done("bell: 50 duplicates", "at once")


def _send_bell(n: Nemesis, what: str, queue: str, times: int = 1) -> None:
    bell = CeleryDoorbell(n.settings)
    options: dict[str, Any] = {"queue": queue, "ignore_result": True}
    arguments: list[object] = {"unknown queue": ["no-such-queue"], "no name": [{"a": [None]}, 7]}.get(what, [queue])
    if what == "pickle":
        options["serializer"] = "pickle"
    try:
        with bell._app.connection_for_write() as connection:
            for _ in range(times):
                task = "no.such.task" if what == "unknown task" else RING
                bell._app.send_task(task, args=arguments, connection=connection, **options)
    finally:
        bell.close()


# The database


def database_terminate(n: Nemesis) -> str:
    return n.done("database: terminate", f"{n.postgresql.terminate_all()} connections", n.monitor.running())


def database_restart(n: Nemesis) -> str | None:
    if not n.postgresql.is_up():
        return None
    mode = n.dice.choice(("fast", "immediate"))
    n.postgresql.restart(mode)
    return n.done("database: restart", f"-m {mode}", n.monitor.running())


def database_outage(n: Nemesis) -> str | None:
    if not n.postgresql.is_up():
        return None
    seconds = n.dice.choice((2.0, 4.0, 9.0))
    jobs = n.monitor.running()
    n.postgresql.stop("immediate" if n.dice.random() < 0.5 else "fast")
    n.later(seconds, "database again", n.postgresql.start)
    return n.done("database: outage", f"for {seconds:g} s", jobs)


def database_freeze(n: Nemesis) -> str | None:
    backends = n.postgresql.backends()
    if not backends:
        return None
    seconds = n.dice.choice((1.0, 3.0, 8.0))
    stopped = [one for one in backends if send(one, signal.SIGSTOP)]
    n.later(seconds, "thaw the database", lambda: [send(one, signal.SIGCONT) for one in stopped])
    return n.done("database: freeze", f"{len(stopped)} processes for {seconds:g} s", n.monitor.running())


# Files


def damage(n: Nemesis) -> str | None:
    """Flip a bit of the newest checkpoint of a job that has not ended, cut it off, or take it away."""
    unfinished = [job for job, one in n.monitor.seen.items() if one.status not in TERMINAL]
    folders = [path for job in sorted(unfinished) if (path := n.folder / "data" / "blobs" / "jobs" / job).is_dir()]
    found = [sorted(path.glob("checkpoint-*.json"))[-1:] for path in folders]
    newest = [paths[0] for paths in found if paths]
    if not newest:
        return None
    json_file = n.dice.choice(newest)
    path = n.dice.choice((json_file, json_file.with_suffix(".safetensors")))
    if not n.may_damage(path.parent.name):
        return None
    how = n.dice.choice(("flipped", "truncated", "deleted"))
    # Written down first: a check that finds the damage must find the reason too.
    append(n.folder / "damaged.jsonl", {"job": path.parent.name, "file": path.name, "how": how})
    with suppress(FileNotFoundError):
        if how == "deleted":
            path.unlink()
        else:
            with path.open("r+b") as file:
                size = path.stat().st_size
                if how == "truncated":
                    file.truncate(n.dice.randrange(size))
                else:
                    place = n.dice.randrange(size)
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ (1 << n.dice.randrange(8))]))
    seen = n.monitor.seen.get(path.parent.name)
    return n.done("checkpoint damaged", f"{path.parent.name}/{path.name} {how} ({seen.status if seen else '?'})")


def n_running(n: Nemesis, jobs: Sequence[str]) -> list[str]:
    """Those of the jobs that had not ended when they were last seen."""
    return [job for job in jobs if (one := n.monitor.seen.get(job)) is not None and one.status not in TERMINAL]


FAULTS: dict[str, tuple[float, Callable[[Nemesis], str | None]]] = {
    "kill_trainer": (8, kill_trainer),
    "kill_template": (8, kill_template),
    "kill_child": (5, kill_child),
    "kill_main": (3, kill_main),
    "kill_host": (3, kill_host),
    "kill_scheduler": (3, kill_scheduler),
    "kill_api": (2, kill_api),
    "kill_everything": (1, kill_everything),
    "term_worker": (5, term_worker),
    "freeze_trainer": (5, freeze_trainer),
    "freeze_child": (2, freeze_child),
    "freeze_child_past_lease": (4, freeze_child_past_lease),
    "freeze_host": (3, freeze_host),
    "freeze_main": (2, freeze_main),
    "freeze_scheduler": (2, freeze_scheduler),
    "broker_flush": (3, broker_flush),
    "broker_restart": (4, broker_restart),
    "broker_freeze": (2, broker_freeze),
    "broker_pause": (2, broker_pause),
    "bell_garbage": (3, bell_garbage),
    "bell_duplicates": (2, bell_duplicates),
    "database_terminate": (4, database_terminate),
    "database_restart": (3, database_restart),
    "database_outage": (2, database_outage),
    "database_freeze": (2, database_freeze),
    "damage": (8, damage),
}
"""Every fault, and how much of the time it is the one."""
