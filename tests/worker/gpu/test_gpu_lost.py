"""A worker whose GPU vanishes: it claims nothing more, says so, and ends; its job is nobody's failure."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.blobs.storage import Storage
from services.jobs import workers
from services.orm import Job
from services.settings import Settings
from tests.worker.attempt.test_supervisor import go, ringing
from tests.worker.test_heartbeat import listed
from tests.worker.watching import Process, Watch, wait_until, waits_for_bells
from worker import health, tasks
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares
from worker.gpu.devices import Gpu
from worker.heartbeat import Heartbeat
from worker.scheduler.bell import CeleryDoorbell

MakeJob = Callable[..., Job]
MakeSlot = Callable[..., Slot]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """What stands for the GPU's file in /dev."""
    path = tmp_path / "nvidia0"
    path.touch()
    return path


def test_nothing_is_claimed_without_the_gpu(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch, node: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slot = make_slot(gpu=Gpu([node]))
    first = make_job()
    assert tasks.ring(slot, "default") == 1
    node.unlink()
    second = make_job()
    assert tasks.ring(slot, "default") == 0
    assert (watch.job(first.id).status, watch.job(second.id).status) == ("succeeded", "queued")
    assert "the GPU is lost, this worker claims no more jobs" in caplog.text
    assert "cannot be opened any more" in caplog.text


def test_a_job_whose_trainer_holds_the_gpu_open_goes_on_and_then_the_worker_ends(
    engine: Engine, make_job: MakeJob, make_slot: MakeSlot, storage: Storage, watch: Watch, node: Path
) -> None:
    """As after `systemctl daemon-reload`: what is open stays open, and nothing new may be opened."""
    made = make_slot()
    slot = make_slot(gpu=Gpu([node]), settings=made.settings.model_copy(update={"renew_seconds": 0.05}))
    running, behind = make_job(tags={"stub": "hold"}, priority=5), make_job()
    ended: list[str] = []
    heartbeat = Heartbeat(slot, end=lambda: ended.append("lost"))
    heartbeat.start()
    with ringing(slot):
        watch.until(running.id, lambda job: job.step == 1)
        node.unlink()
        wait_until(lambda: listed(engine)[0].state == "broken")
        assert (listed(engine)[0].job_id, ended) == (running.id, [])
        with db.read_scope(engine) as session:
            assert "here:1 takes no jobs: its GPU cannot be used." in workers.stuck(session, 60)[0]
        go(storage, running)
        watch.until(running.id, lambda job: job.status == "succeeded")
        wait_until(lambda: ended)
    assert watch.job(behind.id).status == "queued"
    heartbeat.stop()


@pytest.mark.parametrize(("stub", "lost"), [("device", 1), ("cold", 0)])
def test_a_job_that_loses_its_gpu_has_not_failed(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch, stub: str, lost: int
) -> None:
    """One that had begun counts as lost, in case it was the job after all; one that had not had no part in it."""
    slot, job, behind = make_slot(), make_job(tags={"stub": stub}), make_job(priority=-1)
    assert tasks.ring(slot, "default") == 1
    given = watch.job(job.id)
    assert (given.status, given.failures, given.lost) == ("queued", 0, lost)
    assert watch.job(behind.id).status == "queued", "nothing more is claimed"
    assert slot.gpu.trouble is not None
    if lost:
        assert (given.reason, given.checkpoint_step) == ("worker_lost", 4)
        assert "The GPU of here:1 failed during attempt 1" in (given.message or "")


def test_a_job_that_breaks_every_gpu_fails_at_last(make_job: MakeJob, make_slot: MakeSlot, watch: Watch) -> None:
    job = make_job(tags={"stub": "device"})
    for _ in range(3):
        assert tasks.ring(make_slot(), "default") == 1
    assert (watch.job(job.id).status, watch.job(job.id).reason) == ("queued", "worker_lost")
    assert tasks.ring(make_slot(), "default") == 1
    assert (watch.job(job.id).status, watch.job(job.id).reason) == ("failed", "worker_lost")


def test_a_spare_that_cannot_warm_up_on_its_gpu_keeps_the_worker_from_claiming(
    make_job: MakeJob, make_slot: MakeSlot, watch: Watch
) -> None:
    source = (
        "import json, os; fd = int(os.environ['LOOPLINE_EVENTS_FD'])\n"
        "end = {'event': 'failed', 'reason': 'device_lost', 'message': 'CUDA error: unknown error',"
        "'traceback': None}\n"
        "os.write(fd, json.dumps(end).encode() + b'\\n'); raise SystemExit(1)\n"
    )
    spares = Spares([sys.executable, "-c", source], count=1)
    slot = make_slot(spares=spares)
    spares.prepare()
    job = make_job()
    wait_until(lambda: not slot.may_claim())
    assert tasks.ring(slot, "default") == 0
    assert "CUDA error: unknown error: CUDA has failed" in (slot.gpu.trouble or "")
    assert watch.job(job.id).attempt == 0


def test_the_real_trainer_says_that_its_device_cannot_be_used(make_slot: MakeSlot) -> None:
    """There is no GPU 63 anywhere."""
    from worker.attempt.spare import trainer_command

    spares = Spares(trainer_command(device="cuda:63", threads=1), count=1)
    slot = make_slot(spares=spares)
    spares.prepare()
    wait_until(lambda: not slot.may_claim(), 60)
    assert "there is no such GPU" in (slot.gpu.trouble or "")


def test_hosts_whose_workers_are_all_broken_are_unwell(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To start them anew would interrupt those that work; so one that does not is told of elsewhere."""
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", settings.database_url)

    def beat(name: str, state: str) -> None:
        with db.session_scope(engine) as session:
            name = f"{socket.gethostname()}:{name}"
            workers.beat(session, name, queues=["default"], state=state, job_id=None, doorbell_seconds_ago=None)

    beat("gpu-0", "broken")
    assert health.main([]) == 1
    assert "its GPU cannot be used" in capsys.readouterr().err
    beat("1:abcdef", "idle")
    assert health.main([]) == 0
    with db.read_scope(engine) as session:
        assert len(workers.stuck(session, 60)) == 1


def test_a_worker_that_is_broken_does_not_count_as_one_that_listens(engine: Engine, make_job: MakeJob) -> None:
    with db.session_scope(engine) as session:
        workers.beat(session, "a:gpu-0", queues=["default"], state="broken", job_id=None, doorbell_seconds_ago=None)
    make_job()
    time.sleep(0.05)
    with db.read_scope(engine) as session:
        told = workers.stuck(session, 0.01)
    assert len(told) == 2
    assert "no worker listens to it" in told[1]


def test_a_celery_worker_without_its_gpu_ends_by_itself_and_leaves_the_work_to_others(
    settings: Settings,
    make_job: MakeJob,
    start_worker: Callable[..., Process],
    start: Callable[..., Process],
    bell: CeleryDoorbell,
    watch: Watch,
    tmp_path: Path,
) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "nvidiactl").touch()
    worker = start("worker.start", "tests.worker.stub_app", also={"STUB_DEV": str(dev)}, device="cuda")
    first = make_job()
    bell.ring("default")
    watch.until(first.id, lambda job: job.status == "succeeded")
    wait_until(lambda: waits_for_bells(settings.broker_url))  # until then it may be about to claim the next job
    (dev / "nvidiactl").unlink()
    job = make_job()
    bell.ring("default")
    assert worker.popen.wait(20) == 0
    assert "nvidiactl cannot be opened any more" in worker.log.read_text()
    assert watch.job(job.id).attempt == 0
    start_worker()
    bell.ring("default")
    watch.until(job.id, lambda job: job.status == "succeeded")
