"""The epochs that a run has recorded, in one file beside its checkpoints, a line of JSON each.

A checkpoint says how long the file was and what its hash was then, so that it stays as small at epoch 10,000 as at
epoch 1. The file only grows: an older checkpoint's epochs are the beginning of a newer one's. It is cut where a run has
gone back (a rollback, or an older checkpoint), and then only when no checkpoint from beyond that place is left. No
torch here: a worker writes the file from the database where it is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

NAME = "history.jsonl"

Epoch = dict[str, float | int | None]
"""The numbers of one epoch; None for one that is missing or is not finite."""


@dataclass
class Written:
    """What is known to be in the file: so many epochs, in so many bytes, with this hash."""

    epochs: int = 0
    size: int = 0
    hash: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes) -> None:
        self.epochs += 1
        self.size += len(line)
        self.hash.update(line)

    def document(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        return {"epochs": self.epochs, "bytes": self.size, "sha256": self.hash.hexdigest()}


def finite(values: Mapping[str, Any]) -> Epoch:
    """The same numbers with None for those that JSON cannot hold."""
    return {key: value if value is None or math.isfinite(value) else None for key, value in values.items()}


def lines(records: Iterable[Mapping[str, Any]]) -> Iterable[bytes]:
    """The file's lines for these records."""
    return (json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n" for record in records)


def append(directory: Path, records: Sequence[Epoch], known: Written | None) -> Written:
    """Let the file begin with these records, fsynced. `known` is the answer before, whose records are still the first
    ones. Nothing is cut off unless something is added. Raises OSError."""
    if not records:
        return Written()
    descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        if known is None or os.fstat(descriptor).st_size < known.size:
            known = _in_common(file, records)
        added = list(lines(records[known.epochs :]))
        if added:
            file.seek(known.size)
            file.write(b"".join(added))
            file.truncate()
            file.flush()
            os.fsync(descriptor)
        for line in added:
            known.add(line)
    return known


def _in_common(file: BinaryIO, records: Sequence[Epoch]) -> Written:
    found = Written()
    for line in lines(records):
        if file.read(len(line)) != line:
            break
        found.add(line)
    return found


def load(directory: Path, expected: Mapping[str, Any]) -> list[Epoch]:
    """The records that a checkpoint counts on. Raises OSError, or ValueError where they are not what it says."""
    if not expected["epochs"]:
        return []
    with (directory / NAME).open("rb") as file:
        data = file.read(expected["bytes"])
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise ValueError(f"{NAME} is damaged or cut off: its hash is another than was written")
    return [json.loads(line) for line in data.splitlines()]


def is_there(checkpoint: Path) -> bool:
    """Whether the epochs that the checkpoint at this path counts on are beside it; also where it needs none, because an
    older version wrote them into it."""
    try:
        body = json.loads(checkpoint.read_bytes())
        if "history" in body:
            load(checkpoint.parent, body["history"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
