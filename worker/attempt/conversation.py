"""The conversation between one supervisor and one trainer, from the order to the outcome."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from enum import Enum

from services import db, faults, metrics
from services.errors import JobNotFound, LeaseLost, Unavailable
from services.jobs import attempts, control
from services.jobs.attempts import Flags
from services.jobs.events import Level, Line
from services.jobs.leases import Lease
from services.searches.comparison import Answer
from services.states import Reason, Status
from services.training.messages import (
    CheckpointDeleted,
    CheckpointSaved,
    End,
    EpochEnded,
    Event,
    Failed,
    Order,
    ProtocolError,
    Ready,
    Recorded,
    RungAnswer,
    Started,
    Steps,
    Stop,
    Stopped,
    StopReason,
)
from services.training.messages import Lease as Renewed
from worker.attempt import delivery, oom, reporting
from worker.attempt.deadlines import NEVER, Deadlines
from worker.attempt.delivery import failed
from worker.attempt.record import Record, Trace, log_lines, progress_lines, trace
from worker.attempt.reporting import Gauges
from worker.attempt.slot import Claim, Slot
from worker.attempt.spare import Trainer, signal_name
from worker.gpu.advice import DEVICE_LOST, advised

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how long a request to cancel or pause may go unseen
TICK_SECONDS = 0.5
WRITE_SECONDS = 0.4  # between two transactions of one attempt, so that short epochs do not keep others from writing
FIRST: frozenset[type] = frozenset({Started, Steps, EpochEnded})  # of these the first is written at once
OUTPUT_SECONDS = 1.0  # how long a printed line may wait to be written down
STOP_SHARE = 0.5  # of the lease, without renewal, after which the trainer is to save its place and stop
LEASE_SHARE = 0.75  # and after which it must be dead: another may follow soon


class State(Enum):
    """Where an attempt is."""

    WAITING_FOR_FILES = "the trainer has no order yet"
    TRAINING = "the trainer has its order"
    STOPPING = "the trainer was asked to stop"
    ENDING = "the last event has come; it and what came before it are to be written"
    DONE = "the end is in the database"


MOVES: Mapping[State, frozenset[State]] = {
    State.WAITING_FOR_FILES: frozenset({State.TRAINING, State.ENDING}),
    State.TRAINING: frozenset({State.STOPPING, State.ENDING}),
    State.STOPPING: frozenset({State.ENDING}),
    State.ENDING: frozenset({State.DONE}),
    State.DONE: frozenset(),
}


class Attempt:
    """One attempt at a job: `run` turns until it has ended, `close` lets go of what it held.

    The trainer gets its `order` when all that it needs is here.
    """

    def __init__(self, slot: Slot, claim: Claim, trainer: Trainer, order: Order) -> None:
        self.slot, self.job, self.trainer, self.order = slot, claim.job, trainer, order
        self.lease = Lease.of(claim.job)
        self.delivery = delivery.of(slot, claim)  # holds events that have come and are in no record yet
        self.state = State.WAITING_FOR_FILES
        self.unanswered: Record | None = None  # whose commit the database did not answer: it is written again
        self.last: End | None = None  # the event that ends the attempt, once it has come
        self.recorded = 0  # events about checkpoints that are in the database
        self.started: Started | None = None  # the event that says that training has begun, once it has come
        self.device_trouble: str | None = None  # why the device cannot be used, where that ended the attempt
        self.asked: StopReason | None = None  # what the trainer was asked to stop for
        self.step = claim.job.step
        self.began = time.monotonic()
        self.memory = oom.History()
        self.renewed = claim.at
        self.deadlines = Deadlines(renew=claim.at + slot.settings.renew_seconds, look=claim.at + LOOK_SECONDS)
        if self.job.max_runtime_seconds is not None:
            self.deadlines.time_limit = claim.at + max(0.0, self.job.max_runtime_seconds - self.job.ran_seconds)
        self.max_stall_seconds: float = self.job.spec["limits"].get("max_stall_seconds") or NEVER
        self.news = FIRST  # kinds of events of which none is written yet
        self.comparison = claim.comparison  # of a trial: how it is compared at its rungs
        self.answer: Answer | None = None  # to the newest rung that is recorded
        self.trace: Trace = (claim.job.log_lines, 0)  # as of the last commit that was answered
        self.gauges = Gauges()
        trainer.watch(slot.drain.fd)
        if self.delivery.fd is not None:
            trainer.watch(self.delivery.fd)

    def run(self) -> None:
        """Until the attempt's end is in the database; raises LeaseLost when it is another's to write."""
        self.start()
        while self.state is not State.DONE:
            self.keep_lease()
            self.stop_in_time()
            self.start()
            self.memory.update(time.monotonic())
            self.listen()
            self.write()

    def move(self, to: State) -> None:
        """The one place where the state changes."""
        if to not in MOVES[self.state]:
            raise ValueError(f"an attempt cannot go from {self.state.name} to {to.name}")
        self.state = to

    def close(self) -> None:
        self.delivery.close()
        self.gauges.reset()

    def start(self) -> None:
        """Give the trainer its order, once."""
        if self.state is not State.WAITING_FOR_FILES or (news := self.delivery.arrived()) is None:
            return
        self.take_in(news)
        if self.last is None:
            self.move(State.TRAINING)
            self.began = time.monotonic()
            lease = self.renewed + LEASE_SHARE * self.slot.settings.lease_seconds
            self.trainer.send(Renewed(lease))
            self.trainer.send(self.order)

    # The lease

    def keep_lease(self) -> None:
        """Renew the lease when it is due and read requests to cancel or pause; between renewals this only reads."""
        try:
            if (began := time.monotonic()) >= self.deadlines.renew:
                self.renew(began)
            elif began >= self.deadlines.look:
                self.look(began)
        except Unavailable as error:
            log.warning("%s: cannot renew the lease: %s", self.job.id, error)
            self.deadlines.renew = time.monotonic() + min(LOOK_SECONDS, self.slot.settings.renew_seconds / 4)
        self.check_lease_age(time.monotonic() - self.renewed)

    def renew(self, began: float) -> None:
        result = "unavailable"
        try:
            with db.session_scope(self.slot.engine) as session:
                flags = attempts.renew(session, self.lease, self.slot.settings.lease_seconds)
            result = "renewed"
        except LeaseLost:
            result = "refused"
            raise
        finally:
            metrics.HEARTBEATS.inc(result=result)
        self.renewed = began
        self.deadlines.renew = began + self.slot.settings.renew_seconds
        self.deadlines.look = began + LOOK_SECONDS
        if self.last is None:
            self.trainer.send(Renewed(began + LEASE_SHARE * self.slot.settings.lease_seconds))
        self.apply_flags(flags)

    def look(self, began: float) -> None:
        self.deadlines.look = began + LOOK_SECONDS
        try:
            with db.read_scope(self.slot.engine) as session:
                job = control.get(session, self.job.id)
        except JobNotFound as error:
            raise LeaseLost(f"{self.job.id} was deleted meanwhile.") from error
        if (job.attempt, job.status) != (self.lease.attempt, Status.RUNNING):
            raise LeaseLost(f"{self.job.id} is {job.status} by now, at attempt {job.attempt}.")
        self.apply_flags(Flags(cancel=job.cancel_requested, pause=job.pause_requested))

    def check_lease_age(self, silent: float) -> None:
        """What follows from `silent` seconds without renewal. An outcome is no danger to anybody: it waits on."""
        lease = self.slot.settings.lease_seconds
        if silent > LEASE_SHARE * lease and (self.last is None or self.slot.drain):
            raise LeaseLost("The database was out of reach until the lease was nearly over; the trainer is stopped.")
        if silent > STOP_SHARE * lease:
            self.ask_to_stop(StopReason.LEASE)

    def apply_flags(self, flags: Flags) -> None:
        if flags.seconds_left is not None:
            self.deadlines.time_limit = time.monotonic() + flags.seconds_left
        if flags.cancel:
            self.ask_to_stop(StopReason.CANCEL)
            self.delivery.hurry()
        if flags.pause:
            self.ask_to_stop(StopReason.PAUSE)

    # The trainer

    def stop_in_time(self) -> None:
        """Ask the trainer to stop when the worker shuts down or the time is over; kill one that does not."""
        if self.last is not None:
            return
        if self.slot.drain:
            self.trainer.unwatch(self.slot.drain.fd)  # it stays readable: watching on would be a busy loop
            self.ask_to_stop(StopReason.DRAIN)
        if time.monotonic() >= self.deadlines.time_limit:
            self.ask_to_stop(StopReason.TIME_LIMIT)
        if self.asked is not None and time.monotonic() >= self.deadlines.kill:
            log.warning("%s: the trainer did not stop within %g s; killing it", self.job.id, self.slot.stop_seconds)
            self.take_in([Stopped(self.asked)])

    def ask_to_stop(self, reason: StopReason) -> None:
        """The first request counts; what is asked later is on the job's row, which has the last word."""
        if self.asked is None and self.last is None:
            log.info("%s: asking the trainer to stop (%s)", self.job.id, reason)
            self.asked = reason
            self.deadlines.kill = time.monotonic() + self.slot.stop_seconds
            if self.state is State.TRAINING:
                self.move(State.STOPPING)
                self.trainer.send(Stop(reason))
            else:
                self.take_in([Stopped(reason)])

    def listen(self) -> None:
        """Take in what the trainer says, waiting for it at most to the next thing to do; note its death or silence."""
        if self.state is State.ENDING:
            self.delivery.wait(max(0.0, min(self.deadlines.write - time.monotonic(), TICK_SECONDS)))
            if self.delivery.collect() and self.unanswered is None:
                self.deadlines.write = 0.0
            return
        try:
            self.take_in(self.trainer.wait(self.seconds_to_wait()))
            self.delivery.collect()
            if self.last is None and self.trainer.has_exited():
                self.take_in(self.trainer.rest())
                if self.last is None:
                    self.take_in([self.exit_message()])
            elif self.last is None and time.monotonic() >= self.stalled_at():
                self.take_in([self.stall()])
        except ProtocolError as error:
            self.take_in([failed(Reason.TRAINER_CRASHED, str(error))])

    def take_in(self, events: Sequence[Event]) -> None:
        """Keep events to be written. After the last one the trainer has nothing left to do, and is gone before the
        outcome can be seen: whoever follows has the job's folder for itself."""
        for event in events:
            if self.last is not None:
                return
            if self.unanswered is None and (type(event) in self.news or isinstance(event, End) or self.is_rung(event)):
                self.deadlines.write = 0.0
            if isinstance(event, Started):
                self.started = event
            if isinstance(event, Ready):
                self.slot.spares.heard(event)
            self.gauges.update(event)
            reporting.write_event(event)
            if isinstance(event, End):
                self.last = self.judged(event)
                self.move(State.ENDING)
                self.trainer.end()
                return
            if isinstance(event, Steps):
                self.step = event.last_step
            self.delivery.take(event)

    def is_rung(self, event: Event) -> bool:
        """Whether the trainer waits for an answer after this event."""
        return isinstance(event, EpochEnded) and self.comparison is not None and event.epoch in self.comparison.rungs

    def judged(self, last: End) -> End:
        """The last event, or what follows from it where the device has failed: a job that had not begun had no part."""
        if not isinstance(last, Failed) or last.reason != DEVICE_LOST:
            return last
        self.device_trouble = advised(last.message)
        return last if self.started else Stopped(StopReason.DEVICE_LOST)

    def seconds_to_wait(self) -> float:
        """How long to wait for the trainer before something else is due, in seconds."""
        self.deadlines.stall = self.stalled_at()
        has_events = self.delivery.has_news or self.unanswered is not None
        due = self.deadlines.next(has_events=has_events, has_output=self.trainer.output.has_lines)
        longest = 0.01 if self.trainer.is_silent else TICK_SECONDS  # its end will follow at once
        return max(0.0, min(due - time.monotonic(), longest))

    def stalled_at(self) -> float:
        """When the trainer has been silent for too long. One that was asked to stop has another limit."""
        if self.state is not State.TRAINING:
            return NEVER
        return max(self.began, self.trainer.last_event_at) + self.max_stall_seconds

    def stall(self) -> End:
        silent = time.monotonic() - max(self.began, self.trainer.last_event_at)
        limit = f"limits.max_stall_seconds is {self.max_stall_seconds:g}"
        return failed(Reason.STALLED, f"The trainer said nothing for {silent:.0f} s at step {self.step} ({limit}).")

    def exit_message(self) -> End:
        """The end of a trainer that exited without a last event, as its exit status and its last words tell it."""
        if self.asked is not None:
            return Stopped(self.asked)
        status = self.trainer.end()
        if status == -signal.SIGALRM:
            log.warning("%s: the lease was not renewed in time, so the trainer ended itself", self.job.id)
            return Stopped(StopReason.LEASE)
        if status == -signal.SIGKILL:
            return failed(*self.memory.judge(self.trainer.pid))
        how = f"was ended by {signal_name(status)}" if status < 0 else f"ended with exit status {status}"
        if status == 0:
            how = "ended without a result"
        if words := self.trainer.output.last_words():
            log.warning("%s: the trainer %s; its last output:\n%s", self.job.id, how, words)
        last = " | ".join(self.trainer.output.last_words(3).splitlines())[-500:]
        return failed(Reason.TRAINER_CRASHED, f"The trainer {how}." + (f" Last it printed: {last!r}." if last else ""))

    # The record

    def write(self) -> None:
        """What has come, in one transaction; it stays for later when the database cannot answer."""
        if time.monotonic() < self.deadlines.write:
            return
        record = self.unanswered or self.next_record()
        if record is None:
            if self.state is State.ENDING:  # its files are on their way
                self.deadlines.write = time.monotonic() + TICK_SECONDS
            return
        if record.end is not None:
            faults.point("supervisor.finishing")
        try:
            with db.session_scope(self.slot.engine) as session:
                is_written = self.unanswered is not None and trace(session, self.lease) != self.trace
                if not is_written:
                    self.answer = record.write(session) or self.answer
                left = trace(session, self.lease)
        except Unavailable as error:
            log.warning(
                "%s: cannot write %d events to the database, will try again: %s", self.job.id, len(record.events), error
            )
            self.unanswered = record
            self.deadlines.write = time.monotonic() + LOOK_SECONDS
            return
        self.unanswered, self.trace = None, left
        self.deadlines.write = time.monotonic() + WRITE_SECONDS
        self.news -= {type(event) for event in record.events}
        self.delivery.committed(record)
        if record.end is not None:
            self.move(State.DONE)
        elif record.recorded > self.recorded:
            self.recorded = record.recorded
            self.trainer.send(Recorded(record.recorded))
        self.pass_on_answer(record)
        if any(isinstance(event, Steps) for event in record.events):
            self.slot.spares.prepare()  # the first step is out: now the next spare may have the processor too

    def pass_on_answer(self, record: Record) -> None:
        """Tell a trial that waits at a rung whether it goes on, now that the rung and the answer are recorded."""
        if self.comparison is None or record.rung is None or self.answer is None:
            return
        faults.point("rung.answered")
        log.info("%s: %s", self.job.id, self.answer.message)
        self.trainer.send(RungAnswer(self.answer.epoch, self.answer.goes_on))
        self.comparison = self.comparison.after(self.answer.epoch)

    def next_record(self) -> Record | None:
        """What there is to write now, checked against the files; None when there is nothing."""
        released = self.delivery.released(ended=self.last is not None)
        events = [one for event in released for one in self.delivery.to_write(event)]
        end = self.delivery.end(self.last) if self.last is not None and self.delivery.is_done else None
        written = [*events, *([end] if end else [])]
        said = [line for event in written for line in log_lines(event)]
        epochs = self.job.epochs or self.job.spec.get("training", {}).get("epochs", 1)
        folds = ((self.job.spec.get("data") or {}).get("split") or {}).get("folds")
        lines = [line for event in written for line in (*log_lines(event), *progress_lines(event, epochs, folds))]
        now = time.monotonic()
        if end or (self.trainer.output.has_lines and now >= self.deadlines.output):
            self.deadlines.output = now + OUTPUT_SECONDS
            printed = [Line(Level.OUTPUT, text) for text in self.trainer.output.take(all=end is not None)]
            said, lines = said + printed, lines + printed
        recorded = self.recorded + sum(isinstance(event, CheckpointSaved | CheckpointDeleted) for event in released)
        reporting.write_lines(said)
        if not (events or lines or end or recorded > self.recorded):
            return None
        because = None if self.answer is None or self.answer.goes_on else self.answer.message
        retry_seconds = self.slot.settings.retry_seconds
        return Record(self.job, events, lines, end, retry_seconds, recorded, self.comparison, because)
