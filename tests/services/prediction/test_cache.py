"""Models in memory: within bounds, each loaded once, those that were asked last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.prediction.cache import Cache


def test_a_thousand_models_stay_within_the_bounds_and_the_last_ones_are_kept() -> None:
    cache: Cache[int] = Cache(most_models=10, most_bytes=500)
    for number in range(1000):
        assert cache.get(number, lambda: 100, lambda number=number: number) == number  # type: ignore[misc]
        assert len(cache) <= 5
        assert cache.bytes == 100 * len(cache)
    loads: list[int] = []
    for number in (995, 999, 3, 995, 996):
        cache.get(number, lambda: 100, lambda number=number: loads.append(number) or number)  # type: ignore[func-returns-value,misc]
    assert loads == [3, 996]
    small: Cache[int] = Cache(most_models=2, most_bytes=500)
    for number in range(9):
        small.get(number, lambda: 0, lambda: 1)
    assert len(small) == 2


def test_a_model_larger_than_the_bound_is_kept_alone() -> None:
    cache: Cache[str] = Cache(most_models=10, most_bytes=500)
    assert cache.get("small", lambda: 100, lambda: "a") == "a"
    assert cache.get("large", lambda: 900, lambda: "b") == "b"
    assert cache.get("large", lambda: 900, lambda: pytest.fail("it is here")) == "b"
    assert (len(cache), cache.bytes) == (1, 900)


def test_many_that_ask_for_a_cold_model_wait_for_one_load() -> None:
    cache: Cache[object] = Cache(2, 100)
    all_asked, loads = threading.Barrier(9), []

    def load() -> object:
        loads.append(1)
        all_asked.wait(10)
        return object()

    def ask() -> object:
        if loads:  # the first one loads, and the others are not later than its end
            all_asked.wait(10)
        return cache.get("model", lambda: 1, load)

    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(ask)
        while not loads:
            pass
        others = [pool.submit(ask) for _ in range(8)]
        found = {id(each.result(20)) for each in (first, *others)}
    assert (len(found), loads) == (1, [1])


def test_a_load_that_fails_is_told_to_all_and_tried_again() -> None:
    cache: Cache[str] = Cache(2, 100)

    def fail() -> str:
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            cache.get("model", lambda: 60, fail)
        assert (len(cache), cache.bytes) == (0, 0)
    assert cache.get("model", lambda: 60, lambda: "here") == "here"
