"""Every metric of the service: its name, what it counts, its labels; and how processes count together and are read.

Counting is off, and costs a look at an empty dictionary, until a process turns it on: `shared` for one whose children
count with it (the API's two processes, a worker's pool), `alone` for one that has none. Counters belong to a process
and begin at 0 when it starts, as Prometheus expects. What the database knows is asked there: upkeep/census.py.

https://prometheus.github.io/client_python/multiprocess/: processes that count together write into the files of one
folder, named by an environment variable. The library is imported when counting is turned on, after that is set.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy.orm import Session

from services.settings import Settings
from services.states import Reason, Status

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The library's own environment variable."""
MOST_QUEUES = 100
"""Clients choose the names of queues: a process tells so many apart, and counts the rest as one."""
OTHER = "(other)"

log = logging.getLogger(__name__)

_made: dict[str, Any] = {}  # the library's metrics by name; empty while this process counts nothing
_queues: set[str] = set()


@dataclass(frozen=True)
class Metric:
    """One metric: what an operator reads in docs/metrics.md, and what is counted by it."""

    kind: ClassVar[str]
    name: str
    help: str
    labels: tuple[str, ...] = ()

    def _of(self, labels: dict[str, str]) -> Any:
        """The library's metric with these labels; None while this process counts nothing."""
        made = _made.get(self.name)
        if made is None or not labels:
            return made
        if "queue" in labels:
            labels["queue"] = queue_label(labels["queue"])
        return made.labels(**labels)


@dataclass(frozen=True)
class Counter(Metric):
    """What only grows. It begins at 0 when its process starts."""

    kind = "counter"

    def inc(self, **labels: str) -> None:
        if (counted := self._of(labels)) is not None:
            counted.inc()

    def expect(self, **labels: str) -> None:
        """Show a 0 from now on: of a series that begins with its first event Prometheus sees no increase."""
        self._of(labels)


@dataclass(frozen=True)
class Histogram(Metric):
    """How often what took how long, in seconds."""

    kind = "histogram"
    buckets: tuple[float, ...] = ()

    def observe(self, seconds: float, **labels: str) -> None:
        if (observed := self._of(labels)) is not None:
            observed.observe(seconds)


@dataclass(frozen=True)
class Gauge(Metric):
    """What a process shows of itself, such as the job that it runs now; gone with it. Has a label `pid` besides."""

    kind = "gauge"

    def set(self, value: float, **labels: str) -> None:
        if (shown := self._of(labels)) is not None:
            shown.set(value)


@dataclass(frozen=True)
class Asked(Metric):
    """What the scheduler asks the database when it is scraped."""

    kind = "gauge"


# Jobs. Counted by the process that made the move, after its commit.

SUBMITTED = Counter("loopline_jobs_submitted_total", "Jobs that were accepted.", ("queue",))
ATTEMPTS = Counter("loopline_attempts_total", "Attempts that began: jobs that a worker claimed.", ("queue",))
RUNS = Counter(
    "loopline_runs_total",
    "Jobs that ended, by outcome (`succeeded`, `failed`, `cancelled`) and reason (empty if there is none).",
    ("queue", "outcome", "reason"),
)
RETRAININGS = Counter(
    "loopline_retrainings_total",
    "Retrainings that succeeded, by decision about the model: `promoted`, `held_back`, `registered`, `failed`.",
    ("queue", "decision"),
)
RETRIES = Counter(
    "loopline_retries_total",
    "Attempts after which the job was queued again, by reason; `given_back` if the worker shut down.",
    ("queue", "reason"),
)
WAIT_SECONDS = Histogram(
    "loopline_wait_seconds",
    "How long claimed jobs had been runnable, in seconds: since they were last queued, or since their back-off ended.",
    ("queue",),
    (0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400),
)
RUN_SECONDS = Histogram(
    "loopline_run_seconds",
    "How long attempts ran, in seconds, by the new state of the job (`queued`: it is retried or continues later).",
    ("queue", "outcome"),
    (1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 86400, 259200),
)
EXPIRIES = Counter("loopline_lease_expiries_total", "Jobs taken from a worker that had stopped renewing.")
HEARTBEATS = Counter(
    "loopline_heartbeats_total",
    "Renewals of a lease by a worker, by result: `renewed`, `refused` (the job no longer belongs to this worker), "
    "`unavailable` (the database did not answer).",
    ("result",),
)
BELLS = Counter(
    "loopline_bells_total",
    "Doorbells, by result: `rung`, `waiting` (one was already in the queue), `failed` (the broker did not accept it).",
    ("result",),
)

DELIVERIES = Counter(
    "loopline_deliveries_total",
    "Attempts to send a webhook's message, by outcome: `delivered`, `failed`, `given_up` (the last attempt failed).",
    ("outcome",),
)
FIRINGS = Counter(
    "loopline_schedule_firings_total",
    "Slots of schedules and runs that somebody requested, by outcome: `fired`, `waiting` (for the previous batch), "
    "`skipped`, `missed`, `refused`. When the batch has ended it is counted again: `succeeded`, `failed`, `cancelled`, "
    "`deleted` (its jobs were deleted before the scheduler saw their end).",
    ("outcome",),
)

# HTTP

REQUESTS = Counter(
    "loopline_http_requests_total",
    "Requests that were answered, by method, route and status.",
    ("method", "route", "status"),
)
REQUEST_SECONDS = Histogram(
    "loopline_http_request_seconds",
    "How long requests took until the last byte of their answer, in seconds, long polls included.",
    ("method", "route"),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

# Predictions over HTTP

PREDICTIONS = Counter(
    "loopline_predictions_total",
    "Predictions that clients asked for, by result: `answered`, `refused` (the model cannot take the input, or it is "
    "too much), `busy` (too many at once), `failed` (the model could not be loaded or computed).",
    ("result",),
)
PREDICTION_SECONDS = Histogram(
    "loopline_prediction_seconds",
    "How long answered predictions took to compute, preprocessing included, in seconds.",
    (),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
MODEL_LOADS = Counter(
    "loopline_model_loads_total", "Models that were loaded to predict, by result: `loaded`, `failed`.", ("result",)
)
MODELS_LOADED = Gauge("loopline_models_loaded", "Models that a process of the API has in memory to predict.")
MODELS_LOADED_BYTES = Gauge("loopline_models_loaded_bytes", "The size of their files.")

# What runs now, by worker process

LOSS = Gauge(
    "loopline_worker_loss",
    "Loss of the run that a worker process trains now, by kind: `step` of its latest step, `train` and `validation` of "
    "its latest epoch. NaN between runs.",
    ("device", "kind"),
)
EPOCH = Gauge("loopline_worker_epoch", "The latest epoch that this run has finished. NaN between runs.", ("device",))
SAMPLES_PER_SECOND = Gauge(
    "loopline_worker_samples_per_second", "Samples per second in this run's latest epoch. 0 between runs.", ("device",)
)
GPU_MEMORY = Gauge(
    "loopline_gpu_memory_bytes",
    "GPU memory of this run's trainer, by kind: `allocated` to tensors, `reserved` from the device, `peak` of what was "
    "allocated. 0 between runs.",
    ("device", "kind"),
)

# What the database knows

DATABASE_UP = Asked(
    "loopline_database_up", "1 if the database answered this scrape. If not, the metrics below are missing."
)
JOBS = Asked(
    "loopline_jobs",
    "Jobs that have not ended, by queue and status: `runnable`, `waiting` (for their back-off), `running`, `paused`.",
    ("queue", "status"),
)
OLDEST_SECONDS = Asked(
    "loopline_queue_oldest_seconds",
    "How long the oldest runnable job of a queue has waited, in seconds; 0 if there is none.",
    ("queue",),
)
LISTENING = Asked("loopline_queue_workers", "Workers seen within the last minute that listen to a queue.", ("queue",))
WORKERS = Asked("loopline_workers", "Workers seen within the last minute, by state: `idle`, `busy`.", ("state",))
STUCK = Asked(
    "loopline_stuck_queues",
    "Queues whose jobs have waited for LOOPLINE_STUCK_SECONDS while no worker listened or one was idle.",
)
OVERDUE = Asked(
    "loopline_schedules_overdue", "Schedules whose slot has been due for more than a minute and was not fired."
)
CHECK_AGE = Asked(
    "loopline_dataset_checks_oldest_seconds",
    "How long the oldest data set that is `validating` has been so, in seconds; 0 if there is none.",
)

WEBHOOKS = Asked("loopline_webhooks", "Webhooks, by state: `enabled`, `disabled`.", ("state",))
MESSAGES = Asked("loopline_deliveries_waiting", "Messages that are waiting to be sent or retried.")
MESSAGE_SECONDS = Asked(
    "loopline_deliveries_oldest_seconds",
    "How long the oldest message that is due has waited to be sent, in seconds; 0 if there is none.",
)


def every() -> Sequence[Metric]:
    """Every metric there is, in the order of the page."""
    return [found for found in globals().values() if isinstance(found, Metric)]


def queue_label(queue: str) -> str:
    """The queue's name, or OTHER where this process has met too many."""
    if queue not in _queues:
        if len(_queues) >= MOST_QUEUES:
            return OTHER
        _queues.add(queue)
    return queue


def are_on() -> bool:
    """Whether this process counts."""
    return bool(_made)


def expect(queues: Iterable[str]) -> None:
    """Show zeros for what may come to be counted of these queues and of messages; failures above all."""
    for outcome in ("delivered", "failed", "given_up"):
        DELIVERIES.expect(outcome=outcome)
    for queue in queues:
        ATTEMPTS.expect(queue=queue)
        RUNS.expect(queue=queue, outcome=Status.SUCCEEDED, reason="")
        for reason in Reason:
            is_cancelled = reason in (Reason.CANCELLED_BY_USER, Reason.PRUNED)
            RUNS.expect(queue=queue, outcome=Status.CANCELLED if is_cancelled else Status.FAILED, reason=reason)


# Counting what was committed

_DUE = "loopline.metrics"


def after_commit(session: Session, count: Callable[..., None], *values: float, **labels: str) -> None:
    """Let `count(*values, **labels)` happen when this session's transaction is committed, and not without."""
    if _made:
        session.info.setdefault(_DUE, []).append((count, values, labels))


@contextmanager
def dropped_on_error(session: Session) -> Iterator[None]:
    """Within the context nothing is to be counted if it ends in an error: a savepoint is gone back to."""
    noted = len(session.info.get(_DUE, ()))
    try:
        yield
    except BaseException:
        del session.info.get(_DUE, [])[noted:]
        raise


def committed(session: Session) -> None:
    """The transaction is committed: count what it did. (`db.session_scope` calls this.)"""
    for count, values, labels in session.info.pop(_DUE, ()):
        count(*values, **labels)


# Being read


@contextmanager
def shared(settings: Settings) -> Iterator[dict[str, str]]:
    """Within the context this process and its children count together, and what they counted is served at
    `settings.metrics_host`:`metrics_port`. Yields what must be in the environment of children; forked ones have it.

    In a process whose parent has done this already it only turns counting on, and serves nothing. Without a port it
    does nothing. Enter it before the first child is forked.
    """
    if not settings.metrics_port:
        yield {}
        return
    if (given := os.environ.get(FOLDER)) is not None:
        with _counting(None):
            yield {FOLDER: given}
        return
    owner, folder = os.getpid(), tempfile.mkdtemp(prefix="loopline-metrics-")
    os.environ[FOLDER] = folder
    try:
        with _counting(None), _serving(settings, [_Together(folder)]):
            yield {FOLDER: folder}
    finally:
        if os.getpid() == owner:  # gunicorn's children come by here when they exit
            os.environ.pop(FOLDER, None)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alone(settings: Settings, *collectors: Any) -> Iterator[None]:
    """Within the context this process counts, and serves that and what the collectors collect."""
    if not settings.metrics_port:
        yield
        return
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    with _counting(registry), _serving(settings, [registry, *collectors]):
        yield


@contextmanager
def _counting(registry: CollectorRegistry | None) -> Iterator[None]:
    import prometheus_client
    from prometheus_client import values

    # Else each counter has a second series, of when it began.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]  # as the environment is now
    for metric in every():
        plain: dict[str, Any] = {
            "name": metric.name,
            "documentation": metric.help.replace("`", ""),
            "labelnames": metric.labels,
            "registry": registry,
        }
        if isinstance(metric, Counter):
            _made[metric.name] = prometheus_client.Counter(**plain)
        elif isinstance(metric, Histogram):
            _made[metric.name] = prometheus_client.Histogram(**plain, buckets=metric.buckets)
        elif isinstance(metric, Gauge):
            _made[metric.name] = prometheus_client.Gauge(**plain, multiprocess_mode="liveall")
    try:
        yield
    finally:
        _made.clear()
        _queues.clear()


@contextmanager
def _serving(settings: Settings, collectors: Iterable[Any]) -> Iterator[None]:
    """Answers scrapes in a thread. An address that is not to be had is no reason not to work: the log says so."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        log.error("cannot serve metrics: cannot listen on %s: %s", where, error.strerror or error)
        yield
        return
    owner = os.getpid()
    os.register_at_fork(after_in_child=server.socket.close)  # a child that lives longer must not hold the port
    try:
        yield
    finally:
        if os.getpid() == owner:
            server.shutdown()
            server.server_close()
            thread.join()


class _Together:
    """Reads what the processes of one folder have counted, those that have ended too."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Family]:
        from prometheus_client.multiprocess import MultiProcessCollector

        self._forget_dead()
        found: Iterable[Family] = MultiProcessCollector.merge(self._readable())  # type: ignore[no-untyped-call]
        return found

    def _readable(self) -> Iterator[str]:
        """The files that have a beginning: the library fails on one that a process has only just created."""
        for path in Path(self._folder).glob("*.db"):
            with suppress(FileNotFoundError):  # another scrape has removed it as that of a dead process
                if path.stat().st_size:
                    yield str(path)

    def _forget_dead(self) -> None:
        """Gauges tell of now: those of processes that are gone are removed, however they ended."""
        for path in Path(self._folder).glob("gauge_live*_*.db"):
            if not _is_alive(int(path.stem.rpartition("_")[2])):
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
