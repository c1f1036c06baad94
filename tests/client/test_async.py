"""The AsyncClient: the names of the Client, in an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopline import (
    AsyncClient,
    AsyncJob,
    AsyncSucceededJob,
    BadRequest,
    Client,
    Epoch,
    JobCancelled,
    JobFailed,
    NotFound,
    ServiceUnreachable,
    WaitTimeout,
    aio,
    bridge,
)
from loopline.listing import Listing

LOCAL = {
    Client: {"close"},
    aio.Job: {"of", "check", "seconds"},
    aio.Batch: {"of", "ranked", "seconds"},
    aio.Search: {"of", "varied", "spec", "seconds", "silent"},
    aio.Datasets: {"uploads_for_job"},
}
"""What sends no request, and so is not awaited; or is for the command."""
TWINS = [
    (Client, AsyncClient),
    *((getattr(aio, noun), getattr(aio, f"Async{noun}")) for noun in ("Job", "Batch", "Search")),
    *((getattr(aio, noun), getattr(aio, f"Async{noun}")) for noun in ("Jobs", "Batches", "Searches", "Datasets")),
    *((getattr(aio, noun), getattr(aio, f"Async{noun}")) for noun in ("Models", "Schedules", "Keys", "Webhooks")),
]


@pytest.mark.parametrize(("plain", "other"), TWINS, ids=lambda kind: kind.__name__)
def test_every_method_of_the_client_can_be_awaited(plain: type, other: type) -> None:
    public = {name for name, value in vars(plain).items() if callable(value) and not name.startswith("_")}
    for name in public - LOCAL.get(plain, set()):
        awaited = vars(other)[name]
        assert getattr(awaited, "__wrapped__", None) is vars(plain)[name], name
        returned = str(inspect.signature(vars(plain)[name]).return_annotation)
        assert inspect.isasyncgenfunction(awaited) == returned.startswith("Iterator"), name
        assert inspect.iscoroutinefunction(awaited) == (not returned.startswith(("Iterator", "Listing"))), name


def test_both_clients_have_the_same_attributes() -> None:
    clients = Client("http://127.0.0.1:1"), AsyncClient("http://127.0.0.1:1")
    plain, other = ({name for name in vars(each) if not name.startswith("_")} for each in clients)
    clients[0].close()
    asyncio.run(clients[1].close())
    assert "jobs" in plain
    assert plain == other


def run(service: Any, work: Callable[[AsyncClient], Any], **given: Any) -> Any:
    async def within() -> Any:
        async with AsyncClient(service.url, **given) as client:
            return await work(client)

    return asyncio.run(within())


def test_jobs_are_waited_for_while_the_loop_goes_on(service: Any, tiny: dict[str, Any], in_background: Any) -> None:
    def train(*ids: str) -> None:
        for job_id in ids:
            service.complete(job_id)

    async def work(client: AsyncClient) -> None:
        jobs = [await client.submit(tiny) for _ in range(3)]
        assert all(type(job) is AsyncJob for job in jobs)
        waits = [asyncio.create_task(job.wait()) for job in jobs]
        await asyncio.sleep(0)  # the waits begin, and none of them holds the loop
        assert not any(wait.done() for wait in waits)
        in_background(train, *(job.id for job in jobs))
        done = await asyncio.gather(*waits)
        assert all(type(job) is AsyncSucceededJob for job in done)
        assert done[0].result.metrics["test_accuracy"] == 0.75
        assert done[0].check() is done[0]
        assert [epoch.epoch for epoch in await done[0].epochs()] == [1, 2, 3]
        assert (await client.job("last")) == done[-1]
        assert done[0]._repr_html_().count("<tr>") > 3
        assert len(await done[0].history()) == 3

    run(service, work)


def test_a_list_is_awaited_as_a_whole_or_iterated(service: Any, tiny: dict[str, Any]) -> None:
    async def work(client: AsyncClient) -> None:
        made = [(await client.submit(tiny)).id for _ in range(3)]
        found = await client.jobs.list(page_size=2)
        assert isinstance(found, Listing)
        assert ([job.id for job in found], len(found), type(found[0])) == (made[::-1], 3, AsyncJob)
        service.requests.clear()
        async for job in client.jobs.list(page_size=2):
            assert job.id == made[-1]
            break
        assert len(service.requests) == 1
        jobs = client.jobs.list(page_size=2)
        twice = await asyncio.gather(*(asyncio.ensure_future(jobs) for _ in range(2)))
        assert [[job.id for job in each] for each in twice] == [made[::-1]] * 2
        pairs = [(job.id, other.id) async for job in jobs async for other in jobs]
        assert pairs == [(job, other) for job in made[::-1] for other in made[::-1]]
        batch = await client.batches.submit([tiny, tiny])
        assert type(await batch.cancel()) is aio.AsyncBatch

    run(service, work)


def test_what_happens_to_a_job_is_streamed(service: Any, tiny: dict[str, Any], in_background: Any) -> None:
    async def work(client: AsyncClient) -> None:
        job = await client.submit(tiny)
        in_background(service.complete, job.id)
        heard = [each async for each in job.stream()]
        assert [each.epoch for each in heard if isinstance(each, Epoch)] == [1, 2, 3]
        assert any(type(each) is AsyncSucceededJob for each in heard)
        follow = [epochs async for _, epochs in (await job.refresh()).follow()]
        assert [epoch.epoch for epochs in follow for epoch in epochs] == [1, 2, 3]

    run(service, work)


def test_a_wait_that_is_cancelled_ends_at_once_and_the_client_goes_on(service: Any, tiny: dict[str, Any]) -> None:
    answer, is_asked = service.wrapped, threading.Event()

    def heard(environ: dict[str, Any], start: Any) -> Any:
        if "wait=" in environ["QUERY_STRING"]:
            is_asked.set()
        return answer(environ, start)

    service.wrap(heard)

    async def work(client: AsyncClient) -> None:
        job = await client.submit(tiny)
        waiting = asyncio.create_task(job.wait())
        assert await asyncio.to_thread(is_asked.wait, 30)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await job.cancel()).status == "cancelled"

    run(service, work)


def test_errors_are_those_of_the_client(service: Any, tiny: dict[str, Any], free_port: int) -> None:
    async def work(client: AsyncClient) -> None:
        with pytest.raises(NotFound):
            await client.job("job_0000000000000000000000000a")
        with pytest.raises(BadRequest) as caught:
            await client.submit({"architecture": {"cell": "gruu"}})
        assert caught.value.problems
        job = await client.submit(tiny)
        service.start(job.id)
        service.fail(job.id)
        with pytest.raises(JobFailed) as failed:
            await job.wait()
        assert type(failed.value.job) is AsyncJob
        assert (await failed.value.job.refresh()).status == "failed"
        cancelled, queued = await (await client.submit(tiny)).cancel(), await client.submit(tiny)
        with pytest.raises(JobCancelled) as given_up:
            await cancelled.wait()
        assert type(given_up.value.job) is AsyncJob
        with pytest.raises(WaitTimeout) as late:
            await queued.wait(timeout=0)
        assert type(late.value.job) is AsyncJob
        compared = (await client.jobs.compare(job.id, queued.id)).jobs
        assert [type(each.job) for each in compared] == [AsyncJob, AsyncJob]
        nothing = AsyncClient(f"http://127.0.0.1:{free_port}", retry_seconds=0.3)
        with pytest.raises(ServiceUnreachable):
            await nothing.whoami()
        await nothing.close()

    run(service, work)


def test_files_are_sent_and_fetched(service: Any, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopline.datasets.RESUMED_BYTES", 0)
    heard: list[int] = []

    async def work(client: AsyncClient) -> list[Path]:
        dataset = await client.upload(npz, on_bytes=lambda done, total: heard.append(done))
        assert (await client.datasets.get("small@1")).id == dataset.id
        job = await client.submit({"name": "one", "data": {"dataset": "small@1"}})
        service.complete(job.id)
        return await job.download(tmp_path / "model")

    files = run(service, work)
    assert heard[-1] == npz.stat().st_size
    assert {file.name for file in files} == {"model.safetensors", "model.json", "history.json"}


def test_a_broken_connection_is_tried_again(service: Any) -> None:
    answer, failed = service.wrapped, []

    def once(environ: dict[str, Any], start: Any) -> Any:
        if not failed:
            failed.append(environ["PATH_INFO"])
            start("503 Service Unavailable", [("Retry-After", "0")])
            return [b""]
        return answer(environ, start)

    service.wrap(once)

    async def work(client: AsyncClient) -> str:
        return (await client.whoami()).tenant

    assert run(service, work, retry_seconds=5) == "default"
    assert failed == ["/v1/whoami"]


def test_what_is_used_outside_of_its_loop_says_so() -> None:
    nothing = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="await it"):
        bridge.awaited(nothing)
    assert inspect.getcoroutinestate(nothing) == inspect.CORO_CLOSED
