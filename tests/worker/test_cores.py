"""How many workers share a CPU, and how many threads each trainer gets."""

from __future__ import annotations

import os

import pytest

from services.settings import Settings
from worker import cores
from worker.fleet import environment
from worker.gpu.devices import CPU

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores_", "gib", "workers", "threads"),
    [
        *((1, 16, 1, None), (2, 16, 2, 1), (3, 16, 3, 1), (4, 16, 4, 1)),
        *((6, 16, 4, 1), (8, 16, 4, 2), (64, 256, 4, 16)),
        *((8, 2, 2, 4), (8, 0.5, 1, None), (8, None, 4, 2)),  # as many as the memory is enough for, if it is known
    ],
)
def test_a_worker_per_core_shares_the_cores_with_the_others(
    cores_: int, gib: float | None, workers: int, threads: int | None
) -> None:
    assert cores.default_workers(cores_, None if gib is None else int(gib * GIB)) == workers
    found = cores.devices(Settings(cpu_workers=workers), cores_)
    assert [one.threads for one in found] == [threads] * workers
    assert len({one.label for one in found}) == workers
    assert all(one.uuid is None for one in found)


@pytest.mark.parametrize("cores_", range(1, 17))
def test_by_default_all_trainers_together_have_at_most_a_thread_per_core(cores_: int) -> None:
    assert sum(one.threads or cores_ for one in cores.devices(Settings(), cores_, 64 * GIB)) <= cores_


@pytest.mark.parametrize(
    ("given", "threads"), [({"cpu_workers": 6}, 6 * 1), ({"cpu_workers": 2, "trainer_threads": 4}, 2 * 4)]
)
def test_the_settings_may_ask_for_more_threads_than_cores(given: dict[str, int], threads: int) -> None:
    assert sum(one.threads or 0 for one in cores.devices(Settings(**given), 4)) == threads


def test_one_worker_has_all_cores_as_torch_counts_them() -> None:
    assert cores.devices(Settings(cpu_workers=1), 8) == [CPU]
    assert environment(CPU, {}) == {"LOOPLINE_DEVICE": "cpu", "LOOPLINE_CPU_WORKERS": "1"}


def test_the_settings_come_first() -> None:
    found = cores.devices(Settings(cpu_workers=6, trainer_threads=3), 8)
    assert [one.threads for one in found] == [3] * 6
    told = {"LOOPLINE_DEVICE": "cpu", "LOOPLINE_CPU_WORKERS": "6", "LOOPLINE_TRAINER_THREADS": "3"}
    assert environment(found[0], {"A": "b"}) == {"A": "b", **told}


def test_by_default_there_is_a_worker_for_each_core_of_this_machine() -> None:
    assert 1 <= cores.count() <= (os.cpu_count() or 1)
    assert len(cores.devices(Settings(), 2, 16 * GIB)) == 2
