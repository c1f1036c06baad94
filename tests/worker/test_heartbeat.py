"""The sign of life: who is there, who is deaf, and what a health check says of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import Engine, make_url

from services import db
from services.errors import Unavailable
from services.jobs import workers
from services.orm import Job, Worker
from services.settings import Settings
from services.training.spec import footprint
from tests.worker.attempt.test_supervisor import go, ringing
from tests.worker.proxy import Proxy
from tests.worker.stub_trainer import MEMORY
from tests.worker.watching import Process, Watch, is_alive, wait_until, waits_for_bells
from worker import health, heartbeat
from worker.attempt.slot import Slot
from worker.heartbeat import Heartbeat
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]


@pytest.fixture
def slot(make_slot: MakeSlot) -> Slot:
    """A slot that finds itself deaf after a fifth of a second."""
    made = make_slot()
    return make_slot(settings=made.settings.model_copy(update={"stuck_seconds": 0.2, "renew_seconds": 0.05}))


def listed(engine: Engine) -> list[Worker]:
    with db.read_scope(engine) as session:
        return list(workers.seen(session))


@pytest.fixture
def beating(slot: Slot) -> Iterator[list[str]]:
    """A heartbeat; what it was ended with is in the list."""
    ended: list[str] = []
    made = Heartbeat(slot, end=lambda: ended.append("deaf"))
    made.start()
    yield ended
    made.stop()


def test_a_worker_is_listed_while_it_lives_with_what_it_does(
    engine: Engine, make_job: MakeJob, slot: Slot, beating: list[str], watch: Watch
) -> None:
    wait_until(lambda: listed(engine))
    [idle] = listed(engine)
    assert (idle.name, idle.queues, idle.state, idle.job_id, idle.heard_at) == ("here:1", "default", "idle", None, None)
    job = make_job(tags={"stub": "hold"})
    with ringing(slot):
        wait_until(lambda: listed(engine)[0].job_id == job.id)
        [busy] = listed(engine)
        assert busy.state == "busy"
        assert busy.heard_at is not None
        go(slot.storage, job)
        watch.until(job.id, lambda job: job.status == "succeeded")
    wait_until(lambda: listed(engine)[0].state == "idle")
    wait_until(lambda: listed(engine)[0].memory_bytes == MEMORY)  # there is no spare: the job's trainer told it
    assert beating == []


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_worker_that_had_no_job_yet_tells_its_share_of_the_memory_that_its_spare_has_found(
    engine: Engine, start: Callable[..., Process]
) -> None:
    start("worker.start", "worker.app", "--without-heartbeat", device="cpu", cpu_workers=2)
    wait_until(lambda: any(worker.device for worker in listed(engine)), 60)
    whole = footprint.host_bytes()
    assert whole is not None
    assert [(worker.device, worker.memory_bytes) for worker in listed(engine)] == [("cpu", whole // 2)]


def test_a_worker_that_ends_in_good_order_is_listed_no_more(engine: Engine, slot: Slot) -> None:
    made = Heartbeat(slot, end=lambda: None)
    made.start()
    wait_until(lambda: listed(engine))
    made.stop()
    assert listed(engine) == []


@pytest.mark.parametrize("renew_seconds", [0.05, 60.0])  # however long the next heartbeat is off
def test_a_worker_that_shuts_down_takes_jobs_of_no_queue(
    engine: Engine, slot: Slot, make_slot: MakeSlot, renew_seconds: float
) -> None:
    slot = make_slot(settings=slot.settings.model_copy(update={"renew_seconds": renew_seconds}))
    made = Heartbeat(slot, end=lambda: None)
    made.start()
    wait_until(lambda: listed(engine))
    assert listening(engine) == 1
    slot.drain.raise_flag()
    wait_until(lambda: listening(engine) == 0, 5)
    [ending] = listed(engine)
    assert (workers.queues(ending), ending.state) == ((), "idle")
    made.stop()
    assert listed(engine) == []


def listening(engine: Engine) -> int:
    with db.read_scope(engine) as session:
        return workers.listening(session, "default")


def test_a_worker_that_hears_nothing_while_work_waits_ends_itself_once(
    make_job: MakeJob, slot: Slot, beating: list[str]
) -> None:
    make_job()
    wait_until(lambda: beating)
    time.sleep(0.2)
    assert beating == ["deaf"]


def test_a_worker_without_work_or_with_that_of_others_only_stays(
    make_job: MakeJob, slot: Slot, beating: list[str]
) -> None:
    make_job(queue="night")
    time.sleep(0.6)
    assert beating == []


def test_a_worker_that_is_told_to_end_does_not_take_itself_for_deaf(
    make_job: MakeJob, slot: Slot, beating: list[str]
) -> None:
    slot.drain.raise_flag()
    make_job()
    time.sleep(0.6)
    assert beating == []


@pytest.mark.parametrize("error", [Unavailable("The database is away."), ZeroDivisionError()])
def test_a_heartbeat_survives_every_error(
    engine: Engine, slot: Slot, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tries = []

    def refuse(*_: object, **__: object) -> None:
        tries.append(1)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(heartbeat.workers, "beat", refuse)
        made = Heartbeat(slot, end=lambda: None)
        made.start()
        wait_until(lambda: len(tries) > 2)
    wait_until(lambda: listed(engine))
    made.stop()


def test_a_parent_that_does_not_end_is_killed(start: Callable[..., Process]) -> None:
    source = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from worker.heartbeat import end_parent\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0: end_parent(parent, seconds=0.3)\n"
        "else: time.sleep(60)\n"
    )
    process = start("tests.worker.run", source)
    assert process.popen.wait(20) == -9


def test_a_worker_whose_broker_swallows_everything_ends_to_be_started_anew(
    settings: Settings, make_job: MakeJob, start_worker: Callable[..., Process], engine: Engine, watch: Watch
) -> None:
    """A half-open connection to the broker: the worker exits, and a new one consumes."""
    proxy = Proxy(make_url(settings.broker_url).port or 0)
    try:
        through = make_url(settings.broker_url).set(port=proxy.port).render_as_string(hide_password=False)
        worker = start_worker(broker_url=through, stuck_seconds=1.5)
        first = make_job()
        bell = CeleryDoorbell(settings)
        assert bell.ring("default")
        watch.until(first.id, lambda job: job.status == "succeeded")
        child = worker.pool_child()
        wait_until(lambda: waits_for_bells(settings.broker_url))  # until then it may claim the next job without one
        proxy.swallows = True
        job = make_job()
        worker.popen.wait(30)
        assert not is_alive(child)
        assert "received no doorbell for 1.5 s while jobs wait" in worker.log.read_text()
        assert watch.job(job.id).status == "queued"
        start_worker()
        assert bell.ring("default")
        watch.until(job.id, lambda job: job.status == "succeeded")
        bell.close()
    finally:
        proxy.close()


def test_a_host_without_workers_is_unwell(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", settings.database_url)
    assert health.main([]) == 1
    assert "was seen in the last 60 s" in capsys.readouterr().err


def test_a_database_that_cannot_answer_is_unwell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    assert health.main([]) == 1
    assert "no tables yet" in capsys.readouterr().err


def test_idle_workers_beside_work_that_waits_are_unwell_and_busy_ones_are_not(
    engine: Engine, settings: Settings, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("LOOPLINE_STUCK_SECONDS", "0.05")
    name = f"{socket.gethostname()}:{os.getpid()}:abcdef"

    def beat(state: str) -> None:
        with db.session_scope(engine) as session:
            workers.beat(session, name, queues=["default"], state=state, job_id=None, doorbell_seconds_ago=None)

    beat("idle")
    assert health.main([]) == 0
    make_job()
    time.sleep(0.1)
    assert health.main([]) == 1
    beat("busy")
    assert health.main([]) == 0
    assert health.main(["--host", "elsewhere"]) == 1
