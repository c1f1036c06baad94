"""The trainer process. It reads its order from one pipe and writes events to another.

It has no database, no broker and no secrets.

    python -m worker.trainer --parent PID [--device auto] [--threads N] [--workers N] [--template]

It warms up first: it imports torch and does one small training step. Then it sends `ready` and waits for one order on
its standard input. It trains, writes events to the file descriptor LOOPLINE_EVENTS_FD, and exits. It ends early in
three cases:

- Its supervisor has died. On Linux the kernel then kills the trainer; elsewhere it exits when its standard input ends.
- The supervisor did not report in time that it renewed the lease. The supervisor may be frozen, and another attempt may
  start.
- Memory runs out. The kernel kills a trainer before any other process. The supervisor records this, and the job is
  retried from its last checkpoint.

With `--template` the process only imports torch. It is then a template: its forks are trainers. See
worker/attempt/template.py.

Exit status: 0 if the last event was `finished` or `stopped`; 1 if it was `failed`; 2 for a bad command line; 3 if the
supervisor is gone; SIGALRM if the lease was not renewed in time. With any other status or signal, and without a last
event, the trainer crashed.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from services.errors import DatasetInvalid, Invalid, ModelUnusable, TrainingError
from services.training import messages
from services.training.messages import (
    PROTOCOL,
    Event,
    Failed,
    Lease,
    Order,
    ProtocolError,
    Ready,
    Recorded,
    RungAnswer,
    Steps,
    Stop,
    StopReason,
)
from worker.attempt import template
from worker.gpu.advice import DEVICE_LOST, is_device_trouble, is_out_of_memory, is_shortage
from worker.process import be_called, be_first_to_be_killed, die_at, die_with_parent, let_alarms_kill

ORPHANED = 3

RUNG_SECONDS = 5.0
"""How long a trial waits to be told whether it goes on. Without an answer it goes on."""

Send = Callable[[Event], None]


def main() -> int:
    options = _options()
    die_with_parent(options.parent)
    if options.template:
        be_called("template")
        _import(all_kinds=True)
        template.serve(options.parent)  # it returns in forks
    be_called("trainer")
    let_alarms_kill()
    be_first_to_be_killed()
    send = _sender()
    inbox = Inbox(sys.stdin.fileno())
    _import()
    from services.training import run
    from services.training.spec import footprint

    run.prepare_process(options.threads)
    footprint.share_host(options.workers)
    device = None
    try:
        device = run.device_of(options.device)
        run.warm(device)
    except (RuntimeError, ValueError) as error:
        if device is not None and device.type == "cpu":
            raise
        # No job had a part in it, not even where memory is short: others hold it.
        send(replace(failure(error), reason=DEVICE_LOST))
        return 1
    name, memory = run.memory_of(device)
    send(Ready(PROTOCOL, str(device), name, memory))

    try:
        order = inbox.order()
    except ProtocolError as error:
        send(Failed("trainer_crashed", str(error), None))
        return 1
    if order.spec.get("kind") == "predict":
        from services.training import predicting

        answers = predicting.events(order, run.device_of(order.device), inbox.stop, inbox.recorded)
        return train(answers, send, is_built=True)
    return train(run.events(order, stop=inbox.stop, recorded=inbox.recorded, goes_on=inbox.goes_on), send)


def _import(*, all_kinds: bool = False) -> None:
    """Import what trains, or what jobs of all kinds need; torch comes along. In a fork all of it is there."""
    gc.disable()  # importing makes a million objects, none of them garbage
    from services.training import run  # noqa: F401

    if all_kinds:
        from services.training import predicting  # noqa: F401

    gc.freeze()
    gc.enable()


def train(events: Iterable[Event], send: Send, *, is_built: bool = False) -> int:
    """Send every event of the run; what goes wrong becomes a last one, `failed`. Returns the exit status. `is_built`:
    the first update has been made, or there is none to make."""
    try:
        for event in events:
            is_built = is_built or isinstance(event, Steps)
            send(event)
    except Exception as error:  # noqa: BLE001  the one edge: here a failure is sent with its traceback
        send(failure(error, is_built=is_built))
        return 1
    return 0


def failure(error: BaseException, *, is_built: bool = True) -> Failed:
    """The event for an exception; only what is unexpected carries a traceback."""
    reason = _reason(error, is_built)
    expected = isinstance(error, Invalid | ModelUnusable | TrainingError)
    text = str(error) if expected else f"{type(error).__name__}: {error}"
    lines = None if expected else "".join(traceback.format_exception(error))[-8000:]
    return Failed(reason, text[:2000], lines)


def _reason(error: BaseException, is_built: bool) -> str:
    """A run that cannot be built is not tried again, unless its files or the machine's resources were the trouble."""
    if isinstance(error, DatasetInvalid):
        return "dataset_invalid"
    if isinstance(error, ModelUnusable):
        return "cannot_predict"
    if isinstance(error, Invalid):
        return "cannot_train"
    if isinstance(error, TrainingError):
        return error.code if error.code in {"diverged", "out_of_memory_gpu", "too_large"} else "trainer_crashed"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "storage_full"
    if isinstance(error, MemoryError):
        return "out_of_memory_host"
    is_torchs_own = type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")
    if is_torchs_own or is_out_of_memory(error):
        return "out_of_memory_gpu"
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return "out_of_memory_host"
    if is_device_trouble(error):
        return DEVICE_LOST
    if is_built or isinstance(error, OSError) or is_shortage(error):
        return "trainer_crashed"
    return "cannot_train"


class Inbox:
    """What the supervisor sends: one order, news of the lease, perhaps a request to stop, answers about rungs. Its end
    ends this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._orders: queue.SimpleQueue[Order | ProtocolError] = queue.SimpleQueue()
        self._stop: StopReason | None = None
        self._recorded = 0
        self._rungs: dict[int, bool] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def order(self) -> Order:
        """The order, waiting for it. Raises ProtocolError where what came instead is not understood."""
        order = self._orders.get()
        if isinstance(order, ProtocolError):
            raise order
        return order

    def stop(self) -> StopReason | None:
        """Why the training is to stop, or None; asked after every step, so it costs no more than an attribute."""
        return self._stop

    def recorded(self) -> int:
        """How many of this attempt's events about checkpoints are in the database."""
        return self._recorded

    def goes_on(self, epoch: int) -> bool | None:
        """Whether a trial goes on after this epoch. Waits for the answer; None if there is none in time, or if the
        training is to stop anyway."""
        with self._changed:
            self._changed.wait_for(lambda: epoch in self._rungs or self._stop is not None, RUNG_SECONDS)
            return self._rungs.get(epoch)

    def _read(self) -> None:
        for line in lines(self._fd):
            try:
                self._take(messages.read_request(_document(line)))
            except ProtocolError as error:
                self._orders.put(error)
        os._exit(ORPHANED)  # not sys.exit: this is not the main thread, and nobody is left to tell

    def _take(self, request: messages.Request) -> None:
        match request:
            case Lease(until):
                die_at(until)
            case Recorded(count):
                self._recorded = count
            case Stop(reason):
                with self._changed:
                    self._stop = reason
                    self._changed.notify_all()
            case RungAnswer(epoch, goes_on):
                with self._changed:
                    self._rungs[epoch] = goes_on
                    self._changed.notify_all()
            case Order():
                self._orders.put(request)


def _document(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return line  # which is refused as no request


def lines(fd: int) -> Iterator[bytes]:
    """The lines that come in, each as soon as it is whole, to the end of the stream.

    Not by `sys.stdin`: a daemon thread that waits inside of it holds its lock, and the interpreter aborts at exit.
    """
    rest = b""
    while chunk := os.read(fd, 1 << 16):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def _sender() -> Send:
    fd = int(os.environ.pop("LOOPLINE_EVENTS_FD"))
    os.set_inheritable(fd, False)  # a child of the trainer must not keep the pipe open

    def send(event: Event) -> None:
        document = messages.to_json(event)
        line = memoryview(json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        while line:
            line = line[os.write(fd, line) :]

    return send


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.trainer", description=__doc__.splitlines()[0])
    parser.add_argument("--parent", type=int, required=True, help="the process id of the supervisor")
    parser.add_argument("--device", default="auto", help="where to compute: auto, cpu, cuda or cuda:0")
    parser.add_argument("--threads", type=int, default=None, help="threads to compute with; by default all")
    parser.add_argument("--workers", type=int, default=1, help="workers that share the memory; by default one")
    parser.add_argument(
        "--template", action="store_true", help="train nothing; fork a trainer for each request on standard input"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
