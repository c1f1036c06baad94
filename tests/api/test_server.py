"""The API as it is served: real processes, real sockets."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from services import db, jobs
from services.jobs import Lease
from services.storage import Storage

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    engine: Engine
    data_dir: Path

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80


@contextmanager
def serving(data_dir: Path) -> Iterator[Server]:
    """`python -m api` on a free port and an empty folder."""
    environment = {
        **os.environ,
        "LOOPLINE_DATA_DIR": str(data_dir),
        "LOOPLINE_BROKER_URL": "redis://127.0.0.1:1/0",
        "LOOPLINE_PORT": "0",
        "LOOPLINE_MAX_UPLOAD_BYTES": "30000000",
    }
    command = [sys.executable, "-m", "api"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    engine = db.engine(f"sqlite:///{data_dir}/loopline.db")
    try:
        yield Server(process, _address(process), engine, data_dir)
    finally:
        engine.dispose()
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of this module; each uses jobs and queues of its own."""
    with serving(tmp_path_factory.mktemp("var")) as started:
        yield started


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found.group()
    raise AssertionError("the server did not start")


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
            assert jobs.claim(session, "polled", worker="test:1", lease_seconds=60)
        began = time.monotonic()
        assert poll.result().json()["status"] == "running"
    assert time.monotonic() - began < 3


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
            b"POST /v1/datasets?name=endless HTTP/1.1\r\nHost: x\r\n"
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


def test_a_body_that_is_no_http_is_a_problem_and_not_an_error(server: Server) -> None:
    host, port = server.address
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzzzz\r\n"
        )
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 400


def test_a_download_streams_whole(server: Server, spec: dict[str, Any]) -> None:
    location = submit(server, spec, "downloaded")
    folder = Storage(server.data_dir).job_dir(location.rsplit("/", 1)[1])
    contents = {"model.safetensors": os.urandom(3_000_000), "model.json": b"{}", "history.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with db.session_scope(server.engine) as session:
        job = jobs.claim(session, "downloaded", worker="test:1", lease_seconds=60)
        assert job is not None
        files = [{"name": name, "bytes": len(content), "sha256": "0" * 64} for name, content in contents.items()]
        result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {}}
        jobs.succeed(session, Lease.of(job), result, files)
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
