"""A search: jobs that are trained one after the other to find the best values of some fields of a spec.

It shows the state at the time of the request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

from loopline import notebook, polling, waiting
from loopline.errors import WaitTimeout
from loopline.http import Http
from loopline.job import Job
from loopline.types import Document, Short, below, known, moment


@dataclass(frozen=True, repr=False)
class BestTrial(Short):
    """The best trial of a search; `client.job(best.job_id)` is its job."""

    trial: int
    job_id: str
    value: float
    """Its value of the metric."""
    choices: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The values that the search chose, by path."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True, repr=False)
class Trial(Short):
    """A trial as a row of its search's table."""

    trial: int
    """Its number, from 1."""
    status: str
    """The status of its job; `pruned` if the search stopped it early; `refused` if its values cannot be combined, so
    that there is no job."""
    job_id: str | None = None
    terminal: bool = False
    name: str | None = None
    message: str | None = None
    value: float | None = None
    """Its value of the metric; None until the job has succeeded."""
    best_so_far: float | None = None
    """The best value of this trial and those before it."""
    choices: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The values that the search chose, by path."""
    epoch: int = 0
    epochs: int | None = None
    silent_since: datetime | None = None
    """The time of the worker's last heartbeat, if the job runs and its worker is silent; else None."""
    seconds: float | None = None
    """Seconds from its start to its end; None before the end."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"silent_since": moment(document.get("silent_since"))})


@dataclass(frozen=True, repr=False)
class FinalModel(Short):
    """The model that a search ends with: the best trial's spec, trained once more on the samples of training and
    validation together, and tested once. `client.job(final.job_id)` is its job."""

    job_id: str
    status: str
    message: str | None = None
    epoch: int = 0
    epochs: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    """Those of the test part, if there is one; empty until the job has succeeded."""
    baseline: Document | None = field(default=None, hash=False)
    """What it is compared with, as `job.result.baseline`; None until the job has succeeded."""
    silent_since: datetime | None = None
    """As of a trial."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document) | {"silent_since": moment(document.get("silent_since"))})


@dataclass(frozen=True, repr=False)
class Importance(Short):
    """How much a field matters for the metric: the share of the variance in rank that it alone explains (0 to 1)."""

    path: str
    share: float
    trials: int = 0
    """The number of trials that it was computed from."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document) -> Self:
        return cls(**known(cls, document))


@dataclass(frozen=True)
class Search:
    """A search for the best values of some fields of a spec. Its fields do not change: `refresh()`, `wait()` and
    `changes()` return newer ones."""

    id: str
    status: str
    """`running` or `paused`; at its end `succeeded` if a trial has a result, else `failed`; or `cancelled`."""
    terminal: bool = False
    """Whether it has ended. It goes on when trials are added."""
    name: str | None = None
    message: str | None = None
    """What it waits for, why it was paused, or why it ended without all that was wanted."""
    cancel_requested: bool = False
    wanted: int = 0
    """The number of trials that it makes."""
    made: int = 0
    """The number of trials made so far."""
    parallel: int = 1
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Trials by status."""
    metric: str = ""
    """The metric by which trials are compared."""
    higher_is_better: bool = False
    space: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """What the search varies: the values that each field may have, by path."""
    algorithm: str = "tpe"
    best: BestTrial | None = None
    """None in a list of searches, and until a trial has succeeded."""
    final: FinalModel | None = None
    """None in a list of searches, until the trials have ended, and with `final: false`."""
    trials: tuple[Trial, ...] = field(default=(), repr=False)
    """By number; empty in a list of searches."""
    importance: tuple[Importance, ...] = field(default=(), repr=False)
    """The most important field first; only fields that at least 10 succeeded or pruned trials have varied."""
    advice: tuple[str, ...] = field(default=(), repr=False)
    """What would help more after the end: more trials, more data, or neither."""
    created_at: datetime | None = None
    ended_at: datetime | None = None
    replayed: bool = False
    """Whether the search existed already: the idempotency key was used before."""
    raw: Document = field(default_factory=dict, repr=False, compare=False)
    _http: Http | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return notebook.line("Search", self.id, self.name, self.status, self._made())

    def _repr_html_(self) -> str:
        rows = [
            ("id", self.id),
            ("status", self.status),
            ("message", self.message),
            ("trials", f"{self._made()}: {notebook.counted(self.counts)}"),
        ]
        return notebook.table(self.name or "Search", rows)

    def _made(self) -> str:
        return f"{self.made} of {self.wanted} trials"

    @classmethod
    def of(cls, document: Document, http: Http | None = None, *, replayed: bool = False) -> Self:
        settings = known(_Settings, below(document, "settings"))
        return cls(
            **known(cls, document)
            | settings
            | {
                "best": BestTrial.of(document["best"]) if document.get("best") else None,
                "final": FinalModel.of(document["final"]) if document.get("final") else None,
                "trials": tuple(Trial.of(row) for row in document.get("trials") or ()),
                "importance": tuple(Importance.of(row) for row in document.get("importance") or ()),
                "advice": tuple(str(sentence) for sentence in document.get("advice") or ()),
                "created_at": moment(document.get("created_at")),
                "ended_at": moment(document.get("ended_at")),
                "replayed": replayed,
                "_http": http,
            }
        )

    @property
    def varied(self) -> tuple[str, ...]:
        """The paths of the fields that are varied."""
        return tuple(self.space)

    @property
    def spec(self) -> dict[str, Any]:
        """The spec that the search varies, completed if it named no network; empty in a list of searches."""
        base = below(self.raw, "settings").get("base") or below(self.raw, "document")
        return {key: each for key, each in base.items() if key != "search"}

    @property
    def seconds(self) -> float | None:
        """Seconds from the submission to the end; None before that."""
        if self.created_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.created_at).total_seconds()

    def refresh(self) -> Search:
        """The search as it is now."""
        return Search.of(self._connection.get_object(self._path()), self._connection)

    def best_job(self) -> Job | None:
        """The job of the best trial, with its spec and its model; None while no trial has succeeded."""
        return None if self.best is None else self._job(self.best.job_id)

    def model_job(self) -> Job | None:
        """The job whose model is to be used: the final model's, or the best trial's if there is none. None while there
        is neither."""
        has_final = self.final is not None and self.final.status == "succeeded"
        return self._job(self.final.job_id) if self.final is not None and has_final else self.best_job()

    def _job(self, job_id: str) -> Job:
        http = self._connection
        return Job.of(http.get_object(f"/v1/jobs/{quote(job_id, safe='')}"), http)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> Search:
        """Waits until the search has ended and returns it. `best` is its best trial.

        timeout: seconds; None waits without a limit. Raises WaitTimeout after it; the search continues.
        progress: show a bar on a terminal, and the search itself in a notebook.
        """
        with waiting.shown(_stand) if progress else nullcontext(lambda search: None) as show:
            for search in self.changes(timeout, every=progress):
                show(search)
        return search

    def changes(self, timeout: float | None = None, *, every: bool = True) -> Iterator[Search]:
        """Yields the search now, and again after each change. The last one yielded has ended.

        every: False yields only about twice a minute until the end, for callers that need only the end.
        Raises WaitTimeout if the search has not ended after `timeout` seconds.
        """
        http = self._connection

        def late(search: Search) -> WaitTimeout:
            return WaitTimeout(f"Search {self.id} is still {search.status} after {timeout:g} s; it goes on.", search)

        def read(document: Document) -> Search:
            return Search.of(document, http, replayed=self.replayed)

        yield from polling.changes(
            self, read, http, self._path(), timeout, late, every=every, of_silence=self._of_silence
        )

    @property
    def silent(self) -> Mapping[str, datetime]:
        """By the ids of jobs that run and whose workers are silent: the time of the worker's last heartbeat."""
        parts: list[Trial | FinalModel] = [*self.trials, *([] if self.final is None else [self.final])]
        return {part.job_id: part.silent_since for part in parts if part.job_id and part.silent_since}

    def _of_silence(self, search: Search) -> Search | None:
        """The search, if one of its workers is newly silent or no longer silent. No poll reports that."""
        seen = replace(search.refresh(), replayed=search.replayed)
        return seen if seen.silent.keys() != search.silent.keys() else None

    def cancel(self) -> Search:
        """Makes no more trials and cancels those that have not ended."""
        return self._post("cancel")

    def pause(self) -> Search:
        """Makes no more trials and pauses those that have not ended. Raises Conflict if it has ended."""
        return self._post("pause")

    def resume(self) -> Search:
        """Lets a paused search go on. Raises Conflict if it has ended."""
        return self._post("resume")

    def add(self, more: int, *, idempotency_key: str | None = None) -> Search:
        """Adds trials; a search that has ended goes on. Raises BadRequest if it cannot have so many."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key or str(uuid4())}
        return self._post("trials", json.dumps({"more": more}).encode(), headers)

    def _post(self, verb: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Search:
        http = self._connection
        return Search.of(http.object_in(http.send("POST", f"{self._path()}/{verb}", body=body, headers=headers)), http)

    @property
    def _connection(self) -> Http:
        if self._http is None:
            raise RuntimeError("This search was not read through a Client, so it can only be looked at.")
        return self._http

    def _path(self) -> str:
        return f"/v1/searches/{quote(self.id, safe='')}"


def _stand(search: Search) -> waiting.Stand:
    ended = sum(trial.terminal for trial in search.trials)
    return waiting.Stand(search.name or search.id, ended / max(1, search.wanted), search._made())


@dataclass(frozen=True)
class _Settings:
    """Fields of a search that its document has below `settings`."""

    metric: str = ""
    higher_is_better: bool = False
    space: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "tpe"
