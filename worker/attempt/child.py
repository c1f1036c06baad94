"""The process of a trainer as its supervisor has it: a fork of the template, or a Python of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from worker import process
from worker.attempt.template import UNFIT

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Of a template: pyarrow is not to start a thread when it is imported."""
ANSWER_SECONDS = 60.0
"""How long a template may take to fork, its imports included, before it is taken for hung."""
ANSWER_BYTES = 32

log = logging.getLogger(__name__)


def reason_against_forks(device: str, platform: str = sys.platform) -> str | None:
    """Why the trainers of a worker each import torch for themselves; None if they are to be forks of a template."""
    if platform != "linux":
        return "only Linux can make a fork of another process the supervisor's child"
    if device != "cpu":
        return (
            "a process that computes on a GPU cannot be forked, and the template must not find out whether there is one"
        )
    return None


class Template:
    """A process that forks trainers (template.py). It starts with the first trainer, and again if it was killed.

    Only for the thread that lives as long as this process does: Linux ties a child to the thread that started it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """`command` and `environment` are those of a trainer; its forks have both."""
        self._command = [*command, "--parent", str(os.getpid()), "--template"]
        self._environment = {**environment, **ENVIRONMENT}
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._is_unfit = False

    @property
    def pid(self) -> int | None:
        """Its process id; None if it was not started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, unless it was started before."""
        if self._process is None:
            self._begin()

    def ask(self, descriptors: Sequence[int]) -> socket.socket | None:
        """Ask for a trainer with these as its standard input, its output and its events.

        Returns the socket on which its process id comes, or nothing if there will be no trainer. Returns None if this
        machine can fork none.
        """
        process.adopt_orphans()
        if self._process is not None and process.has_exited(self._process):
            self.end()
        ours, theirs = socket.socketpair()
        with theirs:
            for _ in (1, 2):
                if self._is_unfit:
                    break
                with suppress(OSError):  # it was killed meanwhile
                    socket.send_fds(self._requests or self._begin(), [b"."], [*descriptors, theirs.fileno()])
                    return ours
                self.end()
        ours.close()
        return None

    def end(self) -> None:
        """Kill it, with forks that are no trainers yet. Trainers stay. The next request starts another one."""
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            process.kill_group(self._process.pid)
            self._is_unfit = self._process.wait() == UNFIT
            process.reap_group(self._process.pid)
        self._requests = self._process = None

    def _begin(self) -> socket.socket:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=theirs.fileno(), env=self._environment, start_new_session=True
            )
        return self._requests


class Child:
    """The process of one trainer, and our ends of its pipes: `orders`, `output` and `events`."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], template: Template | None = None
    ) -> None:
        self._command, self._environment, self._template = command, environment, template
        self._pid: int | None = None  # of a fork that is to come
        self._process: subprocess.Popen[bytes] | None = None  # of no fork
        self._status: int | None = None
        stdin, self.orders = os.pipe()
        self.output, stdout = os.pipe()
        self.events, events = os.pipe()
        self._ours = [self.orders, self.output, self.events]
        self._theirs = [stdin, stdout, events]
        self._ask_until = time.monotonic() + ANSWER_SECONDS
        self._answer = None if template is None else template.ask(self._theirs)
        if self._answer is None:
            try:
                self._start()
            except BaseException:
                self.close()
                raise

    @property
    def pid(self) -> int:
        """Its process id. A fork that is to come is waited for."""
        self._settle(ANSWER_SECONDS)
        assert self._pid is not None, "it was forked or started"  # noqa: S101
        return self._pid

    def has_exited(self) -> bool:
        """Whether it has ended. It is not reaped, so that its id is not given to another process."""
        self._settle(0.0)
        if self._status is not None:
            return True
        if self._process is not None:
            return process.has_exited(self._process)
        return self._pid is not None and process.has_adopted_exited(self._pid)

    def end(self) -> int:
        """Kill it with its group, and reap it. Returns its exit status as subprocess has it."""
        if self._answer is not None:
            self._take(self._last_answer(self._answer))
        if self._status is None:
            self._status = self._killed()
        return self._status

    def close(self) -> None:
        """Close our ends of its pipes."""
        _close(self._ours)

    def kill(self) -> None:
        """Kill what it has left behind; it has exited."""
        if self._pid is not None:
            process.kill_group(self._pid)

    def _start(self) -> None:
        """Start a Python of its own, with the pipes that a fork would have had. If that fails, it counts as killed."""
        stdin, stdout, events = self._theirs
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**self._environment, "LOOPLINE_EVENTS_FD": str(events)},
                pass_fds=(events,),
                start_new_session=True,  # a group of its own: killed whole, and deaf to the terminal's Ctrl-C
            )
        except BaseException:
            self._status = -signal.SIGKILL
            raise
        finally:
            _close(self._theirs)
        self._pid = self._process.pid

    def _settle(self, seconds: float) -> None:
        """Take in the template's answer, waiting for it up to `seconds`. If it forks no trainer, start one without."""
        if self._answer is None or self._template is None:
            return
        self._answer.settimeout(seconds)
        try:
            said = self._answer.recv(ANSWER_BYTES)
        except (BlockingIOError, TimeoutError):
            if time.monotonic() < self._ask_until:
                return
            said = self._last_answer(self._answer)
            log.warning(
                "the template %s has forked no trainer for %g s; killing it", self._template.pid, ANSWER_SECONDS
            )
            self._template.end()
        self._take(said)
        if self._pid is None:
            self._start()

    def _last_answer(self, answer: socket.socket) -> bytes:
        """Take the request back: what was answered before. Nobody can answer any more, and without an answer no fork
        becomes a trainer."""
        answer.shutdown(socket.SHUT_RD)
        return answer.recv(ANSWER_BYTES)

    def _take(self, said: bytes) -> None:
        """The template has answered with a process id, or will not."""
        if self._answer is not None:
            self._answer.close()
        self._answer = None
        if said:
            self._pid = int(said)
            _close(self._theirs)

    def _killed(self) -> int:
        """The exit status, after killing it. A fork that never came counts as killed."""
        if self._pid is None:
            _close(self._theirs)
            return -signal.SIGKILL
        process.kill_group(self._pid)  # also what the trainer may have left behind
        status = process.end_adopted(self._pid) if self._process is None else self._process.wait()
        process.reap_group(self._pid)
        return status


def _close(descriptors: list[int]) -> None:
    """Close them, and forget their numbers: those may be somebody else's from now on."""
    while descriptors:
        os.close(descriptors.pop())
