"""A batch: jobs that were submitted together, as one table. It shows the state at the time of the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

from loopline import measures, notebook, polling, waiting
from loopline.errors import BadRequest, WaitTimeout
from loopline.http import Http
from loopline.types import Best, Document, Short, known, moment


@dataclass(frozen=True, repr=False)
class BatchJob(Short):
    """A job as a row of its batch's table; `client.job(row.id)` is the job itself."""

    id: str
    status: str
    terminal: bool = False
    name: str | None = None
    reason: str | None = None
    message: str | None = None
    cell: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Its values of the batch's matrix, by path."""
    warnings: list[str] = field(default_factory=list, hash=False)
    """Warnings that the service may have understood the data in another way than you meant."""
    attempt: int = 0
    epoch: int = 0
    epochs: int | None = None
    fraction: float = 0.0
    best: Best | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    """The metrics of its result; empty until the job has succeeded."""
    silent_since: datetime | None = None
    """The time of the worker's last heartbeat, if the job runs and its worker is silent; else None."""
    seconds: float | None = None
    """Seconds from its start to its end; None before the end."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        best = Best.of(document["best"]) if document.get("best") else None
        return cls(**known(cls, document) | {"best": best, "silent_since": moment(document.get("silent_since"))})


@dataclass(frozen=True)
class Batch:
    """Jobs that were submitted together. Its fields do not change: `refresh()`, `wait()` and `changes()` return newer
    ones."""

    id: str
    status: str
    """`failed` once every job has ended and one failed, else `cancelled` if one was; `succeeded` if all did."""
    terminal: bool = False
    """Whether every job has ended."""
    name: str | None = None
    total: int = 0
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Jobs by status."""
    varied: tuple[str, ...] = ()
    """The keys of its matrix."""
    schedule_id: str | None = None
    """The schedule that submitted it."""
    fraction: float = 0.0
    jobs: tuple[BatchJob, ...] = field(default=(), repr=False)
    """Its jobs, in the order of the submission; empty in a list of batches."""
    created_at: datetime | None = None
    finished_at: datetime | None = None
    ended_at: datetime | None = None
    """When its last job ended. It is set once the service has recorded the end and queued its messages."""
    replayed: bool = False
    """Whether the batch existed already: the idempotency key was used before."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)
    _http: Http | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return notebook.line("Batch", self.id, self.name, self.status, notebook.counted(self.counts))

    def _repr_html_(self) -> str:
        rows = [("id", self.id), ("status", self.status), ("jobs", notebook.counted(self.counts))]
        return notebook.table(self.name or "Batch", rows)

    @classmethod
    def of(cls, document: Document, http: Http | None = None, *, replayed: bool = False) -> Self:
        return cls(
            **known(cls, document)
            | {
                "varied": tuple(document.get("varied") or ()),
                "jobs": tuple(BatchJob.of(row) for row in document.get("jobs") or ()),
                "created_at": moment(document.get("created_at")),
                "finished_at": moment(document.get("finished_at")),
                "ended_at": moment(document.get("ended_at")),
                "replayed": replayed,
                "_http": http,
            }
        )

    @property
    def seconds(self) -> float | None:
        """Seconds from the submission to the end of the last job; None before that end."""
        if self.created_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.created_at).total_seconds()

    def refresh(self) -> Batch:
        """The batch as it is now."""
        return Batch.of(self._connection.get_object(self._path()), self._connection)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> Batch:
        """Waits until every job has ended and returns the batch. `status` and `jobs` say how the jobs ended.

        timeout: seconds; None waits without a limit. Raises WaitTimeout after it; the jobs continue.
        progress: show a bar on a terminal, and the batch itself in a notebook.
        """
        with waiting.shown(_stand) if progress else nullcontext(lambda batch: None) as show:
            for batch in self.changes(timeout, every=progress):
                show(batch)
        return batch

    def changes(self, timeout: float | None = None, *, every: bool = True) -> Iterator[Batch]:
        """Yields the batch now, and again after each change. The last one yielded has ended.

        every: False yields only about twice a minute until the end, for callers that need only the end.
        Raises WaitTimeout if the batch has not ended after `timeout` seconds.
        """
        http = self._connection

        def late(batch: Batch) -> WaitTimeout:
            return WaitTimeout(f"Batch {self.id} is still {batch.status} after {timeout:g} s; it goes on.", batch)

        def read(document: Document) -> Batch:
            return Batch.of(document, http, replayed=self.replayed)

        yield from polling.changes(
            self, read, http, self._path(), timeout, late, every=every, of_silence=self._of_silence
        )

    def _of_silence(self, batch: Batch) -> Batch | None:
        """The batch, if one of its workers is newly silent or no longer silent. No poll reports that."""
        seen = replace(batch.refresh(), replayed=batch.replayed)
        silent = [{job.id for job in each.jobs if job.silent_since} for each in (batch, seen)]
        return seen if silent[0] != silent[1] else None

    def ranked(self, metric: str | None) -> tuple[Sequence[BatchJob], str | None]:
        """The jobs by a metric, the best one first and those without a value last, and the metric's whole name.
        `accuracy` means that of the test if there is one. None: the jobs as they are.

        Raises BadRequest if no job has this metric.
        """
        if metric is None:
            return self.jobs, None
        recorded = list(dict.fromkeys(name for job in self.jobs for name in job.metrics))
        by = measures.recorded_as(metric, recorded)
        if by is None:
            there_are = ", ".join(recorded) or "none yet"
            raise BadRequest(f"No job of {self.id} has the metric {metric!r}. There are: {there_are}.")
        return measures.ranked(self.jobs, by, lambda job: job.metrics.get(by)), by

    def cancel(self) -> Batch:
        """Cancels every job that has not ended. Waiting jobs end at once, running jobs at their next step."""
        http = self._connection
        return Batch.of(http.object_in(http.send("POST", f"{self._path()}/cancel")), http)

    @property
    def _connection(self) -> Http:
        if self._http is None:
            raise RuntimeError("This batch was not read through a Client, so it can only be looked at.")
        return self._http

    def _path(self) -> str:
        return f"/v1/batches/{quote(self.id, safe='')}"


def _stand(batch: Batch) -> waiting.Stand:
    return waiting.Stand(batch.name or batch.id, batch.fraction, notebook.counted(batch.counts))
