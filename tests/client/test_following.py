"""A job as it happens. This service holds no stream open, so the client comes back again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from loopline import Client, Epoch, Event, Job, LogLine, NotFound, ServiceError, ServiceUnreachable, Steps
from loopline import following as module


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)


def test_a_stream_yields_everything_once_until_the_job_has_ended(
    service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    stream = job.stream()
    first, submitted = next(stream), next(stream)
    assert isinstance(first, Job)
    assert isinstance(submitted, Event)
    assert (first.status, submitted.to_status) == ("queued", "queued")

    def work_on_it() -> None:
        service.start(job.id)
        service.log(job.id, "info", "Hello.")
        for epoch in (1, 2, 3):
            service.epoch(job.id, epoch)
        service.succeed(job.id)

    work = threading.Thread(target=work_on_it)
    work.start()
    rest = list(stream)
    work.join()
    assert [each.to_status for each in rest if isinstance(each, Event)] == ["running", "succeeded"]
    assert [each.text for each in rest if isinstance(each, LogLine)] == ["Hello."]
    assert [each.epoch for each in rest if isinstance(each, Epoch)] == [1, 2, 3]
    assert [step for each in rest if isinstance(each, Steps) for step in each.step] == [*range(1, 13)]
    jobs = [each for each in rest if isinstance(each, Job)]
    assert jobs[-1].status == "succeeded"
    assert jobs[-1].result is not None
    assert jobs[-1].refresh().status == "succeeded"


def test_a_stream_goes_on_after_a_break_in_the_middle_of_a_message(
    service: Any, client: Client, tiny: dict[str, Any]
) -> None:
    job = client.submit(tiny)
    service.complete(job.id)
    whole, cut = service.app.wsgi_app, [400, 900, 1500, 2500, 4000]

    def breaking(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = b"".join(whole(environ, start_response))
        return [body[: cut.pop(0)] if cut else body]

    service.wrap(breaking)
    got = list(job.stream())
    assert not cut
    assert [each.epoch for each in got if isinstance(each, Epoch)] == [1, 2, 3]
    assert [step for each in got if isinstance(each, Steps) for step in each.step] == [*range(1, 13)]
    assert [each.to_status for each in got if isinstance(each, Event)] == ["queued", "running", "succeeded"]


def test_a_stream_that_is_refused_raises(service: Any, tiny: dict[str, Any]) -> None:
    with Client(service.url, retry_seconds=0) as client:
        job = client.submit(tiny)
        job.cancel()
        job.delete()
        with pytest.raises(NotFound):
            list(job.stream())


@pytest.mark.parametrize(
    "body", [b"data: no JSON\n\n", b"data: [1]\n\n", b"data: " + b"[" * 100_000 + b"\n\n"], ids=["text", "list", "deep"]
)
def test_a_message_of_something_else_raises(service: Any, client: Client, tiny: dict[str, Any], body: bytes) -> None:
    job = client.submit(tiny)

    def strange(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return [b": hello\nretry: 1\n\nid: 1\nevent: new\ndata: {}\n\n", body]

    service.wrap(strange)
    with pytest.raises(ServiceError):
        list(job.stream())


def test_a_stream_of_a_service_that_is_gone_raises(service: Any, tiny: dict[str, Any]) -> None:
    with Client(service.url, retry_seconds=0.05) as client:
        job = client.submit(tiny)
        stream = job.stream()
        next(stream)

        def away(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []

        service.wrap(away)
        with pytest.raises(ServiceUnreachable):
            list(stream)


def test_a_stream_needs_a_client() -> None:
    with pytest.raises(RuntimeError, match="not read through a Client"):
        list(Job("job_1", "queued").stream())
