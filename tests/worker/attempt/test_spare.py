"""Spare trainers: what they inherit, how they are replaced, and what is read from them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from services.training.messages import (
    PROTOCOL,
    CheckpointDeleted,
    Event,
    Failed,
    Order,
    ProtocolError,
    Ready,
    Steps,
    Stop,
    StopReason,
    to_json,
)
from tests.worker.conftest import STUB
from tests.worker.stub_trainer import MEMORY
from tests.worker.watching import is_alive, wait_for_death, wait_until
from worker.attempt.spare import Spares, Trainer, trainer_environment


@pytest.fixture(autouse=True)
def _forked_trainers() -> None:
    """Here spares are started as workers start them."""


@pytest.fixture
def spares() -> Iterator[Spares]:
    """One stub that stands by."""
    made = Spares(STUB, count=1)
    made.prepare()
    yield made
    made.end()


def script(source: str) -> Trainer:
    return Trainer([sys.executable, "-c", f"import os, sys; fd = int(os.environ['LOOPLINE_EVENTS_FD'])\n{source}"], {})


def test_secrets_are_not_inherited() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0",
        "LOOPLINE_DATABASE_URL": "postgresql://u:secret@db/x",
        "LOOPLINE_BROKER_URL": "redis://:secret@cache",
        "CELERY_BROKER_URL": "redis://:secret@cache",
        "LOOPLINE_S3_SECRET_KEY_FILE": "/run/secrets/s3-secret-key",
        "AWS_ACCESS_KEY_ID": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/secrets/token",
        "PGPASSWORD": "secret",
    }
    kept = trainer_environment(given)
    assert {"PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES"} <= set(kept)
    assert not any("secret" in value for value in kept.values())


def test_the_allocator_is_set_unless_the_environment_says_otherwise() -> None:
    assert trainer_environment({})["MALLOC_TRIM_THRESHOLD_"] == "536870912"
    assert trainer_environment({"MALLOC_TRIM_THRESHOLD_": "1"})["MALLOC_TRIM_THRESHOLD_"] == "1"


def test_a_spare_tells_its_device_and_says_it_again_to_its_owner(spares: Spares) -> None:
    wait_until(lambda: spares.device() is not None)
    told = Ready(PROTOCOL, "cpu", "cpu", MEMORY)
    assert spares.device() == told
    trainer = spares.take()
    assert trainer.wait(1) == [told]
    trainer.end()
    assert spares.device() == told


def test_what_a_trainer_said_before_it_died_is_read_after_its_device_was_asked_for() -> None:
    ready, lost = to_json(Ready(PROTOCOL, "cpu")), to_json(Failed("device_lost", "gone", None))
    trainer = script(f"os.write(fd, b'{json.dumps(ready)}\\n{json.dumps(lost)}\\n')")
    wait_until(trainer.has_exited)
    assert trainer.ready() == Ready(PROTOCOL, "cpu")
    assert [type(event) for event in trainer.rest()] == [Ready, Failed]
    trainer.end()


def test_garbage_is_no_device_and_is_told_to_the_owner() -> None:
    trainer = script("os.write(fd, b'garbage\\n')")
    wait_until(trainer.has_exited)
    assert trainer.ready() is None
    with pytest.raises(ProtocolError, match="no JSON"):
        trainer.wait(1)
    trainer.end()


def test_a_spare_that_died_while_waiting_is_replaced(spares: Spares) -> None:
    first = spares.take()
    spares.prepare()
    first.end()
    second = spares.take()
    spares.prepare()
    os.kill(second.pid, signal.SIGKILL)
    wait_for_death(second.pid, 2)
    assert second.has_exited()
    assert second.end() == -signal.SIGKILL
    third = spares.take()
    assert not third.has_exited()
    third.end()


def test_a_dead_spare_is_never_handed_out(spares: Spares) -> None:
    pid = spares._spares[0].pid
    os.kill(pid, signal.SIGKILL)
    wait_for_death(pid, 2)
    trainer = spares.take()
    assert trainer.pid != pid
    trainer.end()
    assert not is_alive(trainer.pid)


def test_an_order_larger_than_the_pipe_arrives_whole() -> None:
    trainer = script(
        "import time; time.sleep(0.2); line = sys.stdin.readline();"
        'os.write(fd, b\'{"event": "checkpoint_deleted", "step": %d}\\n\' % len(line))'
    )
    order = Order({"x": "y" * 1_000_000}, None, "job")
    trainer.send(order)
    events: list[Event] = []
    deadline = time.monotonic() + 10
    while not events and time.monotonic() < deadline:
        events += trainer.wait(0.1)
    assert events == [CheckpointDeleted(len(json.dumps(to_json(order)) + "\n"))]
    trainer.end()


def test_an_event_that_comes_in_pieces_is_put_together_and_nan_is_null() -> None:
    trainer = script(
        'os.write(fd, b\'{"event": "steps", "first_step": 1, "grad_norm": [2.0], "loss": [Na\');'
        "import time; time.sleep(0.1); os.write(fd, b'N]}\\n')"
    )
    events: list[Event] = []
    while not trainer.is_silent:
        events += trainer.wait(1)
    assert events == [Steps(1, [None], [2.0])]
    trainer.end()


@pytest.mark.parametrize("line", ["b'nonsense'", "b'[1]'", "b'{}'", "b'{\"event\": 1}'", "bytes([255, 254])"])
def test_what_is_no_event_is_refused(line: str) -> None:
    trainer = script(f"os.write(fd, {line} + b'\\n')")
    with pytest.raises(ProtocolError):
        trainer.wait(10)
    trainer.end()


def test_orders_for_a_trainer_that_has_ended_go_nowhere() -> None:
    trainer = script("")
    while not trainer.has_exited():
        trainer.wait(0.1)
    trainer.send(Stop(StopReason.CANCEL))
    assert trainer.end() == 0
    trainer.send(Stop(StopReason.CANCEL))
