"""Streams of what happens to a job, as they are served: real processes, real sockets."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from flask.testing import FlaskClient

from api import streams
from api.service import Service
from services import db
from services.access import keys, tenants
from services.jobs import attempts, changes, control, events, progress
from services.jobs.changes import Cursor
from services.jobs.events import Line
from services.jobs.leases import Lease
from tests.serving import Server, serving
from tests.streaming import Message, following, messages

MANY = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of this module; each uses jobs and queues of its own."""
    with serving(tmp_path_factory.mktemp("var")) as started:
        yield started


def submitted(server: Server, spec: dict[str, Any], queue: str) -> str:
    """The address of a new job."""
    answer = httpx.post(f"{server.url}/v1/jobs", json=spec | {"queue": queue})
    return server.url + str(answer.raise_for_status().headers["Location"])


def begun(server: Server, queue: str) -> Lease:
    """The lease of the job of a queue; its trainer has begun."""
    with db.session_scope(server.engine) as session:
        job = attempts.claim(session, queue, worker="test:1", lease_seconds=60)
        assert job is not None
        progress.started(session, Lease.of(job), epochs=9, steps_per_epoch=2, info={"device": "cpu", "threads": 1})
    return Lease.of(job)


def record(server: Server, lease: Lease, *epochs: int) -> None:
    for epoch in epochs:
        with db.session_scope(server.engine) as session:
            progress.record_steps(session, lease, 2 * epoch - 1, [float(epoch), 0.5], [0.1, 0.2])
            progress.record(session, lease, {"epoch": epoch, "train_loss": 1.0})
            events.log(session, lease, [Line("info", f"epoch {epoch}")])
            events.note(session, lease, "micro_batch", f"After epoch {epoch}.")


def succeed(server: Server, lease: Lease) -> None:
    with db.session_scope(server.engine) as session:
        attempts.succeed(session, lease, {"metrics": {}}, [])


def until(found: Iterator[Message], name: str) -> list[Message]:
    """The messages up to the next one of this name."""
    got = []
    for each in found:
        got.append(each)
        if each.name == name:
            return got
    raise AssertionError(f"the stream ended without `{name}`: {got}")


def numbers(found: list[Message], name: str, key: str) -> list[Any]:
    return [each.data[key] for each in found if each.name == name]


def steps_of(found: list[Message]) -> list[int]:
    return [step for steps in numbers(found, "steps", "step") for step in steps]


def test_a_stream_tells_of_a_job_from_its_submission_to_its_end(server: Server, spec: dict[str, Any]) -> None:
    url = submitted(server, spec, "told")
    with following(f"{url}/stream") as stream:
        got = until(stream, "event")
        assert [(each.name, each.id) for each in got] == [("job", "1-0-0-0-0"), ("event", got[1].id)]
        assert got[0].data == {k: v for k, v in httpx.get(url).json().items() if k != "spec"}
        lease = begun(server, "told")
        record(server, lease, 1, 2)
        succeed(server, lease)
        got += stream
    assert numbers(got, "event", "to_status") == ["queued", "running", None, None, "succeeded"]
    assert numbers(got, "line", "text") == ["epoch 1", "epoch 2"]
    assert numbers(got, "epoch", "epoch") == [1, 2]
    assert steps_of(got) == [1, 2, 3, 4]
    assert (got[-1].name, got[-1].data) == ("end", {"status": "succeeded"})
    assert numbers(got, "job", "status")[-1] == "succeeded"
    again = httpx.get(f"{url}/stream", headers={"Last-Event-ID": got[-1].id})
    assert (again.status_code, again.content) == (204, b"")


def test_a_stream_goes_on_without_gap_or_repeat_after_the_service_was_killed(
    tmp_path: Path, spec: dict[str, Any]
) -> None:
    got: list[Message] = []
    with serving(tmp_path) as server:
        path = httpx.URL(submitted(server, spec, "default")).path
        lease = begun(server, "default")
        with following(f"{server.url}{path}/stream") as stream:
            record(server, lease, 1, 2, 3)
            with suppress(httpx.TransportError):
                for each in stream:
                    got.append(each)
                    if each.name == "epoch" and each.data["epoch"] == 2:  # in the middle of what is on its way
                        kill(server)
        assert server.process.wait(timeout=10) < 0
        record(server, lease, 4, 5)
    with serving(tmp_path) as server:
        record(server, lease, 6)
        with following(f"{server.url}{path}/stream", after=got[-1].id) as stream:
            got += until(stream, "epoch")
            record(server, lease, 7)
            succeed(server, lease)
            got += stream
        entries = httpx.get(f"{server.url}{path}/events?limit=1000").json()["data"]
    assert numbers(got, "event", "id") == [entry["id"] for entry in entries]
    assert numbers(got, "line", "number") == [*range(1, 8)]
    assert numbers(got, "epoch", "epoch") == [*range(1, 8)]
    assert steps_of(got) == [*range(1, 15)]
    cursors = [Cursor.parse(each.id) for each in got]
    assert cursors == sorted(cursors, key=sum)
    assert len({each.id for each in got if each.name != "end"}) == len(got) - 1


def kill(server: Server) -> None:
    """Kill all its processes at once."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def test_forty_streams_hold_no_thread_and_all_get_the_first_step(server: Server, spec: dict[str, Any]) -> None:
    url = submitted(server, spec, "forty")
    ready = threading.Barrier(MANY + 1)

    def first_steps(_: int) -> list[int]:
        with following(f"{url}/stream") as stream:
            until(stream, "event")
            ready.wait(30)
            steps: list[int] = until(stream, "steps")[-1].data["step"]
            return steps

    with ThreadPoolExecutor(MANY) as pool:
        found = [pool.submit(first_steps, number) for number in range(MANY)]
        ready.wait(30)
        with httpx.Client() as client:  # on one connection, and so in the process with half of them or more
            assert {client.get(url).status_code for _ in range(100)} == {200}
        lease = begun(server, "forty")
        with db.session_scope(server.engine) as session:
            progress.record_steps(session, lease, 1, [1.0], [0.5])
        assert [each.result(30) for each in found] == [[1]] * MANY


def test_a_stream_ends_when_the_service_is_asked_to_stop(tmp_path: Path, spec: dict[str, Any]) -> None:
    with serving(tmp_path) as server:
        url = submitted(server, spec, "default")
        with following(f"{url}/stream") as stream:
            until(stream, "event")
            server.process.send_signal(signal.SIGTERM)
            assert list(stream) == []
        assert server.process.wait(timeout=15) == 0  # long before the next heartbeat, and before a worker is killed


def test_a_client_that_leaves_gives_its_place_back(server: Server, spec: dict[str, Any]) -> None:
    url = submitted(server, spec, "left")
    for _ in range(3 * streams.MOST_OF_ONE):
        with following(f"{url}/stream") as stream:
            assert next(stream).name == "job"


def test_a_stream_begins_after_the_rows_that_a_client_has(server: Server, spec: dict[str, Any]) -> None:
    url = submitted(server, spec, "later")
    lease = begun(server, "later")
    record(server, lease, 1, 2)
    succeed(server, lease)
    seen = httpx.get(f"{url}/events").json()["data"][-1]["id"]
    with following(f"{url}/stream?event={seen}&line=2&epoch=1&step=3") as stream:
        got = list(stream)
    assert [each.name for each in got] == ["job", "steps", "epoch", "end"]
    assert (got[1].data["step"], got[2].data["epoch"]) == ([4], 2)


def test_a_stream_tells_of_all_jobs_and_goes_on_where_it_stopped(server: Server, spec: dict[str, Any]) -> None:
    url = f"{server.url}/v1/stream"
    with following(url) as stream:
        assert next(stream).data == {"complete": True}
        job_id = submitted(server, spec, "all").rpartition("/")[2]
        got = of_job(stream, job_id, "job", "queued")
        assert [each.data["to_status"] for each in got if each.name == "state"] == ["queued"]
        lease = begun(server, "all")
        got = of_job(stream, job_id, "job", "running")
        assert [each.data["to_status"] for each in got if each.name == "state"] == ["running"]
        record(server, lease, 1, 2)
        while got[-1].data["progress"]["epoch"] < 2:
            got = of_job(stream, job_id, "job", "running")
    succeed(server, lease)
    other = submitted(server, spec, "all").rpartition("/")[2]
    with following(url, after=got[-1].id) as stream:
        assert next(stream).data == {"complete": True}
        found = of_job(stream, other, "job", "queued")
    states = [(each.data["job_id"], each.data["to_status"]) for each in found if each.name == "state"]
    assert states == [(job_id, "succeeded"), (other, "queued")]
    assert len({each.id for each in found if each.name == "state"}) == 2


def of_job(stream: Iterator[Message], job_id: str, name: str, status: str) -> list[Message]:
    """The messages up to the next one of this name about a job in this state; of others than `name` all jobs'."""
    got = []
    for each in stream:
        if each.data.get("id", job_id) == job_id or each.name != "job":
            got.append(each)
        if each.name == name and (each.data["id"], each.data["status"]) == (job_id, status):
            return got
    raise AssertionError(f"the stream ended: {got}")


def test_a_client_that_missed_too_much_is_told_so(
    client: FlaskClient, queued_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(messages(client.get("/v1/stream").text.splitlines()))
    for _ in range(3):
        client.post("/v1/jobs", json={**queued_job["spec"], "queue": "other"})
    after = {"Last-Event-ID": first.id}
    told = list(messages(client.get("/v1/stream", headers=after).text.splitlines()))
    assert [each.name for each in told] == ["ready", *["state"] * 3, *["job"] * 3]
    assert told[0].data == {"complete": True}
    monkeypatch.setattr("api.resources.streams.MOST_MISSED", 2)
    told = list(messages(client.get("/v1/stream", headers=after).text.splitlines()))
    assert [(each.name, each.data) for each in told] == [("ready", {"complete": False})]
    assert client.get("/v1/stream", headers={"Last-Event-ID": "x"}).status_code == 400


def test_nobody_hears_of_the_jobs_of_another_tenant(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any]
) -> None:
    app = make_app(sqlite_url, auth="keys", rate_limit="none", broker_url="redis://127.0.0.1:1/0")
    with db.session_scope(app.extensions["loopline"].engine) as session:
        tenants.create(session, "acme")
        ours, theirs = (
            {"Authorization": f"Bearer {keys.create(session, tenant, ['read', 'submit']).text}"}
            for tenant in ("default", "acme")
        )
    client = app.test_client()
    begin = next(messages(client.get("/v1/stream", headers=ours).text.splitlines())).id
    mine = client.post("/v1/jobs", json=spec, headers=ours).get_json()["id"]
    client.post("/v1/jobs", json=spec, headers=theirs)
    told = list(messages(client.get("/v1/stream", headers={**ours, "Last-Event-ID": begin}).text.splitlines()))
    assert [(each.name, each.data.get("job_id", each.data.get("id"))) for each in told[1:]] == [
        ("state", mine),
        ("job", mine),
    ]


@pytest.fixture
def held(app: Flask) -> Iterator[FlaskClient]:
    """A client to which streams are kept open; the parts of their answers are read one by one."""
    client = app.test_client()
    client.environ_base[streams.WAKE] = lambda: None
    yield client
    app.extensions["loopline"].streams.closing = lambda: True


def test_streams_are_bounded(
    app: Flask, held: FlaskClient, queued_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{queued_job['links']['self']}/stream"
    monkeypatch.setattr(streams, "MOST_OF_ONE", 2)
    first, _ = held.get(url), held.get(url)
    refused = held.get(url)
    assert (refused.status_code, refused.get_json()["code"]) == (503, "too_many_streams")
    assert refused.headers["Retry-After"] == "5"
    assert "This key has" in refused.get_json()["detail"]
    other = {"REMOTE_ADDR": "127.0.0.2"}
    held.get(url, environ_overrides=other)
    monkeypatch.setattr(streams, "MOST_STREAMS", 3)
    assert "This service has" in held.get(url, environ_overrides={"REMOTE_ADDR": "127.0.0.3"}).get_json()["detail"]
    first.close()
    assert held.get(url).status_code == 200
    assert app.test_client().get(url).status_code == 200  # a server that holds no streams answers with what there is


def test_a_server_that_holds_no_streams_sends_what_there_is(client: FlaskClient, queued_job: dict[str, Any]) -> None:
    url = f"{queued_job['links']['self']}/stream"
    answer = client.get(url)
    got = list(messages(answer.text.splitlines()))
    assert [each.name for each in got] == ["job", "event"]
    assert answer.text.startswith("retry: 2000\n")
    again = client.get(url, headers={"Last-Event-ID": got[-1].id})
    assert (again.status_code, list(messages(again.text.splitlines()))) == (200, [])


def test_the_stream_of_a_revoked_key_ends(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any]
) -> None:
    app = make_app(sqlite_url, auth="keys", rate_limit="none", broker_url="redis://127.0.0.1:1/0")
    service, client = app.extensions["loopline"], app.test_client()
    with db.session_scope(service.engine) as session:
        key = keys.create(session, "default", ["read", "submit"])
    headers = {"Authorization": f"Bearer {key.text}"}
    url = client.post("/v1/jobs", json=spec, headers=headers).headers["Location"]
    answer = client.get(f"{url}/stream", headers=headers, environ_overrides={streams.WAKE: lambda: None})
    parts = answer.iter_encoded()
    assert b"event: job" in next(parts)
    assert next(parts) == b""
    with db.session_scope(service.engine) as session:
        keys.revoke(session, key.key.id)
        control.cancel(session, url.rpartition("/")[2])
    service.keyring.forget()
    deadline, got = time.monotonic() + 20, b""
    for part in parts:
        got += part
        assert time.monotonic() < deadline
    assert b"cancelled" not in got
    answer.close()


def test_a_stream_that_is_asked_about_and_not_read_holds_no_place(server: Server, spec: dict[str, Any]) -> None:
    url = httpx.URL(submitted(server, spec, "asked"))
    connection = http.client.HTTPConnection(url.host, url.port or 80, timeout=30)
    for _ in range(3 * streams.MOST_OF_ONE):
        connection.request("HEAD", f"{url.path}/stream")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    connection.close()


def test_the_most_rows_of_a_look_are_sent_whole(
    client: FlaskClient, service: Any, running_job: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_ROWS", 2)
    with db.session_scope(service.engine) as session:
        progress.record_all(session, running_job, [{"epoch": epoch, "train_loss": 1.0} for epoch in range(1, 6)])
        attempts.succeed(session, running_job, {"metrics": {}}, [])
    got = list(messages(client.get(f"/v1/jobs/{running_job.job_id}/stream").text.splitlines()))
    assert numbers(got, "epoch", "epoch") == [1, 2, 3, 4, 5]
    assert [each.name for each in got].count("job") == 1
    assert got[-1].name == "end"


@pytest.mark.parametrize("how", ["a look failed", "its thread is dead"])
def test_streams_go_on_after_what_nobody_foresaw(
    client: FlaskClient,
    service: Service,
    queued_job: dict[str, Any],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed, woken, look = threading.Event(), threading.Event(), changes.revisions

    def broken(*given: Any) -> dict[str, int]:
        if failed.is_set():
            return look(*given)
        failed.set()
        raise ZeroDivisionError("nobody foresaw this")

    if how == "a look failed":
        monkeypatch.setattr(changes, "revisions", broken)
        monkeypatch.setattr(streams, "PAUSE_SECONDS", 0.0)
    else:
        failed.set()
        service.streams._thread = threading.Thread(target=int)
        service.streams._thread.start()
        service.streams._thread.join()
    path = f"/v1/jobs/{queued_job['id']}"
    answer = client.get(f"{path}/stream", environ_overrides={streams.WAKE: woken.set})
    thread = service.streams._thread
    assert thread is not None
    assert failed.wait(60)
    assert client.post(f"{path}/cancel").status_code == 202
    assert woken.wait(20)
    answer.close()
    thread.join()
    assert ("ZeroDivisionError: nobody foresaw this" in caplog.text) == (how == "a look failed")
