"""One attempt at a job, from claim to end: the trainer trains, the supervisor writes down what it says.

The supervisor holds the lease. What it writes is fenced by the attempt's number, each batch of events in a short
transaction of its own; a write that is refused means that the job is another's by now, and the trainer is killed. A
database that cannot answer kills no run: events wait until it can, or until the lease is nearly over.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import datasets, db, jobs
from services.errors import LeaseLost, Unavailable
from services.jobs import Flags, Lease, Reason
from services.orm import Job
from services.settings import Settings
from services.storage import Storage, sha256
from worker.drain import Drain
from worker.spare import ProtocolError, Spares, Trainer, signal_name

log = logging.getLogger(__name__)

ENDS = frozenset({"finished", "stopped", "failed"})
LOOK_SECONDS = 1.0  # how long a request to cancel may go unseen
TICK_SECONDS = 0.5
LEASE_SHARE = 0.75  # of the lease, without renewal, after which the trainer must be dead: another may follow soon

Event = dict[str, Any]


@dataclass(frozen=True)
class Slot:
    """What one pool process works with, made after the fork; it runs one attempt at a time."""

    settings: Settings
    engine: Engine
    storage: Storage
    spares: Spares
    drain: Drain
    worker: str
    stop_seconds: float = 20.0
    """How long a trainer may take to stop when asked to, a checkpoint included, before it is killed."""


@dataclass(frozen=True)
class Claim:
    """A job that was claimed, with what else its attempt needs from the database."""

    job: Job
    dataset_sha256: str | None
    checkpoint_step: int | None
    """Of the newest checkpoint that is registered. Files beyond it may lie in the folder, left by an attempt that died
    before its last events were written; going on from those would leave a gap in the history."""
    at: float
    """When, by the monotonic clock; the lease is counted from here."""


def claim(slot: Slot, queue: str) -> Claim | None:
    """Take the best runnable job of the queue; None when there is none. Raises Unavailable."""
    at = time.monotonic()
    with db.session_scope(slot.engine) as session:
        job = jobs.claim(session, queue, worker=slot.worker, lease_seconds=slot.settings.lease_seconds)
        if job is None:
            return None
        dataset_sha256 = None if job.dataset_id is None else datasets.get(session, job.dataset_id).sha256
        checkpoints = jobs.checkpoints(session, job.id) if job.attempt > 1 else ()
    return Claim(job, dataset_sha256, checkpoints[-1].step if checkpoints else None, at)


def supervise(slot: Slot, claim: Claim) -> None:
    """Run the attempt to its end, whatever that is. Never raises for what the job did."""
    job = claim.job
    log.info("%s: attempt %d begins", job.id, job.attempt)
    trainer = slot.spares.take()
    try:
        trainer.send(order(slot, claim))
        Attempt(slot, claim, trainer).run()
    except LeaseLost as error:
        log.warning("%s: attempt %d is over: %s", job.id, job.attempt, error)
    except Exception as error:  # the one edge: a mistake of ours must not take the pool process along
        log.exception("%s: attempt %d met an unexpected error", job.id, job.attempt)
        _give_up(slot, Lease.of(job), f"{type(error).__name__}: {error}.")
    finally:
        trainer.end()
        if not slot.drain:
            slot.spares.prepare()


def order(slot: Slot, claim: Claim) -> Event:
    """What the trainer is told. It checks the checkpoint itself, and takes one before it where that is damaged."""
    job, sha, step = claim.job, claim.dataset_sha256, claim.checkpoint_step
    return {
        "spec": job.spec,
        "data": None if sha is None else str(slot.storage.dataset_path(sha)),
        "directory": str(slot.storage.job_dir(job.id)),
        "resume": None if step is None else str(slot.storage.checkpoint_files(job.id, step)[0]),
        "device": slot.settings.device,
        "job": job.id,
        "attempt": job.attempt,
    }


class Attempt:
    """The conversation with one trainer: `run` turns until the attempt has ended."""

    def __init__(self, slot: Slot, claim: Claim, trainer: Trainer) -> None:
        self.slot, self.job, self.trainer = slot, claim.job, trainer
        self.lease = Lease.of(claim.job)
        self.pending: list[Event] = []  # events that have come and are not written yet
        self.ended = False
        self.asked: str | None = None  # what the trainer was asked to stop for
        self.renewed = self.looked = claim.at
        self.renew_at = self.renewed + slot.settings.renew_seconds
        self.write_at = 0.0  # not before: the database could not answer
        self.kill_at = self.time_limit_at = float("inf")
        if self.job.max_runtime_seconds is not None:
            self.time_limit_at = claim.at + max(0.0, self.job.max_runtime_seconds - self.job.ran_seconds)
        trainer.watch(slot.drain.fd)

    def run(self) -> None:
        """Until the attempt's end is in the database; raises LeaseLost when it is another's to write."""
        while not self.ended:
            self.keep_lease()
            self.stop_in_time()
            self.listen()
            self.write()

    def keep_lease(self) -> None:
        """Renew when it is time, and hear what is asked of this attempt; between renewals a look costs no write."""
        try:
            if (began := time.monotonic()) >= self.renew_at:
                with db.session_scope(self.slot.engine) as session:
                    flags = jobs.renew(session, self.lease, self.slot.settings.lease_seconds)
                self.renewed = self.looked = began
                self.renew_at = began + self.slot.settings.renew_seconds
                self.heed(flags)
            elif began >= self.looked + LOOK_SECONDS:
                self.looked = began
                with db.read_scope(self.slot.engine) as session:
                    cancel = jobs.get(session, self.job.id).cancel_requested
                self.heed(Flags(cancel=cancel))
        except Unavailable as error:
            log.warning("%s: the lease could not be renewed: %s", self.job.id, error)
            self.renew_at = time.monotonic() + min(LOOK_SECONDS, self.slot.settings.renew_seconds / 4)
        if time.monotonic() - self.renewed > LEASE_SHARE * self.slot.settings.lease_seconds:
            raise LeaseLost("The database was out of reach until the lease was nearly over; the trainer is stopped.")

    def heed(self, flags: Flags) -> None:
        if flags.seconds_left is not None:
            self.time_limit_at = time.monotonic() + flags.seconds_left
        if flags.cancel:
            self.ask_to_stop("cancel")

    def stop_in_time(self) -> None:
        """Ask the trainer to stop when the worker shuts down or the time is over; kill one that does not."""
        if self.is_ending():
            return
        if self.slot.drain:
            self.trainer.unwatch(self.slot.drain.fd)  # it stays readable: watching on would be a busy loop
            self.ask_to_stop("drain")
        if time.monotonic() >= self.time_limit_at:
            self.ask_to_stop("time_limit")
        if time.monotonic() >= self.kill_at:
            log.warning("%s: the trainer did not stop within %g s and is killed", self.job.id, self.slot.stop_seconds)
            self.trainer.end()
            self.pending.append({"event": "stopped", "reason": self.asked})

    def ask_to_stop(self, reason: str) -> None:
        if self.asked is None:
            log.info("%s: the trainer is asked to stop (%s)", self.job.id, reason)
            self.asked = reason
            self.kill_at = time.monotonic() + self.slot.stop_seconds
            self.trainer.send({"stop": reason})

    def listen(self) -> None:
        """Take in what the trainer says, waiting for it at most to the next thing to do; note its death."""
        if self.is_ending():
            time.sleep(max(0.0, min(self.write_at - time.monotonic(), TICK_SECONDS)))
            return
        try:
            self.pending += self.trainer.wait(self.patience())
            if not self.is_ending() and self.trainer.has_exited():
                self.pending += self.trainer.rest()
                if not self.is_ending():
                    self.pending.append(self.obituary())
        except ProtocolError as error:
            self.pending.append(_failed(Reason.TRAINER_CRASHED, str(error)))

    def is_ending(self) -> bool:
        """Whether the last event of this attempt has come, and only has to be written."""
        return any(event["event"] in ENDS for event in self.pending)

    def patience(self) -> float:
        """How long to wait for the trainer before something else is due, in seconds."""
        due = min(self.renew_at, self.looked + LOOK_SECONDS, self.kill_at, self.time_limit_at)
        if self.pending:
            due = min(due, self.write_at)
        longest = 0.01 if self.trainer.is_silent else TICK_SECONDS  # its end will follow at once
        return max(0.0, min(due - time.monotonic(), longest))

    def obituary(self) -> Event:
        """The failure of a trainer that ended without a last event, told from its exit status and last words."""
        if self.asked is not None:
            return {"event": "stopped", "reason": self.asked}
        status = self.trainer.end()
        if status == -signal.SIGKILL:  # nobody else here sends one to a trainer
            return _failed(
                Reason.OUT_OF_MEMORY_HOST, "The trainer was killed, as the kernel does when memory runs out."
            )
        how = f"was ended by {signal_name(status)}" if status < 0 else f"ended with exit status {status}"
        if status == 0:
            how = "ended without a result"
        if words := self.trainer.last_words():
            log.warning("%s: the trainer %s; its last words:\n%s", self.job.id, how, words)
        last = " | ".join(self.trainer.last_words(3).splitlines())[-500:]
        return _failed(Reason.TRAINER_CRASHED, f"The trainer {how}." + (f" Last it printed: {last!r}." if last else ""))

    def write(self) -> None:
        """Every event that has come, in one transaction; they stay for later when the database cannot answer."""
        if not self.pending or time.monotonic() < self.write_at:
            return
        events = [self.checked(event) for event in self.pending]
        try:
            with db.session_scope(self.slot.engine) as session:
                for event in events:
                    self.apply(session, event)
                    if event["event"] in ENDS:
                        break
        except Unavailable as error:
            log.warning("%s: %d events wait for the database: %s", self.job.id, len(events), error)
            self.write_at = time.monotonic() + LOOK_SECONDS
            return
        self.pending = []
        self.ended = any(event["event"] in ENDS for event in events)
        if any(event["event"] == "steps" for event in events):
            self.slot.spares.prepare()  # the first step is out: now the next spare may have the processor too

    def checked(self, event: Event) -> Event:
        """The event, or what has to be written instead because its files are not what it says."""
        if event["event"] == "checkpoint" and (damage := _damage(self.slot.storage, self.job.id, event["files"])):
            # Likely deleted again already: several events are read at once.
            return {"event": "log", "level": "info", "message": f"checkpoint {event['step']} not registered: {damage}"}
        if event["event"] == "finished":
            damage = _damage(self.slot.storage, self.job.id, event["files"], hashed=True)
            if damage:
                return _failed(Reason.TRAINER_CRASHED, f"The trainer's result is not whole: {damage}.")
        return event

    def apply(self, session: Session, event: Mapping[str, Any]) -> None:
        """Write one event, fenced."""
        match event:
            case {"event": "started", "epochs": epochs, "steps_per_epoch": steps, **info}:
                jobs.started(session, self.lease, epochs=epochs, steps_per_epoch=steps, info=info)
            case {"event": "steps", "first_step": first, "loss": loss, "grad_norm": grad_norm}:
                jobs.record_steps(session, self.lease, first, loss, grad_norm)
            case {"event": "epoch", "record": record}:
                jobs.record(session, self.lease, record)
            case {"event": "checkpoint", "epoch": epoch, "step": step, "best": best, "files": files}:
                jobs.checkpoint(session, self.lease, epoch=epoch, step=step, best=best, files=files)
            case {"event": "checkpoint_deleted", "step": step}:
                jobs.drop_checkpoint(session, self.lease, step)
            case {"event": "finished", "result": result, "files": files}:
                jobs.succeed(session, self.lease, result, files)
                log.info("%s: attempt %d succeeded", self.job.id, self.job.attempt)
            case {"event": "stopped", "reason": reason}:
                self.stopped(session, reason)
            case {"event": "failed", "reason": reason, "message": message}:
                self.failed(session, reason, message, event.get("traceback"))
            case {"event": "log", "message": message}:
                log.info("%s: %s", self.job.id, message)
            case {"event": "ready"}:
                pass
            case _:
                log.warning("%s: the trainer sent an event of an unknown kind: %.200r", self.job.id, event)

    def stopped(self, session: Session, reason: str) -> None:
        log.info("%s: attempt %d stopped (%s)", self.job.id, self.job.attempt, reason)
        if reason == "cancel":
            jobs.cancelled(session, self.lease)
        elif reason == "time_limit":
            ran = f"limits.max_runtime_seconds ({self.job.max_runtime_seconds:g} s)"
            limit = f"The job ran for {ran}: raise it, or train fewer epochs."
            jobs.fail(session, self.lease, Reason.TIME_LIMIT, limit, retry=False)
        else:
            jobs.give_back(session, self.lease)

    def failed(self, session: Session, reason: str, message: str, traceback: str | None) -> None:
        why = Reason(reason) if reason in set(Reason) else Reason.TRAINER_CRASHED
        log.warning("%s: attempt %d failed (%s): %s", self.job.id, self.job.attempt, why, message)
        if traceback:
            log.warning("%s: in the trainer:\n%s", self.job.id, traceback)
        wait = self.slot.settings.retry_seconds
        jobs.fail(session, self.lease, why, message, retry=why not in jobs.PERMANENT, retry_seconds=wait)


def _failed(reason: Reason, message: str) -> Event:
    return {"event": "failed", "reason": reason, "message": message, "traceback": None}


def _damage(storage: Storage, job_id: str, files: Sequence[Mapping[str, Any]], *, hashed: bool = False) -> str | None:
    """What is wrong with the files that a trainer announced; None when they are whole."""
    for file in files:
        try:
            path = storage.job_file(job_id, file["name"])
            if path.stat().st_size != file["bytes"]:
                return f"{file['name']} has {path.stat().st_size} bytes, not {file['bytes']}"
            if hashed and sha256(path) != file["sha256"]:
                return f"{file['name']} has another hash"
        except (OSError, ValueError) as error:
            return f"{file['name']}: {error}"
    return None


def _give_up(slot: Slot, lease: Lease, message: str) -> None:
    """Fail the attempt for something that happened outside its trainer."""
    try:
        with db.session_scope(slot.engine) as session:
            jobs.fail(session, lease, Reason.INTERNAL, message, retry=True, retry_seconds=slot.settings.retry_seconds)
    except (LeaseLost, Unavailable) as error:
        log.warning("%s: its failure could not be recorded, the scheduler will find it: %s", lease.job_id, error)
