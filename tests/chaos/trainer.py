"""The real trainer, watched: it writes a line for every update, dies at fault points, and takes its time.

    python -m tests.chaos.trainer --chaos-folder F --chaos-seed N --chaos-pace SECONDS --parent PID ...

A tick is `<CLOCK_MONOTONIC ns> <job> <attempt> <step> <pid>`, one write(2) each, so that a SIGKILL loses none.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from services.training.messages import Event, Order, RolledBack, Started, StopReason
from tests.chaos import points
from worker import trainer

Stop = Callable[[], StopReason | None]


class Ticks:
    """The tick log of one attempt. `step` is the last update that was made."""

    def __init__(self, folder: Path, job: str, attempt: int) -> None:
        self.pid, self.job, self.attempt, self.step = os.getpid(), job, attempt, 0
        path = folder / "ticks" / f"{self.pid}-{time.monotonic_ns()}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._write("begin", 0)  # an attempt that never ticked has a name all the same

    def tick(self) -> None:
        self.step += 1
        self._write(time.monotonic_ns(), self.step)

    def _write(self, when: object, step: int) -> None:
        os.write(self._fd, f"{when} {self.job} {self.attempt} {step} {self.pid}\n".encode())


def watch(folder: Path, pace: float) -> None:
    """Let services.training.run write a tick after each update, and wait `pace` seconds."""
    from services.training import run

    original = run.events

    def events(order: Order, stop: Stop = lambda: None, **others: Any) -> Iterator[Event]:
        ticks = Ticks(folder, order.job, order.attempt)

        def ticking() -> StopReason | None:
            ticks.tick()
            time.sleep(pace)
            return stop()

        for event in original(order, stop=ticking, **others):
            if isinstance(event, Started):
                ticks.step = event.resumed_from.step if event.resumed_from else 0
            elif isinstance(event, RolledBack):
                ticks.step = event.step
            yield event

    run.events = events


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--chaos-folder", type=Path, required=True)
    parser.add_argument("--chaos-seed", type=int, required=True)
    parser.add_argument("--chaos-pace", type=float, required=True)
    parser.add_argument("--parent", type=int, required=True)
    ours, rest = parser.parse_known_args()
    points.arm(ours.chaos_folder, points.TRAINER, ours.chaos_seed)

    class Inbox(trainer.Inbox):
        """The trainer's own. With its order torch is there, and not sooner: what is sent must be read at once."""

        def order(self) -> Order:
            order = super().order()
            watch(ours.chaos_folder, ours.chaos_pace)
            return order

    trainer.Inbox = Inbox
    sys.argv = [sys.argv[0], *rest, "--parent", str(ours.parent)]
    return trainer.main()


if __name__ == "__main__":
    sys.exit(main())
