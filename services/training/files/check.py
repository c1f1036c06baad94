"""Checks one file in a process of its own: `__main__.py` starts it, `services/datasets/checking.py` asks for it.

Whatever is uploaded is first read here, under limits that the kernel holds. So a file that a reader gets wrong costs
one process, and neither the API nor its memory. Both ends send JSON, a line each; nothing is unpickled.

A raw file may be read elsewhere first: the trainer of a job that predicts reads it in its own process, under the same
limits (`limited.py`). A CSV that is sent with a question is read by the API; `LOOPLINE_MAX_PREDICTION_BYTES` bounds it.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from loopline.files import store
from loopline.files.problems import FileInvalid
from loopline.files.remark import Remark

from services.errors import DatasetInvalid
from services.training.files import fitting, limited, npz, preview, reading, suspicions, tables
from services.training.files.npz import Arrays, Limits
from services.training.files.sequences import arrays, padded_bytes
from services.training.files.steps import IN_FILE_FROM
from services.training.files.suspicion import Suspicion, When

EARLY_BYTES = 32 << 20
"""Memory that a check may take before it was granted any, and what the checks of arrays take besides the arrays."""
TABLE_BYTES = 64 << 20
"""Memory that the check of a small table takes."""
PLAIN_RATIO, PACKED_RATIO = 4, 16
"""Memory that most larger tables take beside the size of the file: numbers as CSV, and what is packed or has texts. The
table itself is mapped from the disk. If this is not enough, the check asks for twice as much, and reads again."""


class Declined(Exception):
    """Whoever asked has no memory for this file now."""


class Conversation:
    """The check's end of the socket. The kernel holds the check to the memory that it was granted here."""

    def __init__(self, channel: socket.socket) -> None:
        self._lines = channel.makefile("rb")
        self._channel = channel
        self._granted = 0
        self._least = 0

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
        wanted_bytes = max(wanted_bytes, self._least)
        if wanted_bytes <= self._granted:
            return
        self.send({"needs": wanted_bytes})
        if not self.read()["granted"]:
            raise Declined
        self._granted = wanted_bytes
        _allow(EARLY_BYTES + wanted_bytes)

    def want(self, least_bytes: int) -> None:
        """Ask for at least so much from now on."""
        self._least = least_bytes

    def want_more(self, most_bytes: int) -> bool:
        """Ask for twice as much from now on. False where the file had the most already."""
        self.want(min(2 * max(self._granted, EARLY_BYTES), most_bytes))
        return self._granted < most_bytes


def run(channel: socket.socket) -> None:
    """Reads what is asked, checks the file and sends the result, or what is wrong with the file."""
    conversation = Conversation(channel)
    asked = conversation.read()
    conversation.want(asked["least_bytes"])
    _hold_to(asked["memory_bytes"], asked["file_bytes"], asked["seconds"], asked["cpu_seconds"])
    with suppress(Declined):
        try:
            result = checked(asked, conversation)
        except DatasetInvalid as invalid:
            problems = [[problem.pointer, problem.detail] for problem in invalid.problems]
            result = {"invalid": invalid.message, "problems": problems}
        except MemoryError:
            result = {"invalid": limited.TOO_MUCH, "problems": []}
        conversation.send(result)


def checked(asked: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
    """The summary of a data set, what may be wrong with it, and of a table its schema and report. The sequences of a
    table are written to a file. If a model is asked, what makes its answers to the file less sure. For a preview, a
    look into a data set that was checked before.

    Raises DatasetInvalid, Declined.
    """
    path, limits, model = Path(asked["path"]), Limits(**asked["limits"]), asked.get("model")
    if asked.get("preview"):
        return {"preview": _preview(path, limits, conversation)}
    is_npz = model is None and reading.is_npz(path)
    if not is_npz:
        path = fitting.named(path, asked["name"], Path(asked["work"]))
    while True:
        try:
            if is_npz:
                found = npz.read(path, limits, admit=conversation.admit, in_file_from=IN_FILE_FROM)
                return {"format": "npz", **_described(found)}
            conversation.admit(min(_first_bytes(path), asked["memory_bytes"]))
            return _table(path, asked, limits) if model is None else {"warnings": fitting.check(Path(model), path)}
        except MemoryError:  # nobody knows before how much a table takes
            if not conversation.want_more(asked["memory_bytes"]):
                raise


def _preview(path: Path, limits: Limits, conversation: Conversation) -> dict[str, Any]:
    conversation.admit(TABLE_BYTES)
    try:
        return preview.of(path, limits, lambda arrays: conversation.admit(TABLE_BYTES + 2 * arrays))
    except (FileInvalid, ValueError, OSError) as error:
        raise DatasetInvalid(f"The data set cannot be looked into: {error}.") from error


def _first_bytes(path: Path) -> int:
    """Memory that the check of a table asks for at first."""
    ratio = PLAIN_RATIO if path.suffix in (".csv", ".tsv") else PACKED_RATIO
    return max(TABLE_BYTES, ratio * path.stat().st_size)


def _table(path: Path, asked: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Of a table or an array without targets."""
    found = tables.read(path, Path(asked["work"]), asked["schema"], limits.max_bytes)
    sequences, report = found.sequences, found.report
    assert sequences is not None and report is not None, "tables.read() raises otherwise"  # noqa: S101, PT018
    store.write(Path(asked["stored"]), sequences)
    notes = [*(found.table.notes if found.table else ()), *sequences.notes]
    reasons = [reason.document() for reason in found.inferred.reasons] if found.inferred else []
    result = {
        "format": found.table.format if found.table else "npy",
        "schema": sequences.schema.document(),
        "report": {**report.document(), "notes": notes, "reasons": reasons},
    }
    if padded_bytes(sequences) >= IN_FILE_FROM:
        del found  # and its sequences: what follows reads them from the file
        sequences = store.read(Path(asked["stored"]))
    # Of ids that are repeated, `suspicions` says more, and only if a split is random.
    remarks = [one for one in report.remarks if one.severity == "warning" and one.kind != "repeated_ids"]
    return result | _described(arrays(sequences, IN_FILE_FROM), remarks)


def _described(arrays: Arrays, remarks: Sequence[Remark] = ()) -> dict[str, Any]:
    found = [*map(_suspicion, remarks), *suspicions.of(arrays)]
    return {
        "summary": npz.summarise(arrays).model_dump(mode="json"),
        "suspicions": [suspicion.document() for suspicion in found],
    }


WHEN: Mapping[str, When] = {
    "missing_values": "unfilled",
    "missing_targets": "unfilled",
    "no_target": "no_task",
    "gaps": "rows",
}
"""When a remark of a table applies to a job; always, if it is not here."""


def _suspicion(remark: Remark) -> Suspicion:
    return Suspicion(remark.kind, WHEN.get(remark.kind, "always"), str(remark))


def _hold_to(memory_bytes: int, file_bytes: int, seconds: float, cpu_seconds: int) -> None:
    """Limits this process: memory and addresses beyond what it has now, time, the size of its files, no core dumps."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # the kernel ends it, whatever it waits for
    now = _pages(0)
    _allow(EARLY_BYTES)
    for limit, value in (
        (resource.RLIMIT_AS, now + memory_bytes if now else resource.RLIM_INFINITY),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(limit)
        if value != resource.RLIM_INFINITY:
            lower = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(limit, (lower, lower))


@cache
def _pages(which: int) -> int:
    """A figure of `limited.taken`, when it was first asked for."""
    return limited.taken(which)


def _allow(memory_bytes: int) -> None:
    """Memory that this process may take beyond what it had when it began. Mapped files are not counted."""
    if now := _pages(limited.DATA):
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        value = now + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (value if most == resource.RLIM_INFINITY else min(value, most), most))
