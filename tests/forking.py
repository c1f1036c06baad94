"""Processes of the service for tests, which do not import it again in each of them.

    Popen([sys.executable, "-m", "api"], cwd=ROOT, env=environment, stderr=PIPE)

It takes a second of processor time to import what a worker, a scheduler or the API needs, and 1.5 s with torch. A fork
takes some milliseconds. So `Popen` asks the nursery, a process that has imported this once, for a fork of itself. The
fork then runs the module as `python -m` does, with its own environment, descriptors, session and exit status.

Each test process has one nursery with torch and one without. worker/attempt/template.py does the same for trainers,
and explains how a fork becomes the child of another process. Only Linux can do that: elsewhere `Popen` is that of
`subprocess`.
"""

from __future__ import annotations

import atexit
import faulthandler
import fcntl
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from worker import process
from worker.attempt import template
from worker.attempt.child import ENVIRONMENT

ROOT = Path(__file__).parent.parent
IMPORTS = {
    "service": ("api.server", "worker.scheduler.loop", "worker.pool", "celery.apps.worker"),
    "torch": ("services.training.run", "services.training.predicting", "worker.trainer"),
}
REQUEST_BYTES = 1 << 17
DESCRIPTORS = 16
HIGH = 500
"""The descriptors of a request are moved to numbers from here on, so that none is overwritten before it is moved."""


class _Forked(subprocess.Popen[Any]):
    def __init__(self, command: list[str], *, torch: bool = False, **options: Any) -> None:
        self._nursery = nursery("torch" if torch else "service")
        super().__init__(command, **options)

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*arguments).arguments
        pipes = [given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        ours = {number: pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5])) if pipe != -1}
        descriptors = {0: 0, 1: 1, 2: 2, **{number: number for number in given["pass_fds"]}, **ours}
        request = {
            "command": given["args"][1:],
            "cwd": os.fspath(given["cwd"] or Path.cwd()),
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "is_leader": given["start_new_session"],
            "numbers": list(descriptors),
        }
        self.pid = self._nursery.fork(request, list(descriptors.values()))
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _python(command: list[str], *, torch: bool = False, **options: Any) -> subprocess.Popen[Any]:
    return subprocess.Popen(command, **options)


Popen: Any = _Forked if sys.platform == "linux" else _python


def run(
    command: list[str],
    *,
    input: str | bytes | None = None,  # as `subprocess` calls it
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, of a fork."""
    pipe = subprocess.PIPE
    options |= {"stdin": pipe} if input is not None else {}
    options |= {"stdout": pipe, "stderr": pipe} if capture_output else {}
    with Popen(command, **options) as child:
        try:
            output, errors = child.communicate(input, timeout)
        except BaseException:
            child.kill()
            raise
    done = subprocess.CompletedProcess(command, child.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


class Nursery:
    """The process that forks, as its parent has it."""

    def __init__(self, kind: str) -> None:
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", kind],
                cwd=ROOT,
                stdin=theirs.fileno(),
                env={**os.environ, **ENVIRONMENT},
            )

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """The process id of a new child of this process."""
        with self._lock:
            process.adopt_orphans()
            try:
                socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
                return int(self._requests.recv(32))
            finally:
                process.adopt_orphans(False)  # tests leave theirs to the system

    def end(self) -> None:
        self._requests.close()
        self._process.wait()


@functools.cache
def nursery(kind: str) -> Nursery:
    """The nursery of this test process, which ends with it."""
    made = Nursery(kind)
    atexit.register(made.end)
    return made


def _serve(requests: socket.socket) -> None:
    """Fork for each request. Returns in a fork, which runs what was asked for. Raises SystemExit in the nursery."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, DESCRIPTORS)
        if not message:
            sys.exit()
        if _fork(requests):
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.detach()
    _run(**json.loads(message), descriptors=descriptors)


def _fork(requests: socket.socket) -> bool:
    """Whether this process is the fork, which has become the child of whoever asked."""
    if (middle := os.fork()) != 0:
        os.waitpid(middle, 0)
        return False
    middle = os.getpid()
    if os.fork() != 0:
        os._exit(0)
    while os.getppid() == middle:  # it is about to end
        time.sleep(0.0002)
    requests.sendall(str(os.getpid()).encode())
    return True


def _run(
    command: list[str],
    cwd: str,
    environment: dict[str, str],
    is_leader: bool,
    numbers: list[int],
    descriptors: list[int],
) -> None:
    """Run `[-X faulthandler] -m MODULE ...` or `-c SOURCE ...` as Python itself would."""
    if is_leader:
        os.setsid()
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for descriptor in descriptors]
    os.closerange(3, HIGH)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())
    if command[:2] == ["-X", "faulthandler"]:
        faulthandler.enable()
        command = command[2:]
    _end(_status(command))


def _status(command: list[str]) -> int:
    """Run it, and return the exit status that Python would have."""
    flag, what, *arguments = command
    sys.argv = [what if flag == "-m" else flag, *arguments]
    try:
        if flag == "-m":
            sys.modules.pop(what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__", "__builtins__": __builtins__})  # noqa: S102
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception:  # noqa: BLE001  as any process that ends by an error
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end(status: int) -> None:
    """End as Python does, but leave the memory to the system: to free what was imported takes 40 ms."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status & 0xFF)


def main() -> None:
    gc.disable()  # importing makes many objects, none of them garbage
    for name in IMPORTS[sys.argv[1]]:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    template._refuse_threads()
    _serve(socket.socket(fileno=os.dup(0)))


if __name__ == "__main__":
    main()
