"""Several jobs side by side: the fields in which their specs differ, and what each job came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loopline import measures, notebook, tables
from loopline.errors import BadRequest
from loopline.job import Job
from loopline.reproduction import leaves
from loopline.types import Short, below


@dataclass(frozen=True, repr=False)
class Compared(Short):
    """A job in a comparison: its values of the fields that differ, and its metrics."""

    job: Job = field(repr=False)
    fields: Mapping[str, Any]
    metrics: Mapping[str, float | None]

    def row(self) -> dict[str, Any]:
        own = {"id": self.job.id, "name": self.job.name, "status": self.job.status}
        return {**own, **self.fields, **self.metrics, "seconds": self.job.seconds}


@dataclass(frozen=True, repr=False)
class Comparison(Short):
    """Jobs side by side, the best one first. A notebook shows it as a table; `to_frame()` makes a data frame."""

    jobs: tuple[Compared, ...]
    fields: tuple[str, ...]
    """The paths of the fields in which the specs differ."""
    metrics: tuple[str, ...]
    sorted_by: str | None
    """The metric or the field; None if there is nothing to sort by."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each job: its id, name and status, the fields that differ, its metrics, and the seconds it took."""
        return [each.row() for each in self.jobs]

    def to_frame(self, library: tables.Library | None = None) -> Any:
        """The rows as a data frame: see `Listing.to_frame`."""
        return tables.frame(self.rows(), library)

    def _repr_html_(self) -> str:
        return notebook.rows(self.rows())


def compared(jobs: Sequence[Job], *, sort: str | None = None, top: int | None = None) -> Comparison:
    """Compares jobs that were read with their specs.

    sort: a metric (`accuracy` means that of the test if there is one) or a field that differs, by its path or the end
        of it; the default is the most informative metric. The best job comes first; by a field, the smallest value.
    top: so many jobs at most.
    Raises BadRequest if no job has what to sort by.
    """
    specs = [_told(job) for job in jobs]
    paths = list(dict.fromkeys(path for spec in specs for path in spec))
    fields = tuple(path for path in paths if len({json.dumps(spec.get(path)) for spec in specs}) > 1)
    metrics = tuple(dict.fromkeys(name for job in jobs for name in _metrics(job)))
    found = [
        Compared(job, {path: spec.get(path) for path in fields}, _metrics(job))
        for job, spec in zip(jobs, specs, strict=True)
    ]
    by = _key(sort, fields, metrics)
    return Comparison(
        tuple(measures.ranked(found, by, lambda each: each.row().get(by or ""))[:top]), fields, metrics, by
    )


def _told(job: Job) -> dict[str, Any]:
    """What decides the model, by path; the name and the queue do not."""
    return {**dict(leaves(job.spec)), "data.dataset": below(job.spec, "data").get("dataset")}


def _metrics(job: Job) -> Mapping[str, float | None]:
    if job.result is not None:
        return job.result.metrics
    return {job.best.metric: job.best.value} if job.best else {}


def _key(sort: str | None, fields: Sequence[str], metrics: Sequence[str]) -> str | None:
    if sort is None:
        return measures.main_of(metrics)
    ends = (path for path in fields if path == sort or path.endswith(f".{sort}"))
    found = measures.recorded_as(sort, metrics) or next(ends, None)
    if found is None:
        raise BadRequest(f"The jobs cannot be sorted by {sort!r}. There are: {', '.join([*metrics, *fields])}.")
    return found
