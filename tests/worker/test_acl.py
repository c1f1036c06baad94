"""The broker's user of docker/secrets.sh may do what the service does there, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from api import bell as api_bell
from api.rates import Rate, Rates
from services.orm import Job
from services.settings import Settings
from tests.ports import valkey_on_a_free_port
from tests.worker.watching import Process, Watch
from worker.scheduler.bell import CeleryDoorbell

RULES = Path(__file__).parent.parent.parent / "docker" / "secrets.sh"


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    """A Valkey of its own with that user, seen by its administrator."""
    [rule] = [line for line in RULES.read_text().splitlines() if line.startswith("user loopline ")]
    _, name, *rules = rule.replace("$secret", "pass").split()
    with valkey_on_a_free_port() as started, redis.Redis.from_url(started.connection_url) as admin:
        admin.execute_command("ACL", "SETUSER", name, *rules)
        yield admin


@pytest.fixture
def broker_url(server: redis.Redis) -> str:
    where = server.connection_pool.connection_kwargs
    return f"redis://loopline:pass@{where['host']}:{where['port']}/0"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("monitored", [False, True])
def test_a_job_runs_and_nothing_is_refused(
    server: redis.Redis,
    settings: Settings,
    make_job: Callable[..., Job],
    start_worker: Callable[..., Process],
    bell: CeleryDoorbell,
    watch: Watch,
    monitored: bool,
) -> None:
    worker = start_worker(celery_events=monitored)
    if monitored:
        assert receives_event(settings.broker_url, meanwhile=lambda: bell.ring("default"))
    first, second = make_job(), make_job()
    assert api_bell.CeleryDoorbell(settings.broker_url).ring("default")
    watch.until(first.id, lambda job: job.status == "succeeded")
    assert bell.ring("default")
    watch.until(second.id, lambda job: job.status == "succeeded")
    Rates(settings.broker_url, Rate(10, 60)).count("key", "mine")
    assert worker.stop() == 0
    assert [f"{entry['reason']} {entry['object']}" for entry in server.acl_log()] == []
    assert server.get(next(server.scan_iter("loopline:limit:key:mine:*"))) == b"1"


def receives_event(broker_url: str, meanwhile: Callable[[], object]) -> str:
    """The kind of an event that reaches one of Celery's monitors, as Flower is."""
    kinds: list[str] = []
    app = Celery(broker=broker_url, set_as_current=False)
    ringing = threading.Event()
    bells = threading.Thread(target=lambda: [meanwhile() for _ in range(100) if not ringing.wait(0.1)])
    bells.start()
    try:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection)

            def hear(event: dict[str, Any]) -> None:
                kinds.append(event["type"])
                receiver.should_stop = True

            receiver.handlers["*"] = hear
            receiver.capture(limit=None, timeout=20, wakeup=False)
    finally:
        ringing.set()
        bells.join()
        app.close()
    return kinds[0]


@pytest.mark.parametrize(
    "command", ["CONFIG GET *", "FLUSHALL", "KEYS *", "CLIENT LIST", "ACL LIST", "EVAL x 0", "MONITOR", "SHUTDOWN"]
)
def test_what_the_service_does_not_do_is_refused(broker_url: str, command: str) -> None:
    with redis.Redis.from_url(broker_url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
