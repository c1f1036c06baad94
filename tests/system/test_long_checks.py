"""A file whose check takes longer than its upload waits, through API, scheduler, command and worker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from loopline import BadRequest, Client, Conflict

from tests.system.conftest import Service
from tests.system.test_files import SPEC, loopline

WAIT_SECONDS = 0.02
WALKS = 2_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("long-checks")
    service = Service(folder, LOOPLINE_CHECK_WAIT_SECONDS=str(WAIT_SECONDS))
    try:
        yield service
        assert service.stop() == 0
    finally:
        service.end()


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return service.url()


@contextmanager
def frozen_scheduler(service: Service) -> Iterator[None]:
    """For the block no check is begun."""
    scheduler = service.part("worker.scheduler")
    scheduler.suspend()
    try:
        yield
    finally:
        scheduler.resume()


def walks(path: Path, *, bad: bool = False) -> Path:
    """Two waves: the faster one is a run. Its check takes a second; with `bad`, a number in it is none."""
    lines = ["walk,second,acc,kind"]
    for walk in range(WALKS):
        for second in range(10):
            value = "inf" if bad and (walk, second) == (7, 3) else f"{math.sin(second * (0.3 + walk % 2)):.4f}"
            lines.append(f"w{walk},{second},{value},{'run' if walk % 2 else 'stroll'}")
    path.write_text("\n".join(lines))
    return path


def test_a_job_meanwhile_is_refused_and_trains_when_the_file_is_checked(
    service: Service, url: str, tmp_path: Path
) -> None:
    path = walks(tmp_path / "walks.csv")
    with Client(url) as client:
        with frozen_scheduler(service):
            dataset = client.upload(path, schema={"target": "kind"}, wait=False)
            assert (dataset.status, dataset.samples) == ("validating", 0)
            with pytest.raises(Conflict, match=r"walks@1 is still being checked") as early:
                client.submit({**SPEC, "data": {"dataset": "walks"}})
            assert early.value.code == "dataset_validating"
        ready = client.datasets.wait_for_check(dataset)
        assert (ready.id, ready.status, ready.samples, ready.classes) == (dataset.id, "ready", WALKS, ["run", "stroll"])
        again = client.upload(path, schema={"target": "kind"})
        assert (again.id, [one.version for one in client.datasets.list()]) == (ready.id, [1])
    data = {**SPEC["data"], "dataset": "./walks.csv", "schema": {"target": "kind"}}
    training = {**SPEC["training"], "epochs": 1, "batch_size": 64}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**SPEC, "training": training, "data": data}))
    done = loopline(url, tmp_path, "submit", "job.yaml", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert json.loads(done.stdout)["dataset"]["id"] == ready.id


def test_a_file_that_is_rejected_fails_the_command_and_leaves_no_file(url: str, tmp_path: Path) -> None:
    walks(tmp_path / "bad.csv", bad=True)
    done = loopline(url, tmp_path, "datasets", "upload", "bad.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Checking bad@1, 0 s" in done.stderr
    assert "inf" in done.stderr
    with Client(url) as client:
        rejected = client.datasets.get("bad")
        assert rejected.status == "rejected"
        with pytest.raises(BadRequest, match="bad@1 was rejected when it was checked"):
            client.submit({**SPEC, "data": {"dataset": "bad"}})
        client.datasets.delete("bad@1")
        walks(tmp_path / "bad.csv")
        assert client.upload(tmp_path / "bad.csv").reference == "bad@2"
