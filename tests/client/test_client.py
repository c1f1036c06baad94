from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopline import (
    BadRequest,
    Client,
    Conflict,
    Epoch,
    JobCancelled,
    JobFailed,
    NotFound,
    ServiceUnreachable,
    WaitTimeout,
)

from services import db
from services.jobs import attempts, workers

Background = Callable[..., threading.Thread]


def test_a_job_is_submitted_trained_and_waited_for(
    service: Any, client: Client, tiny: dict[str, Any], in_background: Background
) -> None:
    job = client.submit(tiny)
    assert (job.status, job.name, job.position, job.terminal) == ("queued", "tiny", 0, False)
    in_background(service.complete, job.id)
    seen: list[Epoch] = []
    done = job.wait(timeout=20, on_epoch=seen.append)
    assert (done.status, done.terminal, done.id) == ("succeeded", True, job.id)
    assert [epoch.epoch for epoch in seen] == [1, 2, 3]
    assert seen[0].validation_loss == pytest.approx(1.1)
    assert done.result is not None
    assert done.result.metrics == {"validation_accuracy": 0.8, "test_accuracy": 0.75, "test_macro_f1": None}
    assert done.best is not None
    assert done.best.epoch == 3


def test_waiting_without_looking_at_epochs_asks_once_and_hears_the_end(
    service: Any, client: Client, tiny: dict[str, Any], in_background: Background
) -> None:
    job = client.submit(tiny)
    in_background(service.complete, job.id)
    before = len(service.requests)
    assert job.wait(timeout=20).status == "succeeded"
    assert len(service.requests) - before <= 2


def test_a_job_that_has_ended_is_waited_for_in_no_time(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.complete(job.id)
    seen: list[Epoch] = []
    assert job.wait(on_epoch=seen.append).status == "succeeded"
    assert len(seen) == 3


def test_a_failed_job_is_an_error_that_says_why(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.fail(job.id)
    with pytest.raises(JobFailed, match=rf"Job {job.id} failed \(diverged\): Training diverged at step 7\.") as failed:
        job.wait()
    assert failed.value.job.reason == "diverged"


def test_a_cancelled_job_is_an_error_of_its_own(client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    assert job.cancel().status == "cancelled"
    assert job.cancel().status == "cancelled"
    with pytest.raises(JobCancelled):
        job.wait(on_epoch=lambda epoch: None)


@pytest.mark.parametrize("on_epoch", [None, lambda epoch: None])
def test_waiting_ends_in_time_and_the_job_goes_on(
    client: Client, tiny: dict[str, Any], on_epoch: Callable[[Epoch], None] | None
) -> None:
    job = client.submit(tiny)
    with pytest.raises(WaitTimeout, match=r"still queued .*after 0\.3 s of waiting; it goes on") as late:
        job.wait(timeout=0.3, on_epoch=on_epoch)
    assert isinstance(late.value, TimeoutError)
    assert job.refresh().status == "queued"


def test_polling_sends_the_tag_it_was_given(
    service: Any, client: Client, tiny: dict[str, Any], in_background: Background
) -> None:
    job = client.submit(tiny)
    in_background(service.complete, job.id)
    job.wait(timeout=20, on_epoch=lambda epoch: None)
    polls = [headers for method, path, headers in service.requests if (method, path) == ("GET", f"/v1/jobs/{job.id}")]
    assert "HTTP_IF_NONE_MATCH" not in polls[0]
    assert all("HTTP_IF_NONE_MATCH" in poll for poll in polls[1:])


def test_steps_and_checkpoints_are_read(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.epoch(job.id, 1)
    service.epoch(job.id, 2, loss=float("nan"))
    service.checkpoint(job.id, 4)
    steps = job.steps(points=100)
    assert len(steps) == steps.total == 8
    assert steps.loss[:4] == (1.0, 1.0, 1.0, 1.0)
    assert steps.loss[4:] == (None,) * 4
    assert steps.grad_norm[1] is None
    (checkpoint,) = job.checkpoints()
    assert (checkpoint.step, checkpoint.best, checkpoint.bytes) == (4, True, 10)
    assert job.refresh().progress.step == 8


def test_a_model_is_downloaded_and_again(service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path) -> None:
    job = client.submit(tiny)
    service.complete(job.id)
    sizes: list[int] = []
    for _ in range(2):
        files = job.download(tmp_path / "model", on_bytes=lambda done, total: sizes.append(done))
        assert sorted(file.name for file in files) == ["history.json", "model.json", "model.safetensors"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == b"weights" * 1000
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(file.name for file in files)
    assert sizes[-1] > 7000


def test_a_checkpoint_is_downloaded_by_its_step(
    service: Any, client: Client, tiny: dict[str, Any], tmp_path: Path
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.checkpoint(job.id, 4)
    files = job.download(tmp_path, checkpoint=4)
    assert sorted(file.name for file in files) == ["checkpoint-000000004.json", "checkpoint-000000004.safetensors"]


def test_there_is_no_model_before_the_end(client: Client, tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model yet"):
        client.submit(tiny).download(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_jobs_are_listed_newest_first_across_pages(client: Client, tiny: dict[str, Any]) -> None:
    made = [client.submit(tiny | {"tags": {"n": str(n % 2)}}).id for n in range(5)]
    assert [job.id for job in client.jobs.list(page_size=2)] == made[::-1]
    assert [job.id for job in client.jobs.list(tag="n:1")] == [made[3], made[1]]
    assert [job.id for job in client.jobs.list(status="running")] == []
    assert client.job("last").id == made[-1]


def test_the_last_of_no_jobs_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="no jobs yet"):
        client.job("last")


def test_an_unknown_id_is_not_found_whatever_it_holds(client: Client) -> None:
    for job_id in ("job_nope", "../presets", "a?b=c", "%2e%2e", "x" * 300):
        with pytest.raises(NotFound):
            client.job(job_id)


def test_a_spec_with_five_mistakes_names_all_five(client: Client) -> None:
    wrong = {
        "architecture": {"cell": "gruu", "hidden_size": 0, "num_layers": -1},
        "training": {"epochs": "many"},
        "data": {"synthetic": {}},
        "unknown": 1,
    }
    with pytest.raises(BadRequest) as refused:
        client.submit(wrong)
    pointers = {problem.pointer for problem in refused.value.problems}
    assert pointers >= {"/architecture/cell", "/architecture/hidden_size", "/training/epochs", "/unknown"}
    assert len(pointers) == 5
    assert all(f"  {pointer}: " in str(refused.value) for pointer in pointers)
    assert refused.value.status == 422
    assert refused.value.request_id


def test_a_yaml_file_is_read_by_the_service(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: from-yaml\npreset: basic_gru\ntraining: {epochs: 2, optimizer: {name: adam, lr: 1e-3}}\n"
        "data: {synthetic: {samples: 100}}\n"
    )
    job = client.submit(path)
    assert job.name == "from-yaml"
    assert job.spec["training"]["optimizer"]["lr"] == 0.001


def test_an_uploaded_data_set_is_the_same_one_the_second_time(client: Client, npz: Path) -> None:
    sent: list[tuple[int, int]] = []
    first = client.upload(npz, on_bytes=lambda done, total: sent.append((done, total)))
    again = client.upload(str(npz))
    assert (first.name, first.version, first.samples, first.features) == ("small", 1, 40, 3)
    assert (first.target, first.classes, first.class_counts) == ("classes", [0, 1], [20, 20])
    assert again == first
    assert sent[-1] == (npz.stat().st_size, npz.stat().st_size)
    assert client.upload(npz, "other").reference == "other@1"
    assert [dataset.name for dataset in client.datasets.list(page_size=1)] == ["other", "small"]
    assert client.datasets.get("small@latest") == client.datasets.get(first.id) == first


def test_a_data_set_with_mistakes_says_which_rows(client: Client, tmp_path: Path) -> None:
    x = np.zeros((6, 4, 2), np.float32)
    x[3, 1, 0] = np.nan
    np.savez(tmp_path / "bad.npz", x=x, y=np.arange(6) % 2)
    with pytest.raises(BadRequest, match="3"):
        client.upload(tmp_path / "bad.npz")


def test_a_file_that_is_not_there_cannot_be_uploaded(client: Client, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"Cannot read .*none\.npz: No such file"):
        client.upload(tmp_path / "none.npz")


def test_a_spec_that_names_a_file_uploads_it_first(client: Client, npz: Path, tiny: dict[str, Any]) -> None:
    path = npz.parent / "job.json"
    path.write_text(json.dumps(tiny | {"data": {"dataset": "./small.npz"}}))
    job = client.submit(path)
    assert (job.dataset_name, job.spec["data"]["dataset"]) == ("small", "small@1")
    again = client.submit(tiny | {"data": {"dataset": str(npz)}})
    assert again.dataset_id == job.dataset_id


def test_presets_are_fragments_of_a_spec(client: Client) -> None:
    presets = {preset.name: preset for preset in client.presets()}
    assert len(presets) == 9
    assert presets["dropout_gru"].spec["architecture"]["cell"] == "gru"


def test_a_service_without_its_broker_is_degraded_and_ready(client: Client) -> None:
    health = client.health()
    assert (health.status, health.ready, health.checks["database"]) == ("degraded", True, "ok")


def test_a_service_without_its_database_is_not_ready(service: Any, client: Client) -> None:
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    health = client.health()
    assert (health.status, health.ready) == ("unavailable", False)


def test_the_api_key_is_sent_and_never_shown(service: Any, tiny: dict[str, Any]) -> None:
    with Client(service.url, "lk_secret_0123456789") as client:
        client.presets()
        shown = repr(client) + repr(client.submit(tiny))
    assert service.requests[-1][2]["HTTP_AUTHORIZATION"] == "Bearer lk_secret_0123456789"
    assert "secret" not in shown
    assert "api_key='lk_s...'" in shown


def test_the_address_and_the_key_come_from_the_environment(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLINE_URL", f"{service.url}/")
    monkeypatch.setenv("LOOPLINE_API_KEY", " key\n")
    with Client() as client:
        client.presets()
    assert service.requests[-1][2]["HTTP_AUTHORIZATION"] == "Bearer key"
    assert repr(client) == f"Client({service.url!r}, api_key='...')"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "nonsense"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(BadRequest, match="address"):
        Client(url)


def test_nothing_answering_is_a_sentence(free_port: int) -> None:
    with (
        Client(f"http://127.0.0.1:{free_port}", retry_seconds=0) as client,
        pytest.raises(
            ServiceUnreachable, match=rf"Nothing answers at http://127\.0\.0\.1:{free_port} \(Connection refused\)"
        ),
    ):
        client.presets()


def test_a_single_problem_of_a_data_set_is_told_once(client: Client, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros((4, 3, 2)), y=np.zeros(4, dtype=int))
    with pytest.raises(BadRequest) as refused:
        client.upload(tmp_path / "bad.npz")
    assert str(refused.value).count("one class only") == 1


def test_a_job_is_paused_resumed_and_deleted(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny).pause()
    assert (job.status, job.terminal, job.pause_requested) == ("paused", False, False)
    assert job.resume().status == "queued"
    service.start(job.id)
    assert job.pause().pause_requested
    with pytest.raises(Conflict, match="cancel it and wait for its end") as refused:
        job.delete()
    assert refused.value.code == "job_not_ended"
    service.succeed(job.id)
    with pytest.raises(Conflict, match="has ended"):
        job.pause()
    job.delete()
    job.delete()  # gone is gone
    with pytest.raises(NotFound):
        job.refresh()


def test_events_and_log_lines_are_read_across_pages(
    service: Any, client: Client, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    for first in range(0, 1500, 500):
        service.log(job.id, *[word for n in range(first, first + 500) for word in ("output", f"line {n}")])
    lines = list(job.logs())
    assert [line.number for line in lines] == list(range(1, 1501))
    assert (lines[-1].text, lines[-1].attempt) == ("line 1499", 1)
    assert [line.number for line in job.logs(after=1498)] == [1499, 1500]
    first, second = job.events()
    assert (first.to_status, second.from_status, second.worker) == ("queued", "queued", "test:1")
    assert list(job.events(after=first.id)) == [second]


def test_a_job_that_waits_again_says_why(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.start(job.id)
    service.do(attempts.fail, job.id, "trainer_crashed", "It crashed.", retry=True, retry_seconds=60)
    job = job.refresh()
    assert (job.status, job.reason, job.failures, job.lost) == ("queued", "trainer_crashed", 1, 0)
    assert job.waits_until is not None
    assert job.waits_until > datetime.now(UTC)


def test_a_data_set_is_deleted(client: Client, npz: Path) -> None:
    for _ in range(2):
        client.upload(npz, "toy")
    assert client.datasets.delete("toy").reference == "toy@1"
    with pytest.raises(NotFound):
        client.datasets.delete("toy")


def test_workers_are_listed(service: Any, client: Client) -> None:
    assert client.workers() == []
    with db.session_scope(service.engine) as session:
        workers.beat(session, "a:1", queues=["default"], state="idle", job_id=None, doorbell_seconds_ago=None)
    (worker,) = client.workers()
    assert (worker.name, worker.queues, worker.state, worker.heard_at) == ("a:1", ["default"], "idle", None)
    assert (worker.device, worker.memory_bytes) == (None, None)
    what = {"state": "idle", "job_id": None, "device": "cpu", "memory_bytes": 8 << 30}
    with db.session_scope(service.engine) as session:
        workers.beat(session, "a:1", queues=["default"], doorbell_seconds_ago=None, **what)
    (worker,) = client.workers()
    assert (worker.device, worker.memory_bytes) == ("cpu", 8 << 30)


def test_a_wrong_spec_is_refused_before_its_file_is_uploaded(client: Client, tiny: dict[str, Any], npz: Path) -> None:
    wrong = {**tiny, "data": {"dataset": str(npz)}, "architecture": {"cell": "gru", "dropout": 0.5}}
    for submit in (client.submit, client.batches.submit):
        with pytest.raises(BadRequest, match="/architecture/dropout"):
            submit(wrong)
    with pytest.raises(BadRequest, match="/jobs/0/architecture/dropout"):
        client.batches.submit([wrong, tiny])
    assert list(client.datasets.list()) == []
