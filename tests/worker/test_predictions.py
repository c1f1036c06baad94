"""Jobs that predict, from the HTTP request to the finished file: by the real trainer, over deaths and requests."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from flask.testing import FlaskClient
from loopline import BadRequest, Client, Result
from loopline.cli.app import app as command
from loopline.prediction.loading import load
from sqlalchemy.engine import Engine
from typer.testing import CliRunner

from api.app import create_app
from services.blobs.objects import S3
from services.blobs.storage import Storage
from services.settings import Settings
from services.sqlite import driver
from tests.client.conftest import Service
from tests.ringing import FakeDoorbell
from tests.worker.conftest import TRAINER
from tests.worker.test_trainer import Noting
from tests.worker.watching import Watch
from worker import tasks
from worker.attempt.child import Template
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares

MakeSlot = Callable[..., Slot]
SPEC: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 1, "batch_size": 32},
    "data": {"dataset": "walks", "split": {"validation": 0.2}},
}
SERIES: dict[str, Any] = {
    "architecture": {"cell": "gru", "hidden_size": 4},
    "training": {"epochs": 1, "batch_size": 32},
    "task": {"name": "forecast", "lookback": 6, "horizon": 2},
    "data": {"dataset": "shops", "split": {"method": "time", "validation": 0.2}},
}
RAW = "/v1/datasets?raw=true&name="


@pytest.fixture
def client(data_dir: Path, database_url: str) -> Iterator[FlaskClient]:
    """The API, on the database and the folder of the worker."""
    app = create_app(Settings(data_dir=data_dir, database_url=database_url), bell=FakeDoorbell())
    yield app.test_client()
    app.extensions["loopline"].engine.dispose()


@pytest.fixture
def spares(template: Template) -> Noting:
    """Real trainers, one of them warm."""
    made = Noting(TRAINER, count=1, template=template)
    made.prepare()
    return made


@pytest.fixture
def slot(make_slot: MakeSlot, spares: Noting) -> Slot:
    return make_slot(spares=spares)


def walks(sequences: int, *, labelled: bool = False, seed: int = 0) -> bytes:
    """A CSV with a row for each step."""
    rng = np.random.default_rng(seed)
    lines = [f"walk,step,speed,mood{',label' if labelled else ''}"]
    for number in range(sequences):
        label = rng.choice(["run", "walk"])
        lines += [
            f"w{number},{step},{rng.normal():.4f},{rng.choice(['good', 'bad'])}{f',{label}' if labelled else ''}"
            for step in range(rng.integers(2, 5))
        ]
    return "\n".join(lines).encode()


def shops(series: int, steps: int) -> bytes:
    rng = np.random.default_rng(3)
    lines = ["shop,day,sales"]
    for number in range(series):
        lines += [f"s{number},2025-01-{day:02d},{rng.normal(10, 1):.3f}" for day in range(1, steps + 1)]
    return "\n".join(lines).encode()


def upload(client: FlaskClient, path: str, body: bytes) -> dict[str, Any]:
    answer = client.post(f"{path}&file=x.csv", data=body, headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 201, answer.get_json()
    found: dict[str, Any] = answer.get_json()
    return found


def submit(client: FlaskClient, **document: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=document)
    assert answer.status_code == 202, answer.get_json()["errors"]
    found: dict[str, Any] = answer.get_json()
    return found


def ended(client: FlaskClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").get_json()
    assert found["terminal"], found
    return found


def trained(client: FlaskClient, slot: Slot, spec: dict[str, Any] = SPEC, model: str = "vowels") -> str:
    """The id of a job that has trained a version of the model."""
    job: str = submit(client, **spec)["id"]
    tasks.ring(slot, "default")
    assert ended(client, job)["status"] == "succeeded", ended(client, job)["message"]
    answer = client.post(f"/v1/models/{model}/versions", json={"job": job})
    assert answer.status_code == 201, answer.get_json()
    return job


@dataclass(frozen=True)
class Kept:
    """What a service with a trained model has stored: it takes longer to train than to copy."""

    job: str
    folder: Path

    @classmethod
    def of(cls, job: str, engine: Engine, storage: Storage, folder: Path) -> Kept:
        shutil.copytree(storage.root, folder / "blobs")
        copy_database(Path(str(engine.url.database)), folder / "loopline.db")
        return cls(job, folder)

    def put(self, engine: Engine, storage: Storage) -> None:
        """Into a service that has nothing yet."""
        shutil.copytree(self.folder / "blobs", storage.root, dirs_exist_ok=True)
        copy_database(self.folder / "loopline.db", Path(str(engine.url.database)))


def copy_database(source: Path, target: Path) -> None:
    """Others may have the databases open."""
    with closing(driver.connect(source)) as one, closing(driver.connect(target)) as other:
        one.backup(other)


@pytest.fixture(scope="module")
def kept() -> list[Kept]:
    """What the first test that needs a model has made."""
    return []


@pytest.fixture
def model(
    client: FlaskClient,
    slot: Slot,
    engine: Engine,
    storage: Storage,
    kept: list[Kept],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The job of `vowels@1`, which is in production."""
    if kept:
        kept[0].put(engine, storage)
        return kept[0].job
    columns = "target=label&group=walk&order=step"
    upload(client, f"/v1/datasets?name=walks&{columns}", walks(60, labelled=True))
    job = trained(client, slot)
    client.put("/v1/models/vowels/aliases/production", json={"version": 1})
    kept.append(Kept.of(job, engine, storage, tmp_path_factory.mktemp("kept")))
    return job


def predicting(**more: Any) -> dict[str, Any]:
    return {"kind": "predict", "model": "vowels@production", "data": {"dataset": "new"}, **more}


def local(storage: Storage, job: str, body: bytes, tmp_path: Path) -> Any:
    """What the downloaded model answers."""
    path = tmp_path / "new.csv"
    path.write_bytes(body)
    return load(storage.job_dir(job)).predict(path)


def downloaded(client: FlaskClient, job_id: str) -> bytes:
    with client.get(f"/v1/jobs/{job_id}/answers") as answer:
        assert answer.status_code == 200, answer.get_json()
        return answer.data


def table_of(content: bytes) -> pa.Table:
    return pa.parquet.read_table(io.BytesIO(content))


def test_thousands_of_sequences_are_answered_as_the_downloaded_model_answers_them(
    client: FlaskClient, model: str, slot: Slot, storage: Storage, tmp_path: Path, watch: Watch
) -> None:
    body = walks(3000, seed=1)
    dataset = upload(client, f"{RAW}new", body)
    assert (dataset["status"], dataset["samples"]) == ("raw", None)
    job = submit(client, **predicting())
    assert (job["kind"], job["spec"]["model"], job["result"], job["answers"]) == ("predict", "vowels@1", None, None)
    assert [job["progress"][name] for name in ("epoch", "step", "answered", "sequences")] == [None, None, 0, None]
    assert client.get(f"/v1/jobs/{job['id']}/answers").status_code == 404
    tasks.ring(slot, "default")

    done = ended(client, job["id"])
    assert done["status"] == "succeeded", done["message"]
    answers, progress = done["answers"], done["progress"]
    assert (answers["sequences"], answers["rows"], answers["format"]) == (3000, 3000, "parquet")
    assert (progress["answered"], progress["sequences"], progress["fraction"]) == (3000, 3000, 1.0)
    assert done["links"]["answers"] == f"/v1/jobs/{job['id']}/answers"
    content = downloaded(client, job["id"])
    assert len(content) == answers["bytes"]
    found, expected = table_of(content), local(storage, model, body, tmp_path).to_arrow()
    assert sorted(found["id"].to_pylist()) == sorted(f"w{number}" for number in range(3000))
    check_same(found, expected)
    assert watch.checkpoints(job["id"]) == []
    assert watch.events(job["id"], "checkpoint") == []


def test_a_csv_is_that_of_the_route_that_answers_at_once(
    client: FlaskClient, model: str, slot: Slot, storage: Storage
) -> None:
    body = walks(20, seed=2)
    upload(client, f"{RAW}new", body)
    job = submit(client, **predicting(format="csv", model=model))
    tasks.ring(slot, "default")
    content = downloaded(client, job["id"])
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    at_once = client.post(f"/v1/jobs/{model}/predict", data=body, headers=headers).data
    found, expected = (list(csv.reader(io.StringIO(each.decode(), newline=""))) for each in (content, at_once))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([float(row[2]) for row in found[1:]], [float(row[2]) for row in expected[1:]], rtol=1e-5)


@pytest.mark.parametrize("wanted", ["csv", "parquet"])
def test_a_killed_trainer_is_followed_by_an_attempt_that_goes_on_to_the_same_file(
    wanted: str, client: FlaskClient, model: str, slot: Slot, spares: Noting, storage: Storage, watch: Watch
) -> None:
    upload(client, f"{RAW}new", walks(4000, seed=3))
    whole = submit(client, **predicting(format=wanted))
    tasks.ring(slot, "default")
    broken = submit(client, **predicting(format=wanted))
    killer = threading.Thread(target=kill_after_pieces, args=(storage.job_dir(broken["id"]), spares, watch, broken))
    killer.start()
    tasks.ring(slot, "default")
    killer.join()

    done = ended(client, broken["id"])
    assert (done["status"], done["attempt"], done["failures"]) == ("succeeded", 2, 1)
    [resumed] = watch.events(broken["id"], "resumed")
    assert resumed.data["sequences"] >= 256
    files = [downloaded(client, each["id"]) for each in (whole, broken)]
    assert files[0] == files[1]


def kill_after_pieces(folder: Path, spares: Noting, watch: Watch, job: dict[str, Any]) -> None:
    """Kills the trainer when a piece is in the database. Others are not yet there, and it waits."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("answers-*.parquet"))) < 2:
        assert time.monotonic() < deadline, "no two pieces were written"
        time.sleep(0.001)
    os.kill(spares.pid, signal.SIGSTOP)
    try:
        watch.until(job["id"], lambda job: job.step > 0)
    finally:
        os.kill(spares.pid, signal.SIGKILL)


def test_an_alias_that_moves_while_the_job_waits_changes_nothing(client: FlaskClient, model: str, slot: Slot) -> None:
    upload(client, f"{RAW}new", walks(10, seed=4))
    job = submit(client, **predicting())
    trained_again = submit(client, **{**SPEC, "training": {"epochs": 2}})
    tasks.ring(slot, "default")
    second = client.post("/v1/models/vowels/versions", json={"job": trained_again["id"]}).get_json()
    client.put("/v1/models/vowels/aliases/production", json={"version": second["version"]})
    assert second["version"] == 2
    assert ended(client, job["id"])["answers"]["model"] == "vowels@1"


def test_a_job_is_paused_and_resumed_and_cancelled(client: FlaskClient, model: str, slot: Slot, watch: Watch) -> None:
    upload(client, f"{RAW}new", walks(10, seed=4))
    job = submit(client, **predicting())
    assert client.post(f"/v1/jobs/{job['id']}/pause").get_json()["status"] == "paused"
    tasks.ring(slot, "default")
    assert watch.job(job["id"]).attempt == 0
    client.post(f"/v1/jobs/{job['id']}/resume")
    assert client.post(f"/v1/jobs/{job['id']}/cancel").get_json()["status"] == "cancelled"
    why = client.get(f"/v1/jobs/{job['id']}/answers").get_json()
    assert (why["code"], why["detail"]) == ("answers_not_ready", "This job has no answers: it ended as cancelled.")


def paused(client: FlaskClient, slot: Slot, watch: Watch, job_id: str) -> int:
    """How many sequences are answered when the job, which has begun, is paused."""

    def pause() -> None:
        watch.until(job_id, lambda job: job.step > 0)
        client.post(f"/v1/jobs/{job_id}/pause")

    pausing = threading.Thread(target=pause)
    pausing.start()
    tasks.ring(slot, "default")
    pausing.join()
    found = watch.job(job_id)
    assert found.status == "paused"
    return found.step


def check_same(found: pa.Table, expected: pa.Table) -> None:
    """The same answers in the same order. The numbers may differ in the last digits: batches are others."""
    assert found.schema == expected.schema
    assert found.select(["id", "label"]) == expected.select(["id", "label"])
    np.testing.assert_allclose(found["probability_run"], expected["probability_run"], rtol=1e-5)


def test_a_running_job_is_paused_and_a_piece_that_is_damaged_meanwhile_is_answered_again(
    client: FlaskClient, model: str, slot: Slot, watch: Watch, storage: Storage, tmp_path: Path
) -> None:
    body = walks(6000, seed=5)
    upload(client, f"{RAW}new", body)
    job = submit(client, **predicting())["id"]
    answered = paused(client, slot, watch, job)
    assert 256 <= answered < 6000
    expected = local(storage, model, body, tmp_path).to_arrow()

    first, *_ = watch.checkpoints(job)
    path = storage.job_file(job, first.files[0]["name"])
    table = table_of(path.read_bytes())
    wrong = pa.array(["walk" if label == "run" else "run" for label in table["label"].to_pylist()])
    pa.parquet.write_table(table.set_column(1, "label", wrong), path)  # whole, and not what was registered
    client.post(f"/v1/jobs/{job}/resume")
    tasks.ring(slot, "default")
    done = ended(client, job)
    assert (done["status"], done["attempt"], done["answers"]["rows"]) == ("succeeded", 2, 6000)
    check_same(table_of(downloaded(client, job)), expected)
    assert any(path.name in text and "answered again" in text for _, text in watch.lines(job))


def test_a_forecast_of_several_series_has_ids_and_times(
    client: FlaskClient, slot: Slot, storage: Storage, tmp_path: Path
) -> None:
    upload(client, "/v1/datasets?name=shops&target=sales&group=shop&order=day", shops(3, 28))
    job = trained(client, slot, SERIES, "shops")
    body = shops(4, 12)
    upload(client, f"{RAW}new", body)
    asked = submit(client, **predicting(model="shops@latest"))
    tasks.ring(slot, "default")
    done = ended(client, asked["id"])
    assert done["status"] == "succeeded", done["message"]
    found = table_of(downloaded(client, asked["id"]))
    expected = local(storage, job, body, tmp_path).to_arrow()
    assert found.column_names == ["id", "step", "time", "sales"]
    assert found.select(["id", "step", "time"]) == expected.select(["id", "step", "time"])
    np.testing.assert_allclose(found["sales"], expected["sales"], rtol=1e-5)


def test_a_file_that_does_not_fit_the_model_is_refused_in_the_words_of_an_upload(
    client: FlaskClient, model: str, slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client, f"{RAW}new", b"walk,step,mood\nw1,0,good\nw1,1,bad\n")
    [(pointer, why)] = problems(client, **predicting())
    assert pointer == "/data/dataset"
    assert "there is no column `speed`" in why
    monkeypatch.setattr("services.jobs.predictions.CHECKED_BYTES", 10)
    job = submit(client, **predicting())
    tasks.ring(slot, "default")
    done = ended(client, job["id"])
    assert (done["status"], done["reason"], done["failures"]) == ("failed", "dataset_invalid", 0)
    assert why in done["message"]


def test_a_raw_file_that_takes_more_memory_than_an_upload_may_ends_the_job(
    client: FlaskClient, model: str, slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    np.savez(packed, x=np.zeros((1 << 20, 4, 2)))  # 64 MiB
    upload(client, f"{RAW}new", packed.getvalue())
    job = submit(client, **predicting())
    monkeypatch.setattr("services.datasets.checking.SPARE_BYTES", (32 << 20) - slot.settings.max_dataset_bytes)
    tasks.ring(slot, "default")
    done = ended(client, job["id"])
    assert (done["status"], done["reason"], done["failures"]) == ("failed", "dataset_invalid", 0)
    assert "needs more memory to be read" in done["message"]


def test_a_data_set_that_was_checked_is_answered_too(client: FlaskClient, model: str, slot: Slot) -> None:
    job = submit(client, **predicting(data={"dataset": "walks"}))
    upload(client, f"{RAW}new", walks(60, labelled=True))
    raw = submit(client, **predicting())
    tasks.ring(slot, "default")
    found = [table_of(downloaded(client, each["id"])) for each in (job, raw)]
    assert found[0] == found[1]
    assert len(found[0]) == 60


def test_a_job_has_the_warnings_of_its_model(client: FlaskClient, model: str, slot: Slot) -> None:
    upload(client, f"{RAW}new", walks(3).replace(b"good", b"great"))
    job = submit(client, **predicting())
    assert "'great'" in job["warnings"][0]
    tasks.ring(slot, "default")
    assert ended(client, job["id"])["answers"]["warnings"] == job["warnings"]


def test_a_model_whose_weights_are_gone_is_refused(client: FlaskClient, model: str, storage: Storage) -> None:
    upload(client, f"{RAW}new", walks(3))
    storage.job_file(model, "model.safetensors").unlink()
    [(pointer, why)] = problems(client, **predicting())
    assert (pointer, "model.safetensors of the model is gone" in why) == ("/model", True)


def test_a_model_that_was_deleted_meanwhile_is_named(client: FlaskClient, model: str, slot: Slot) -> None:
    upload(client, f"{RAW}new", walks(10, seed=4))
    job = submit(client, **predicting(model=model))
    client.delete("/v1/models/vowels/aliases/production")
    client.delete("/v1/models/vowels/versions/1")
    assert client.delete(f"/v1/jobs/{model}").status_code == 204
    tasks.ring(slot, "default")
    done = ended(client, job["id"])
    assert (done["status"], done["reason"]) == ("failed", "cannot_predict")
    assert f"The model {model} was deleted" in done["message"]


@pytest.fixture
def service(data_dir: Path, database_url: str, client: FlaskClient) -> Iterator[Service]:
    """The same service over HTTP."""
    made = Service(data_dir, database_url)
    yield made
    made.close()


def at_the_bell(service: Service, slot: Slot) -> threading.Thread:
    """The worker, for one job."""

    def work() -> None:
        if not service.bell.was_rung.wait(60):
            service.close()  # or the command waits for ever
            raise AssertionError("no job was submitted")
        tasks.ring(slot, "default")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_command_lets_a_job_answer_a_large_file_and_comes_back_to_it(
    model: str, slot: Slot, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.prediction.predictor.MOST_SEQUENCES", 1000)
    (tmp_path / "new.csv").write_bytes(walks(1200, seed=7))

    def run(out: str) -> Any:
        arguments = ["--url", service.url, "predict", "vowels", str(tmp_path / "new.csv"), "--out", str(tmp_path / out)]
        return CliRunner().invoke(command, arguments)

    worker = at_the_bell(service, slot)
    done = run("first.parquet")
    worker.join()
    assert (done.exit_code, "Saved 1,200 rows" in done.stderr) == (0, True), done.stderr
    assert "asks vowels@1." in done.stderr
    service.requests.clear()
    assert run("second.parquet").exit_code == 0
    assert ("POST", "/v1/datasets") not in [(method, path) for method, path, _ in service.requests]
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    with Client(service.url) as found:
        [job] = found.jobs.list(kind="predict")
        assert (job.answers.rows if job.answers else 0, job.progress.answered, job.result) == (1200, 1200, Result())
        again = found.predict_many("vowels", tmp_path / "new.csv")
        assert again.id == job.id
        assert job.download(tmp_path / "folder") == [tmp_path / "folder" / "answers.parquet"]
        shown = CliRunner().invoke(command, ["--url", service.url, "show", job.id]).stdout
        assert "1,200 of 1,200 sequences" in shown
        listed = CliRunner().invoke(command, ["--url", service.url, "list"], env={"COLUMNS": "140"}).stdout
        assert re.search(rf"{job.id} +- +predict +succeeded +1,200 of 1,200 sequences", listed), listed
        assert re.search(r" train +succeeded +epoch 1/1 ", listed), listed
        watched = CliRunner().invoke(command, ["--url", service.url, "watch", job.id]).stdout
        assert "It answered 1,200 of 1,200 sequences, in 1,200 rows." in watched
        cancelled = found.predict_many("vowels", tmp_path / "new.csv", format="csv").cancel()
        assert found.predict_many("vowels", tmp_path / "new.csv", format="csv").id != cancelled.id


STOPPED = {
    ("GET", "/v1/models/vowels"): "No job was submitted.",
    ("POST", "/v1/jobs"): "The job was being submitted, and may run. Come back to it with: the same command again",
    ("GET", "/v1/jobs/job_"): "goes on. Come back to it with: the same command again, or loopline download job_",
}


@pytest.mark.parametrize("held", STOPPED)
def test_ctrl_c_says_whether_there_is_a_job(
    model: str, service: Service, tmp_path: Path, held: tuple[str, str]
) -> None:
    (tmp_path / "new.csv").write_bytes(walks(3, seed=7))
    answers, reached, done = service.wrapped, threading.Event(), threading.Event()

    def layer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        found = answers(environ, start_response)
        if environ["REQUEST_METHOD"] == held[0] and environ["PATH_INFO"].startswith(held[1]):
            reached.set()
            done.wait(60)
        return found

    service.wrap(layer)
    asking = [sys.executable, "-m", "loopline.cli", "--url", service.url, "predict", "vowels", "new.csv"]
    with subprocess.Popen(
        [*asking, "--job", "--out", "out.csv"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    done.set()
    assert process.returncode == 130
    assert STOPPED[held] in told, told


def test_last_is_the_newest_job_that_trains(model: str, service: Service, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_bytes(walks(3, seed=7))
    (tmp_path / "other.csv").write_text("size\n1\n")

    def run(file: str) -> Any:
        return CliRunner().invoke(command, ["--url", service.url, "predict", "last", str(tmp_path / file)])

    with Client(service.url) as found:
        found.predict_many("vowels", tmp_path / "new.csv")
        assert found.job("last").kind == "predict"
    done = run("new.csv")
    assert (done.exit_code, done.stderr) == (0, f"`last` is {model}, the newest job that trains.\n")
    refused = run("other.csv")
    assert refused.exit_code == 2
    assert f"Error: {model}: The model cannot take this." in refused.stderr


@pytest.mark.parametrize(
    "content",
    ["size\n1\n", "walk,step,speed,mood\n" + "a,1,fast,good\n" * 3],
    ids=["a missing column", "text for numbers"],
)
def test_a_file_of_a_refused_job_does_not_stay(model: str, service: Service, tmp_path: Path, content: str) -> None:
    (tmp_path / "new.csv").write_text(content)
    asking = ["--url", service.url, "predict", "vowels", str(tmp_path / "new.csv"), "--job", "--out"]
    refused = CliRunner().invoke(command, [*asking, str(tmp_path / "out.csv")])
    assert refused.exit_code == 2, refused.stderr
    assert "Removed new-raw@1, which was uploaded for this job, because the job was refused." in refused.stderr
    with Client(service.url) as found:
        assert "new-raw" not in [dataset.name for dataset in found.datasets.list()]


def test_a_file_that_was_there_before_a_refused_job_stays(model: str, service: Service, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("size\n1\n")
    with Client(service.url) as found:
        found.upload(tmp_path / "new.csv", "new-raw", raw=True)
        with pytest.raises(BadRequest):
            found.predict_many("vowels", tmp_path / "new.csv")
        assert "new-raw" in [dataset.name for dataset in found.datasets.list()]


def problems(client: FlaskClient, **document: Any) -> Sequence[tuple[str, str]]:
    answer = client.post("/v1/jobs", json=document)
    assert answer.status_code == 422, answer.get_json()
    return [(each["pointer"], each["detail"]) for each in answer.get_json()["errors"]]


def test_a_request_that_cannot_be_answered_is_refused(client: FlaskClient, model: str) -> None:
    upload(client, f"{RAW}new", walks(10, seed=4))
    assert problems(client, **predicting(model="vowels@9"))[0][0] == "/model"
    assert problems(client, **predicting(model="nobody@production"))[0][0] == "/model"
    assert problems(client, **predicting(model="vowels"))[0][0] == "/model"
    assert problems(client, **predicting(data={"dataset": "nothing"}))[0][0] == "/data/dataset"
    assert problems(client, **predicting(training={"epochs": 3}))[0][0] == "/training"
    waits = submit(client, **SPEC)["id"]
    assert problems(client, **predicting(model=waits)) == [
        ("/model", f"The job {waits} is queued: it has a model when it has succeeded.")
    ]
    asked = submit(client, **predicting())["id"]
    assert "has answers and no model" in problems(client, **predicting(model=asked))[0][1]
    assert problems(client, **{**SPEC, "data": {"dataset": "new"}})[0][0] == "/data/dataset"
    assert problems(client, **{**SPEC, "kind": "guess"})[0][0] == "/kind"


def test_jobs_are_listed_by_kind_and_a_key_makes_one(client: FlaskClient, model: str) -> None:
    upload(client, f"{RAW}new", walks(10, seed=4))
    answers = [
        client.post("/v1/jobs", json=predicting(), headers={"Idempotency-Key": "again"}).get_json() for _ in range(2)
    ]
    assert answers[0]["id"] == answers[1]["id"]
    for kind, expected in (("predict", answers[0]["id"]), ("train", model)):
        listed = client.get(f"/v1/jobs?kind={kind}").get_json()["data"]
        assert [each["id"] for each in listed] == [expected]
    assert client.get(f"/v1/jobs/{answers[0]['id']}/checkpoints").get_json()["data"] == []
    assert client.get(f"/v1/jobs/{answers[0]['id']}/model").status_code == 404
    assert client.post("/v1/models/other/versions", json={"job": answers[0]["id"]}).status_code == 409


def test_a_host_fetches_the_model_and_the_pieces_from_the_store(
    engine: Engine,
    data_dir: Path,
    database_url: str,
    make_slot: MakeSlot,
    store: S3,
    store_settings: dict[str, Any],
    tmp_path: Path,
    watch: Watch,
    template: Template,
) -> None:
    def host(name: str) -> Slot:
        trainers = Spares(TRAINER, count=0, template=template)
        return make_slot(spares=trainers, storage=Storage(tmp_path / name, store), worker=f"{name}:1")

    settings = Settings(data_dir=data_dir, database_url=database_url, **store_settings)
    app = create_app(settings, bell=FakeDoorbell())
    client = app.test_client()
    upload(client, "/v1/datasets?name=walks&target=label&group=walk&order=step", walks(60, labelled=True))
    model = trained(client, host("a"))
    body = walks(6000, seed=6)
    upload(client, f"{RAW}new", body)
    job = submit(client, **predicting(model="vowels@1"))["id"]
    assert 256 <= (answered := paused(client, host("b"), watch, job)) < 6000
    client.post(f"/v1/jobs/{job}/resume")
    tasks.ring(host("c"), "default")
    done = ended(client, job)
    assert (done["status"], done["answers"]["rows"]) == ("succeeded", 6000), done["message"]
    assert watch.events(job, "resumed")[0].data["sequences"] == answered
    expected = local(Storage(tmp_path / "c", store), model, body, tmp_path).to_arrow()
    check_same(table_of(downloaded(client, job)), expected)
    app.extensions["loopline"].engine.dispose()
