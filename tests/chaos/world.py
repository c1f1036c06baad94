"""A whole Loopline in one folder, and a run of chaos in it: storm, calm, end, evidence."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from local.launcher import _free_port, _is_ready
from services import db
from services.blobs.storage import Storage
from services.settings import Settings
from services.upkeep import reconciler
from tests.chaos import checks, evidence, group_checks, nemesis, points, servers, twins
from tests.chaos.checks import Check
from tests.chaos.evidence import Ack, Evidence, Thaw
from tests.chaos.group_evidence import read_groups
from tests.chaos.groups import CALM, CLEAR_SECONDS, MINUTE, STORM, Groups
from tests.chaos.keeper import ROOT, Keeper, end_all, ours
from tests.chaos.load import TERMINAL, Client
from tests.chaos.monitor import Monitor, Wound
from worker.fleet import CELERY, UNHEARD

VOWELS = ROOT / "data" / "japanese-vowels.npz"
CALM_SECONDS = 180.0
"""For what is compared with the storm; it takes a minute."""
HEAL_SECONDS = 240.0
GONE_SECONDS = 20.0
"""How long processes may take to be gone after everything was told to end."""
SCALED = {
    "lease_seconds": 6.0,
    "renew_seconds": 1.0,
    "grace_seconds": 1.0,
    "reconcile_seconds": 0.5,
    "retry_seconds": 0.2,
    "stuck_seconds": 15.0,
    "trainer_threads": 1,
    "device": "cpu",
    "log_format": "json",
}


Thread = Client | Groups | Monitor | nemesis.Nemesis


@dataclass
class Outcome:
    """What a run has shown."""

    checks: list[Check]
    faults: dict[str, int]
    wounds: list[Wound]
    heal_seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not any(check.violations for check in self.checks)


class World:
    """Use it as a context: whatever happens, what was started is ended. `keep` leaves the folder."""

    def __init__(self, seed: int, say: Callable[[str], None], *, pace: float = 0.006, variety: int = 7) -> None:
        self.seed, self.say, self.pace, self.variety = seed, say, pace, variety
        self.folder = Path(tempfile.mkdtemp(prefix="loopline-chaos-"))
        self.keep = False
        self._undo = ExitStack()
        self.threads: list[Thread] = []

    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end_processes(self) -> None:
        for thread in reversed(self.threads):
            thread.stop()
        end_all(ours(self.folder))

    def run(self, seconds: float) -> Outcome:
        """A calm to compare with, the storm for so long, then the calm until everything accepted has ended, then the
        checks."""
        client = Client(self.port, self.folder, self.seed, unfinished=6, variety=self.variety)
        calm = self._calm(client)
        self._await_minute(seconds)
        groups, monitor, storm = self._unleash(client)
        try:
            self._tend_until(time.monotonic() + seconds, lambda: False)
        finally:
            self._end_thread(storm)
        healing_since = time.monotonic()
        client.submitting, client.healing = False, True
        groups.submit_no_more()
        left = f"{len(client.open_jobs())} jobs and {', '.join(groups.open()) or 'no others'}"
        self.say(f"The storm is over; {left} are to end within {HEAL_SECONDS:g} s.")
        self._heal()
        self._tend_until(healing_since + HEAL_SECONDS, lambda: not client.open_jobs() and groups.is_over())
        healed = time.monotonic() - healing_since
        for thread in (client, groups, monitor):
            self._end_thread(thread)
        found = self._evidence(client, [calm, groups], storm)
        of_groups = read_groups(self.engine, [*calm.groups, *groups.groups])
        verdicts = [*checks.all_checks(found), *group_checks.all_checks(found, of_groups)]
        notes = self._notes(client, groups, monitor, storm, found)
        return Outcome(verdicts, storm.counts, monitor.wounds, healed, notes)

    def _calm(self, client: Client) -> Groups:
        """Upload the data set, and run what is compared with the storm."""
        (self.folder / points.CALM).touch()
        client.upload(VOWELS)
        calm = Groups(self.port, self.seed, CALM)
        began = time.monotonic()
        self.say("The searches and retrainings are run once without faults.")
        calm.start()
        self.threads.append(calm)
        if not self._tend_until(time.monotonic() + CALM_SECONDS, calm.is_over):
            raise RuntimeError(f"{', '.join(calm.open())} did not end within {CALM_SECONDS:g} s without faults")
        self._end_thread(calm)
        self.say(f"They took {time.monotonic() - began:.1f} s.")
        (self.folder / points.CALM).unlink()
        return calm

    def _await_minute(self, seconds: float) -> None:
        """Wait until a storm of so many seconds has a full minute in its middle: the schedule fires then."""
        clear = min(CLEAR_SECONDS, seconds / 3)

        def is_ahead() -> bool:
            left = MINUTE - time.time() % MINUTE
            return clear <= left <= seconds - clear

        self._tend_until(time.monotonic() + 2 * MINUTE, is_ahead)

    def _start(self) -> None:
        for name in ("log", "ticks", "tmp"):
            (self.folder / name).mkdir()
        self.postgresql = servers.PostgreSQL(self.folder / "pg")
        self._undo.callback(self.postgresql.end)
        self.valkey = servers.Valkey(self.folder / "valkey", self.folder / "log" / "broker.log")
        self._undo.callback(self.valkey.kill)
        self.engine = db.engine(self.postgresql.url)
        self._undo.callback(self.engine.dispose)
        self.port = _free_port("127.0.0.1")
        self.settings = Settings(
            data_dir=self.folder / "data",
            database_url=self.postgresql.url,
            broker_url=self.valkey.url,
            port=self.port,
            **SCALED,
        )
        self.keeper = Keeper(self.folder, self._environment())
        self._undo.callback(self._end_processes)
        self.keeper.keep("api", "tests.chaos.api")
        worker = [part if part != "worker.app" else "tests.chaos.app" for part in [*CELERY, *UNHEARD]]
        for number in (1, 2):
            self.keeper.keep(f"worker-{number}", *worker)
            self.keeper.keep(f"scheduler-{number}", "tests.chaos.scheduler")
        self._tend_until(time.monotonic() + 60, lambda: _is_ready("127.0.0.1", self.port))

    def _environment(self) -> dict[str, str]:
        given = self.settings.model_dump(exclude_none=True, include=self.settings.model_fields_set)
        own = {f"LOOPLINE_{name.upper()}": str(value) for name, value in given.items()}
        chaos = {"CHAOS_FOLDER": str(self.folder), "CHAOS_SEED": str(self.seed), "CHAOS_PACE": str(self.pace)}
        others = {name: value for name, value in os.environ.items() if not name.startswith("LOOPLINE_")}
        return {**others, **own, **chaos, "TMPDIR": str(self.folder / "tmp")}

    def _unleash(self, client: Client) -> tuple[Groups, Monitor, nemesis.Nemesis]:
        groups = Groups(self.port, self.seed, STORM)
        monitor = Monitor(self.engine)
        world = (self.folder, self.keeper, self.postgresql, self.valkey, monitor, self.settings)
        storm = nemesis.Nemesis(*world, seed=self.seed, began=time.monotonic(), say=self.say)
        for thread in (client, groups, monitor, storm):
            thread.start()
            self.threads.append(thread)
        return groups, monitor, storm

    def _end_thread(self, thread: Thread) -> None:
        self.threads.remove(thread)
        thread.stop()

    def _tend_until(self, deadline: float, is_over: Callable[[], bool]) -> bool:
        """Keep everything up until it is over; False when the time was."""
        while time.monotonic() < deadline:
            self.keeper.tend()
            if is_over():
                return True
            dead = [thread for thread in self.threads if not thread.is_alive()]
            if dead:
                raise RuntimeError(f"{type(dead[0]).__name__} has died; its traceback stands above")
            time.sleep(0.05)
        return False

    def _heal(self) -> None:
        """Whatever a fault left behind that could not be taken back when it was due."""
        self.valkey.start()
        self.postgresql.thaw()
        self.postgresql.start()

    def _evidence(self, client: Client, groups: list[Groups], storm: nemesis.Nemesis) -> Evidence:
        left = [f"{name} did not end within 40 s of SIGTERM" for name in self.keeper.stop(40)]
        left += self._survivors()
        jobs = evidence.read_database(self.engine)
        self._sweep(jobs)
        logs = sorted([*(self.folder / "log").iterdir(), self.folder / "pg" / "log"])
        texts = {path.name: path.read_text(errors="replace") for path in logs if "pg" not in path.parts}
        texts["the database's events, messages and log lines"] = evidence.database_texts(self.engine)
        texts |= {f"the environment of trainer {pid}": text for pid, text in storm.trainers.items()}
        damaged = evidence.json_lines(self.folder / "damaged.jsonl")
        frozen = evidence.json_lines(self.folder / nemesis.FROZEN)
        callers = [client, *(kind.caller for each in groups for kind in each.kinds)]
        self.say(f"The twins of {len({job.name for job in jobs.values()} - {None})} specs are trained without faults.")
        return Evidence(
            acknowledged=[
                *(Ack(one.key, one.job, one.spec, one.seed) for one in client.acknowledged),
                *(ack for each in groups for ack in each.acknowledged),
            ],
            jobs=jobs,
            ticks=evidence.read_ticks(self.folder / "ticks"),
            thaws=[Thaw(line["pid"], line["from_ns"], line["to_ns"]) for line in frozen],
            blobs=self.folder / "data" / "blobs" / "jobs",
            damaged={(line["job"], line["file"]) for line in damaged},
            cancelled=client.cancelled,
            texts=texts,
            secrets=servers.MARKERS,
            leftovers=left,
            wall_minus_monotonic=time.time() - time.monotonic(),
            exits=[(name, status) for _, name, status in self.keeper.exits if not name.startswith("api")],
            unexpected=[what for caller in callers for what in caller.unexpected],
            answers=sum(number for caller in callers for number in caller.requests.values()),
            twins=twins.compute(jobs, VOWELS, self.folder / "twins"),
        )

    def _survivors(self) -> list[str]:
        """What is still there; trainers die with their supervisors, so they have no time of their own."""
        deadline = time.monotonic() + GONE_SECONDS
        while (left := ours(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        told = ((one.pid, one.ppid(), " ".join(one.cmdline())[:300]) for one in left)
        return [f"process {pid} (parent {parent}) is left: {command}" for pid, parent, command in told]

    def _sweep(self, jobs: dict[str, evidence.JobSeen]) -> None:
        """What the scheduler does once an hour, as if everything of ended jobs were two hours old."""
        long_ago = time.time() - 7200
        for job in jobs.values():
            folder = self.folder / "data" / "blobs" / "jobs" / job.id
            for path in folder.iterdir() if job.status in TERMINAL and folder.is_dir() else ():
                os.utime(path, (long_ago, long_ago))
        reconciler.sweep(self.engine, Storage(self.settings.data_dir))

    def _notes(
        self, client: Client, groups: Groups, monitor: Monitor, storm: nemesis.Nemesis, found: Evidence
    ) -> list[str]:
        ends: dict[str, int] = {}
        for job in found.jobs.values():
            what = job.status if job.reason is None else f"{job.status} ({job.reason})"
            ends[what] = ends.get(what, 0) + 1
        exits: dict[str, int] = {}
        for _, name, status in self.keeper.exits:
            exits[f"{name} {status}"] = exits.get(f"{name} {status}", 0) + 1
        took = sorted(client.took) or [0.0]
        logs = "\n".join(text for name, text in found.texts.items() if name.startswith("worker"))
        deaf, zombies = logs.count("takes itself for cut off"), logs.count("its writes are refused")
        attempts = sum(job.attempt for job in found.jobs.values())
        return [
            f"jobs: {_counted(ends)}; attempts: {attempts}",
            f"in the storm besides single jobs: {_counted(Counter(group.kind for group in groups.groups))}; "
            f"searches that were paused: {sum(kind.paused for kind in groups.kinds)}",
            f"requests for single jobs: {_counted(client.requests)}; asked for: {_counted(client.asked)}",
            f"accepted submissions took {took[len(took) // 2]:.2f} s (median) and {took[-1]:.2f} s (longest)",
            f"processes that ended and were started again (name, status): {_counted(exits)}; "
            f"workers that found themselves deaf: {deaf}",
            f"attempts that were refused a write, for they were taken over or had ended: {zombies}",
            f"looks at the database: {monitor.looks}, {monitor.failed_looks} of them in vain; "
            f"faults without a victim: {storm.empty}",
            *(f"could not be done: {what}" for what in storm.trouble),
        ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {number}" for what, number in sorted(counts.items())) or "none"
