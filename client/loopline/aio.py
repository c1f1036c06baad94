"""The AsyncClient: the names of the Client, with methods to await.

Each method runs the Client's own method by `bridge.run`, so there is one implementation of everything. A test compares
the names of both.
"""
# A job of this client has the fields of a Job, but its methods are awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from loopline.batch import Batch
from loopline.batches import Batches
from loopline.bridge import Awaiting, run
from loopline.client import Client
from loopline.comparing import Comparison
from loopline.datasets import Datasets
from loopline.errors import JobCancelled, JobFailed, WaitTimeout
from loopline.job import Job, SucceededJob
from loopline.jobs import Jobs
from loopline.keys import Keys
from loopline.listing import Listing
from loopline.models import Models
from loopline.schedules import Schedules
from loopline.search import Search
from loopline.searches import Searches
from loopline.types import Epoch, Result
from loopline.webhooks import Webhooks

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
T = TypeVar("T")
_END = object()


async def _run(call: Callable[[], Any]) -> Any:
    """The result of a function of the Client as this client gives it; a job in an error is one of this client too."""
    try:
        return dressed(await run(call))
    except (JobFailed, JobCancelled, WaitTimeout) as error:
        error.job = dressed(error.job)
        raise


@overload
def awaiting(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], Awaitable[R]]: ...
@overload
def awaiting(
    method: Callable[Concatenate[Any, P], Any], kind: type[K]
) -> Callable[Concatenate[Any, P], Awaitable[K]]: ...
def awaiting(method: Callable[..., Any], kind: Any = None) -> Callable[..., Any]:
    """Wraps a sync method so that it can be awaited. `kind`: the type of the result, for the type checker."""

    @wraps(method)
    async def called(self: Any, *args: Any, **given: Any) -> Any:
        return await _run(lambda: method(plain(self), *args, **given))

    return called


@overload
def each(method: Callable[Concatenate[Any, P], Iterator[R]]) -> Callable[Concatenate[Any, P], AsyncIterator[R]]: ...
@overload
def each(
    method: Callable[Concatenate[Any, P], Any], kind: type[K]
) -> Callable[Concatenate[Any, P], AsyncIterator[K]]: ...
def each(method: Callable[..., Any], kind: Any = None) -> Callable[..., Any]:
    """Wraps a sync method that iterates, for `async for`. `kind`: the type of its items, for the type checker."""

    @wraps(method)
    async def iterated(self: Any, *args: Any, **given: Any) -> AsyncIterator[Any]:
        found = iter(method(plain(self), *args, **given))
        try:
            while (one := await _run(lambda: next(found, _END))) is not _END:
                yield one
        finally:
            if isinstance(found, Generator):
                await run(found.close)

    return iterated


class AsyncListing(Generic[T]):
    """A list of the service: `async for job in client.jobs.list()` requests its pages as they are needed, and
    `await client.jobs.list()` all of them, as a `Listing`."""

    def __init__(self, begin: Callable[[], Listing[Any]]) -> None:
        self._begin = begin  # each reader has a list of its own, because readers may take turns

    async def __aiter__(self) -> AsyncIterator[T]:
        found = iter(self._begin())
        while (one := await _run(lambda: next(found, _END))) is not _END:
            yield one

    def __await__(self) -> Generator[Any, None, Listing[T]]:
        return self._all().__await__()

    async def _all(self) -> Listing[T]:
        found = self._begin()
        await run(lambda: len(found))
        return Listing(lambda: map(dressed, found))


@overload
def listing(
    method: Callable[Concatenate[Any, P], Listing[R]],
) -> Callable[Concatenate[Any, P], AsyncListing[R]]: ...
@overload
def listing(
    method: Callable[Concatenate[Any, P], Any], kind: type[K]
) -> Callable[Concatenate[Any, P], AsyncListing[K]]: ...
def listing(method: Callable[..., Any], kind: Any = None) -> Callable[..., Any]:
    """Wraps a sync method that returns a list. `kind`: the type of its entries, for the type checker."""

    @wraps(method)
    def listed(self: Any, *args: Any, **given: Any) -> AsyncListing[Any]:
        return AsyncListing(lambda: method(plain(self), *args, **given))

    return listed


# What results are in this client, for a type checker alone: these classes come later.
_JOB = cast("type[AsyncJob]", None)
_ANY_JOB = cast("type[AsyncJob | None]", None)
_SUCCEEDED = cast("type[AsyncSucceededJob]", None)
_FOLLOWED = cast("type[tuple[AsyncJob, list[Epoch]]]", None)
_BATCH = cast("type[AsyncBatch]", None)
_SEARCH = cast("type[AsyncSearch]", None)


@dataclass(frozen=True, repr=False)
class AsyncJob(Job):
    """A job of an AsyncClient: the fields of a `Job`, and its methods to await."""

    refresh = awaiting(Job.refresh, _JOB)
    wait = awaiting(Job.wait, _SUCCEEDED)
    follow = each(Job.follow, _FOLLOWED)
    stream = each(Job.stream)
    changes = each(Job.changes, _JOB)
    cancel = awaiting(Job.cancel, _JOB)
    pause = awaiting(Job.pause, _JOB)
    resume = awaiting(Job.resume, _JOB)
    delete = awaiting(Job.delete)
    events = each(Job.events)
    logs = each(Job.logs)
    epochs = listing(Job.epochs)
    history = awaiting(Job.history)
    plot = awaiting(Job.plot)
    steps = awaiting(Job.steps)
    checkpoints = awaiting(Job.checkpoints)
    download = awaiting(Job.download)
    save_answers = awaiting(Job.save_answers)

    def _repr_html_(self) -> str:
        job: Job = replace(plain(self), _http=None)  # the curve would be a request
        return job._repr_html_()


@dataclass(frozen=True, repr=False)
class AsyncSucceededJob(AsyncJob, SucceededJob):
    """A job of an AsyncClient that has succeeded: its `result` is there."""

    result: Result = field(default_factory=Result, compare=False)


@dataclass(frozen=True, repr=False)
class AsyncBatch(Batch):
    """A batch of an AsyncClient: the fields of a `Batch`, and its methods to await."""

    refresh = awaiting(Batch.refresh, _BATCH)
    wait = awaiting(Batch.wait, _BATCH)
    changes = each(Batch.changes, _BATCH)
    cancel = awaiting(Batch.cancel, _BATCH)


@dataclass(frozen=True, repr=False)
class AsyncSearch(Search):
    """A search of an AsyncClient: the fields of a `Search`, and its methods to await."""

    refresh = awaiting(Search.refresh, _SEARCH)
    wait = awaiting(Search.wait, _SEARCH)
    changes = each(Search.changes, _SEARCH)
    cancel = awaiting(Search.cancel, _SEARCH)
    pause = awaiting(Search.pause, _SEARCH)
    resume = awaiting(Search.resume, _SEARCH)
    add = awaiting(Search.add, _SEARCH)
    best_job = awaiting(Search.best_job, _ANY_JOB)
    model_job = awaiting(Search.model_job, _ANY_JOB)


DRESSED: dict[type, type] = {
    Job: AsyncJob,
    SucceededJob: AsyncSucceededJob,
    Batch: AsyncBatch,
    Search: AsyncSearch,
}
PLAIN = {dressed: plain for plain, dressed in DRESSED.items()}


def dressed(value: Any) -> Any:
    """A result of the Client as this client gives it."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map(dressed, value))
    if isinstance(value, Comparison):
        return replace(value, jobs=tuple(replace(each, job=dressed(each.job)) for each in value.jobs))
    return _as(DRESSED[type(value)], value) if type(value) in DRESSED else value


def plain(value: Any) -> Any:
    """What the Client has in the place of an object of this client."""
    return _as(PLAIN[type(value)], value) if type(value) in PLAIN else value._plain


def _as(kind: type, value: Any) -> Any:
    made: Any = object.__new__(kind)
    vars(made).update(vars(value))
    return made


class _Noun:
    def __init__(self, plain: Any) -> None:
        self._plain = plain


class AsyncJobs(_Noun):
    """The methods of `Jobs`, to await."""

    list = listing(Jobs.list, _JOB)
    get = awaiting(Jobs.get, _JOB)
    submit = awaiting(Jobs.submit, _JOB)
    rerun = awaiting(Jobs.rerun, _JOB)
    compare = awaiting(Jobs.compare)
    dry_run = awaiting(Jobs.dry_run)


class AsyncBatches(_Noun):
    """The methods of `Batches`, to await."""

    list = listing(Batches.list, _BATCH)
    get = awaiting(Batches.get, _BATCH)
    submit = awaiting(Batches.submit, _BATCH)
    dry_run = awaiting(Batches.dry_run)


class AsyncSearches(_Noun):
    """The methods of `Searches`, to await."""

    list = listing(Searches.list, _SEARCH)
    get = awaiting(Searches.get, _SEARCH)
    submit = awaiting(Searches.submit, _SEARCH)
    dry_run = awaiting(Searches.dry_run)


class AsyncDatasets(_Noun):
    """The methods of `Datasets`, to await."""

    list = listing(Datasets.list)
    get = awaiting(Datasets.get)
    upload = awaiting(Datasets.upload)
    wait_for_check = awaiting(Datasets.wait_for_check)
    delete = awaiting(Datasets.delete)
    inbox = listing(Datasets.inbox)


class AsyncModels(_Noun):
    """The methods of `Models`, to await."""

    list = listing(Models.list)
    get = awaiting(Models.get)
    versions = listing(Models.versions)
    version = awaiting(Models.version)
    register = awaiting(Models.register)
    promote = awaiting(Models.promote)
    rollback = awaiting(Models.rollback)
    demote = awaiting(Models.demote)
    history = listing(Models.history)
    download = awaiting(Models.download)
    delete = awaiting(Models.delete)


class AsyncSchedules(_Noun):
    """The methods of `Schedules`, to await."""

    list = listing(Schedules.list)
    get = awaiting(Schedules.get)
    set = awaiting(Schedules.set)
    delete = awaiting(Schedules.delete)
    pause = awaiting(Schedules.pause)
    resume = awaiting(Schedules.resume)
    run = awaiting(Schedules.run)
    firings = listing(Schedules.firings)
    begun = awaiting(Schedules.begun)


class AsyncKeys(_Noun):
    """The methods of `Keys`, to await."""

    list = listing(Keys.list)
    create = awaiting(Keys.create)
    revoke = awaiting(Keys.revoke)


class AsyncWebhooks(_Noun):
    """The methods of `Webhooks`, to await."""

    list = listing(Webhooks.list)
    get = awaiting(Webhooks.get)
    create = awaiting(Webhooks.create)
    delete = awaiting(Webhooks.delete)
    rotate = awaiting(Webhooks.rotate)
    test = awaiting(Webhooks.test)
    deliveries = listing(Webhooks.deliveries)
    redeliver = awaiting(Webhooks.redeliver)


class _Bridged(Client):
    _way = Awaiting()


class AsyncClient:
    """A client for asyncio, with the names of the Client:

        async with AsyncClient() as client:
            job = await client.submit("job.yaml")
            job = await job.wait()

    Use `async for` for iterators. For a list, use `async for`, or `await` it to read all pages. The
    arguments are those of the Client. Files on this computer are read and written in the thread of the event loop.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        api_key_file: str | Path | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 15.0,
    ) -> None:
        self._plain = _Bridged(
            base_url, api_key, api_key_file=api_key_file, timeout=timeout, retry_seconds=retry_seconds
        )
        self.base_url = self._plain.base_url
        self.jobs = AsyncJobs(self._plain.jobs)
        self.batches = AsyncBatches(self._plain.batches)
        self.searches = AsyncSearches(self._plain.searches)
        self.datasets = AsyncDatasets(self._plain.datasets)
        self.models = AsyncModels(self._plain.models)
        self.schedules = AsyncSchedules(self._plain.schedules)
        self.keys = AsyncKeys(self._plain.keys)
        self.webhooks = AsyncWebhooks(self._plain.webhooks)

    def __repr__(self) -> str:
        return f"Async{self._plain!r}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def retry_seconds(self) -> float:
        """How long a request is retried if the connection breaks or the service is unavailable, in seconds."""
        return self._plain.retry_seconds

    @retry_seconds.setter
    def retry_seconds(self, seconds: float) -> None:
        self._plain.retry_seconds = seconds

    close = awaiting(Client.close)
    submit = awaiting(Client.submit, _JOB)
    job = awaiting(Client.job, _JOB)
    upload = awaiting(Client.upload)
    predict = awaiting(Client.predict)
    predict_many = awaiting(Client.predict_many, _JOB)  # type: ignore[arg-type]  # it takes any keyword
    workers = awaiting(Client.workers)
    whoami = awaiting(Client.whoami)
    presets = awaiting(Client.presets)
    health = awaiting(Client.health)
