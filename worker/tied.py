"""Runs a command that ends with the process that started it: `python tied.py PARENT COMMAND...`.

A launcher that is killed cannot stop what it started; so the kernel tells each part of the service (SIGTERM, so that it
can give its job back and save its data). The setting outlives exec, so the process id is the command's own. Run as a
file with `-S`, it imports next to nothing: 20 ms. Linux only; elsewhere it just runs the command.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The launcher is gone.")
    os.execvp(command[0], command)  # noqa: S606  (our own command, by list)


if __name__ == "__main__":
    main()
