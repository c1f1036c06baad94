"""The trainer processes of one pool child: the spare that stands by warm, and the one that is training.

Importing torch takes 1.2 to 2 s, unless the trainer is a fork of the template. The first training steps of a process
take longer. A spare has done both, so a job starts in milliseconds and still gets a process of its own: no CUDA state,
no leaked memory, no other job's random numbers.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import selectors
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import RLock

from services.training import messages
from services.training.environment import ENVIRONMENT
from services.training.messages import Event, Failed, ProtocolError, Ready, Request
from worker.attempt.child import Child, Template
from worker.attempt.output import Output
from worker.gpu.advice import DEVICE_LOST, advised

# What a trainer may inherit. Everything else, above all addresses and passwords, stays with the supervisor.
INHERITED = re.compile(
    r"HOME|LANG|LANGUAGE|LC_\w+|LD_LIBRARY_PATH|LOGNAME|PATH|TE?MP|TERM|TMPDIR|TZ|USER|VIRTUAL_ENV|XDG_CACHE_HOME"
    r"|(CUBLAS|CUDA|CUDNN|GOMP|HIP|KMP|MALLOC|MKL|NCCL|NVIDIA|OMP|PYTORCH|ROCR|TORCH)_\w+|PYTHON\w+"
)

MAX_LINE_BYTES = 64 << 20  # an event longer than this is not an event
READ_BYTES = 1 << 16
READS_AT_ONCE = 16  # of what is printed, so that a flood leaves time for the rest


class Trainer:
    """A running trainer process, seen from its supervisor: orders go in, events and printed text come out."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], template: Template | None = None
    ) -> None:
        """A fork of the template, if there is one; `command` and `environment` are those of a process without it."""
        self._child = Child(command, environment, template)
        self._orders, self._output, self._events = self._child.orders, self._child.output, self._child.events
        self._unsent, self._unread = bytearray(), bytearray()
        self.output = Output()
        """What it prints."""
        self.last_event_at = time.monotonic()
        """When anything last came from it, by the monotonic clock; printed text does not count."""
        self.is_silent = False
        """Whether no event can come any more."""
        self._ended = False
        self._selector = selectors.DefaultSelector()
        for fd in (self._orders, self._output, self._events):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        self._selector.register(self._output, selectors.EVENT_READ)
        self._selector.register(self._events, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        return self._child.pid

    def watch(self, fd: int) -> None:
        """Let `wait` return early when `fd` becomes readable."""
        self._selector.register(fd, selectors.EVENT_READ)

    def unwatch(self, fd: int) -> None:
        """Take `watch` back; a `fd` that is not watched is no mistake."""
        with suppress(KeyError):
            self._selector.unregister(fd)

    def send(self, request: Request) -> None:
        """Put a request on the way to the trainer; `wait` sends what the pipe does not take at once."""
        if not self._ended:
            self._unsent += json.dumps(messages.to_json(request)).encode() + b"\n"
            self._flush()

    def wait(self, seconds: float) -> list[Event]:
        """The events that have come in, waiting for them up to `seconds`; raises ProtocolError on garbage."""
        if b"\n" in self._unread:  # `ready` has left it there
            return self._parse(b"")
        events: list[Event] = []
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.fd == self._orders:
                self._flush()
            elif key.fd == self._output:
                self._read_output()
            elif key.fd == self._events:
                events += self._read_events()
        return events

    def ready(self) -> Ready | None:
        """What it says of its device, if it is warm. Whatever it said still comes from `wait`."""
        self._unread += self._read(self._events)
        first, end, _ = bytes(self._unread).partition(b"\n")
        with suppress(ProtocolError):
            event = _event(first) if end else None
            return event if isinstance(event, Ready) else None
        return None

    def has_exited(self) -> bool:
        """Whether the process has ended. What it wrote before may still wait to be read."""
        return self._ended or self._child.has_exited()

    def rest(self) -> list[Event]:
        """After the process has ended: kill what it left behind, and read the events that are still in the pipe."""
        self._child.kill()
        events = self._parse(b"")
        while chunk := self._read(self._events):
            events += self._parse(chunk)
        return events

    def end(self, grace_seconds: float = 0.0) -> int:
        """Wait up to `grace_seconds` for the process to end by itself, then kill its whole group.

        Returns its exit status as subprocess has it: negative for the number of the signal that ended it.
        """
        if not self._ended:
            deadline = time.monotonic() + grace_seconds
            while not self.has_exited() and time.monotonic() < deadline:
                self.wait(0.02)
            self._child.end()
            self._read_output()
            self._close()
        return self._child.end()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._orders, self._unsent[:READ_BYTES])]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it has died or is dying: its exit status tells the story
            self._unsent.clear()
        waiting = self._orders in self._selector.get_map()
        if self._unsent and not waiting:
            self._selector.register(self._orders, selectors.EVENT_WRITE)
        elif waiting and not self._unsent:
            self._selector.unregister(self._orders)

    def _read(self, fd: int) -> bytes:
        """Up to 64 KiB; empty at the end of the stream, or when there is nothing now."""
        try:
            return os.read(fd, READ_BYTES)
        except BlockingIOError:
            return b""

    def _read_output(self) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                chunk = os.read(self._output, READ_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                self.unwatch(self._output)
                return
            self.output.feed(chunk)

    def _read_events(self) -> list[Event]:
        chunk = self._read(self._events)
        self.last_event_at = time.monotonic()
        if not chunk:
            self.is_silent = True
            self._selector.unregister(self._events)
        return self._parse(chunk)

    def _parse(self, chunk: bytes) -> list[Event]:
        self._unread += chunk
        if len(self._unread) > MAX_LINE_BYTES:
            raise ProtocolError(f"The trainer sent a line of more than {MAX_LINE_BYTES} bytes.")
        *lines, rest = self._unread.split(b"\n")
        self._unread = bytearray(rest)
        return [_event(line) for line in lines if line]

    def _close(self) -> None:
        self._ended = self.is_silent = True
        self._selector.close()
        self._child.close()


def _event(line: bytes | bytearray) -> Event:
    try:
        document = json.loads(line, parse_constant=lambda constant: None)  # NaN would make invalid JSON of an answer
    except ValueError as error:
        raise ProtocolError(f"The trainer sent a line that is no JSON: {bytes(line[:200])!r}.") from error
    return messages.read_event(document)


class Spares:
    """Hands out a trainer, keeping one more warm for the next job.

    `prepare` must be called by the thread that lives as long as the process does: Linux ties a child to the *thread*
    that started it. `device` may be called by any thread.
    """

    def __init__(self, command: Sequence[str], *, count: int = 1, template: Template | None = None) -> None:
        """Trainers are forks of the `template`; without one each is started with `command`."""
        self._command = [*command, "--parent", str(os.getpid())]
        self._environment = trainer_environment(os.environ)
        self._template = template
        self._count = count
        self._spares: list[Trainer] = []
        self._trouble: str | None = None
        self._device: Ready | None = None
        self._lock = RLock()

    def device(self) -> Ready | None:
        """What trainers say of the device that they compute on; None until the first of them is warm."""
        with self._lock:
            for spare in self._spares if self._device is None else ():
                self.heard(spare.ready())
            return self._device

    def heard(self, ready: Ready | None) -> None:
        """A trainer has told what it computes on."""
        self._device = ready or self._device

    def trouble(self) -> str | None:
        """Why the device cannot be used, from a spare that failed to warm up on it; None if none failed."""
        with self._lock:
            self._remove_dead()
            return self._trouble

    def prepare(self) -> None:
        """Start spares until there are enough; those that died while waiting are replaced."""
        with self._lock:
            self._remove_dead()
            while len(self._spares) < self._count:
                self._spares.append(self._start())

    def take(self) -> Trainer:
        """A trainer for one attempt, warm if a spare has had the time. Its owner must end it."""
        with self._lock:
            self._remove_dead()
            return self._spares.pop(0) if self._spares else self._start()

    def end(self) -> None:
        """Kill the spares; for the end of the process."""
        with self._lock:
            while self._spares:
                self._spares.pop().end()

    def _start(self) -> Trainer:
        return Trainer(self._command, self._environment, self._template)

    def _remove_dead(self) -> None:
        dead = [spare for spare in self._spares if spare.has_exited()]
        self._spares = [spare for spare in self._spares if spare not in dead]
        for spare in dead:
            with suppress(ProtocolError):
                for event in spare.rest():
                    if isinstance(event, Failed) and event.reason == DEVICE_LOST:
                        self._trouble = advised(event.message)
            spare.end()


def trainer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that a trainer gets, with the settings of the C allocator that training wants."""
    kept = {name: value for name, value in environment.items() if INHERITED.fullmatch(name)}
    return {**ENVIRONMENT, **kept, "PYTHONUNBUFFERED": "1"}


def trainer_command(*, device: str, threads: int | None, workers: int | None = None) -> list[str]:
    """The command line of the real trainer. `workers`: how many share the memory of the CPU; None: one has it all."""
    command = [sys.executable, "-X", "faulthandler", "-m", "worker.trainer", "--device", device]
    given = {"--threads": threads, "--workers": workers}
    return command + [part for name, value in given.items() if value is not None for part in (name, str(value))]


def signal_name(status: int) -> str:
    """`SIGSEGV` for the exit status -11."""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
