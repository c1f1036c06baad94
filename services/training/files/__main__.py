"""`python -m services.training.files`: checks files, each in a fork of this process.

It has imported what reading needs, so a check begins in milliseconds. Whoever started it sends one socket for each file
over standard input, which is a socket too. When that one is closed, this process and all its checks end.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys


class WithoutPandas:
    """Hides pandas from Arrow, which would import it in each fork for 0.13 s. No check needs it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError


def main() -> None:
    sys.meta_path.insert(0, WithoutPandas)
    gc.disable()  # importing makes many objects, none of them garbage
    from services.training.files import check  # noqa: F401  for the forks

    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    with socket.socket(fileno=os.dup(0)) as requests:
        while True:
            sent, descriptors, _, _ = socket.recv_fds(requests, 1, 1)
            if not sent:
                break
            for descriptor in descriptors:
                _fork(descriptor, requests)
    os.killpg(0, signal.SIGKILL)  # it leads the group of its checks


def _fork(descriptor: int, requests: socket.socket) -> None:
    if os.fork():
        os.close(descriptor)
        return
    status = 1
    try:
        from services.training.files import check

        requests.close()
        os.close(0)
        with socket.socket(fileno=descriptor) as channel:
            check.run(channel)
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # whoever asked is gone
    except BaseException:  # noqa: BLE001  (it goes no further than this fork, and is printed)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
