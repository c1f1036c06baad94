"""A cancel against everything that may happen to a job at the same time: one outcome, never both, never none."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.errors import LeaseLost
from services.jobs import attempts, control, lanes, progress
from services.jobs.leases import Lease
from services.orm import Job
from services.states import TERMINAL
from tests.rows import transitions
from tests.services.conftest import claimed, let_expire

INTERLEAVINGS = 200

END: dict[str, Callable[..., Job]] = {
    "succeeds": lambda session, lease: attempts.succeed(session, lease, {}, []),
    "fails for good": lambda session, lease: attempts.fail(session, lease, "diverged", "Step 3.", retry=False),
    "fails and is tried again": lambda session, lease: attempts.fail(session, lease, "internal", retry=True),
    "is given back": attempts.give_back,
}


class Racers:
    """Threads that set off together, all but the first a little later by chance: as late as the first one's work takes
    on this machine at this time, and a bit, but rather early. The same `seed` gives the same chances again."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.pool = ThreadPoolExecutor(3)
        self.took = 0.005

    def run(self, first: Callable[[], None], *others: Callable[[], None]) -> None:
        together = threading.Barrier(1 + len(others))

        def leader() -> None:
            together.wait(30)
            began = time.monotonic()
            first()
            self.took = (self.took + time.monotonic() - began) / 2

        def other(call: Callable[[], None], later: float) -> None:
            together.wait(30)
            time.sleep(later)
            call()

        late = [1.3 * self.took * self.chance.random() ** 2 for _ in others]
        running = [self.pool.submit(other, call, later) for call, later in zip(others, late, strict=True)]
        for done in [self.pool.submit(leader), *running]:
            done.result(30)


def cancel(engine: Engine, job_id: str) -> Callable[[], None]:
    def act() -> None:
        with db.session_scope(engine) as session:
            control.cancel(session, job_id)

    return act


def attempt(engine: Engine, end: Callable[..., Job]) -> Callable[[], None]:
    """A worker's whole attempt: claim, record, renew, and its end, or the cancel that it is told of."""

    def act() -> None:
        with db.session_scope(engine) as session:
            job = attempts.claim(session, "default", worker="host:1", lease_seconds=60)
            if job is None:
                return
            lease = Lease.of(job)
        with db.session_scope(engine) as session:
            progress.record(session, lease, {"epoch": 1, "train_loss": 0.5})
        with db.session_scope(engine) as session:
            asked = attempts.renew(session, lease, 60).cancel
        with db.session_scope(engine) as session:
            (attempts.cancelled if asked else end)(session, lease)

    return act


def outcome(engine: Engine, job_id: str) -> str:
    """How the job ended, after a look at its history: one end, the last of all moves."""
    with db.read_scope(engine) as session:
        job, moves = control.get(session, job_id), [row.to_status for row in transitions(session, job_id)]
    assert [to for to in moves if to in TERMINAL] == [job.status]
    assert moves[-1] == job.status
    assert job.lease_until is None
    assert (job.reason == "cancelled_by_user") == (job.status == "cancelled")
    return job.status


@pytest.mark.parametrize("how", END)
def test_a_cancel_against_claim_run_and_end_has_one_outcome(
    engine: Engine, make_job: Callable[..., Job], how: str
) -> None:
    racers, outcomes = Racers(seed=37), []
    with racers.pool:
        for _ in range(INTERLEAVINGS // len(END)):
            job_id = make_job().id
            racers.run(attempt(engine, END[how]), cancel(engine, job_id))
            outcomes.append(outcome(engine, job_id))
    ends = {"succeeds": {"cancelled", "succeeded"}, "fails for good": {"cancelled", "failed"}}
    assert set(outcomes) == ends.get(how, {"cancelled"})  # each is met; what comes to wait again is cancelled there
    with db.read_scope(engine) as session:
        assert lanes.waiting(session) == []


def test_a_cancel_while_the_worker_is_lost_ends_the_job_whoever_comes_first(
    engine: Engine, make_job: Callable[..., Job]
) -> None:
    racers, outcomes = Racers(seed=38), []
    with racers.pool:
        for _ in range(INTERLEAVINGS // 4):
            job_id = make_job().id
            lease = claimed(engine)
            let_expire(engine, job_id)
            calls = [zombie(engine, lease), cancel(engine, job_id), expire(engine)]
            racers.chance.shuffle(calls)
            racers.run(*calls)
            with db.session_scope(engine) as session:
                attempts.expire(session)  # the scheduler's next tick
            outcomes.append(outcome(engine, job_id))
            with db.session_scope(engine) as session, pytest.raises(LeaseLost):
                progress.record(session, lease, {"epoch": 2})
    assert set(outcomes) == {"cancelled", "succeeded"}


def expire(engine: Engine) -> Callable[[], None]:
    def act() -> None:
        with db.session_scope(engine) as session:
            attempts.expire(session)

    return act


def zombie(engine: Engine, lease: Lease) -> Callable[[], None]:
    """The worker that was taken for lost comes to the end of its work."""

    def act() -> None:
        with suppress(LeaseLost), db.session_scope(engine) as session:
            attempts.succeed(session, lease, {}, [])

    return act


@pytest.mark.parametrize("order", [("cancel", "expire"), ("expire", "cancel")])
def test_a_job_that_is_lost_and_cancelled_is_cancelled_in_either_order(
    engine: Engine, lease: Lease, order: Sequence[str]
) -> None:
    let_expire(engine, lease.job_id)
    acts = {"cancel": cancel(engine, lease.job_id), "expire": expire(engine)}
    for act in order:
        acts[act]()
    assert outcome(engine, lease.job_id) == "cancelled"
    with db.session_scope(engine) as session, pytest.raises(LeaseLost):
        attempts.succeed(session, lease, {}, [])
    with db.session_scope(engine) as session:
        assert attempts.claim(session, "default", worker="host:2", lease_seconds=60) is None
