"""A supervisor whose trainer is of another version: the code was replaced while the worker ran."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from services.orm import Job
from services.training.messages import PROTOCOL
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares, Trainer

OTHER = """
import json, os, sys
fd = int(os.environ["LOOPLINE_EVENTS_FD"])
os.write(fd, json.dumps({"event": "ready", "protocol": 99, "machine": {"gpus": 2}}).encode() + b"\\n")
os.write(fd, b'{"event": "begun", "in": "words of its own"}\\n')
sys.stdin.read()
"""


def test_a_supervisor_refuses_a_trainer_of_another_version_with_a_sentence(
    make_job: Callable[..., Job],
    make_slot: Callable[..., Slot],
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[Trainer] = []
    take = Spares.take
    monkeypatch.setattr(Spares, "take", lambda spares: taken.append(take(spares)) or taken[-1])
    job = make_job(limits={"max_retries": 0})
    tasks.ring(make_slot(spares=Spares([sys.executable, "-c", OTHER], count=0)), "default")
    done = watch.job(job.id)
    assert (done.status, done.reason, done.attempt) == ("failed", "trainer_crashed", 1)
    said = f"The trainer speaks version 99 of the protocol and this worker version {PROTOCOL}:"
    assert said in (done.message or "")
    assert "Restart the worker." in (done.message or "")
    assert taken[0].has_exited()
    assert "Traceback" not in caplog.text
    assert not [text for _, text in watch.lines(job.id) if "Traceback" in text]


def test_such_a_job_is_tried_again_as_after_any_crash(
    make_job: Callable[..., Job], make_slot: Callable[..., Slot], watch: Watch
) -> None:
    """By then the worker may have been restarted, or another one takes the job."""
    job = make_job(limits={"max_retries": 1})
    tasks.ring(make_slot(spares=Spares([sys.executable, "-c", OTHER], count=0)), "default")
    assert (watch.job(job.id).status, watch.job(job.id).attempt) == ("failed", 2)
    assert watch.statuses(job.id) == ["queued", "running", "queued", "running", "failed"]


ORDERED = """
import sys
from services.training.messages import ProtocolError
from worker.trainer import Inbox
try:
    Inbox(sys.stdin.fileno()).order()
except ProtocolError as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize("line", ['{"spec": {}, "data": null}', '{"request": "order", "spec": {}}', "[", "[1]"])
def test_a_trainer_says_what_it_does_not_understand_of_its_order(line: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ORDERED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        trainer.stdin.write(line.encode() + b"\n")
        trainer.stdin.flush()
        assert trainer.stdout.readline().startswith(b"The supervisor sent a ")
