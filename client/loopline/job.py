"""A job as it was at the time of the request, and methods that act on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loopline import download, following, notebook, plot, polling, tables, waiting
from loopline.errors import DownloadFailed, JobCancelled, JobFailed, LooplineError, NotFound, WaitTimeout
from loopline.http import Http
from loopline.listing import Listing, listed
from loopline.types import (
    Answers,
    Best,
    Checkpoint,
    Document,
    Epoch,
    Event,
    LogLine,
    Progress,
    Result,
    Steps,
    below,
    known,
    moment,
)

PAUSE_SECONDS = 0.2
"""Between a change and the next request. Epochs can end faster than anyone reads."""
ANSWER_FORMATS = ("csv", "parquet")
TIMES = ("created_at", "started_at", "finished_at", "waits_until", "silent_since")


@dataclass(frozen=True)
class _Place:
    """Fields of a job that its document has in another form."""

    name: str = "default"
    position: int | None = None
    dataset_id: str | None = None
    dataset_name: str | None = None


@dataclass(frozen=True)
class Job:
    """One request to train or to predict. The fields never change; `refresh()`, `wait()` and `follow()` return new
    objects."""

    id: str
    status: str
    terminal: bool = False
    kind: str = "train"
    """`train` or `predict`."""
    name: str | None = None
    reason: str | None = None
    message: str | None = None
    queue: str = "default"
    position: int | None = None
    """The number of jobs ahead of it in its queue; None if it does not wait."""
    priority: int = 0
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    dataset_id: str | None = None
    dataset_name: str | None = None
    warnings: list[str] = field(default_factory=list, compare=False)
    """Warnings that the service may have understood the data in another way than you meant."""
    attempt: int = 0
    failures: int = 0
    """The number of attempts that failed and were retried."""
    lost: int = 0
    """The number of attempts since the last new checkpoint whose worker disappeared."""
    waits_until: datetime | None = None
    """A job that is retried does not start before this time."""
    silent_since: datetime | None = None
    """The time of the worker's last heartbeat, if the job runs and its worker is silent; else None."""
    search_id: str | None = None
    """The search of which it is a trial or the final model."""
    trial: int | None = None
    """Its number in that search, from 1; None for the final model."""
    progress: Progress = field(default_factory=Progress)
    best: Best | None = None
    result: Result | None = field(default=None, compare=False)
    answers: Answers | None = field(default=None, compare=False)
    """Of a job that predicts, when it has succeeded; then `result` is empty."""
    spec: Document = field(default_factory=dict, repr=False, compare=False)
    cancel_requested: bool = False
    pause_requested: bool = False
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    raw: Document = field(default_factory=dict, repr=False, compare=False)
    _http: Http | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, document: Document, http: Http | None = None) -> Job:
        """The job of a document; if it has succeeded, a `SucceededJob`."""
        found = known(Job, document, besides=("queue",))
        queue, dataset = below(document, "queue"), below(document, "dataset")
        place = known(_Place, {**queue, "dataset_id": dataset.get("id"), "dataset_name": dataset.get("name")})
        kind = SucceededJob if document.get("status") == "succeeded" else Job
        result = Result.of(document["result"]) if document.get("result") else None
        return kind(
            **found
            | {
                "queue": place.pop("name", "default"),
                **place,
                "progress": Progress.of(document.get("progress") or {}),
                "best": Best.of(document["best"]) if document.get("best") else None,
                "answers": Answers.of(document["answers"]) if document.get("answers") else None,
                "result": Result() if result is None and kind is SucceededJob else result,
                **{name: moment(document.get(name)) for name in TIMES},
                "_http": http,
            }
        )

    def __repr__(self) -> str:
        return notebook.line("Job", self.id, self.name, self.status, self.reason, self._reached(), self._best())

    def _repr_html_(self) -> str:
        """What a notebook shows: the state, and the curve of the losses so far."""
        epochs: list[Epoch] = []
        if self._http is not None and self.kind == "train" and self.progress.epoch:
            with suppress(LooplineError):  # the picture is left out
                epochs = list(self.epochs())
        took = None if self.seconds is None else f"{self.seconds:.1f} s"
        left = self.progress.eta_seconds
        rows = [
            ("id", self.id),
            ("status", f"{self.status} ({self.reason})" if self.reason else self.status),
            ("message", self.message),
            ("data set", self.dataset_name),
            ("progress", self._reached()),
            ("best", self._best()),
            ("took", took),
            ("left", None if left is None else f"about {left:.0f} s"),
        ]
        picture = plot.of_epochs(self.name or self.id, epochs, ["loss"], self.best.epoch if self.best else None)
        return notebook.table(self.name or "Job", rows, picture.svg if picture.panels else "")

    def _reached(self) -> str | None:
        """`epoch 3 of 20`"""
        progress = self.progress
        if self.kind == "predict":
            return f"{progress.answered} of {progress.sequences} sequences" if progress.sequences else None
        return f"epoch {progress.epoch} of {progress.epochs}" if progress.epochs else None

    def _best(self) -> str | None:
        """`validation_loss 0.41`"""
        return f"{self.best.metric} {self.best.value:.4g}" if self.best and self.best.value is not None else None

    @property
    def seconds(self) -> float | None:
        """Seconds from its start to its end; None before the end."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    def refresh(self) -> Job:
        """The job as it is now."""
        return Job.of(self._connection.get_object(self._path()), self._connection)

    def wait(
        self,
        timeout: float | None = None,
        on_epoch: Callable[[Epoch], object] | None = None,
        *,
        progress: bool = False,
    ) -> SucceededJob:
        """Waits until the job has succeeded and returns it. Calls `on_epoch` once for each epoch, in order.

        timeout: seconds; None waits without a limit. Waiting costs the service almost nothing.
        progress: show a bar on a terminal, and the curve in a notebook.
        Raises JobFailed, JobCancelled, or WaitTimeout (the job continues).
        """
        hear = on_epoch or (lambda epoch: None)
        changes = self.follow(timeout) if on_epoch else ((job, []) for job in self._changes(timeout, every=progress))
        with waiting.shown(_stand) if progress else nullcontext(lambda job: None) as show:
            for job, epochs in changes:
                show(job)
                for epoch in epochs:
                    hear(epoch)
        return job.check()

    def follow(self, timeout: float | None = None) -> Iterator[tuple[Job, list[Epoch]]]:
        """Yields the job after each change, with the epochs that ended since. The last job yielded has ended.

        Raises WaitTimeout when `timeout` seconds have passed before that.
        """
        seen = 0
        for job in self.changes(timeout):
            epochs = list(job.epochs(after=seen)) if job.progress.epoch > seen or job.terminal else []
            seen = max([seen, *(epoch.epoch for epoch in epochs)])
            yield job, epochs

    def stream(self) -> Iterator[Job | Event | LogLine | Steps | Epoch]:
        """Yields what happens to the job as it happens, from its submission until it has ended and everything was sent:
        the job after each change, its events, lines of its log, the loss of its steps, and its epochs.

        If the connection breaks, it goes on after the last one. An attempt that begins again records steps and epochs
        anew; the event `resumed` or `rolled_back` says from which place on.
        """
        for message in following.messages(self._connection, self._path("stream")):
            match message.name:
                case "job":
                    yield Job.of(message.data, self._connection)
                case "event":
                    yield Event.of(message.data)
                case "line":
                    yield LogLine.of(message.data)
                case "steps":
                    yield Steps.of(message.data)
                case "epoch":
                    yield Epoch.of(message.data)

    def changes(self, timeout: float | None = None) -> Iterator[Job]:
        """Yields the job now, and again after each change. The last job yielded has ended.

        Raises WaitTimeout when `timeout` seconds have passed before that.
        """
        yield from self._changes(timeout, every=True)

    def _changes(self, timeout: float | None, *, every: bool) -> Iterator[Job]:
        http = self._connection

        def late(job: Job) -> WaitTimeout:
            where = f" (epoch {job.progress.epoch} of {job.progress.epochs})" if job.progress.epochs else ""
            message = f"Job {job.id} is still {job.status}{where} after {timeout:g} s of waiting; it goes on."
            return WaitTimeout(message, job)

        def read(document: Document) -> Job:
            return Job.of(document, http)

        yield from polling.changes(
            self, read, http, self._path(), timeout, late, every=every, pause=PAUSE_SECONDS, of_silence=self._of_silence
        )

    def _of_silence(self, job: Job) -> Job | None:
        """The job, if its worker has become silent, or is no longer silent. The service answers no poll for that."""
        if job.status != "running":
            return None
        seen = job.refresh()
        return seen if (seen.silent_since is None) != (job.silent_since is None) else None

    def check(self) -> SucceededJob:
        """Returns the job itself if it has succeeded. Raises JobFailed, JobCancelled, or WaitTimeout before its end."""
        if self.status == "failed":
            raise JobFailed(f"Job {self.id} failed{_because(self)}", self)
        if self.status == "cancelled":
            raise JobCancelled(f"Job {self.id} was cancelled{_because(self)}", self)
        if not isinstance(self, SucceededJob):
            raise WaitTimeout(f"Job {self.id} is {self.status}: it has not ended.", self)
        return self

    def cancel(self) -> Job:
        """Cancels the job. A waiting job ends at once, a running job at its next step.

        Cancelling a job that has ended changes nothing.
        """
        return self._asked("cancel")

    def pause(self) -> Job:
        """Pauses the job. A waiting job pauses at once, a running job after it has saved a checkpoint.

        Raises Conflict when it has ended.
        """
        return self._asked("pause")

    def resume(self) -> Job:
        """Queues a paused job again; it continues where it stopped. Withdraws a pause that has not happened yet.

        Raises Conflict when it has ended.
        """
        return self._asked("resume")

    def delete(self) -> None:
        """Deletes a job that has ended, with its model, checkpoints, events and log.

        Raises Conflict while the job may still run. Deleting a job that does not exist is no error.
        """
        with suppress(NotFound):
            self._connection.send("DELETE", self._path())

    def events(self, after: int = 0, *, follow: bool = False) -> Iterator[Event]:
        """The events of the job, oldest first, with ids above `after`. follow: yields new ones until the job ends."""
        return (Event.of(each) for each in self._entries("events", "id", after, follow))

    def logs(self, after: int = 0, *, follow: bool = False) -> Iterator[LogLine]:
        """The job's log, with line numbers above `after`. follow: yields new lines until the job ends."""
        return (LogLine.of(each) for each in self._entries("logs", "number", after, follow))

    def epochs(self, after: int = 0, *, fold: int | None = None) -> Listing[Epoch]:
        """The epochs that have ended, in order, with numbers above `after`; those of one fold, or all of them."""
        wanted = {"after": after, "fold": fold}
        return listed(self._connection, self._path("epochs"), Epoch.of, key="epoch", page_size=1000, params=wanted)

    def history(self, library: tables.Library | None = None) -> Any:
        """Every number of every epoch so far, as a data frame: of pandas if it is installed, else of polars, else a
        list of dicts. library: `pandas`, `polars` or `rows` chooses one."""
        return tables.frame([epoch.raw for epoch in self.epochs()], library)

    def plot(self, *names: str) -> plot.Plot:
        """The curves so far, one panel for each name: `job.plot("loss", "accuracy")`. Any number of `history` can be
        drawn; `loss`, which is the default, means those of both splits.

        A notebook shows the picture, and `.save("curve.svg")` writes it. Raises BadRequest for an unknown name.
        """
        best = self.best.epoch if self.best else None
        return plot.of_epochs(self.name or self.id, list(self.epochs()), names or ["loss"], best)

    def steps(self, points: int = 500, *, fold: int | None = None) -> Steps:
        """Loss and gradient norm of the steps so far, of one fold or all, reduced to about `points` of them."""
        wanted = {"points": points} | ({} if fold is None else {"fold": fold})
        return Steps.of(self._connection.get_object(self._path("steps"), wanted))

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that can be downloaded."""
        return [Checkpoint.of(each) for each in self._connection.pages(self._path("checkpoints"), {}, key="step")]

    def download(
        self,
        folder: str | Path,
        *,
        checkpoint: int | None = None,
        on_bytes: Callable[[int, int | None], None] | None = None,
    ) -> list[Path]:
        """Writes the model (weights, its description and the history) into a folder, or of a job that predicts the file
        of answers; returns the files.

        checkpoint: the step of a checkpoint to download instead.
        on_bytes: called with the bytes received and the total.
        Raises NotFound before the job has succeeded, DownloadFailed if the download is incomplete.
        """
        if self.kind == "predict" and checkpoint is None:
            with download.made(Path(folder)):
                return [self.save_answers(Path(folder) / self._answers_name(), on_bytes=on_bytes)]
        path = self._path("model") if checkpoint is None else self._path("checkpoints", str(checkpoint))
        return download.into(Path(folder), lambda target: self._connection.download(path, target, on_bytes))

    def save_answers(self, path: str | Path, *, on_bytes: Callable[[int, int | None], None] | None = None) -> Path:
        """Writes the answers of a job that predicts to a file, in the format that was asked for; returns the path.

        on_bytes: called with the bytes received and the total. Raises NotFound before the job has succeeded.
        """
        return download.whole(
            Path(path), lambda target: self._connection.download(self._path("answers"), target, on_bytes)
        )

    def _answers_name(self) -> str:
        """The name of the file of answers, which never comes from the service. Raises DownloadFailed."""
        if self.answers is None:  # the download says why
            return "answers"
        if self.answers.format not in ANSWER_FORMATS:
            known = " or ".join(ANSWER_FORMATS)
            raise DownloadFailed(f"The answers have the format {self.answers.format!r}; this client knows {known}.")
        return f"answers.{self.answers.format}"

    @property
    def _connection(self) -> Http:
        if self._http is None:
            raise RuntimeError("This job was not read through a Client, so it can only be looked at.")
        return self._http

    def _path(self, *below: str) -> str:
        return "/".join(["/v1/jobs", quote(self.id, safe=""), *below])

    def _asked(self, verb: str) -> Job:
        http = self._connection
        return Job.of(http.object_in(http.send("POST", self._path(verb))), http)

    def _entries(self, what: str, key: str, after: int, follow: bool) -> Iterator[Document]:
        """Iterates over a list below the job, each entry once. A new entry changes the job, so a poll is answered."""
        for _ in self.changes() if follow else (self,):
            for entry in self._connection.pages(self._path(what), {"after": after, "limit": 1000}, key=key):
                yield entry
                after = entry[key]


@dataclass(frozen=True, repr=False)
class SucceededJob(Job):
    """A job that has succeeded: what `wait()` returns. Its `result` is there; of a job that predicts it is empty."""

    result: Result = field(default_factory=Result, compare=False)


def _stand(job: Job) -> waiting.Stand:
    best = job._best()
    return waiting.Stand(job.name or job.id, job.progress.fraction, ", ".join(filter(None, [job._reached(), best])))


def _because(job: Job) -> str:
    """`(diverged): Training diverged at step 7.`, or a part of it if the service sent less."""
    reason = f" ({job.reason})" if job.reason else ""
    return f"{reason}: {job.message}" if job.message else f"{reason}."
