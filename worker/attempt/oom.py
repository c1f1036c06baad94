"""Whether the kernel killed a process of this one's cgroup because memory ran out: it counts such kills.

cgroup v2 has the count in `memory.events`, v1 in `memory.oom_control`, both as `oom_kill N`. The kernel raises it in
the cgroup of the process that it kills, whether this cgroup had reached its limit, one above it, or the machine. So the
count says what a signal 9 alone cannot.

https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html#oom-control
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")

KILLED = "The kernel killed the trainer because memory ran out: its counter of such kills rose during the attempt."
NOT_FOR_MEMORY = "and not by the kernel for lack of memory, whose counter of such kills did not rise"
UNKNOWN = "and this system has no counter that says whether memory had run out"
WHAT_TO_DO = (
    "Look for who sent the signal: `journalctl -k` or `dmesg` on the host names a kill by the kernel, the journals of "
    "systemd-oomd or earlyoom one of theirs, and the container platform's events one of its own; or a person did it."
)


def kills() -> int | None:
    """How often the kernel has killed a process of this cgroup, or of one below it, because memory ran out.

    None where there is no such counter: on other systems, in the topmost cgroup of v2, or where /sys is not mounted.
    """
    for file in _counters():
        try:
            found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if found:
            return int(found[1])
    return None


def sentence(before: int | None, after: int | None) -> str:
    """What is said of a trainer that was killed by signal 9 while the count went from `before` to `after`."""
    if before is not None and after is not None and after > before:
        return KILLED
    told = UNKNOWN if before is None or after is None else NOT_FOR_MEMORY
    return f"The trainer was killed by signal 9 (SIGKILL), {told}. {WHAT_TO_DO}"


def _counters() -> Iterator[Path]:
    """The files that may hold the count, for this process's cgroup: see cgroups(7) and proc_pid_mountinfo(5)."""
    try:
        groups = (PROC / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        mounts = (PROC / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in groups:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield from (folder / "memory.events" for folder in _folders(mounts, "cgroup2", "", path))
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
