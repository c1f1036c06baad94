"""The API as it is served: real processes, real sockets."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.server import WORKERS
from services import db
from services.blobs.storage import Storage
from services.jobs import attempts
from services.jobs.leases import Lease
from services.settings import Settings
from tests.checking import do_checks
from tests.serving import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of this module; each uses jobs and queues of its own."""
    with serving(tmp_path_factory.mktemp("var")) as started:
        yield started


def submit(server: Server, spec: dict[str, Any], queue: str) -> str:
    answer = httpx.post(f"{server.url}/v1/jobs", json=spec | {"queue": queue})
    return str(answer.raise_for_status().headers["Location"])


def test_a_long_poll_over_http_ends_with_the_news(server: Server, spec: dict[str, Any]) -> None:
    path = server.url + submit(server, spec, "polled")
    tag = httpx.get(path).headers["ETag"]
    assert httpx.get(path, headers={"If-None-Match": tag}).status_code == 304
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(httpx.get, f"{path}?wait=30", headers={"If-None-Match": tag}, timeout=40)
        with db.session_scope(server.engine) as session:
            assert attempts.claim(session, "polled", worker="test:1", lease_seconds=60)
        began = time.monotonic()
        assert poll.result().json()["status"] == "running"
    assert time.monotonic() - began < 20


def test_an_upload_streams_in_chunks(server: Server, vowels: Path) -> None:
    def pieces() -> Iterator[bytes]:
        with vowels.open("rb") as file:
            while piece := file.read(10_000):
                yield piece

    headers = {"Content-Type": "application/octet-stream"}
    answer = httpx.post(f"{server.url}/v1/datasets?name=vowels", content=pieces(), headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["samples"]) == (201, 640)


def test_an_endless_upload_is_cut_off_and_leaves_nothing(server: Server) -> None:
    host, port = server.address
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/datasets?name=endless HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        sent = 0
        try:
            while sent < 2_000:
                connection.sendall(chunk)
                sent += 1
        except OSError:
            pass  # cut off
    assert sent < 200
    assert list(server.data_dir.rglob("*.part")) == []
    assert httpx.get(f"{server.url}/v1/health/live").status_code == 200


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n80000\r\n"],
    ids=["whole", "chunked"],
)
def test_an_upload_that_breaks_off_leaves_nothing(server: Server, framing: bytes) -> None:
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(
            b"POST /v1/datasets?name=broken HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n" + framing
        )
        connection.sendall(bytes(100_000))
        deadline = time.monotonic() + 10
        while not list(server.data_dir.rglob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert no_part_is_left(server)
    assert httpx.get(f"{server.url}/v1/datasets/broken").status_code == 404


def test_an_endless_spec_is_cut_off(server: Server) -> None:
    sent = 0
    with socket.create_connection(server.address, timeout=20) as connection, suppress(OSError):
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while sent < 1_000:
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            sent += 1
    assert sent < 500  # of 64 KiB each; 1 MiB is the limit, and there are buffers on the way


def test_the_same_key_twenty_times_at_once_makes_one_job(server: Server, spec: dict[str, Any]) -> None:
    together = threading.Barrier(20)

    def post(_: int) -> tuple[int, str]:
        together.wait(30)
        headers = {"Idempotency-Key": "twenty"}
        answer = httpx.post(f"{server.url}/v1/jobs", json=spec | {"queue": "once"}, headers=headers, timeout=30)
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(20) as pool:
        answers = set(pool.map(post, range(20)))
    assert len(answers) == 1
    assert {status for status, _ in answers} == {202}
    assert len(httpx.get(f"{server.url}/v1/jobs?queue=once").json()["data"]) == 1


JSON, YAML, ZIP = "application/json", "application/yaml", "application/zip"
NAMED = '{{"preset": "basic_gru", "data": {{"synthetic": {{}}}}, "name": "{}"}}'
HOSTILE: dict[str, tuple[str, str, bytes]] = {
    "deep lists": ("/v1/jobs", JSON, b"[" * 10_000 + b"]" * 10_000),
    "deep objects": ("/v1/jobs", JSON, b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "deeper than the body is long": ("/v1/jobs", JSON, b"[" * 1_000_000),
    "a long text": ("/v1/jobs", JSON, NAMED.format("x" * 1_000_000).encode()),
    "a NUL": ("/v1/jobs", JSON, NAMED.format("a\\u0000b").encode()),
    "half a character": ("/v1/jobs", JSON, NAMED.format("\\ud800").encode()),
    "a number of a million digits": ("/v1/jobs", JSON, b'{"priority": ' + b"9" * 1_000_000 + b"}"),
    "one key often": ("/v1/jobs", JSON, b'{"a": 1, ' + b'"a": 1, ' * 100_000 + b'"a": 1}'),
    "many keys": ("/v1/jobs", JSON, ("{" + ", ".join(f'"k{n}": 1' for n in range(60_000)) + "}").encode()),
    "many tags": ("/v1/jobs", JSON, b'{"tags": {' + b", ".join(b'"k%d": "v"' % n for n in range(50_000)) + b"}}"),
    "YAML that multiplies": ("/v1/jobs", YAML, b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
    "deep YAML": ("/v1/jobs", YAML, b"{a: " * 100_000),
    "more than a body may have": ("/v1/jobs", JSON, b" " * 3_000_000),
}


def npz_of(header: str) -> bytes:
    """An .npz of 128 bytes of header and nothing behind it."""
    file = io.BytesIO()
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    return file.getvalue()


def test_hostile_bodies_are_refused_quickly_and_memory_stays_flat(server: Server) -> None:
    asking = npz_of("{'descr': '<f8', 'fortran_order': False, 'shape': (65536, 65536), }")
    zeros = io.BytesIO()
    np.savez_compressed(zeros, x=np.zeros((1000, 5000, 10)), y=np.arange(1000) % 2)
    uploads = {"a header that asks for 32 GiB": asking, "400 MB of zeros": zeros.getvalue()}
    bodies = HOSTILE | {name: ("/v1/datasets?name=bomb", ZIP, content) for name, content in uploads.items()}
    for path, media, body in bodies.values():  # pages that were touched once stay
        refused(server, path, media, body)
    before = resident_bytes(server)
    for name, (path, media, body) in [*bodies.items()] * 3:
        tries = iter(lambda: refused(server, path, media, body), None)  # noqa: B023
        assert any(seconds < 1 for seconds in islice(tries, 4)), name  # a busy machine may take longer now and then
    assert resident_bytes(server) - before < 32_000_000
    assert no_part_is_left(server)


def refused(server: Server, path: str, media: str, body: bytes) -> float:
    """Seconds until the server has said no."""
    began = time.monotonic()
    answer = httpx.post(f"{server.url}{path}", content=body, headers={"Content-Type": media}, timeout=30)
    assert answer.status_code in (400, 413, 422), answer.text[:500]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answer.content) < 100_000
    return time.monotonic() - began


def test_uploads_that_expand_hugely_take_turns(tmp_path: Path) -> None:
    """Six of a megabyte that become 120 MB each: with room for one, the peak is that of one, and all are taken."""
    rng = np.random.default_rng(0)
    x = np.zeros((3000, 1000, 10), np.float32)
    x[:20] = rng.standard_normal((20, 1000, 10))
    contents = []
    for number in range(6):
        x[0, 0, 0] = number
        file = io.BytesIO()
        np.savez_compressed(file, x=x, y=np.arange(3000) % 2)
        contents.append(file.getvalue())
    assert len(contents[0]) * 80 < x.nbytes
    with serving(tmp_path, LOOPLINE_MAX_EXPANDING_BYTES="150000000") as server, ThreadPoolExecutor(6) as pool:
        assert httpx.get(f"{server.url}/v1/jobs").status_code == 200
        while len(before := peak_bytes(server)) < WORKERS:  # one process answers before the other is there
            time.sleep(0.01)

        def upload(number: int) -> int:
            """The status of its answer: 202 where others took the memory for too long."""
            url, headers = f"{server.url}/v1/datasets?name=large-{number}", {"Content-Type": ZIP}
            return httpx.post(url, content=contents[number], headers=headers, timeout=60).status_code

        statuses = [*pool.map(upload, range(6))]
        assert set(statuses) <= {201, 202}
        settings = Settings(data_dir=tmp_path, max_expanding_bytes=150_000_000)
        assert do_checks(settings, server.engine) == statuses.count(202)
        listed = httpx.get(f"{server.url}/v1/datasets").json()["data"]
        assert [dataset["status"] for dataset in listed] == ["ready"] * 6
        took = [after - at for after, at in zip(peak_bytes(server), before, strict=True)]
    assert max(took) < 200_000_000  # one and what it takes to check it; without the bound three in each process or more


def peak_bytes(server: Server) -> list[int]:
    """The most memory that each of the server's processes ever had."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    found = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in sorted(children)]
    return [int(one[1]) * 1024 for one in found if one]


def test_a_compressed_bomb_is_refused_unread(server: Server) -> None:
    bomb = gzip.compress(b'{"name": "' + bytes(50_000_000))
    for encoding in ("gzip", "deflate", "br", "gzip, gzip", "x-gzip"):
        headers = {"Content-Type": JSON, "Content-Encoding": encoding}
        answer = httpx.post(f"{server.url}/v1/jobs", content=bomb, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def resident_bytes(server: Server) -> int:
    """Memory of the server's processes."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 2
    found = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in children]
    return sum(map(int, found)) * os.sysconf("SC_PAGESIZE")


def test_clients_that_send_a_byte_now_and_then_keep_nobody_out(server: Server) -> None:
    heads = [
        b"GET /v1/health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
        b"POST /v1/datasets?name=slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"",
    ]
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(server.address, timeout=20)) for _ in range(200)]
        for number, connection in enumerate(slow):  # more than there are threads
            connection.sendall(heads[number % len(heads)])
        time.sleep(1.5)  # by now every one of them counts as slow
        for connection in slow:
            with suppress(OSError):
                connection.sendall(b"a")
        began = time.monotonic()
        assert all(httpx.get(f"{server.url}/v1/health/live", timeout=20).status_code == 200 for _ in range(10))
        assert time.monotonic() - began < 5
        bodies = [one for number, one in enumerate(slow) if number % len(heads) in (1, 2)]
        told = [answer for answer in map(received, bodies) if answer]
        assert told
        assert all(b"408 REQUEST TIMEOUT" in answer and b"too_slow" in answer for answer in told)
    assert no_part_is_left(server)


def no_part_is_left(server: Server) -> bool:
    """Whether what uploads had begun is gone, as soon as the server has noticed their end."""
    deadline = time.monotonic() + 10
    while list(server.data_dir.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not list(server.data_dir.rglob("*.part"))


def received(connection: socket.socket) -> bytes:
    """What has come so far."""
    connection.settimeout(0.01)
    found = b""
    with suppress(OSError):
        while more := connection.recv(65536):
            found += more
    return found


def test_a_body_that_is_no_http_is_a_problem_and_not_an_error(server: Server) -> None:
    host, port = server.address
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzzzz\r\n"
        )
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 400


HOST = b"Host: localhost\r\n"
NO_HTTP: dict[str, tuple[bytes, int, str]] = {
    "no request line": (b"GARBAGE\r\n\r\n", 400, "bad_request"),
    "lines without CR": (b"GET / HTTP/1.1\n\n", 400, "bad_request"),
    "a method in small letters": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
    "a version of its own": (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", 400, "bad_request"),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400, "bad_request"),
    "a name with a space": (b"GET / HTTP/1.1\r\nX Y: 1\r\n\r\n", 400, "bad_request"),
    "a folded header": (b"GET / HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n", 400, "bad_request"),
    "a NUL": (b"GET / HTTP/1.1\r\nX: \0\r\n\r\n", 400, "bad_request"),
    "no length": (b"POST / HTTP/1.1\r\nContent-Length: abc\r\n\r\n", 400, "bad_request"),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
    "a long address": (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "uri_too_long"),
    "an expectation": (b"GET / HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417, "expectation_failed"),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431, "head_too_large"),
    "a long header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431, "head_too_large"),
    "a head without end": (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 20_000, 431, "head_too_large"),
    "another coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: magic, chunked\r\n\r\n", 501, "not_implemented"),
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_gets_a_problem(server: Server, name: str) -> None:
    sent, status, code = NO_HTTP[name]
    answer, problem = answered(server, sent)
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code)
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_request_that_does_not_come_is_told_so(server: Server) -> None:
    heads = [b"GET / HTTP/1.1\r\nX: ", b"POST /v1/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{"]
    with ThreadPoolExecutor() as pool:
        for answer, problem in pool.map(lambda head: answered(server, head), heads):
            assert (answer.status, problem["code"]) == (408, "too_slow")


def answered(server: Server, sent: bytes) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    """The answer to these bytes, a problem after which the connection ends."""
    with socket.create_connection(server.address, timeout=40) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        problem: dict[str, Any] = json.loads(answer.read())
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Connection"] == "close"
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    return answer, problem


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script_Name", "Script-Name", "PATH_INFO"])
def test_no_header_changes_where_a_request_goes(server: Server, name: str) -> None:
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(b"GET /v1/presets HTTP/1.1\r\n" + HOST + name.encode() + b": /v1\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["object"]) == (200, "list")


def test_headers_of_a_proxy_change_nothing(server: Server) -> None:
    contradictory = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off", "X-Forwarded-For": "192.0.2.7"}
    assert httpx.get(f"{server.url}/v1/jobs", headers=contradictory).status_code == 200


def test_requests_that_come_together_are_answered_in_turn(server: Server) -> None:
    paths = [b"/v1/health/live", b"/docs/swagger-ui-bundle.js", b"/nowhere", b"/v1/presets"]
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(b"".join(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n" for path in paths))
        file = connection.makefile("rb")
        lengths = []
        for status in (b"200", b"200", b"404", b"200"):
            assert file.readline().split()[1] == status
            headers = http.client.parse_headers(file)
            lengths.append(len(file.read(int(headers["Content-Length"]))))
        file.close()
    assert lengths[1] > 1_000_000


def test_a_body_that_was_promised_is_waited_for_and_asked_for(server: Server, spec: dict[str, Any]) -> None:
    body = json.dumps(spec | {"queue": "asked"}).encode()
    with socket.create_connection(server.address, timeout=20) as connection:
        head = b"POST /v1/jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body[:10])
        connection.sendall(body[10:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 202
        assert len(answer.read()) > 100


def test_a_download_streams_whole(server: Server, spec: dict[str, Any]) -> None:
    location = submit(server, spec, "downloaded")
    folder = Storage(server.data_dir).job_dir(location.rsplit("/", 1)[1])
    contents = {"model.safetensors": os.urandom(3_000_000), "model.json": b"{}", "history.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with db.session_scope(server.engine) as session:
        job = attempts.claim(session, "downloaded", worker="test:1", lease_seconds=60)
        assert job is not None
        files = [{"name": name, "bytes": len(content), "sha256": "0" * 64} for name, content in contents.items()]
        result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {}}
        attempts.succeed(session, Lease.of(job), result, files)
    with httpx.stream("GET", f"{server.url}{location}/model") as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert sum(map(len, answer.iter_bytes())) > 3_000_000
    single = httpx.get(f"{server.url}{location}/model/model.safetensors", headers={"Range": "bytes=5-"})
    assert (single.status_code, single.content) == (206, contents["model.safetensors"][5:])


def test_a_server_told_to_stop_ends_its_long_polls(tmp_path: Path, spec: dict[str, Any]) -> None:
    with serving(tmp_path) as server, ThreadPoolExecutor() as pool:
        path = server.url + submit(server, spec, "default")
        poll = pool.submit(httpx.get, f"{path}?wait=60", timeout=60)
        for _ in range(5):  # answered behind the poll, so the poll is in
            assert httpx.get(path).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert poll.result().status_code == 200
        server.process.wait(timeout=30)
        assert time.monotonic() - began < 10
