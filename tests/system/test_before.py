"""What the version before wrote is taken over: its database, its data sets, its models and its checkpoints.

`before/written.tar.xz` was written by that version's own service, see `before/write.py`. Nothing in it is made by hand.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from loopline import Client
from loopline.job import Job
from loopline.schedules import Firing

from services import db, orm
from services.training.files import npz
from services.training.spec import check_data, loads, parse, stored
from tests.system.before import ARCHIVE
from tests.system.before.write import machine
from tests.system.conftest import Service
from tests.worker.watching import wait_until

ROOT = Path(__file__).parents[2]
TIMES = {"seconds", "samples_per_second"}
"""Numbers of an epoch that no two runs share."""
SECONDS = 100.0


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder in which `var` is the data folder, and `notes` what the version before said about it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def notes(written: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((written / "notes" / f"{name}.json").read_text())
    return found


def held(document: Any, known: Any) -> bool:
    """Whether a document says all that the version before said; it may say more."""
    if isinstance(known, Mapping):
        return isinstance(document, Mapping) and all(
            key in document and held(document[key], known[key]) for key in known
        )
    if isinstance(known, list):
        return len(document) == len(known) and all(map(held, document, known))
    return bool(document == known)


def numbers(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in epoch.items() if key not in TIMES} for epoch in epochs]


@pytest.mark.timeout(400)
def test_the_service_goes_on_with_what_the_version_before_left(written: Path, start: Callable[..., Service]) -> None:
    said, keys = notes(written, "said"), notes(written, "keys")
    service = start(
        written / "var",
        LOOPLINE_AUTH="keys",
        LOOPLINE_QUEUES="default,later",
        LOOPLINE_RECONCILE_SECONDS="0.5",
        LOOPLINE_RENEW_SECONDS="0.5",
    )
    url = service.url()
    with Client(url, api_key=keys["default"]) as client, Client(url, api_key=keys["acme"]) as other:
        it_serves_what_is_there(client, said, written)
        it_resumes_exactly(client, said, written)
        queued = other.job(said["queued"]["job"]["id"]).wait(timeout=SECONDS)
        assert queued.status == "succeeded", queued.raw
        assert [job.id for job in other.jobs.list()] == [queued.id]
        it_fires_the_schedule(client)
    assert service.stop() == 0


def it_serves_what_is_there(client: Client, said: dict[str, Any], written: Path) -> None:
    known = said["whole"]
    whole = client.job(known["job"]["id"])
    assert held(whole.raw, known["job"])
    for name in ("epochs", "events", "checkpoints"):
        assert held([one.raw for one in getattr(whole, name)()], known[name]), name
    assert held(client.datasets.get("waves").raw, said["dataset"])
    assert held(client.models.version("waves@production").raw, said["version"])
    folder = written / "downloaded"
    for file in client.models.download("waves@production", folder):
        assert file.read_bytes() == (written / "var" / "blobs" / "jobs" / whole.id / file.name).read_bytes()


def it_resumes_exactly(client: Client, said: dict[str, Any], written: Path) -> None:
    """The paused job, whose spec is that of the job that ran through, comes to the numbers of that one."""
    paused, whole = client.job(said["paused"]["job"]["id"]), client.job(said["whole"]["job"]["id"])
    assert paused.status == "paused"
    assert held(paused.raw, said["paused"]["job"])
    done = paused.resume().wait(timeout=SECONDS)
    assert done.status == "succeeded", done.raw
    epochs, unbroken = ([epoch.raw for epoch in job.epochs()] for job in (done, whole))
    before = said["paused"]["epochs"]
    assert 0 < len(before) < len(unbroken)
    assert held(epochs[: len(before)], before)
    assert len(epochs) == len(unbroken)
    if machine() == notes(written, "machine"):
        assert held(numbers(epochs), numbers(unbroken))  # a newer version may record more
        assert weights(done, written) == weights(whole, written)
    for name in ("train_loss", "validation_loss", "lr"):  # other processors round otherwise
        assert [one[name] for one in epochs] == pytest.approx([one[name] for one in unbroken], rel=1e-3)


def weights(job: Job, written: Path) -> bytes:
    return (written / "var" / "blobs" / "jobs" / job.id / "model.safetensors").read_bytes()


def it_fires_the_schedule(client: Client) -> None:
    """It was due when nobody was there."""

    def fired() -> list[Firing]:
        return [one for one in client.schedules.firings("minutely") if one.batch_id]

    wait_until(fired, SECONDS)
    batch = client.batches.get(fired()[-1].batch_id or "").wait(timeout=SECONDS)
    assert [(job.name, job.status) for job in batch.jobs] == [("by the clock", "succeeded")]


def test_a_database_of_the_version_before_is_brought_up_to_date(written: Path) -> None:
    file = written / "var" / "loopline.db"
    engine = db.engine(f"sqlite:///{file}")
    db.migrate(engine)
    db.check_schema(engine)
    with db.read_scope(engine) as session:
        found = {job.name: job.status for job in session.scalars(sa.select(orm.Job))}
    engine.dispose()
    assert found == {"whole": "succeeded", "paused": "paused", "queued": "queued"}


def test_a_spec_of_the_version_before_means_the_same(written: Path) -> None:
    """What it left out is filled in as before."""
    [file] = (written / "var" / "blobs" / "datasets").rglob("*.npz")
    spec = parse(loads((written / "notes" / "spec.yaml").read_bytes()))
    known = notes(written, "said")["whole"]["job"]["spec"]
    now = check_data(spec, npz.summarise(npz.read(file))).document()
    assert now.pop("task") == {
        "name": "classification"
    }  # what the data set says; the version before had no word for it
    then = stored(known).document()
    assert then.pop("task") is None
    assert now == then
    assert held(stored(known).document(), known)


VOLUMES = {
    "blobs": "/var/lib/loopline",
    "postgres": "/var/lib/loopline-postgres",
    "redis": "/var/lib/loopline-redis",
    "prometheus": "/var/lib/loopline-prometheus",
    "grafana": "/var/lib/loopline-grafana",
    **{f"secrets-{name}": f"/run/loopline/{name}" for name in ("service", "postgres", "redis", "monitoring")},
}
"""The volumes of the version before, and where its containers mounted them."""


def test_containers_find_the_volumes_of_the_version_before() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert VOLUMES.keys() <= compose["volumes"].keys()
    mounts = {tuple(mount.split(":")[:2]) for part in compose["services"].values() for mount in part.get("volumes", [])}
    for name, place in VOLUMES.items():
        assert {where for volume, where in mounts if volume == name} == {place}
