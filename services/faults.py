"""Named places at which a test can kill the process or make an operation fail. In production they do nothing.

A point stands right after something has happened that must not be lost or done twice: `checkpoint.tensors_written` is
passed when the tensors are on disk and the JSON is not. It costs one look at an empty dictionary.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = frozenset(
    {
        "job.fenced",  # a worker's write holds its row, and what hangs on the job is not written yet
        "transaction.written",  # everything is written, nothing is committed
        "transaction.committed",  # the database has it, and the caller does not know yet
        "checkpoint.epochs_written",  # those so far, and neither of the checkpoint's own files
        "checkpoint.tensors_written",  # of two files the first
        "checkpoint.written",  # both files are written, and no event was sent
        "result.written",  # all files of the model are written, and no event was sent
        "supervisor.claimed",  # the job is ours, and no trainer has heard of it
        "supervisor.finishing",  # the trainer has finished, and the outcome is not in the database
        "rung.answered",  # the database has whether a trial goes on, and its trainer waits for that
        "bell.due",  # a job is committed, and its bell was not rung
        "check.claimed",  # the check of an upload is ours, and has not begun
        "check.ended",  # it has ended, and the database does not know
        "dataset.placed",  # an upload lies in its place, and has no row
        "batch.ended",  # a batch has ended and its messages are written, nothing is committed
        "batch.committed",  # they are committed, and the scheduler goes on to the next thing
        "firing.written",  # a slot has its row and its batch, and nothing is committed
        "trial.written",  # a search has its next trial and the trial is a job, and nothing is committed
        "webhook.claimed",  # a message is ours to send, and nothing was sent
        "webhook.sent",  # the receiver has answered, and the database does not know
    }
)
"""Every point there is."""

_armed: dict[str, Callable[[], None]] = {}


def point(name: str) -> None:
    """Pass the place `name`: does nothing unless a test has armed it."""
    if _armed and (action := _armed.get(name)) is not None:
        action()


def arm(name: str, action: Callable[[], None]) -> None:
    """Let `action` happen whenever this process passes the point."""
    if name not in POINTS:
        raise ValueError(f"{name!r} is no fault point; there are {', '.join(sorted(POINTS))}")
    _armed[name] = action


def disarm() -> None:
    """Forget every action."""
    _armed.clear()
