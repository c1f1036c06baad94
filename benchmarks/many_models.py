"""A thousand models behind one API: what its processes have in memory after all were asked, beside the first one.

Each model is the folder of a job of its own: copies of a tiny one, which was trained. Two processes of the API keep the
models that were asked last (LOOPLINE_PREDICTION_MODELS of them, 64 by default).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import tracking
from benchmarks.start import command_of, service
from services import db
from services.blobs.storage import Storage
from services.jobs import attempts
from services.jobs.leases import Lease

MODELS, CLIENTS = 1000, 4
MOST_GROWTH = 200 << 20
"""Bytes, of both processes together, from one model in memory to a thousand that were asked."""
TINY: Mapping[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 8},
    "training": {"epochs": 1},
    "data": {"synthetic": {"samples": 40, "length": 5, "features": 3, "classes": 2}},
}
X = [[[0.1, 0.2, 0.3]] * 5]


def rows() -> Iterator[dict[str, Any]]:
    """Memory after one model and after all of them."""
    from loopline import Client

    with tempfile.TemporaryDirectory(prefix="loopline-bench-") as place:
        folder = Path(place)
        with service(folder / "trains") as (url, _), Client(url) as client:
            client.submit(TINY).wait(timeout=300).download(folder / "model")
        with tracking.loopline(folder / "answers") as port:  # it has no worker, so nobody else takes the jobs
            url = f"http://127.0.0.1:{port}"
            jobs = copies(folder / "answers", url, folder / "model")
            ask(url, jobs[:1] * 50)  # in both processes
            before = memory()
            ask(url, jobs)  # about half of them in each
            after = memory()
    yield {
        "what": f"memory of the API after {MODELS:,} models were asked, beside after one; at most "
        f"{MOST_GROWTH >> 20} MB more",
        "ours": f"{after / (1 << 20):.0f} MB",
        "other": f"{before / (1 << 20):.0f} MB",
        "ratio": MOST_GROWTH / max(after - before, 1),
        "at_least": 1.0,
    }


def copies(folder: Path, url: str, model: Path) -> list[str]:
    """Ids of jobs that have the same model, each in a folder of its own."""
    storage, engine = Storage(folder), db.engine(f"sqlite:///{folder}/loopline.db")
    content = {path.name: path.read_bytes() for path in model.iterdir()}
    files = [
        {"name": name, "bytes": len(each), "sha256": hashlib.sha256(each).hexdigest()} for name, each in content.items()
    ]
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(MODELS):
            client.post("/v1/jobs", json=TINY).raise_for_status()
    made = []
    with db.session_scope(engine) as session:
        while (job := attempts.claim(session, "default", worker="bench:1", lease_seconds=600)) is not None:
            lease = Lease.of(job)
            for name, each in content.items():
                (storage.job_dir(lease.job_id) / name).write_bytes(each)
            attempts.succeed(session, lease, {"metrics": {"validation_loss": 0.5}}, files)
            made.append(lease.job_id)
    engine.dispose()
    assert len(made) == MODELS
    return made


def ask(url: str, jobs: list[str]) -> None:
    """Asks each model once, in connections of their own, so that both processes are asked."""

    def one(job_id: str) -> None:
        httpx.post(f"{url}/v1/jobs/{job_id}/predict", json={"x": X}, timeout=60).raise_for_status()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, jobs))


def memory() -> int:
    """Bytes that the processes of the API have alone."""
    found = [each for each in psutil.Process().children(recursive=True) if command_of(each)[1:3] == ["-m", "api"]]
    return sum(each.memory_full_info().uss for each in found)


if __name__ == "__main__":
    for row in rows():
        print(row)
