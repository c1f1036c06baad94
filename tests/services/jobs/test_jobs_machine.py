"""Any order of verbs, by any number of attempts: the database does what a page of Python says, and keeps the promises.

Each claim takes the job whose turn it is, by priority, tenant, share, limit and batch. One terminal transition; every
transition in the table; attempts that never overlap; no write accepted from an attempt that was replaced; an operation
that is killed at any fault point has happened as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, faults
from services.access import tenants
from services.errors import LeaseLost
from services.jobs import attempts, control, events, progress
from services.jobs.attempts import MAX_LOST
from services.jobs.leases import Lease
from services.orm import Base, Checkpoint, Delivery, Epoch, Event, Job, Lane, LogLine, StepChunk
from services.states import ALLOWED, PERMANENT, TERMINAL, Reason, Status
from services.training.spec import Spec
from services.webhooks import subscriptions
from services.webhooks.news import OF_STATUS
from tests.properties import examples

PICK = st.integers(0, 1000)
VERBS = (
    *("create", "claim", "wait", "cancel", "pause", "pause", "resume"),
    *("start", "record", "record_steps", "record_steps", "checkpoint", "checkpoint", "renew", "go_back", "log"),
    *("lose", "lose", "lose", "give_back", "succeed", "fail", "fail", "cancelled", "paused"),
    *("zombie", "zombie", "zombie"),
)
DEATHS = (*[None] * 4, "job.fenced", "transaction.written", "transaction.committed")
"""Where an operation is killed; mostly it is not."""
SHARES = {"acme": 2.0, "beta": 0.3, "default": None}
LIMIT = 2
"""How many jobs of acme may run."""
REASONS = (*("trainer_crashed", "internal", "storage_full") * 4, "stalled", *Reason)


class Killed(BaseException):
    """What a fault point does to an operation here."""


def die() -> None:
    raise Killed


@dataclass
class Expected:
    """What the row of a job must say."""

    id: str
    priority: int
    max_retries: int
    tenant: str
    in_batch: bool
    turn: float = 0.0
    status: str = "queued"
    reason: str | None = None
    attempt: int = 0
    lost: int = 0
    failures: int = 0
    waits: bool = False
    cancel_requested: bool = False
    pause_requested: bool = False
    stalled: bool = False
    log_lines: int = 0
    checkpoint_step: int = 0
    epochs: set[int] = field(default_factory=set)
    steps: int = 0


writes: list[Callable[[Session, Lease], object]] = [
    lambda s, lease: attempts.renew(s, lease, 60),
    lambda s, lease: progress.started(s, lease, epochs=9, steps_per_epoch=2, info={}),
    lambda s, lease: progress.record(s, lease, {"epoch": 7, "train_loss": 1.0}),
    lambda s, lease: progress.record_steps(s, lease, 1, [9.0] * 9, [9.0] * 9),
    lambda s, lease: progress.checkpoint(s, lease, epoch=7, step=99, best=True, files=[]),
    lambda s, lease: progress.drop_checkpoint(s, lease, 2),
    lambda s, lease: attempts.succeed(s, lease, {}, []),
    lambda s, lease: attempts.fail(s, lease, "internal", retry=True),
    lambda s, lease: attempts.give_back(s, lease),
    lambda s, lease: attempts.cancelled(s, lease),
    lambda s, lease: attempts.paused(s, lease),
    lambda s, lease: progress.rolled_back(s, lease, epoch=0, step=0, message="Back."),
    lambda s, lease: events.note(s, lease, "warning", "Look."),
    lambda s, lease: events.log(s, lease, [events.Line("info", "a line")]),
]


class Life(RuleBasedStateMachine):
    engine: Engine
    make_spec: Callable[..., Spec]

    def __init__(self) -> None:
        super().__init__()
        self.death: str | None = None
        self.expected: dict[str, Expected] = {}
        self.revisions: dict[str, int] = {}
        self.turns: dict[tuple[int, str], float] = {}
        """Of each lane: its next turn, and below its last one."""
        self.last_turns: dict[tuple[int, str], float] = {}
        self.batches = 0
        with db.session_scope(self.engine) as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(sa.delete(table))
            for tenant, share in SHARES.items():
                tenants.create(session, tenant, share=share, max_running=LIMIT if tenant == "acme" else None)
                subscriptions.create(session, "https://example.com/", events=OF_STATUS.values(), tenant=tenant)

    def do(self, verb: Callable[[Session], Any]) -> Any:
        """One transaction. Killed after its commit it has happened all the same, and only the answer is lost."""
        answer = None
        try:
            with db.session_scope(self.engine) as session:
                answer = verb(session)
        except Killed:
            if self.death != "transaction.committed":
                raise
        return answer

    def in_state(self, *statuses: str) -> list[str]:
        return [job_id for job_id, job in self.expected.items() if job.status in statuses]

    def running(self, pick: int) -> tuple[Expected, Lease]:
        """A running job; where there is none, one is claimed, or made and claimed."""
        if not self.in_state("running"):
            self.wait()
            if not self.in_state("queued"):
                self.create(pick)
            self.claim()
        job_id = self.in_state("running")[pick % len(self.in_state("running"))]
        return self.expected[job_id], Lease(job_id, self.expected[job_id].attempt)

    def back_to_queue(self, job: Expected, reason: str | None = None, **changes: Any) -> None:
        """Queued again, unless it was to be cancelled or paused."""
        if job.cancel_requested:
            self.end(job, "cancelled", "cancelled_by_user")
            return
        if job.pause_requested:
            self.end(job, "paused", reason)
        else:
            self.enqueue(job, reason)
        for name, value in changes.items():
            setattr(job, name, value)

    def end(self, job: Expected, status: str, reason: str | None = None) -> None:
        job.status, job.reason, job.pause_requested = status, reason, False

    def enqueue(self, job: Expected, reason: str | None = None) -> None:
        """Queued again, at the head of its lane."""
        fresh = [other.turn for other in self.lane(job) if not other.attempt]
        job.turn = min(fresh, default=job.turn)
        self.enter(job)
        self.end(job, "queued", reason)

    def enter(self, job: Expected) -> None:
        if not self.lane(job):
            key = (job.priority, job.tenant)
            self.turns[key] = max(self.turns.get(key, 0.0), self.newest(job.priority))

    def lane(self, job: Expected) -> list[Expected]:
        """The queued jobs of its lane."""
        return [
            other
            for other in self.expected.values()
            if other.status == "queued" and (other.priority, other.tenant) == (job.priority, job.tenant)
        ]

    def newest(self, priority: int) -> float:
        return max((turn for key, turn in self.last_turns.items() if key[0] == priority), default=0.0)

    def create(self, pick: int, size: int = 1) -> None:
        priority, max_retries, tenant = pick % 3 - 1, pick % 4, [*SHARES][pick // 12 % 3]
        in_batch = size > 3
        self.batches += in_batch
        batch_id = f"batch_{self.batches}" if in_batch else None
        spec = self.make_spec(priority=priority, limits={"max_retries": max_retries})
        wanted = [control.Wanted(spec, {}, None)] * (size - 2 if in_batch else 1)
        made = self.do(lambda s: [job.id for job in control.create_all(s, wanted, tenant=tenant, batch_id=batch_id)])
        fresh = [Expected(job_id, priority, max_retries, tenant, in_batch) for job_id in made]
        waiting = self.lane(fresh[0])
        head = [job.turn for job in waiting if not job.attempt]
        first = min(head) if head else max((job.turn for job in waiting), default=0.0)
        if not in_batch:
            first = max([first, *(job.turn + 1 for job in waiting if not job.in_batch)])
        self.enter(fresh[0])
        for place, job in enumerate(fresh):
            job.turn = first + place
            self.expected[job.id] = job

    # One rule: with a rule a verb, Hypothesis leaves most verbs out of most runs, and they stay shallow.
    @rule(pick=PICK, size=st.integers(1, 6), verb=st.sampled_from(VERBS), death=st.sampled_from(DEATHS))
    def step(self, pick: int, size: int, verb: str, death: str | None) -> None:
        self.death = death
        if death is not None:
            faults.arm(death, die)
        try:
            getattr(self, verb)(pick, size)
        except Killed:
            assert death is not None  # and the invariants see that it left no trace
        finally:
            faults.disarm()

    def claim(self, *_: int) -> None:
        wanted = self.next_job()
        claimed = self.do(lambda s: attempts.claim(s, "default", worker="w", lease_seconds=60))
        assert (claimed and claimed.id) == (wanted and wanted.id)
        if wanted:
            self.take_turn(wanted)
            wanted.status, wanted.attempt, wanted.reason = "running", wanted.attempt + 1, None

    def runnable(self) -> list[Expected]:
        running = [self.expected[job_id].tenant for job_id in self.in_state("running")]
        queued = [self.expected[job_id] for job_id in self.in_state("queued")]
        return [job for job in queued if not job.waits and (job.tenant != "acme" or running.count("acme") < LIMIT)]

    def next_job(self) -> Expected | None:
        def order(job: Expected) -> tuple[Any, ...]:
            return (-job.priority, self.turns[job.priority, job.tenant], job.tenant, job.turn, job.id)

        return min(self.runnable(), key=order, default=None)

    def take_turn(self, job: Expected) -> None:
        """A turn counts when another tenant could have had it."""
        if {other.tenant for other in self.runnable() if other.priority == job.priority} != {job.tenant}:
            key = (job.priority, job.tenant)
            self.last_turns[key] = max(self.turns[key], self.newest(job.priority))
            self.turns[key] = self.last_turns[key] + 1.0 / (SHARES[job.tenant] or 1.0)

    def renew(self, pick: int, *_: int) -> None:
        job, lease = self.running(pick)
        flags = self.do(lambda s: attempts.renew(s, lease, 60))
        assert (flags.cancel, flags.pause) == (job.cancel_requested, job.pause_requested)

    def start(self, pick: int, resume: int) -> None:
        job, lease = self.running(pick)
        position = min(resume, job.steps)
        info = {"resumed_from": {"epoch": position // 2, "step": position} if position else None}
        self.do(lambda s: progress.started(s, lease, epochs=9, steps_per_epoch=2, info=info))
        job.steps, job.epochs = position, {epoch for epoch in job.epochs if epoch <= position // 2}

    def record(self, pick: int, epoch: int) -> None:
        job, lease = self.running(pick)
        self.do(lambda s: progress.record(s, lease, {"epoch": epoch, "train_loss": 1.0}))
        job.epochs = {earlier for earlier in job.epochs if earlier < epoch} | {epoch}

    def record_steps(self, pick: int, size: int) -> None:
        job, lease = self.running(pick)
        back, count = size % 4, 1 + size // 2
        first = max(1, job.steps + 1 - back)
        self.do(lambda s: progress.record_steps(s, lease, first, [1.0] * count, [1.0] * count))
        job.steps = first + count - 1

    def checkpoint(self, pick: int, size: int) -> None:
        job, lease = self.running(pick)
        step = 1 + size // 3  # few, so that some are made again
        self.do(lambda s: progress.checkpoint(s, lease, epoch=1, step=step, best=False, files=[]))
        if step > job.checkpoint_step:
            job.checkpoint_step, job.lost = step, 0

    def go_back(self, pick: int, size: int) -> None:
        job, lease = self.running(pick)
        position = min(size // 2, job.steps)
        self.do(lambda s: progress.rolled_back(s, lease, epoch=position // 2, step=position, message="Back."))
        job.steps, job.epochs = position, {epoch for epoch in job.epochs if epoch <= position // 2}
        job.checkpoint_step = min(job.checkpoint_step, position)

    def log(self, pick: int, size: int) -> None:
        job, lease = self.running(pick)
        self.do(lambda s: events.log(s, lease, [events.Line("info", "a line")] * size))
        job.log_lines += size

    def succeed(self, pick: int, *_: int) -> None:
        job, lease = self.running(pick)
        self.do(lambda s: attempts.succeed(s, lease, {}, []))
        self.end(job, "succeeded")

    def fail(self, pick: int, size: int) -> None:
        job, lease = self.running(pick)
        reason, retry = REASONS[pick % len(REASONS)], size > 1
        self.do(lambda s: attempts.fail(s, lease, reason, retry=retry))
        may_retry = retry and reason not in PERMANENT and not (reason == "stalled" and job.stalled)
        if may_retry and (job.cancel_requested or job.failures < job.max_retries):
            stalled = job.stalled or reason == "stalled"
            self.back_to_queue(job, reason, failures=job.failures + 1, waits=True, stalled=stalled)
        else:
            self.end(job, "failed", reason)

    def give_back(self, pick: int, *_: int) -> None:
        job, lease = self.running(pick)
        self.do(lambda s: attempts.give_back(s, lease))
        self.back_to_queue(job)

    def cancelled(self, pick: int, *_: int) -> None:
        job, lease = self.running(pick)
        self.do(lambda s: attempts.cancelled(s, lease))
        self.end(job, "cancelled", "cancelled_by_user")

    def paused(self, pick: int, *_: int) -> None:
        job, lease = self.running(pick)
        self.do(lambda s: attempts.paused(s, lease))
        self.back_to_queue(job)

    def cancel(self, pick: int, *_: int) -> None:
        if not self.expected:
            self.create(pick)
        job_id = [*self.expected][pick % len(self.expected)]
        job = self.expected[job_id]
        assert self.do(lambda s: control.cancel(s, job_id)).id == job_id
        if job.status in ("queued", "paused"):
            self.end(job, "cancelled", "cancelled_by_user")
            job.cancel_requested = True
        elif job.status == "running":
            job.cancel_requested = True

    def pause(self, pick: int, *_: int) -> None:
        job_id, job = self.unended(pick)
        self.do(lambda s: control.pause(s, job_id))
        if job.status == "running":
            job.pause_requested = True
        elif job.status == "queued":
            self.end(job, "paused")

    def resume(self, pick: int, *_: int) -> None:
        job_id, job = self.unended(pick)
        self.do(lambda s: control.resume(s, job_id))
        job.pause_requested = False
        if job.status == "paused":
            self.enqueue(job)
            job.waits = False

    def unended(self, pick: int) -> tuple[str, Expected]:
        """A job that has not ended, paused ones first; where there is none, one is made."""
        if not self.in_state("queued", "running", "paused"):
            self.create(pick)
        there = self.in_state("paused") + self.in_state("running", "queued")
        job_id = there[pick % len(there)]
        return job_id, self.expected[job_id]

    def lose(self, pick: int, *_: int) -> None:
        job, lease = self.running(pick)
        silent = sa.update(Job).where(Job.id == lease.job_id).values(lease_until=db.now() - 1)
        self.do(lambda s: s.execute(silent) and None)
        expired = self.do(attempts.expire)
        assert expired == [lease.job_id]
        if job.lost >= MAX_LOST and not job.cancel_requested:
            self.end(job, "failed", "worker_lost")
        else:
            self.back_to_queue(job, "worker_lost", lost=job.lost + 1)

    def wait(self, *_: int) -> None:
        self.do(lambda s: s.execute(sa.update(Job).values(not_before=0.0)) and None)
        for job in self.expected.values():
            job.waits = False

    def zombie(self, pick: int, size: int) -> None:
        """An attempt ends, the next one may begin, and the first one writes."""
        end, write = ("lose", "give_back", "succeed")[size % 3], writes[pick % len(writes)]
        _, lease = self.running(pick)
        getattr(self, end)(pick)
        if size > 3:
            self.claim()
        before = self.everything()
        with pytest.raises(LeaseLost):
            self.do(lambda s: write(s, lease))
        assert self.everything() == before

    def everything(self) -> list[list[tuple[Any, ...]]]:
        with db.read_scope(self.engine) as session:
            tables = (Job, Epoch, StepChunk, Checkpoint, Event, LogLine)
            return [[tuple(row) for row in session.execute(sa.select(table.__table__))] for table in tables]

    @invariant()
    def promises_are_kept(self) -> None:
        with db.read_scope(self.engine) as session:
            rows = session.scalars(sa.select(Job)).all()
            epochs = session.execute(sa.select(Epoch.job_id, Epoch.epoch)).all()
            chunks = session.scalars(sa.select(StepChunk).order_by(StepChunk.first_step)).all()
            moves = session.scalars(sa.select(Event).filter_by(type="status").order_by(Event.id)).all()
            told = session.execute(sa.select(Delivery.job_id, Delivery.event).order_by(Delivery.id)).all()
            lanes = session.scalars(sa.select(Lane)).all()
        for row in rows:
            self.row_is_as_expected(row)
            expected = self.expected[row.id]
            assert {epoch for job_id, epoch in epochs if job_id == row.id} == expected.epochs
            self.steps_are_unbroken([chunk for chunk in chunks if chunk.job_id == row.id], expected.steps)
            history = [move for move in moves if move.job_id == row.id]
            self.history_is_allowed(history, expected)
            # The database wrote down the moves, and we what webhooks are told: of each move once, and of no other.
            assert [event for job_id, event in told if job_id == row.id] == [
                OF_STATUS[move.to_status] for move in history
            ]
        assert len(rows) == len(self.expected)
        self.lanes_are_as_expected(lanes)

    def lanes_are_as_expected(self, lanes: Sequence[Lane]) -> None:
        queued = {(job.priority, job.tenant) for job in self.expected.values() if job.status == "queued"}
        assert {(lane.priority, lane.tenant) for lane in lanes if lane.has_jobs} == queued
        assert {(lane.priority, lane.tenant): lane.turn for lane in lanes} == self.turns
        assert {lane.last_turn for lane in lanes} <= {0.0, *self.last_turns.values()}

    def row_is_as_expected(self, row: Job) -> None:
        job = self.expected[row.id]
        names = ("status", "reason", "attempt", "lost", "failures", "checkpoint_step", "log_lines", "tenant", "turn")
        for name in (*names, "cancel_requested", "pause_requested"):
            assert getattr(row, name) == getattr(job, name), name
        assert row.revision >= self.revisions.get(row.id, 1)
        self.revisions[row.id] = row.revision

    def steps_are_unbroken(self, chunks: list[StepChunk], steps: int) -> None:
        last = 0
        for chunk in chunks:
            assert chunk.first_step == last + 1
            last = chunk.last_step
            assert len(chunk.loss) == len(chunk.grad_norm) == 4 * (last - chunk.first_step + 1)
        assert last == steps

    def history_is_allowed(self, moves: list[Event], job: Expected) -> None:
        assert (moves[0].from_status, moves[-1].to_status) == (None, job.status)
        assert sum(move.to_status in TERMINAL for move in moves) <= 1
        for before, after in pairwise(moves):
            assert after.from_status == before.to_status
            assert after.to_status in ALLOWED[Status(before.to_status)]
        assert [move.attempt for move in moves if move.to_status == "running"] == [*range(1, job.attempt + 1)]


@pytest.mark.hypothesis
def test_any_order_of_verbs_keeps_the_promises(engine: Engine, make_spec: Callable[..., Spec]) -> None:
    machine = type("Life", (Life,), {"engine": engine, "make_spec": staticmethod(make_spec)})
    run_state_machine_as_test(
        machine,
        settings=examples(8, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]),
    )
