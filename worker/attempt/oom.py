"""Whether the kernel killed a trainer because memory ran out.

The kernel counts such kills per cgroup: v2 in `memory.events.local`, v1 in `memory.oom_control`, both as `oom_kill N`.
It raises the count of the victim's cgroup before it sends signal 9, whether this cgroup reached its limit, or one
above it, or the machine.

All trainers of a container share one cgroup, so the count does not say which process was the victim. But the kernel
kills a process with `oom_score_adj` 1000 before any other, and only trainers have that. So an attempt also records
which of them exist. If the count rose by more than the number of other trainers that have ended since, this one was
among the victims.

https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html#oom-control
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.states import Reason

PROC = Path("/proc/self")

SAMPLE_SECONDS = 1.0
SAMPLES = 10
"""How many samples an attempt keeps. A victim with much memory may take seconds to end after it was counted."""
FIRST_VICTIMS = 1000
"""The `oom_score` from which a process has `oom_score_adj` 1000, or half of the memory."""

KILLED = "The kernel killed the trainer because memory ran out: its counter of such kills rose when the trainer ended."
AMBIGUOUS = (
    "and the kernel counted {kills} in this container or service during the attempt because memory ran out. All "
    "trainers share that count, so the victim may have been another one."
)
NOT_FOR_MEMORY = "and not by the kernel for lack of memory, whose counter of such kills did not rise."
UNKNOWN = "and this system has no counter that says whether memory had run out."
WHAT_TO_DO = (
    "Look for who sent the signal: `journalctl -k` or `dmesg` on the host names a kill by the kernel, the journals of "
    "systemd-oomd or earlyoom one of theirs, and the container platform's events one of its own; or a person did it."
)


@dataclass(frozen=True)
class Sample:
    """What the kernel says of this process's cgroup at one moment."""

    kills: int | None
    """How often the kernel has killed a process of the cgroup because memory ran out. None where there is no such
    count: on systems other than Linux, in the topmost cgroup of v2, or where /sys is not mounted."""
    trainers: frozenset[int] | None = None
    """Ids of the processes in the cgroup that the kernel kills first; None if the members cannot be read."""


class History:
    """Samples of one attempt: the first and the latest."""

    def __init__(self) -> None:
        self._first = sample()
        self._recent = deque([self._first], maxlen=SAMPLES)
        self._due = 0.0

    def update(self, now: float) -> None:
        """Take a sample if the last one is SAMPLE_SECONDS old; `now` is by the monotonic clock, in seconds."""
        if now >= self._due:
            self._due = now + SAMPLE_SECONDS
            self._recent.append(sample())

    def judge(self, pid: int) -> tuple[Reason, str]:
        """Why the trainer `pid`, which signal 9 has just ended, was killed: a reason and a message."""
        return judge(self._first, self._recent, sample(), pid)


def judge(first: Sample, recent: deque[Sample], last: Sample, pid: int) -> tuple[Reason, str]:
    """The same from samples: the first of the attempt, the latest, and one taken after the trainer's end."""
    if first.kills is None or last.kills is None:
        why = UNKNOWN
    elif last.kills <= first.kills:
        why = NOT_FOR_MEMORY
    elif _is_victim(recent, last, pid):
        return Reason.OUT_OF_MEMORY_HOST, KILLED
    else:
        rise = last.kills - first.kills
        why = AMBIGUOUS.format(kills=f"{rise} kill" + "s" * (rise > 1))
    return Reason.TRAINER_CRASHED, f"The trainer was killed by signal 9 (SIGKILL), {why} {WHAT_TO_DO}"


def _is_victim(recent: deque[Sample], last: Sample, pid: int) -> bool:
    """Whether more kills were counted lately than other trainers ended."""
    ended: set[int] = set()
    for one in recent:
        if one.trainers is None or last.trainers is None:
            return False
        ended |= one.trainers - last.trainers - {pid}
    return (last.kills or 0) - (recent[0].kills or 0) > len(ended)


def sample() -> Sample:
    """What the kernel says now."""
    for file in _counters():
        try:
            found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if found:
            return Sample(int(found[1]), _first_victims(file.with_name("cgroup.procs")))
    return Sample(None)


def _first_victims(members: Path) -> frozenset[int] | None:
    """The members of a cgroup that the kernel kills first; not those that are ending, whose score is 0."""
    try:
        pids = members.read_text(encoding="ascii").split()
    except OSError:
        return None
    return frozenset(int(pid) for pid in pids if _oom_score(pid) >= FIRST_VICTIMS)


def _oom_score(pid: str) -> int:
    """How the kernel ranks a process; 0 if the process has ended."""
    try:
        return int(Path("/proc", pid, "oom_score").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _counters() -> Iterator[Path]:
    """The files that may hold the count, for this process's cgroup: see cgroups(7) and proc_pid_mountinfo(5).

    Before Linux 5.2 there is no `memory.events.local`. `memory.events` includes the cgroups below.
    """
    try:
        groups = (PROC / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        mounts = (PROC / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in groups:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            for folder in _folders(mounts, "cgroup2", "", path):
                yield from (folder / "memory.events.local", folder / "memory.events")
        elif "memory" in controllers.split(","):
            yield from (folder / "memory.oom_control" for folder in _folders(mounts, "cgroup", "memory", path))


def _folders(mounts: list[str], kind: str, option: str, path: str) -> Iterator[Path]:
    """Where a cgroup's folder is. A mount shows the hierarchy from its root on: in a container, its own cgroup."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        found, _, options = after.split()[:3]
        if found == kind and (not option or option in options.split(",")):
            inside = PurePosixPath(path)
            yield Path(place) / (inside.relative_to(root) if inside.is_relative_to(root) else "")
