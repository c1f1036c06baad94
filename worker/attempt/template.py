"""The template: a process that has imported torch once, and forks a trainer whenever its worker asks for one.

Importing torch takes 1.5 to 2 s of processor time, a fork some milliseconds. The memory of what was imported is shared.

A fork is a copy of the thread that makes it. Other threads are missing in it, with the locks that they hold. So the
template has one thread, and ends if its imports have left it with more. A fork cannot use its parent's CUDA. So the
template never asks for a device.

A trainer is its supervisor's child, as if the supervisor had started it: it is forked by a fork of the template that
ends at once, and the kernel gives orphans to the nearest ancestor that is a subreaper. So the supervisor learns the
exit status, the kernel kills the trainer when the supervisor dies, and trainers survive the template. See
PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG in prctl(2).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from worker.process import die_with_parent

UNFIT = 4
"""The exit status of a template that has more than one thread."""
WANTED = 4
"""Descriptors that come with a request: a trainer's standard input, its output, its events, and the answer's socket."""


def serve(parent: int) -> None:
    """Fork a trainer for each request on standard input, a socket, until that is closed. `parent` is the supervisor.

    A request is a byte with WANTED descriptors; the answer is the process id of the trainer. This returns in each fork,
    which is the trainer's process by then. Raises SystemExit in the template.
    """
    _refuse_threads()
    requests = socket.socket(fileno=os.dup(0))
    while True:
        sent, descriptors, _, _ = socket.recv_fds(requests, 1, WANTED)
        if not sent:
            sys.exit()
        orders, output, events, answer = descriptors
        with socket.socket(fileno=answer) as channel:
            is_trainer = _fork(channel)
        if is_trainer:
            requests.close()
            _become_trainer(parent, orders, output, events)
            return
        for descriptor in (orders, output, events):
            os.close(descriptor)


def _refuse_threads() -> None:
    """Raises SystemExit if a fork would lack threads. OpenBLAS ends its own before a fork, so this forks once."""
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    names = [(task / "comm").read_text(encoding="utf-8").strip() for task in Path("/proc/self/task").iterdir()]
    if len(names) > 1:
        print(f"Each trainer imports torch itself: the template has the threads {', '.join(names)}.", file=sys.stderr)
        sys.exit(UNFIT)


def _fork(channel: socket.socket) -> bool:
    """Fork a trainer, and say its process id on the channel. Whether this process is that trainer."""
    if (middle := os.fork()) != 0:
        os.waitpid(middle, 0)
        return False
    middle = os.getpid()
    reader, writer = os.pipe()
    if (trainer := os.fork()) == 0:
        os.close(writer)
        if not os.read(reader, 1):  # nobody knows of this process
            os._exit(0)
        os.close(reader)
        while os.getppid() == middle:  # it is about to end
            time.sleep(0.001)
        return True
    try:
        channel.sendall(str(trainer).encode())
        os.write(writer, b".")
    except OSError:  # the request was taken back
        os.close(writer)
        os.waitpid(trainer, 0)
    finally:
        os._exit(0)


def _become_trainer(parent: int, orders: int, output: int, events: int) -> None:
    """What a process that its supervisor starts has from the beginning. Raises SystemExit if the supervisor is gone."""
    die_with_parent(parent)
    os.setsid()
    for descriptor, standard in ((orders, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.close(orders)
    os.close(output)
    os.environ["LOOPLINE_EVENTS_FD"] = str(events)
