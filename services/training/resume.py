"""Resuming: chooses a checkpoint and checks that it belongs to this spec and this data."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from services.errors import CheckpointCorrupt, Invalid
from services.training import checkpoint
from services.training.loop import Run
from services.training.messages import NEWEST, Event, Log


def resume(run: Run, directory: Path, wanted: str | None, data: Path | None) -> Generator[Event, None, Path | None]:
    """Puts the run where the `wanted` checkpoint of an order is; returns the path of the one that it found.

    Where that one is damaged it takes another that is whole: one before it, if any. `data` is the file that the run
    trains on, for messages. Raises Invalid where NEWEST is wanted and belongs to another spec or to other data.
    """
    if wanted is None:
        checkpoint.discard_after(directory, -1)
        return None
    if wanted == NEWEST:
        yield from check_newest(run, directory, data)
    found = take_up(run, directory, at_most=bound(wanted))
    yield from report(found, wanted)
    return found


def bound(wanted: str) -> int | None:
    """The step after which no checkpoint is taken, if there is one."""
    return None if wanted == NEWEST else checkpoint.step_of(Path(wanted))


def report(found: Path | None, wanted: str) -> Iterator[Event]:
    """Says so if another checkpoint was found than the `wanted` one, or none."""
    if found is None:
        yield Log("warning", "There is no checkpoint that is whole; training starts from the beginning.")
    elif wanted != NEWEST and Path(wanted).name != found.name:
        yield Log("warning", f"{Path(wanted).name} is damaged or missing; training goes on from {found.name}.")


def take_up(run: Run, directory: Path, *, at_most: int | None = None) -> Path | None:
    """Puts the run where the newest whole checkpoint of it is, and deletes those beyond it."""
    found = checkpoint.resume(run, directory, at_most=at_most)
    is_begun = found is not None or run.fold.number > 1  # the last checkpoint of the fold before is its beginning
    checkpoint.discard_after(directory, run.state.step if is_begun else -1)
    return found


def check_newest(run: Run, directory: Path, data: Path | None) -> Iterator[Event]:
    """Raises Invalid where the directory's checkpoints are of another spec or of other data: going on would mix both,
    or delete the checkpoints. Warns where the newest one does not say which data it is of."""
    body = newest_readable(directory)
    if body is None:
        return
    if body["spec_sha256"] != checkpoint.spec_hash(run):
        now = checkpoint.essence(run.spec.document())
        changes = ", ".join(_differences(checkpoint.essence(body["model"]["spec"]), now)[:5])
        raise _refused(directory, f"another spec: {changes}", "that")
    before, sha256 = body.get("data_sha256"), run.data.sha256
    if before is not None and before != sha256:
        hashes = f"its SHA-256 was {before[:12]}... and is {str(sha256)[:12]}..."
        raise _refused(directory, f"other data: {data} has changed since ({hashes})", "the old file")
    if before is None and sha256 is not None:
        if body["model"]["scaling"] != run.data.scaling.document():
            why = f"other data: {data} has changed since (its scaling is another)"
            raise _refused(directory, why, "the old file")
        yield Log(
            "warning",
            f"The newest checkpoint in {directory} does not say which data it was trained on, because an older version "
            f"wrote it. Training goes on with {data} as it is now.",
        )


def newest_readable(directory: Path) -> dict[str, Any] | None:
    for path in checkpoint.newest_first(directory):
        try:
            return checkpoint.read(path)
        except CheckpointCorrupt:
            continue
    return None


def _refused(directory: Path, why: str, what: str) -> Invalid:
    return Invalid(
        f"The checkpoints in {directory} are of {why}. Put {what} back, name another folder, or leave --resume out to "
        "train anew and replace them."
    )


def _differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """`training.batch_size was 16 and is 32`, for every field that differs."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{path}{key}.")
        elif old != new:
            found.append(f"{path}{key} was {json.dumps(old)} and is {json.dumps(new)}")
    return found
