"""`client.upload` while the service checks a file for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopline import BadRequest, Client, Dataset, NotFound

from services.settings import Settings
from tests.checking import UNCHECKED_SECONDS, do_checks
from tests.client.conftest import Service
from tests.worker.scheduler.test_checks import table

Background = Callable[..., threading.Thread]


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "service", database_url=sqlite_url)


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    """A service that waits for no check."""
    running = Service(tmp_path / "service", sqlite_url, check_wait_seconds=UNCHECKED_SECONDS)
    yield running
    running.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "walks.csv"
    path.write_bytes(table())
    return path


def test_an_upload_waits_until_its_data_set_is_ready(
    client: Client, service: Service, settings: Settings, file: Path, in_background: Background
) -> None:
    seen: list[tuple[Dataset, float]] = []
    looked = threading.Event()

    def check() -> None:
        assert looked.wait(30)
        assert do_checks(settings, service.engine) == 1

    def on_check(dataset: Dataset, seconds: float) -> None:
        seen.append((dataset, seconds))
        looked.set()

    in_background(check)
    dataset = client.upload(file, schema={"target": "kind"}, on_check=on_check)
    assert (dataset.status, dataset.samples, dataset.reference) == ("ready", 12, "walks@1")
    assert {(one.status, one.reference, one.samples) for one, _ in seen} == {("validating", "walks@1", 0)}
    times = [seconds for _, seconds in seen]
    assert times == sorted(times)
    job = client.submit({"preset": "basic_rnn", "data": {"dataset": dataset.reference}})
    assert job.status == "queued"


def test_content_that_a_long_check_finds_to_be_there_is_no_new_version(
    client: Client, service: Service, settings: Settings, file: Path, in_background: Background
) -> None:
    waiting = threading.Event()
    in_background(lambda: waiting.wait(30) and do_checks(settings, service.engine))
    first = client.upload(file, schema={"target": "kind"}, on_check=lambda dataset, seconds: waiting.set())
    file.write_bytes(file.read_bytes() + b"\n")  # another file with the same content
    again = threading.Event()
    in_background(lambda: again.wait(30) and do_checks(settings, service.engine))
    second = client.upload(file, schema={"target": "kind"}, on_check=lambda dataset, seconds: again.set())
    assert again.is_set()
    assert (first.is_new, second.is_new, second.id) == (True, False, first.id)


def test_a_file_that_is_rejected_raises_what_a_422_raises(
    client: Client, service: Service, settings: Settings, file: Path, in_background: Background
) -> None:
    file.write_bytes(table(bad=True))
    patient = Service(settings.data_dir, settings.database_url, check_wait_seconds=60)
    with Client(patient.url) as other, pytest.raises(BadRequest) as short:
        other.upload(file)
    patient.close()
    waiting = threading.Event()
    in_background(lambda: waiting.wait(30) and do_checks(settings, service.engine))
    with pytest.raises(BadRequest) as long:
        client.upload(file, on_check=lambda dataset, seconds: waiting.set())
    assert (str(long.value), long.value.status, long.value.code) == (str(short.value), 422, "dataset_invalid")
    assert long.value.problems == short.value.problems
    rejected = client.datasets.get("walks")
    assert (rejected.status, rejected.message) == ("rejected", short.value.message)
    with pytest.raises(BadRequest):
        client.datasets.wait_for_check(rejected)


def test_an_upload_that_does_not_wait_returns_at_once(
    client: Client, service: Service, settings: Settings, file: Path
) -> None:
    dataset = client.upload(file, wait=False)
    assert (dataset.status, dataset.samples) == ("validating", 0)
    assert do_checks(settings, service.engine) == 1
    assert client.datasets.wait_for_check(dataset).status == "ready"


def test_a_data_set_that_is_deleted_meanwhile_is_not_waited_for(client: Client, file: Path) -> None:
    with pytest.raises(NotFound):
        client.upload(file, on_check=lambda dataset, seconds: client.datasets.delete(dataset.id) and None)
