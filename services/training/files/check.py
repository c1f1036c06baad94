"""Checks one file in a process of its own: `__main__.py` starts it, `services/datasets/checking.py` asks for it.

A stranger's file is read here and nowhere else, under limits that the kernel holds. So a file that a reader gets wrong
costs one process, and neither the API nor its memory. Both ends send JSON, a line each; nothing is unpickled.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopline.files import store
from loopline.files.remark import Remark

from services.errors import DatasetInvalid
from services.training.files import npz, reading, suspicions, tables
from services.training.files.npz import Arrays, Limits
from services.training.files.sequences import arrays
from services.training.files.suspicion import Suspicion

TABLE_RATIO = 4
"""Memory that the check of a table takes beside the size of its file. The table itself is mapped from the disk."""
SMALL_BYTES = 1 << 20
"""A table of at most this size is checked without asking for memory."""


class Declined(Exception):
    """Whoever asked has no memory for this file now."""


class Conversation:
    """The check's end of the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._lines = channel.makefile("rb")
        self._channel = channel

    def read(self) -> dict[str, Any]:
        """The next message. Raises EOFError when nobody is there any more."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        found: dict[str, Any] = json.loads(line)
        return found

    def send(self, message: dict[str, Any]) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def admit(self, wanted_bytes: int) -> None:
        """Waits until the file may take so many bytes of memory. Raises Declined."""
        self.send({"needs": wanted_bytes})
        if not self.read()["granted"]:
            raise Declined


def run(channel: socket.socket) -> None:
    """Reads what is asked, checks the file and sends the result, or what is wrong with the file."""
    conversation = Conversation(channel)
    asked = conversation.read()
    _hold_to(asked["memory_bytes"], asked["file_bytes"], asked["seconds"])
    with suppress(Declined):
        try:
            result = checked(asked, conversation)
        except DatasetInvalid as invalid:
            problems = [[problem.pointer, problem.detail] for problem in invalid.problems]
            result = {"invalid": invalid.message, "problems": problems}
        except MemoryError:
            result = {"invalid": "The file needs more memory to be read than there is for one upload.", "problems": []}
        conversation.send(result)


def checked(asked: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
    """The summary of a data set, what may be wrong with it, and of a table its schema and report. The sequences of a
    table are written to a file. Raises DatasetInvalid, Declined."""
    path, limits = Path(asked["path"]), Limits(**asked["limits"])
    if reading.is_npz(path):
        return {"format": "npz", **_described(npz.read(path, limits, admit=conversation.admit))}
    work = Path(asked["work"])
    if path.stat().st_size > SMALL_BYTES:
        conversation.admit(TABLE_RATIO * path.stat().st_size)
    found = tables.read(tables.named(path, asked["name"], work), work, asked["schema"], limits.max_bytes)
    sequences, report = found.sequences, found.report
    assert sequences is not None and report is not None, "tables.read() raises otherwise"  # noqa: S101, PT018
    store.write(Path(asked["stored"]), sequences)
    notes = [*(found.table.notes if found.table else ()), *sequences.notes]
    reasons = [reason.document() for reason in found.inferred.reasons] if found.inferred else []
    return {
        "format": found.table.format if found.table else "npy",
        "schema": sequences.schema.document(),
        "report": {**report.document(), "notes": notes, "reasons": reasons},
        **_described(arrays(sequences), [one for one in report.remarks if one.severity == "warning"]),
    }


def _described(arrays: Arrays, remarks: Sequence[Remark] = ()) -> dict[str, Any]:
    found = [*(Suspicion(one.kind, "always", str(one)) for one in remarks), *suspicions.of(arrays)]
    return {
        "summary": npz.summarise(arrays).model_dump(mode="json"),
        "suspicions": [suspicion.document() for suspicion in found],
    }


def _hold_to(memory_bytes: int, file_bytes: int, seconds: int) -> None:
    """Limits this process: memory beyond what it has now, time, the size of its files, and no core dumps."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)  # the kernel ends it, whatever it waits for
    now = 0
    with suppress(OSError):  # not Linux
        now = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, now + memory_bytes if now else resource.RLIM_INFINITY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(limit)
        if value != resource.RLIM_INFINITY:
            lower = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(limit, (lower, lower))
