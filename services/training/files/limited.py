"""Limits that the kernel holds a process to while it reads a stranger's file."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.errors import DatasetInvalid

DATA = 5
"""Of the figures of /proc/self/statm: what the kernel counts against RLIMIT_DATA. Mapped files are not counted."""
TOO_MUCH = "The file needs more memory to be read than there is for one upload."


def taken(which: int) -> int:
    """A figure of /proc/self/statm, in bytes; 0 where there is none."""
    with suppress(OSError):  # not Linux
        return int(Path("/proc/self/statm").read_text("ascii").split()[which]) * resource.getpagesize()
    return 0


@contextmanager
def limited(memory_bytes: int, file_bytes: int) -> Iterator[None]:
    """Holds this process to so much memory beyond what it has now, and to files of so many bytes, for a while.

    A library that gets no memory may end the process. Raises DatasetInvalid if a limit is reached.
    """
    now = taken(DATA)
    wanted = {resource.RLIMIT_FSIZE: file_bytes} | ({resource.RLIMIT_DATA: now + memory_bytes} if now else {})
    before = {which: resource.getrlimit(which) for which in wanted}
    try:
        for which, value in wanted.items():
            _lower(which, value)
        yield
    except MemoryError as error:
        raise DatasetInvalid(TOO_MUCH) from error
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise DatasetInvalid("The file is too large once it is unpacked: upload a part of it.") from error
    finally:
        for which, limits in before.items():
            resource.setrlimit(which, limits)


def _lower(which: int, value: int) -> None:
    """Set a limit that this process may lift again, and none above those that it has."""
    least = min([value, *(limit for limit in resource.getrlimit(which) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(which, (least, resource.getrlimit(which)[1]))
