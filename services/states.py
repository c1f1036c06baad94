"""The states of a job, the moves between them, and the reasons for a state.

    queued -> running -> succeeded | failed | cancelled         running -> queued: lost, given back, or tried again
    queued <-> paused <- running                                 queued -> failed: waited too long
    queued | paused -> cancelled

The database holds to the same table: a trigger refuses every other move, and writes each one down (migrations/).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Kind(StrEnum):
    """What a job is for."""

    TRAIN = "train"
    PREDICT = "predict"
    """A model answers all sequences of a data set."""


class Status(StrEnum):
    """The states of a job."""

    QUEUED = "queued"
    """Waits for a worker, or for `not_before`."""
    RUNNING = "running"
    """An attempt holds a lease."""
    PAUSED = "paused"
    """Waits for a person to resume it; its checkpoint is kept."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ALLOWED: Mapping[Status, frozenset[Status]] = {
    # to running: claimed. To failed: waited past limits.max_queue_seconds.
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED, Status.FAILED}),
    # to queued: lost, given back, or tried again.
    Status.RUNNING: frozenset(
        {Status.QUEUED, Status.PAUSED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""Every move a job may make."""

TERMINAL = frozenset(status for status, moves in ALLOWED.items() if not moves)


class DatasetStatus(StrEnum):
    """The states of a version of a data set. One that is `ready`, `raw` or `rejected` stays so."""

    VALIDATING = "validating"
    """Its file was received, and its check takes longer than its sender waited. The scheduler checks it."""
    READY = "ready"
    """Jobs can use it."""
    RAW = "raw"
    """Its file was kept as it came. Jobs that predict read it as the data of their model was read; no job trains on it.
    """
    REJECTED = "rejected"
    """The check found that the file is no data set. The row says why, and has no file."""


class SearchStatus(StrEnum):
    """The states of a search."""

    RUNNING = "running"
    """It makes trials, or waits until the last ones and the final model have ended."""
    PAUSED = "paused"
    """It makes no trials until somebody resumes it."""
    SUCCEEDED = "succeeded"
    """It has ended, and at least one trial has a result. More trials can be added."""
    FAILED = "failed"
    """It has ended, and no trial has a result."""
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a job ended, and what a person can do about it (`sentence`)."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> Reason:
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.sentence = sentence
        return reason

    CANCELLED_BY_USER = "cancelled_by_user", "The job was cancelled on request; submit it again to run it."
    PRUNED = (
        "pruned",
        "The search of this trial stopped it early, because others were better at the same epoch. Its best weights are "
        "kept; set search.stop_early to null to train every trial to its end.",
    )
    TIME_LIMIT = (
        "time_limit",
        "The job reached a time limit of its spec; raise limits.max_runtime_seconds or limits.max_queue_seconds, "
        "or train fewer epochs.",
    )
    DIVERGED = (
        "diverged",
        "A loss or gradient was not finite; lower training.optimizer.lr or max_grad_norm, or add warm-up steps.",
    )
    CANNOT_TRAIN = (
        "cannot_train",
        "The run failed while it was built or in its first update, and another try would fail in the same way. Change "
        "the part of the spec that the message names; the job's log has the traceback.",
    )
    CANNOT_PREDICT = (
        "cannot_predict",
        "The model of the job was deleted or cannot be used, and another try would fail in the same way. Name another "
        "model.",
    )
    TOO_LARGE = (
        "too_large",
        "The job needs more memory than its worker has; lower architecture.hidden_size, num_layers or "
        "training.batch_size, use less data, or a queue whose workers have more.",
    )
    DATASET_INVALID = "dataset_invalid", "The data set cannot be trained on; correct it, upload it and submit again."
    OUT_OF_MEMORY_HOST = (
        "out_of_memory_host",
        "The machine ran out of memory; lower training.batch_size or use a smaller data set, or a larger machine.",
    )
    OUT_OF_MEMORY_GPU = (
        "out_of_memory_gpu",
        "The GPU ran out of memory; lower training.batch_size or architecture.hidden_size.",
    )
    STALLED = (
        "stalled",
        "The training made no progress for limits.max_stall_seconds and was killed twice; look at the job's log, raise "
        "the limit if a single step takes that long, or lower training.batch_size.",
    )
    WORKER_LOST = (
        "worker_lost",
        "The workers that ran this job disappeared several times without progress; look at their logs and hosts, "
        "then submit it again.",
    )
    TRAINER_CRASHED = "trainer_crashed", "The trainer stopped unexpectedly; its last words are in the worker's log."
    STORAGE_FULL = "storage_full", "There was no room for a checkpoint or the model; free space, then submit it again."
    STORAGE_UNAVAILABLE = (
        "storage_unavailable",
        "The object store was out of reach for too long; see that the workers reach it, then submit the job again.",
    )
    INTERNAL = "internal", "Something went wrong inside Loopline; the worker's log has the traceback."


PERMANENT = frozenset(
    {
        Reason.CANCELLED_BY_USER,
        Reason.PRUNED,
        Reason.TIME_LIMIT,
        Reason.DIVERGED,
        Reason.CANNOT_TRAIN,
        Reason.CANNOT_PREDICT,
        Reason.TOO_LARGE,
        Reason.DATASET_INVALID,
        Reason.OUT_OF_MEMORY_GPU,
        Reason.WORKER_LOST,
    }
)
"""Another try would end the same way: never retried, whatever `max_retries` says."""

SAYS_WHAT_TO_DO = frozenset(
    {
        Reason.PRUNED,
        Reason.DIVERGED,
        Reason.TOO_LARGE,
        Reason.DATASET_INVALID,
        Reason.OUT_OF_MEMORY_GPU,
        Reason.TIME_LIMIT,
    }
)
"""Reasons whose messages, made where the error was raised, carry their own advice."""
