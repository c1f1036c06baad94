"""A trainer that was killed is told as out of memory only where the kernel has counted such a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from services.orm import Job
from services.states import Reason
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt import oom
from worker.attempt.slot import Slot

COUNTS = {
    "memory.events": "low 0\nhigh 0\nmax 12\noom 9\noom_kill 7\noom_group_kill 0\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
}
V2 = "30 23 0:26 {root} {place} rw - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 {root} {place} rw,relatime - cgroup cgroup rw,memory"
CPU = "33 31 0:30 / {place} rw,relatime - cgroup cgroup rw,cpuacct,cpu"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "folder", "file"),
    [
        ("0::/system.slice/loopline.service", [V2], "system.slice/loopline.service", "memory.events"),
        ("0::/", [V2], "", "memory.events"),  # in a container with a namespace of its own
        ("0::/docker/abc", [V2.replace("{root}", "/docker/abc")], "", "memory.events"),  # without one
        ("9:name=systemd:/\n4:memory:/docker/abc\n0::/", [CPU, V1], "docker/abc", "memory.oom_control"),
        ("4:hugetlb,memory:/kubepods/pod1/c1", [CPU, V1.replace("{root}", "/kubepods/pod1/c1")], "",
         "memory.oom_control"),
    ],
    ids=["v2", "v2 namespace", "v2 bind mount", "v1 hybrid", "v1 container"],
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
    assert oom.kills() == 7


@pytest.mark.parametrize("cgroup", ["0::/", "4:memory:/a\n0::/", ""])
def test_a_system_without_the_count_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str) -> None:
    monkeypatch.setattr(oom, "PROC", tmp_path)
    assert oom.kills() is None
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(V2.format(root="/", place=tmp_path / "nowhere") + "\n")
    assert oom.kills() is None


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (3, 4, "The kernel killed the trainer because memory ran out"),
        (3, 3, "whose counter of such kills did not rise"),
        (None, None, "no counter that says whether memory had run out"),
        (3, None, "no counter that says whether memory had run out"),
    ],
)
def test_what_is_said_follows_the_count(before: int | None, after: int | None, words: str) -> None:
    assert words in oom.sentence(before, after)


def test_a_trainer_that_somebody_kills_is_not_told_as_out_of_memory(
    make_job: Callable[..., Job], make_slot: Callable[..., Slot], watch: Watch, kernel_kills: object
) -> None:
    job = make_job(tags={"stub": "kill"}, limits={"max_retries": 0})
    tasks.ring(make_slot(), "default")
    failed = watch.job(job.id)
    assert (failed.status, failed.reason) == ("failed", "trainer_crashed")
    assert "killed by signal 9 (SIGKILL), and not by the kernel for lack of memory" in (failed.message or "")
    assert "dmesg" in (failed.message or "")
    assert Reason.OUT_OF_MEMORY_HOST.sentence not in (failed.message or "")
