"""Has files checked by a process of their own (`services/training/files/check.py`)."""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from services.blobs.memory import Room
from services.errors import Busy, DatasetInvalid, Problem
from services.training.files.npz import Limits
from services.training.files.summary import DatasetSummary
from services.training.files.suspicion import Suspicion
from services.training.messages import Allowance, as_dict

INHERITED = re.compile(r"HOME|LANG|LANGUAGE|LC_\w+|LD_LIBRARY_PATH|PATH|TE?MP|TMPDIR|TZ|VIRTUAL_ENV|PYTHON\w+")
"""What the process may know of the environment. Everything else, above all addresses and passwords, stays here."""
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # a process that forks has one thread
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve more than they were asked for
}
ROOT = Path(__file__).resolve().parent.parent.parent
CHECK_SECONDS = 600
"""Time, and processor time, that the check of one file may take."""
STORED = "stored.npz"
"""The name, in the work folder, of the file that is kept of a table."""
FILE_RATIO = 4
"""The largest file that a check may write, beside the most bytes of a data set: columns of words take more."""
SPARE_BYTES = 512 << 20
"""Memory that a check may take besides the arrays of the file."""
AFTER_CRASH_BYTES = 512 << 20
"""Memory that a check has at least when the one before has crashed."""
MOST_LINE_BYTES = 64 << 20


def allowance(max_bytes: int) -> Allowance:
    """What reading a file may take, where a data set may have so many bytes."""
    return Allowance(memory_bytes=max_bytes + SPARE_BYTES, file_bytes=FILE_RATIO * max_bytes)


class CheckUnfinished(Exception):
    """The check of a file takes longer than its sender waits."""


@dataclass(frozen=True)
class Checked:
    """What a file holds."""

    format: str
    """A `loopline.files.table.Format`, or `npz`."""
    content: DatasetSummary
    suspected: Sequence[Suspicion]
    schema: dict[str, Any] | None = None
    """A whole `loopline.files.schema.Schema`; an `.npz` has none."""
    report: dict[str, Any] | None = None
    stored: Path | None = None
    """The sequences of a table, in the work folder; an `.npz` is kept as it is."""


@dataclass(frozen=True)
class Upload:
    """A file to be checked, and what its sender says of it."""

    path: Path
    work: Path
    """An empty folder, for what the check writes."""
    name: str = ""
    """What the sender calls the file; it helps to tell formats apart, and never becomes a path."""
    schema: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a `loopline.files.schema.Schema` that are not to be inferred."""


class Checker:
    """A process that checks files. It starts with the first file, and again if it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._is_closed = False

    def check(self, upload: Upload, room: Room, limits: Limits, *, wait_seconds: float | None = None) -> Checked:
        """What the file holds. A check that takes longer than `wait_seconds` is ended.

        Raises:
            DatasetInvalid: it is no data set, its check takes longer than CHECK_SECONDS, or `close` has ended it.
            CheckUnfinished: the check takes longer than `wait_seconds`, or waits so long for memory.
            Busy: without `wait_seconds`: other uploads take the memory that there is for reading them.
        """
        asked = {"stored": str(upload.work / STORED), "schema": dict(upload.schema)}
        return _checked(self._answered(upload, asked, room, limits, wait_seconds), upload.work)

    def warnings(self, upload: Upload, model: Path, room: Room, limits: Limits, *, wait_seconds: float) -> list[str]:
        """What makes the answers of a model to a file less sure. `model` is a folder with its model.json; the name of
        the upload is the ending that the file's name had.

        Raises:
            DatasetInvalid: the model cannot answer this file.
            CheckUnfinished: that takes longer than `wait_seconds` to find out, or waits so long for memory.
        """
        found = self._answered(upload, {"model": str(model)}, room, limits, wait_seconds)
        return [str(warning) for warning in found["warnings"]]

    def preview(self, path: Path, room: Room, limits: Limits, *, wait_seconds: float) -> dict[str, Any]:
        """A look into a stored data set, see `services/training/files/preview.py`.

        Raises:
            DatasetInvalid: it is too large for that, or damaged.
            CheckUnfinished: it takes longer than `wait_seconds`, or waits so long for memory.
        """
        looked_into = Upload(path, path.parent)
        found: dict[str, Any] = self._answered(looked_into, {"preview": True}, room, limits, wait_seconds)["preview"]
        return found

    def _answered(
        self, upload: Upload, more: Mapping[str, Any], room: Room, limits: Limits, wait_seconds: float | None
    ) -> dict[str, Any]:
        """The last message of a check. Raises as `check`."""
        asked: dict[str, Any] = {
            "path": str(upload.path),
            "work": str(upload.work),
            "name": upload.name,
            "limits": asdict(limits),
            **as_dict(allowance(limits.max_bytes)),
            "cpu_seconds": CHECK_SECONDS,
            **more,
        }
        least, until = 0, time.monotonic() + (CHECK_SECONDS if wait_seconds is None else wait_seconds)
        while (left := until - time.monotonic()) > 0 and (ours := self._conversation()) is not None:
            granted, waits_until = 0, None if wait_seconds is None else until
            try:
                with ours as channel, closing(_messages(channel, room, waits_until)) as messages:
                    _send(channel, asked | {"seconds": left, "least_bytes": least})
                    for message in messages:
                        granted = message.get("needs", granted)
                        if message.keys() & {"summary", "warnings", "preview"}:
                            return message
            except Busy:
                if wait_seconds is None:
                    raise
                raise CheckUnfinished from None
            # It ended without an answer, as readers do that crash when they get no memory.
            if not granted or granted >= asked["memory_bytes"]:
                break
            least = min(max(4 * granted, AFTER_CRASH_BYTES), asked["memory_bytes"])
        if wait_seconds is not None and time.monotonic() >= until:
            raise CheckUnfinished
        raise _crashed()

    def close(self) -> None:
        """End the process with all its checks. It starts no other one."""
        with self._lock:
            self._is_closed = True
            self._forget()

    def _conversation(self) -> socket.socket | None:
        """A socket to a fork of the process; None after `close`."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._is_closed:
                ours.close()
                return None
            for attempt in (1, 2):
                try:
                    socket.send_fds(self._requests or self._start(), [b"."], [theirs.fileno()])
                except OSError:  # it was killed meanwhile
                    self._forget()
                    if attempt == 2:
                        ours.close()
                        raise
                else:
                    return ours
        raise AssertionError("the loop returns or raises")

    def _start(self) -> socket.socket:
        self._requests, theirs = socket.socketpair()
        known = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.training.files"],
                cwd=ROOT,
                stdin=theirs.fileno(),
                env={**known, **_ENVIRONMENT},
                process_group=0,
            )
        return self._requests

    def _forget(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            try:
                self._process.wait(10)  # it ends when its socket is closed
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._requests = self._process = None


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it crashed: reading says so
        channel.sendall(json.dumps(message).encode() + b"\n")


def _messages(channel: socket.socket, room: Room, until: float | None) -> Generator[dict[str, Any]]:
    """What a check says, until it ends. It gets the memory that it asks for, which is waited for `until` then.

    Raises:
        DatasetInvalid: the file is no data set.
        Busy: others take the memory.
    """
    with channel.makefile("rb") as lines, ExitStack() as held:
        while (message := _read(lines)) is not None:
            if "needs" in message:
                held.close()  # it asks for all that it needs: nobody holds a part and waits for another
                left = None if until is None else until - time.monotonic()
                held.enter_context(room.taken(message["needs"], wait_seconds=left))  # an error ends the check
                _send(channel, {"granted": True})
            elif "invalid" in message:
                raise DatasetInvalid(message["invalid"], [Problem(*one) for one in message["problems"]])
            yield message


def _read(lines: Any) -> dict[str, Any] | None:
    """The next message; None where the check has ended without one."""
    with suppress(ConnectionResetError, ValueError):
        line = lines.readline(MOST_LINE_BYTES)
        found = json.loads(line) if line else None
        return found if isinstance(found, dict) else None
    return None


def _checked(message: dict[str, Any], work: Path) -> Checked:
    is_table = message["format"] != "npz"
    return Checked(
        format=message["format"],
        content=DatasetSummary.model_validate(message["summary"]),
        suspected=[Suspicion(**one) for one in message["suspicions"]],
        schema=message.get("schema"),
        report=message.get("report"),
        stored=work / STORED if is_table else None,
    )


def _crashed() -> DatasetInvalid:
    return DatasetInvalid(
        "The file could not be checked: its reader took too much memory or time, or it crashed. "
        "Save the file again, or upload a part of it."
    )


CHECKER = Checker()
"""The one of this process."""


def _begin_anew() -> None:
    """In a fork: the process and its socket are the parent's."""
    requests, CHECKER._requests = CHECKER._requests, None
    if requests is not None:
        requests.close()
    CHECKER._process = None
    CHECKER._lock = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(CHECKER.close)
