"""The API as it is served, for tests: real processes, real sockets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import Engine

from services import db
from tests import forking

ROOT = Path(__file__).parent.parent


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
def serving(data_dir: Path, **settings: str) -> Iterator[Server]:
    """`python -m api` on a free port and an empty folder; `settings` are further variables."""
    environment = {
        **os.environ,
        "LOOPLINE_DATA_DIR": str(data_dir),
        "LOOPLINE_BROKER_URL": "redis://127.0.0.1:1/0",
        "LOOPLINE_PORT": "0",
        "LOOPLINE_MAX_UPLOAD_BYTES": "30000000",
        **settings,
    }
    command = [sys.executable, "-m", "api"]
    process = forking.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    engine = db.engine(f"sqlite:///{data_dir}/loopline.db")
    try:
        address = _address(process)
        assert process.stderr is not None
        log = threading.Thread(target=lambda: [None for _ in process.stderr or ()])  # a full pipe would stop the server
        log.start()
        yield Server(process, address, engine, data_dir)
    finally:
        engine.dispose()
        process.terminate()
        process.wait(timeout=30)
    log.join()
    process.stderr.close()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found.group()
    raise AssertionError("the server did not start")
