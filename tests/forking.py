"""Processes of the service for tests, which do not import it again in each of them.

    Popen([sys.executable, "-m", "api"], cwd=ROOT, env=environment, stderr=PIPE)

It takes a second of processor time to import what a worker, a scheduler or the API needs, and 1.5 s with torch. A fork
takes some milliseconds. So `Popen` asks the fork server, a process that has imported this once, for a fork of itself.
The fork then runs the module as `python -m` does, with its own environment, descriptors, session and exit status.

Each test process has a fork server with torch and one without; a fork takes 30 ms with it, and 9 ms without.
worker/attempt/template.py does the same for trainers, and explains how a fork becomes the child of another process.
Only Linux can do that: elsewhere `Popen` is that of `subprocess`.

    Popen([sys.executable, "-m", "local", "run"], torch=True, family=True, ...)

With `family`, what the fork starts by `python -m` is a fork too, and so on: of a fork server that it forks from itself,
unless it has more than one thread by then. A fork's /proc/PID/environ remains that of its fork server.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import fcntl
import functools
import gc
import importlib
import inspect
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from worker import process
from worker.attempt import template
from worker.attempt.child import ENVIRONMENT

ROOT = Path(__file__).parent.parent
IMPORTS = {
    "service": (
        *("api.server", "worker.scheduler.loop", "worker.scheduler.searches", "worker.pool", "celery.apps.worker"),
        *("loopline.client", "loopline.cli.app", "loopline.cli.jobs", "loopline.cli.submit", "loopline.cli.datasets"),
    ),
    "torch": (
        *("services.training.run", "services.training.predicting", "worker.trainer", "loopline.prediction.tables"),
        *("numpy.ma", "numpy.random", "pandas", "pyarrow.dataset"),  # what libraries import when they first need it
    ),
}
IMPORTS["all"] = IMPORTS["service"] + IMPORTS["torch"] + ("local.demo",)
LONGEST_COMMAND = 4000
PR_GET_CHILD_SUBREAPER = 37
REQUEST_BYTES = 1 << 17
DESCRIPTORS = 16
HIGH = 500
"""The descriptors of a request are moved to numbers from here on, so that none is overwritten before it is moved."""


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """What of a call of `_execute_child` a fork server has to know."""
    return {
        "command": list(given["args"])[1:],
        "cwd": os.fspath(given["cwd"] or Path.cwd()),
        "environment": dict(os.environ if given["env"] is None else given["env"]),
        "is_leader": given["start_new_session"],
        "umask": given["umask"],
    }


def _execute_child(child: subprocess.Popen[Any], fork_server: ForkServer, given: dict[str, Any], **more: Any) -> None:
    """What `Popen._execute_child` does, by a fork."""
    pipes = [given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
    ours = {number: pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5])) if pipe != -1}
    descriptors = {0: 0, 1: 1, 2: 2, **{number: number for number in given["pass_fds"]}, **ours}
    child.pid = fork_server.fork({**_options(given), "numbers": list(descriptors), **more}, list(descriptors.values()))
    child._child_created = True  # type: ignore[attr-defined]
    child._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


_SIGNATURE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]


class _Forked(subprocess.Popen[Any]):
    def __init__(self, command: list[str], *, torch: bool = False, family: bool = False, **options: Any) -> None:
        self._fork_server = fork_server(("all" if family else "torch") if torch else "service")
        self._family = family
        super().__init__(command, **options)

    def _execute_child(self, *arguments: Any) -> None:
        given = _SIGNATURE.bind(self, *arguments).arguments
        _execute_child(self, self._fork_server, given, family=self._family)


class _Relative(subprocess.Popen[Any]):
    """What takes the place of `subprocess.Popen` in a fork whose own processes are to be forks."""

    def _execute_child(self, *arguments: Any) -> None:
        given = _SIGNATURE.bind(self, *arguments).arguments
        python, *command = given["args"]
        parent = None
        if command[:2] == ["-S", process.TIED]:
            _, _, parent, python, *command = command
        is_module = python == sys.executable and command[:1] in (["-m"], ["-X"]) and given["process_group"] == -1
        if not is_module or given["preexec_fn"] is not None or (own := _own_fork_server()) is None:
            super()._execute_child(*arguments)  # type: ignore[misc]
        else:
            _execute_child(self, own, given, family=True, command=command, tied_to=parent and int(parent))


def _python(command: list[str], *, torch: bool = False, family: bool = False, **options: Any) -> subprocess.Popen[Any]:
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


class ForkServer:
    """The process that forks, as its parent has it."""

    def __init__(self, requests: socket.socket, started: subprocess.Popen[bytes] | None = None) -> None:
        self._lock, self._requests, self._process = threading.Lock(), requests, started

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """The process id of a new child of this process."""
        with self._lock, _adopting():
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
            return int(self._requests.recv(32))

    def end(self) -> None:
        self._requests.close()
        if self._process is not None:
            self._process.wait()


@contextmanager
def _adopting() -> Iterator[None]:
    """Adopt orphans within the context, whether or not this process does so otherwise."""
    adopts = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts), 0, 0, 0)
    process.adopt_orphans()
    try:
        yield
    finally:
        process.adopt_orphans(bool(adopts.value))


@functools.cache
def fork_server(kind: str) -> ForkServer:
    """The fork server of this test process, which ends with it."""
    requests, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.forking", kind, " " * LONGEST_COMMAND]
    with theirs:
        started = subprocess.Popen(command, cwd=ROOT, stdin=theirs.fileno(), env={**os.environ, **ENVIRONMENT})
    made = ForkServer(requests, started)
    atexit.register(made.end)
    requests.recv(1)  # it has imported all: from now on a fork takes no longer than the start of a process
    return made


_own: dict[int, ForkServer] = {}  # by the process id: a fork of Celery's has that of its parent


def _own_fork_server() -> ForkServer | None:
    """A fork server that is a fork of this process, which is a fork itself; None if it would lack threads."""
    if os.getpid() not in _own:
        if len([*Path("/proc/self/task").iterdir()]) > 1:
            return None
        sys.stdout.flush()
        requests, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            try:
                _forget_parent(theirs.fileno())
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        _own[os.getpid()] = ForkServer(requests)
    return _own[os.getpid()]


def _forget_parent(kept: int) -> None:
    """Take from a fork what its parent has set up: descriptors, handlers of signals and of its end, its log."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number > 2 and number not in (kept, null):
            with suppress(OSError):
                os.dup2(null, number)  # to close it would give its number to another, which its owner might close
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    atexit._clear()
    logging.root.handlers.clear()
    sys.stdin = os.fdopen(0, closefd=False)


def _serve(requests: socket.socket) -> None:
    """Fork for each request. Returns in a fork, which runs what was asked for. Raises SystemExit in the fork server."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, DESCRIPTORS)
        if not message:
            sys.exit()
        request = json.loads(message)
        if _fork(requests, request.pop("is_leader")):
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    _run(**request, descriptors=descriptors)


def _fork(requests: socket.socket, is_leader: bool) -> bool:
    """Whether this process is the fork, which has become the child of whoever asked."""
    if (middle := os.fork()) != 0:
        os.waitpid(middle, 0)
        return False
    middle = os.getpid()
    if os.fork() != 0:
        os._exit(0)
    while os.getppid() == middle:  # it is about to end
        time.sleep(0.0002)
    if is_leader:
        os.setsid()  # before anybody knows the process: who kills its group at once is to find it
    requests.sendall(str(os.getpid()).encode())
    return True


def _run(
    command: list[str],
    cwd: str,
    environment: dict[str, str],
    umask: int,
    numbers: list[int],
    descriptors: list[int],
    family: bool,
    tied_to: int | None = None,
) -> None:
    """Run `[-X faulthandler] -m MODULE ...` or `-c SOURCE ...` as Python itself would."""
    if umask >= 0:
        os.umask(umask)
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())
    if tied_to is not None:
        process.die_with_parent(tied_to, signal.SIGTERM)
    if family:
        subprocess.Popen = _Relative  # type: ignore[misc]
    _show([sys.executable, *command])
    if command[:2] == ["-X", "faulthandler"]:
        faulthandler.enable()
        command = command[2:]
    _end(_status(command))


def _show(command: list[str]) -> None:
    """Let `ps` show this command, where the fork server's own has been."""
    begin, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    shown = "\0".join(command).encode()[: end - begin - 1]
    ctypes.memmove(begin, shown.ljust(end - begin, b"\0"), end - begin)


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
    requests = socket.socket(fileno=os.dup(0))
    requests.sendall(b".")
    _serve(requests)


if __name__ == "__main__":
    main()
