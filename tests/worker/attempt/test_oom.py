"""A trainer that was killed is reported as out of memory only where the kernel has counted such a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.orm import Job
from services.states import Reason
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt import oom
from worker.attempt.oom import Sample, judge
from worker.attempt.slot import Slot

COUNTS = {
    "memory.events.local": "low 0\nhigh 0\nmax 12\noom 9\noom_kill 7\noom_group_kill 0\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 9\noom_kill 7\noom_group_kill 0\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
}
V2 = "30 23 0:26 {root} {place} rw - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 {root} {place} rw,relatime - cgroup cgroup rw,memory"
CPU = "33 31 0:30 / {place} rw,relatime - cgroup cgroup rw,cpuacct,cpu"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "folder", "file"),
    [
        ("0::/system.slice/loopline.service", [V2], "system.slice/loopline.service", "memory.events.local"),
        ("0::/system.slice/loopline.service", [V2], "system.slice/loopline.service", "memory.events"),  # before 5.2
        ("0::/", [V2], "", "memory.events"),  # in a container with a namespace of its own
        ("0::/docker/abc", [V2.replace("{root}", "/docker/abc")], "", "memory.events"),  # without one
        ("9:name=systemd:/\n4:memory:/docker/abc\n0::/", [CPU, V1], "docker/abc", "memory.oom_control"),
        ("4:hugetlb,memory:/kubepods/pod1/c1", [CPU, V1.replace("{root}", "/kubepods/pod1/c1")], "",
         "memory.oom_control"),
    ],
    ids=["v2", "v2 old", "v2 namespace", "v2 bind mount", "v1 hybrid", "v1 container"],
)  # fmt: skip
def test_the_kernels_count_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, mounts: list[str], folder: str, file: str
) -> None:
    place = tmp_path / "hierarchy"
    (place / folder).mkdir(parents=True)
    (place / folder / file).write_text(COUNTS[file])
    (tmp_path / "cgroup").write_text(cgroup + "\n")
    lines = [line.replace("{root}", "/").replace("{place}", str(place)) for line in mounts]
    (tmp_path / "mountinfo").write_text("22 1 254:0 / / rw - ext4 /dev/vda rw\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(oom, "PROC", tmp_path)
    assert oom.sample() == Sample(7)


@pytest.mark.parametrize("cgroup", ["0::/", "4:memory:/a\n0::/", ""])
def test_a_system_without_the_count_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str) -> None:
    monkeypatch.setattr(oom, "PROC", tmp_path)
    assert oom.sample() == Sample(None)
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(V2.format(root="/", place=tmp_path / "nowhere") + "\n")
    assert oom.sample() == Sample(None)


def recent(*trainers: set[int] | None, kills: int = 3) -> deque[Sample]:
    return deque(Sample(kills, None if one is None else frozenset(one)) for one in trainers)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (3, 3, "whose counter of such kills did not rise"),
        (None, None, "no counter that says whether memory had run out"),
        (3, None, "no counter that says whether memory had run out"),
    ],
)
def test_without_a_counted_kill_the_trainer_crashed(before: int | None, after: int | None, words: str) -> None:
    first = Sample(before, frozenset({7}))
    reason, message = judge(first, deque([first]), Sample(after), 7)
    assert (reason, words in message) == (Reason.TRAINER_CRASHED, True)


@pytest.mark.parametrize(
    ("kills", "seen", "left", "reason"),
    [
        (4, [{7}], set(), Reason.OUT_OF_MEMORY_HOST),
        (4, [{7, 8}, {7, 8, 9}], {8, 9}, Reason.OUT_OF_MEMORY_HOST),
        (5, [{7, 8}], set(), Reason.OUT_OF_MEMORY_HOST),  # two victims, two that ended
        (4, [{7, 8}], set(), Reason.TRAINER_CRASHED),
        (4, [{7, 8}, {7}], set(), Reason.TRAINER_CRASHED),  # the other one ended first
        (4, [None], set(), Reason.TRAINER_CRASHED),  # members that cannot be read
    ],
    ids=["alone", "others live", "both killed", "both ended", "one after the other", "unknown members"],
)
def test_a_counted_kill_is_the_trainers_unless_another_may_have_been_the_victim(
    kills: int, seen: list[set[int] | None], left: set[int], reason: Reason
) -> None:
    samples = recent(*seen)
    found, message = judge(samples[0], samples, Sample(kills, frozenset(left)), 7)
    assert found == reason
    if reason == Reason.TRAINER_CRASHED:
        assert "counted 1 kill in this container" in message
        assert "may have been another one" in message


def test_a_kill_long_before_the_end_is_not_the_trainers() -> None:
    first = Sample(3, frozenset({7, 8}))
    _, message = judge(first, recent({7}, {7}, kills=4), Sample(4), 7)
    assert message.startswith("The trainer was killed by signal 9 (SIGKILL), and the kernel counted 1 kill")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_trainer_that_ends_has_no_score_any_more(kernel_kills: Callable[[int], None]) -> None:
    """A process that the kernel kills first is seen until it ends, also if nobody has waited for it yet."""
    kernel_kills(3)
    with first_victim() as child:
        assert oom.sample() == Sample(3, frozenset({child.pid}))
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert oom.sample() == Sample(3, frozenset())


@contextmanager
def first_victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process with the score of a trainer."""
    code = "from worker import process; process.be_first_to_be_killed(); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_trainer_killed_by_hand_beside_a_victim_of_the_kernel_is_not_reported_as_out_of_memory(
    make_job: Callable[..., Job], make_slot: Callable[..., Slot], watch: Watch, kernel_kills: Callable[[int], None]
) -> None:
    """Both end while the count rises by one: either may have been the victim."""
    job = make_job(tags={"stub": "hold"}, limits={"max_retries": 0})
    with first_victim() as other:

        def kill() -> None:
            running = watch.until(job.id, lambda job: job.step == 1)
            assert running.trainer is not None
            kernel_kills(1)
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            os.kill(running.trainer["pid"], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        tasks.ring(make_slot(), "default")
        killer.join()
    failed = watch.job(job.id)
    assert (failed.status, failed.reason) == ("failed", "trainer_crashed")
    assert "killed by signal 9 (SIGKILL), and the kernel counted 1 kill in this container" in (failed.message or "")


def test_a_trainer_that_somebody_kills_is_not_reported_as_out_of_memory(
    make_job: Callable[..., Job], make_slot: Callable[..., Slot], watch: Watch, kernel_kills: object
) -> None:
    job = make_job(tags={"stub": "kill"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason) == ("failed", "trainer_crashed")
    assert "killed by signal 9 (SIGKILL), and not by the kernel for lack of memory" in (failed.message or "")
    assert "dmesg" in (failed.message or "")
    assert Reason.OUT_OF_MEMORY_HOST.sentence not in (failed.message or "")
