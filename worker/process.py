"""Processes that must not outlive their parent, by means of the operating system."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TIED = str(Path(__file__).with_name("tied.py"))


def die_with_parent(parent: int, death_signal: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process `death_signal` when `parent` (a process id) dies; see prctl(2).

    Call it first thing in the child's own main(): in a `preexec_fn` it would run Python between fork and exec, which
    can deadlock. The parent may have died before the call, so it is compared once more afterwards. Linux only;
    elsewhere the end of the child's standard input has to do.

    Raises SystemExit when the parent is gone already.
    """
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        raise SystemExit("The process that started this one is gone.")


def adopt_orphans(adopt: bool = True) -> None:
    """Make this process the parent of processes below it whose own parent ends; see prctl(2). Linux only."""
    _prctl(PR_SET_CHILD_SUBREAPER, int(adopt))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def tied(command: Sequence[str]) -> list[str]:
    """The command line of a child that is sent SIGTERM by the kernel when the thread that starts it ends."""
    return [sys.executable, "-S", TIED, str(os.getpid()), *command]


def die_at(moment: float) -> None:
    """Let the kernel end this process with SIGALRM at a moment of the monotonic clock, unless called again before.

    That clock is one for all processes of a machine, so whoever sends the moment need not know when it is read. The
    alarm needs nothing of this process: not the interpreter's lock, not a thread that gets its turn. A process that is
    stopped meanwhile dies before its next instruction. Raises nothing, and works in any thread.
    """
    signal.setitimer(signal.ITIMER_REAL, max(moment - time.monotonic(), 0.001))  # 0 would switch it off


def let_alarms_kill() -> None:
    """Give SIGALRM its first meaning back, whatever was inherited; for the main thread."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})


def be_called(name: str) -> None:
    """Change what `ps -o comm` and `top` call this process, to at most 15 characters. Without a /proc, nothing is."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def be_first_to_be_killed() -> None:
    """Let the kernel choose this process before any other when memory runs out; see proc_pid_oom_score_adj(5).

    Raising one's own score takes no privilege. Without a /proc to say it in, nothing is said.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def has_exited(child: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended, without reaping it, so that its id, and its group's, is not given to another."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def has_adopted_exited(pid: int) -> bool:
    """The same of a process that this one adopts: it is another's child until its first parent has ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return not _exists(pid)


def end_adopted(pid: int) -> int:
    """Kill a process that this one adopts, and reap it. Returns its exit status as subprocess has it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while True:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:
            if not _exists(pid):
                return -signal.SIGKILL
            time.sleep(0.001)


def reap_group(pid: int) -> None:
    """Reap what was adopted of the group that `pid` led, once that was killed and reaped."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-pid, 0)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads. Only before `pid` is reaped: afterwards it may be another's."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:  # macOS answers so for a group of nothing but zombies
        return
