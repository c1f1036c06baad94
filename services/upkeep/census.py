"""Gauges of jobs, workers, schedules and webhooks, read from the database at each scrape of the scheduler's metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, metrics
from services.datasets import validation
from services.db import now
from services.errors import Unavailable
from services.jobs import workers
from services.orm import Job
from services.schedules import definitions
from services.webhooks import subscriptions
from services.webhooks.subscriptions import Backlog

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

STATUSES = ("runnable", "waiting", "running", "paused")
Values = dict[tuple[str, ...], float]
"""By the values of a metric's labels."""
OVERDUE_SECONDS = 60.0
TIMEOUT_SECONDS = 5.0
"""A database that takes longer counts as away: Prometheus itself waits for 10 s."""


@dataclass(frozen=True)
class Count:
    """The numbers of one moment, from one snapshot."""

    jobs: Mapping[tuple[str, str], int]
    """By queue and status, one of STATUSES."""
    oldest: Mapping[str, float]
    """By queue, for how many seconds its oldest runnable job has waited."""
    listening: Mapping[str, int]
    """By queue, how many workers listen."""
    workers: Mapping[str, int]
    """By state."""
    stuck: int
    """Queues whose work is stuck (`workers.stuck`)."""
    messages: Backlog
    """Of webhooks."""
    overdue: int
    """Schedules that should have been fired (`schedules.overdue`)."""
    oldest_check_seconds: float
    """Of the data sets whose check has not ended."""


def count(session: Session, *, stuck_seconds: float) -> Count:
    """Count. Ended jobs, of which there may be millions, are not looked at."""
    status = sa.case(
        (Job.status != "queued", Job.status), (Job.not_before <= now(), "runnable"), else_="waiting"
    ).label("state")
    living = select(Job.queue, status, (now() - workers.since()).label("age"))
    each = living.where(Job.status.in_(["queued", "running", "paused"])).subquery()
    grouped = select(each.c.queue, each.c.state, func.count(), func.max(each.c.age)).group_by(
        each.c.queue, each.c.state
    )
    rows = session.execute(grouped).all()
    present = workers.seen(session)
    return Count(
        jobs={(queue, state): jobs for queue, state, jobs, _ in rows},
        oldest={queue: max(age, 0.0) for queue, state, _, age in rows if state == "runnable"},
        listening=_tally(queue for worker in present for queue in workers.queues(worker)),
        workers=_tally(worker.state for worker in present),
        stuck=len(workers.stuck(session, stuck_seconds)),
        messages=subscriptions.backlog(session),
        overdue=definitions.overdue(session, seconds=OVERDUE_SECONDS),
        oldest_check_seconds=validation.oldest_seconds(session),
    )


def _tally(names: Iterator[str]) -> dict[str, int]:
    tally: dict[str, int] = {}
    for name in names:
        tally[name] = tally.get(name, 0) + 1
    return tally


class Census:
    """Counts at each scrape, for `metrics.alone`. A scrape never fails, nor waits long, for the database's sake."""

    def __init__(self, engine: Engine, *, stuck_seconds: float) -> None:
        self._engine, self._stuck_seconds = engine, stuck_seconds
        self._asking = threading.Lock()
        self._queues: set[str] = set()  # seen so far: one that is empty now shows a 0, and no gap

    def collect(self) -> Iterator[Family]:
        counted = self._ask()
        yield _family(metrics.DATABASE_UP, {(): 0 if counted is None else 1})
        if counted is not None:
            yield from self._families(counted)

    def _ask(self) -> Count | None:
        """The numbers, or None when the database is away or slow."""
        answer: SimpleQueue[Count | None] = SimpleQueue()
        threading.Thread(target=self._count, args=(answer,), name="census", daemon=True).start()
        try:
            return answer.get(timeout=TIMEOUT_SECONDS)
        except Empty:
            return None

    def _count(self, answer: SimpleQueue[Count | None]) -> None:
        if not self._asking.acquire(blocking=False):  # an earlier scrape still waits: one is enough
            answer.put(None)
            return
        try:
            db.check_schema(self._engine)
            with db.read_scope(self._engine) as session:
                answer.put(count(session, stuck_seconds=self._stuck_seconds))
        except Unavailable:
            answer.put(None)
        finally:
            self._asking.release()

    def _families(self, counted: Count) -> Iterator[Family]:
        self._queues |= {metrics.queue_label(queue) for queue, _ in counted.jobs}
        self._queues |= {metrics.queue_label(queue) for queue in counted.listening}
        jobs: Values = {(queue, status): 0.0 for queue in self._queues for status in STATUSES}
        for (queue, status), number in counted.jobs.items():
            jobs[metrics.queue_label(queue), status] += number
        oldest: Values = {(queue,): 0.0 for queue in self._queues}
        for queue, age in counted.oldest.items():
            label = (metrics.queue_label(queue),)
            oldest[label] = max(oldest[label], age)
        listening: Values = {(queue,): counted.listening.get(queue, 0) for queue in self._queues}
        present: Values = {(state,): counted.workers.get(state, 0) for state in workers.State}
        yield _family(metrics.JOBS, jobs)
        yield _family(metrics.OLDEST_SECONDS, oldest)
        yield _family(metrics.LISTENING, listening)
        yield _family(metrics.WORKERS, present)
        yield _family(metrics.STUCK, {(): counted.stuck})
        messages = counted.messages
        yield _family(metrics.WEBHOOKS, {("enabled",): messages.enabled, ("disabled",): messages.disabled})
        yield _family(metrics.MESSAGES, {(): messages.waiting})
        yield _family(metrics.MESSAGE_SECONDS, {(): messages.oldest_seconds})
        yield _family(metrics.OVERDUE, {(): counted.overdue})
        yield _family(metrics.CHECK_AGE, {(): counted.oldest_check_seconds})


def _family(metric: metrics.Metric, values: Values) -> Family:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(metric.name, metric.help.replace("`", ""), labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
