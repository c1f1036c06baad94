"""Fetches the files that an attempt needs, and stores its files before the database refers to them.

Without an object store everything lies in the folder: it is there when the order goes out, and what the trainer tells
of is only looked at. With one, the data set and the checkpoint to go on from are fetched first, and a checkpoint or
result is written down only after its files are in the store. Training goes on meanwhile, and so does the lease.

With a store, `ordering.py` says which events may be written already, `stored.py` what is written of a checkpoint, and
`store_wait.py` how long a store that is away is waited for.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from services import db
from services.blobs import storage, transfers
from services.blobs.objects import S3
from services.blobs.storage import Storage, sha256
from services.blobs.transfers import Gone
from services.errors import StorageUnavailable, Unavailable
from services.jobs import progress
from services.states import Kind, Reason
from services.training import epochs
from services.training.messages import (
    CheckpointSaved,
    End,
    Event,
    Failed,
    File,
    Finished,
    Log,
    Stopped,
    StopReason,
    as_dict,
)
from worker.attempt.courier import Courier
from worker.attempt.ordering import releasable
from worker.attempt.record import Record
from worker.attempt.slot import Claim, Slot
from worker.attempt.store_wait import StoreWait
from worker.attempt.stored import StoredCheckpoints, not_registered

log = logging.getLogger(__name__)

BACKLOG = 4
"""So many checkpoints may wait for their way to the store; when more come, the oldest are left out."""


class Delivery:
    """The delivery of an attempt without an object store: every file is in the local folder at once."""

    fd: int | None = None
    """Readable when there is news."""

    def __init__(self, slot: Slot, claim: Claim) -> None:
        self.slot, self.job, self.claim = slot, claim.job, claim
        self.queue: list[Event] = []
        self.has_history = False

    @property
    def has_news(self) -> bool:
        """Whether something waits to be written down that may be."""
        return bool(self.queue)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be written down but the end."""
        return not self.queue

    def arrived(self) -> list[Event] | None:
        """The events that come before the order, or a failure in the place of the order; None while files are on their
        way."""
        return self._with_history([])

    def _with_history(self, events: list[Event]) -> list[Event] | None:
        try:
            return events if self._has_history() else None
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return [failed(Reason.STORAGE_FULL, f"The job's epochs so far do not fit on the disk: {error}.")]
            raise

    def _has_history(self) -> bool:
        """See that the epochs that the newest checkpoint counts on are beside it: what is missing or damaged, as on a
        host that has never trained this job, is written from the database, which has heard of all of them before."""
        if self.has_history or not self.claim.checkpoints or self.job.kind == Kind.PREDICT:
            return True
        newest = self.claim.checkpoints[-1]
        if not epochs.is_there(self.slot.storage.checkpoint_files(self.job.id, newest.step)[0]):
            try:
                with db.read_scope(self.slot.engine) as session:
                    records = progress.epochs(session, self.job.id, limit=newest.epoch)
            except Unavailable as error:
                log.warning("%s: cannot read the epochs of earlier attempts: %s", self.job.id, error)
                return False
            storage.write(self.slot.storage.job_file(self.job.id, epochs.NAME), b"".join(epochs.lines(records)))
        self.has_history = True
        return True

    def take(self, event: Event) -> None:
        """Takes one event of the trainer."""
        self.queue.append(event)

    def released(self, *, ended: bool) -> list[Event]:
        """The events to write now; `ended`: the trainer has sent its last event."""
        released, self.queue = self.queue, []
        return released

    def to_write(self, event: Event) -> list[Event]:
        """A released event as it is written, or what has to be written instead because its files are not what it
        says."""
        if isinstance(event, CheckpointSaved) and (damage := _damage(self.slot.storage, self.job.id, event.files)):
            # Likely deleted again already: several events are read at once.
            return [not_registered(event, damage)]
        return [event]

    def end(self, event: End) -> End | None:
        """The end as it is to be written; None while its files are on their way."""
        if not isinstance(event, Failed) and event.files is not None:
            damage = _damage(self.slot.storage, self.job.id, event.files, hashed=True)
            if damage:
                return _without_files(event, f"The trainer's result is not whole: {damage}.")
        return event

    def committed(self, record: Record) -> None:
        """The database has what is in this record."""

    def hurry(self) -> None:
        """Nobody wants to wait for the end any more."""

    def collect(self) -> bool:
        """Whether something was brought since this was asked last."""
        return False

    def wait(self, seconds: float) -> None:
        """Wait for news, if there can be any; else for so long."""
        time.sleep(seconds)

    def close(self) -> None:
        """The attempt is over."""


class StoreDelivery(Delivery):
    """Of an attempt whose files go to an object store and come from it."""

    def __init__(self, slot: Slot, claim: Claim, store: S3) -> None:
        super().__init__(slot, claim)
        self.store, self.courier = store, Courier()
        self.fd = self.courier.fd
        self.checkpoints = StoredCheckpoints({row.step: transfers.keys_of(row.files) for row in claim.checkpoints})
        self.store_wait = StoreWait(slot.store_wait_seconds)
        self.uploads: dict[int, Future[tuple[File, ...]]] = {}  # by the id of an event in the queue
        self.fetching: Future[list[str]] | None = None
        self.result: Future[tuple[File, ...]] | None = None
        self.sent = 0  # checkpoints
        self.is_fresh = False  # whether anything came since events were released last
        self.has_ended = False  # whether the trainer has sent its last event
        self.is_closed = False  # whether the courier is to do no more

    @property
    def has_news(self) -> bool:
        return self.is_fresh and bool(self.queue)

    def arrived(self) -> list[Event] | None:
        if self.fetching is None:
            self.fetching = self.courier.send(self._fetch)
        if not self._is_done(self.fetching):
            return None
        error = self.fetching.exception()
        if isinstance(error, StorageUnavailable):
            if self._waits_on(error):
                self.fetching = None if self.store_wait.may_retry(time.monotonic()) else self.fetching
                return None
            return [failed(Reason.STORAGE_UNAVAILABLE, error.message)]
        self.store_wait.reset()
        if isinstance(error, Gone):
            return [failed(Reason.DATASET_INVALID, str(error))]
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return [failed(Reason.STORAGE_FULL, f"What the job needs does not fit on the worker's disk: {error}.")]
        return self._with_history([_warning(problem) for problem in self.fetching.result()])

    def _fetch(self) -> list[str]:
        claim, storage = self.claim, self.slot.storage
        needed = (claim.dataset_sha256, claim.checkpoints)
        problems = transfers.fetch(storage, self.store, self.job.id, *needed, go_on=lambda: not self.is_closed)
        for job_id, one in {b.job_id: b for b in (claim.baselines or {}).values() if b}.items():
            if job_id is not None:
                model = (one.name, job_id, one.files)
                problems += transfers.fetch_model(storage, self.store, *model, go_on=lambda: not self.is_closed)
        return problems

    def take(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            self.sent += 1
            self._upload(event, self.sent)
        self.queue.append(event)
        self.is_fresh = True

    def _upload(self, event: CheckpointSaved, number: int) -> None:
        self.uploads[id(event)] = self.courier.send(partial(self._share, event.files, number))

    def _share(self, files: Sequence[File], number: int | None = None) -> tuple[File, ...]:
        """By the courier's thread."""
        if self.is_closed:
            raise StorageUnavailable("It is not needed any more.")
        if number is not None and self.sent - number >= BACKLOG:
            raise ValueError("newer ones came before it could be stored")
        sent = [as_dict(file) for file in files]
        shared = transfers.share(self.slot.storage, self.store, self.job.id, self.job.attempt, sent)
        return tuple(File(**file) for file in shared)

    def released(self, *, ended: bool) -> list[Event]:
        self.courier.collect()
        self.is_fresh = False
        self.has_ended = ended
        released, self.queue = releasable(self.queue, self._is_settled)  # a warning may join the queue meanwhile
        return released

    def _is_settled(self, event: Event) -> bool:
        """Whether it is known what is to be written of it. After the run has ended there is time to try again."""
        if not isinstance(event, CheckpointSaved) or (upload := self.uploads.get(id(event))) is None:
            return True
        if not self._is_done(upload):
            return False
        error = _error(upload)
        if not (self.has_ended and isinstance(error, StorageUnavailable) and self._waits_on(error)):
            return True
        if self.store_wait.may_retry(time.monotonic()):
            self._upload(event, self.sent)
        return False

    def to_write(self, event: Event) -> list[Event]:
        if not isinstance(event, CheckpointSaved):
            return self.checkpoints.to_write(event)
        upload = self.uploads.pop(id(event))
        error = _error(upload)
        if error is not None:
            return self.checkpoints.missing(event, error)
        return self.checkpoints.arrived(event, upload.result())

    def end(self, event: End) -> End | None:
        if isinstance(event, Failed) or event.files is None:
            return event
        if self.result is None:
            self.result = self.courier.send(partial(self._share, event.files))
        if not self._is_done(self.result):
            return None
        error = _error(self.result)
        if error is None:
            return replace(event, files=self.result.result())
        if not isinstance(error, StorageUnavailable):
            return _without_files(event, f"The trainer's result is not whole: {error}.")
        if isinstance(event, Stopped):  # nobody waits for these: there is the last checkpoint
            return _without_files(event, error.message)
        if self._waits_on(error):
            self.result = None if self.store_wait.may_retry(time.monotonic()) else self.result
            return None
        if self.store_wait.is_cut_short:
            return Stopped(StopReason.DRAIN)
        return failed(Reason.STORAGE_UNAVAILABLE, error.message)

    def committed(self, record: Record) -> None:
        """Delete the objects whose rows this attempt has just removed from the database."""
        if gone := self.checkpoints.committed(record.events):
            self.courier.send(partial(self._delete, gone))

    def _delete(self, keys: Sequence[str]) -> None:
        """By the courier's thread."""
        try:
            self.store.delete(keys)
        except StorageUnavailable as error:
            log.warning(
                "%s: cannot delete %d objects, the scheduler will delete them: %s", self.job.id, len(keys), error
            )

    def hurry(self) -> None:
        self.store_wait.end()

    def collect(self) -> bool:
        brought = self.courier.collect()
        self.is_fresh = self.is_fresh or brought
        return brought

    def wait(self, seconds: float) -> None:
        self.courier.wait(seconds)

    def close(self) -> None:
        self.is_closed = True
        self.courier.close()

    def _is_done(self, future: Future[Any]) -> bool:
        """Whether an errand has ended, or a worker that shuts down has waited long enough for it."""
        if self.has_ended and self.slot.drain:
            self.store_wait.cut_short(time.monotonic(), self.slot.stop_seconds)
        return future.done() or (self.store_wait.is_cut_short and self.store_wait.is_over(time.monotonic()))

    def _waits_on(self, error: StorageUnavailable) -> bool:
        """Whether to keep waiting for an unreachable store; the start of the wait is logged."""
        if self.store_wait.begin(now := time.monotonic()):
            log.warning(
                "%s: cannot reach the object store, the attempt waits for it: %s", self.job.id, error.__cause__ or error
            )
            self.queue.append(_warning(f"The attempt waits for the object store. {error.message}"))
            self.is_fresh = True
        return not self.store_wait.is_over(now)


def of(slot: Slot, claim: Claim) -> Delivery:
    """The delivery of an attempt, by whether there is an object store."""
    store = slot.storage.objects
    return Delivery(slot, claim) if store is None else StoreDelivery(slot, claim, store)


def failed(reason: Reason, message: str) -> Failed:
    """The event of an attempt that ends for something that its trainer did not tell."""
    return Failed(reason, message, None)


def _without_files(event: Finished | Stopped, why: str) -> End:
    """The end of an attempt whose files are not there: a failure, or a stop that offers nothing."""
    if isinstance(event, Finished):
        return failed(Reason.TRAINER_CRASHED, why)
    log.warning("cannot store the best weights of a stopped run: %s", why)
    return Stopped(event.reason)


def _error(future: Future[Any]) -> BaseException | None:
    return future.exception() if future.done() else StorageUnavailable("The object store did not take it in time.")


def _warning(message: str) -> Event:
    return Log("warning", message)


def _damage(storage: Storage, job_id: str, files: Sequence[File], *, hashed: bool = False) -> str | None:
    """What is wrong with the files that a trainer announced; None when they are whole."""
    for file in files:
        try:
            path = storage.job_file(job_id, file.name)
            if path.stat().st_size != file.bytes:
                return f"{file.name} has {path.stat().st_size} bytes, not {file.bytes}"
            if hashed and sha256(path) != file.sha256:
                return f"{file.name} has another hash"
        except (OSError, ValueError) as error:
            return f"{file.name}: {error}"
    return None
