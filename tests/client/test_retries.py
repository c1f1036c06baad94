"""What the client does when the service is away for a moment, or the connection breaks, or something else answers."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from loopline import BadRequest, Client, Conflict, NotAllowed, ServiceError, ServiceUnreachable

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def answering(status: str, headers: dict[str, str], body: bytes, *, times: int, then: Wsgi) -> Wsgi:
    """A layer that answers by itself so many times, then lets everything through."""
    left = [times]

    def layer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if left[0] <= 0:
            return then(environ, start_response)
        left[0] -= 1
        start_response(status, [*headers.items(), ("Content-Length", str(len(body)))])
        return [body]

    return layer


def hanging_up(*, times: int, then: Wsgi) -> Wsgi:
    """A layer that does what was asked for, and breaks the connection instead of answering, so many times."""
    left = [times]

    def layer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if left[0] <= 0:
            return then(environ, start_response)
        left[0] -= 1
        for _ in then(environ, lambda *_: lambda data: None):
            pass
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start_response("200 OK", [])
        return []

    return layer


def problem(status: int, code: str) -> bytes:
    document = {"title": "T", "detail": f"It is {code}.", "status": status, "code": code, "request_id": "req_1"}
    return json.dumps(document).encode()


PROBLEM = {"Content-Type": "application/problem+json"}


def test_an_answer_that_was_lost_does_not_double_the_job(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    service.wrap(hanging_up(times=2, then=service.app.wsgi_app))
    job = client.submit(tiny)
    service.wrap(service.app.wsgi_app)
    assert [each.id for each in client.jobs.list()] == [job.id]
    keys = {headers["HTTP_IDEMPOTENCY_KEY"] for method, _, headers in service.requests if method == "POST"}
    assert len(keys) == 1


def test_two_submissions_are_two_jobs_unless_they_share_a_key(client: Client, tiny: dict[str, Any]) -> None:
    assert client.submit(tiny).id != client.submit(tiny).id
    assert client.submit(tiny, idempotency_key="k1").id == client.submit(tiny, idempotency_key="k1").id


def test_a_key_that_was_used_for_another_spec_is_refused(client: Client, tiny: dict[str, Any]) -> None:
    client.submit(tiny, idempotency_key="k1")
    with pytest.raises(BadRequest, match="Idempotency-Key") as refused:
        client.submit(tiny | {"name": "other"}, idempotency_key="k1")
    assert refused.value.code == "idempotency_conflict"


def test_a_key_that_is_no_header_is_refused_before_it_is_sent(client: Client, tiny: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="printable"):
        client.submit(tiny, idempotency_key="a\nb")


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
def test_a_service_that_is_briefly_away_is_asked_again(service: Any, client: Client, status: str) -> None:
    service.wrap(answering(status, {"Content-Type": "text/html"}, b"<html>", times=2, then=service.app.wsgi_app))
    assert len(client.presets()) == 9
    assert len(service.requests) == 3


def test_the_pause_that_the_service_asks_for_is_kept(service: Any, client: Client) -> None:
    headers = PROBLEM | {"Retry-After": "1"}
    layer = answering("503 Away", headers, problem(503, "unavailable"), times=1, then=service.app.wsgi_app)
    service.wrap(layer)
    asked_at = time.monotonic()
    client.presets()
    assert time.monotonic() - asked_at >= 1.0


def test_a_pause_longer_than_our_patience_is_not_waited_for(service: Any, client: Client) -> None:
    headers = PROBLEM | {"Retry-After": "3600"}
    service.wrap(answering("503 Away", headers, problem(503, "unavailable"), times=9, then=service.app.wsgi_app))
    asked_at = time.monotonic()
    with pytest.raises(ServiceError, match=r"It is unavailable\. \(HTTP 503, request req_1\)"):
        client.presets()
    assert time.monotonic() - asked_at < 60.0
    assert len(service.requests) == 1


def test_a_submission_still_under_way_is_asked_for_again(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    body = problem(409, "idempotency_in_flight")
    service.wrap(answering("409 Conflict", PROBLEM | {"Retry-After": "0"}, body, times=1, then=service.app.wsgi_app))
    assert client.submit(tiny).status == "queued"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, BadRequest), (401, NotAllowed), (403, NotAllowed), (409, Conflict), (500, ServiceError)]
)
def test_other_answers_are_final(service: Any, client: Client, status: int, kind: type[Exception]) -> None:
    service.wrap(answering(f"{status} No", PROBLEM, problem(status, "final"), times=9, then=service.app.wsgi_app))
    with pytest.raises(kind, match=r"It is final\.") as refused:
        client.presets()
    assert refused.type is kind
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (
            "404 Not Found",
            {"Content-Type": "text/html"},
            b"<html>",
            "does not speak .*HTTP 404 with text/html",
        ),
        ("200 OK", {"Content-Type": "text/html"}, b"<html>", "does not speak Loopline"),
        ("200 OK", {"Content-Type": "application/json"}, b"[]", "does not speak Loopline"),
        ("302 Found", {"Location": "https://elsewhere/"}, b"", "redirects to https://elsewhere/"),
    ],
)
def test_something_else_at_the_address_is_told_apart(
    service: Any, client: Client, status: str, headers: dict[str, str], body: bytes, words: str
) -> None:
    service.wrap(answering(status, headers, body, times=9, then=service.app.wsgi_app))
    with pytest.raises(ServiceError, match=words):
        client.presets()


def test_an_upload_starts_from_the_beginning_again(service: Any, client: Client, npz: Path) -> None:
    service.wrap(hanging_up(times=1, then=service.app.wsgi_app))
    assert client.upload(npz).reference == "small@1"


def test_a_large_upload_goes_on_where_it_broke(
    service: Any, client: Client, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three requests with bytes two break: after a part of them has arrived, and after all of them have."""
    monkeypatch.setattr("loopline.datasets.RESUMED_BYTES", 0)
    large = tmp_path / "large.npz"
    large.write_bytes(npz.read_bytes())
    size, parts = large.stat().st_size, [1000, None]

    def layer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT" or not parts:
            return service.app.wsgi_app(environ, start_response)
        some = parts.pop(0)
        if some is not None:
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(some))
            environ["CONTENT_LENGTH"] = str(some)
        for _ in service.app.wsgi_app(environ, lambda *_: lambda data: None):
            pass
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start_response("200 OK", [])
        return []

    service.wrap(layer)
    sent: list[int] = []
    assert client.upload(large, on_bytes=lambda done, _: sent.append(done)).reference == "large@1"
    assert sent[-1] == size
    assert parts == []
    assert client.upload(npz, "large").reference == "large@1"  # the same content


def test_an_upload_whose_last_answer_is_lost_is_one_version(
    service: Any, client: Client, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopline.datasets.RESUMED_BYTES", 0)
    breaking = hanging_up(times=1, then=service.app.wsgi_app)

    def layer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        ends = environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] == "/v1/datasets"
        return (breaking if ends else service.app.wsgi_app)(environ, start_response)

    service.wrap(layer)
    assert client.upload(npz).reference == "small@1"
    assert [dataset.reference for dataset in client.datasets.list()] == ["small@1"]


def test_a_download_that_breaks_off_is_fetched_again(
    service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path
) -> None:
    job = client.submit(tiny)
    service.complete(job.id)
    headers = {"Content-Type": "application/zip", "Content-Length": "5000"}
    left = [1]

    def layer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not left[0]:
            return service.app.wsgi_app(environ, start_response)
        left[0] = 0
        start_response("200 OK", list(headers.items()))
        return [b"half"]

    service.wrap(layer)
    assert len(job.download(tmp_path / "model")) == 3


def test_a_service_that_takes_too_long_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2, retry_seconds=0)
        with client, pytest.raises(ServiceUnreachable, match="did not answer in time"):
            client.presets()


def test_retrying_gives_up_after_the_time_it_was_given(free_port: int) -> None:
    with Client(f"http://127.0.0.1:{free_port}", retry_seconds=0.5) as client:
        asked_at = time.monotonic()
        with pytest.raises(ServiceUnreachable):
            client.presets()
        assert 0.3 <= time.monotonic() - asked_at < 60.0


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    service: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    with Client(service.url, retry_seconds=0) as client:
        assert len(client.presets()) == 9


def test_watching_outlives_a_restart_of_the_service(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    epochs = []
    for now, new in job.follow(timeout=20):
        epochs += [epoch.epoch for epoch in new]
        if now.progress.epoch == 0:
            service.wrap(hanging_up(times=3, then=service.app.wsgi_app))
            service.epoch(job.id, 1)
        elif not now.terminal:
            service.fail(job.id)
    assert epochs == [1]


def test_an_upload_that_finds_no_room_is_sent_again_whole(service: Any, client: Client, npz: Path) -> None:
    headers = PROBLEM | {"Retry-After": "0"}
    service.wrap(answering("503 Busy", headers, problem(503, "busy"), times=2, then=service.app.wsgi_app))
    assert client.upload(npz, "toy").reference == "toy@1"
    assert [method for method, _, _ in service.requests] == ["POST"] * 3
