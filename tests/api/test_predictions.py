"""Asking models over HTTP: the answers are those of `loopline.load`, of one version, within limits, and never a 5xx."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from loopline import load
from loopline.prediction.loading import TrainedModel
from safetensors.numpy import load_file, save_file

from api.service import Service
from services import db
from services.access import keys, tenants
from services.access.keys import Scope
from services.blobs.storage import Storage
from services.orm import Job
from services.prediction import asked, predictor
from services.states import Kind
from tests.api.conftest import Publish
from tests.client.prediction.cases import CASES, Trained
from tests.client.prediction.tables import walks, without, written
from tests.properties import examples

X = {"x": [[[0.1, 0.2, 0.3]] * 4]}


def question(trained: Trained) -> dict[str, Any]:
    """The samples of the test, as a request's body."""
    given = trained.asked(load(trained.folder, "numpy"))
    if "x" in given and isinstance(given["x"][0], str):
        given["texts"] = given.pop("x")
    plain = {key: [np.asarray(each).tolist() for each in values] for key, values in given.items() if values is not None}
    return json.loads(json.dumps(plain).replace("NaN", "null"))


def close(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            assert value == (
                pytest.approx(other[name], rel=1e-4, abs=1e-5) if isinstance(value, float) else other[name]
            )


@pytest.mark.parametrize("name", CASES)
def test_each_task_answers_as_the_loaded_model(
    client: FlaskClient, publish: Publish, trained_model: Any, name: str
) -> None:
    trained = trained_model(name)
    job_id = publish(name)
    model = load(trained.folder, "numpy")
    wanted = model.predict(**trained.asked(model)).to_dict()
    answer = client.post(f"/v1/jobs/{job_id}/predict", json=question(trained))
    assert answer.status_code == 200, answer.get_json()
    found = answer.get_json()
    assert (found["object"], found["task"]) == ("prediction", model.task)
    assert found["model"] == {"name": None, "version": None, "job_id": job_id}
    assert found["warnings"] == wanted["warnings"]
    close(found["rows"], wanted["rows"])


def test_a_table_is_answered_as_json_or_csv(
    client: FlaskClient, publish: Publish, walking: tuple[Trained, TrainedModel], tmp_path: Path
) -> None:
    case, model = walking
    path = f"/v1/jobs/{publish(case.folder)}/predict"
    columns = {**without(walks(), "activity"), "mode": ["hop", *walks()["mode"][1:]]}
    wanted = model.predict(columns).to_dict()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    sent = {"data": written(columns, tmp_path / "walks.csv").read_bytes(), "content_type": "text/csv"}
    for request in ({"json": {"rows": rows}}, sent):
        found = client.post(path, **request).get_json()
        close(found["rows"], wanted["rows"])
        [warning] = found["warnings"]
        assert "`mode` has words that are not in training ('hop')" in warning
    answer = client.post(path, **sent, headers={"Accept": "text/csv"})
    assert (answer.mimetype, answer.headers["Loopline-Job"]) == ("text/csv", path.split("/")[3])
    read = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True))))
    assert [(row["id"], row["label"]) for row in read] == [(row["id"], row["label"]) for row in wanted["rows"]]
    for body in (b"", b"PAR1", b"a,b\n1,\0", b"speed\nPK\x05\x06" + b"a" * 30, b"speed,mode,weight\nfast,up,1\n"):
        wrong = client.post(path, data=body, content_type="text/csv")
        assert (wrong.status_code, wrong.get_json()["code"]) == (422, "input_invalid")
    [problem] = client.post(path, json={"rows": without_key(rows, "speed")}).get_json()["errors"]
    assert (problem["pointer"], "there is no column `speed`" in problem["detail"]) == ("/rows", True)


def without_key(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != name} for row in rows]


def test_a_csv_without_line_ends_and_a_row_of_another_type_are_refused_with_the_way_out(
    client: FlaskClient, publish: Publish, walking: tuple[Trained, TrainedModel], tmp_path: Path
) -> None:
    path = f"/v1/jobs/{publish(walking[0].folder)}/predict"
    columns = without(walks(3), "activity")
    body = written(columns, tmp_path / "new.csv").read_bytes()
    joined = client.post(path, data=body.replace(b"\r\n", b""), content_type="text/csv")
    assert joined.status_code == 422
    assert "the body is one line: send it with curl --data-binary" in joined.get_json()["errors"][0]["detail"]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows[0]["weight"], rows[1]["weight"] = 1500, "1,500"
    [problem] = client.post(path, json={"rows": rows}).get_json()["errors"]
    assert "row 2: `weight` is '1,500', which is not a number" in problem["detail"]


def test_an_alias_is_followed_at_once_and_the_answer_names_its_version(client: FlaskClient, publish: Publish) -> None:
    jobs = [publish("plain"), publish("values")]
    for job_id in jobs:
        client.post("/v1/models/toy/versions", json={"job": job_id})
    tasks = []
    for version in (1, 2, 1):
        client.put("/v1/models/toy/aliases/production", json={"version": version})
        answer = client.post("/v1/models/toy/versions/production/predict", json=X)
        assert answer.get_json()["model"] == {"name": "toy", "version": version, "job_id": jobs[version - 1]}
        assert answer.headers["Loopline-Model"] == f"toy@{version}"
        tasks.append(answer.get_json()["task"])
    assert tasks == ["classification", "regression", "classification"]
    assert client.post("/v1/models/toy/versions/latest/predict", json=X).get_json()["model"]["version"] == 2
    assert client.post("/v1/models/toy/versions/1/predict", json=X).get_json()["model"]["version"] == 1
    for ref, said in (("staging", "no alias 'staging'"), ("3", "no version 3"), ("01", "no alias '01'")):
        missing = client.post(f"/v1/models/toy/versions/{ref}/predict", json=X)
        assert (missing.status_code, missing.get_json()["code"]) == (404, "model_not_found")
        assert said in missing.get_json()["detail"]
    assert client.post("/v1/models/none/versions/1/predict", json=X).get_json()["code"] == "model_not_found"


def test_a_job_without_a_model_is_not_ready_and_a_deleted_one_is_gone(
    client: FlaskClient, publish: Publish, service: Service
) -> None:
    running = publish("plain", succeeds=False)
    early = client.post(f"/v1/jobs/{running}/predict", json=X)
    assert (early.status_code, early.get_json()["code"]) == (404, "model_not_ready")
    job_id = publish("plain")
    assert client.post(f"/v1/jobs/{job_id}/predict", json=X).status_code == 200
    assert len(service.predictor.cache) == 1
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    gone = client.post(f"/v1/jobs/{job_id}/predict", json=X)
    assert (gone.status_code, gone.get_json()["code"]) == (404, "job_not_found")
    assert client.post("/v1/jobs/x/predict", json=X).get_json()["code"] == "job_not_found"


def test_a_job_that_has_answers_is_no_model(client: FlaskClient, publish: Publish, service: Service) -> None:
    job_id = publish("plain")
    with db.session_scope(service.engine) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(kind=Kind.PREDICT))
    refused = client.post(f"/v1/jobs/{job_id}/predict", json=X)
    assert (refused.status_code, refused.get_json()["code"]) == (404, "model_not_ready")
    assert "has answers and no model: name a job that trained one" in refused.get_json()["detail"]


def test_files_that_are_gone_or_damaged_are_no_server_errors(
    client: FlaskClient, publish: Publish, storage: Storage
) -> None:
    job_id = publish("plain", without=("model.onnx",))
    path = storage.job_dir(job_id) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    damaged = client.post(f"/v1/jobs/{job_id}/predict", json=X)
    assert (damaged.status_code, damaged.get_json()["code"]) == (409, "model_unusable")
    path.unlink()
    gone = client.post(f"/v1/jobs/{job_id}/predict", json=X)
    assert (gone.status_code, gone.get_json()["code"]) == (404, "not_found")
    path.write_bytes(content)
    assert client.post(f"/v1/jobs/{job_id}/predict", json=X).status_code == 200


def test_only_keys_of_the_tenant_that_may_predict_get_answers(
    make_app: Callable[..., Flask], sqlite_url: str, client: FlaskClient, publish: Publish
) -> None:
    path = f"/v1/jobs/{publish('plain')}/predict"
    app = make_app(sqlite_url, auth="keys")
    engine = app.extensions["loopline"].engine
    with db.session_scope(engine) as session:
        tenants.create(session, "beta")
        ours = {scope: keys.create(session, "default", [scope]).text for scope in Scope}
        theirs = keys.create(session, "beta", Scope).text
    statuses = {
        scope: app.test_client().post(path, json=X, headers={"Authorization": f"Bearer {key}"}).status_code
        for scope, key in {**ours, "beta": theirs}.items()
    }
    assert statuses == {"read": 403, "predict": 200, "submit": 200, "admin": 403, "beta": 404}


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({}, "", "one of `x`, `texts` and `rows`"),
        ({"x": [[[1, 2, 3]]], "rows": [{}]}, "", "it has x and rows"),
        ({"x": [[[1, 2, 3]]], "y": 1}, "/y", "is not known"),
        ({"x": []}, "/x", "not empty"),
        ({"x": [[[1, 2]]]}, "/x", "2 features at each step, and the model takes 3"),
        ({"x": [[[1, 2, 3]], [[1, 2]]]}, "/x/1", "2 features"),
        ({"x": [[[1, 2, 3]], [[1, 2, 3], [1, 2]]]}, "/x/1", "equal length"),
        ({"x": [[[1, 2, "Berlin"]]]}, "/x/0", "has 'Berlin'"),
        ({"x": [[[1, 2, None]]]}, "/x/0", "values are missing"),
        ({"x": [[[1, 2, 1e300]]]}, "/x/0", "1e+300"),
        ({"x": [[[1, 2, 3]]], "static": [[1]]}, "/static", "leave static out"),
        ({"x": [[[1, 2, 3]]], "ids": ["a", "b"]}, "/ids", "2 ids"),
        ({"x": [[[1, 2, 3]]], "ids": [1.5]}, "/ids", "words or whole numbers"),
        ({"texts": ["a"]}, "/texts", "takes no texts"),
        ({"texts": [1]}, "/texts/0", "must be a text"),
        ({"rows": [1]}, "/rows/0", "must be an object"),
    ],
)
def test_what_the_model_cannot_take_is_named_with_its_place(
    client: FlaskClient, publish: Publish, body: dict[str, Any], pointer: str, said: str
) -> None:
    answer = client.post(f"/v1/jobs/{publish('plain')}/predict", json=body)
    assert answer.status_code == 422
    [problem] = answer.get_json()["errors"]
    assert (problem["pointer"], said in problem["detail"]) == (pointer, True), problem


def test_an_answer_that_is_not_finite_is_no_server_error(
    client: FlaskClient, publish: Publish, trained_model: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained_model("relu").folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["rnn.weight_ih_l0"] *= np.float32(1e10)
    save_file(weights, folder / "model.safetensors")
    path = f"/v1/jobs/{publish(folder, without=('model.onnx',))}/predict"
    answer = client.post(path, json={"x": [[[-1e35, -1e35]] * 4, [[1e35, 1e35]] * 4]})
    assert (answer.status_code, answer.get_json()["code"]) == (422, "input_invalid")
    assert "the network gives no finite number" in answer.get_json()["errors"][0]["detail"]


def test_a_longer_sequence_than_in_training_is_answered_with_a_warning(client: FlaskClient, publish: Publish) -> None:
    path = f"/v1/jobs/{publish('plain')}/predict"
    found = client.post(path, json={"x": [[[0.1, 0.2, 0.3]] * 500], "ids": ["ключ"]})
    [warning] = found.get_json()["warnings"]
    assert "ключ has 500 steps, more than any in training" in warning
    as_csv = client.post(path, json={"x": [[[0.1, 0.2, 0.3]] * 500], "ids": ["ключ"]}, headers={"Accept": "text/csv"})
    assert json.loads(as_csv.headers["Loopline-Warnings"]) == [warning]
    [row] = csv.DictReader(io.StringIO(as_csv.get_data(as_text=True)))
    assert {name: value for name, value in row.items() if name != "label"} == {
        name: str(value) for name, value in found.get_json()["rows"][0].items() if name != "label"
    }


def test_the_most_of_everything_is_refused_with_the_way_out(
    client: FlaskClient, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v1/jobs/{publish('plain')}/predict"
    for name, said in (
        ("MOST_SEQUENCES", "2 sequences"),
        ("MOST_STEPS", "4 steps in its longest sequence"),
        ("MOST_VALUES", "features"),
        ("MOST_OUTPUTS", "numbers in its answer"),
        ("MOST_WORK", "multiplications"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(predictor, name, 1)
            answer = client.post(path, json={"x": X["x"] * 2})
        assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
        assert said in answer.get_json()["detail"]
        assert "Send fewer sequences" in answer.get_json()["detail"]
    with monkeypatch.context() as patch:
        patch.setattr(asked, "MOST_STEPS", 3)
        assert client.post(path, json={"x": [[]] * 4}).status_code == 413
    monkeypatch.setattr(asked, "MOST_CELLS", 5)
    assert client.post(path, json={"rows": [{"a": 1, "b": 2}] * 3}).status_code == 413


def test_a_body_of_another_type_or_size_is_refused(
    make_app: Callable[..., Flask], sqlite_url: str, client: FlaskClient, publish: Publish
) -> None:
    path = f"/v1/jobs/{publish('plain')}/predict"
    small = make_app(sqlite_url, max_prediction_bytes=1000).test_client()
    assert small.post(path, json=X).status_code == 200
    large = small.post(path, json={"x": X["x"] * 100})
    assert large.status_code == 413
    assert re.search(r"it has [2-9],\d{3} bytes, and 1,000 bytes are the most", large.get_json()["detail"])
    assert client.post(path, data=b"x: 1", content_type="application/yaml").status_code == 415
    assert client.post(path, data=b"{", content_type="application/json").status_code == 400


def test_too_many_at_once_are_told_when_to_come_back(
    client: FlaskClient, publish: Publish, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v1/jobs/{publish('plain')}/predict"
    for name in ("_pending", "_running"):
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "WAIT_SECONDS", 0.01)
            patch.setattr(service.predictor, name, threading.BoundedSemaphore(1))
            getattr(service.predictor, name).acquire()
            busy = client.post(path, json=X)
        assert (busy.status_code, busy.get_json()["code"], busy.headers["Retry-After"]) == (503, "busy", "5")
    assert client.post(path, json=X).status_code == 200


def test_a_cold_model_is_loaded_once_and_the_cache_stays_within_its_bounds(
    make_app: Callable[..., Flask],
    sqlite_url: str,
    client: FlaskClient,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = [publish("plain") for _ in range(5)]
    app = make_app(sqlite_url, prediction_models=2)
    loads: list[Path] = []
    real = predictor.load

    def counted(folder: Path, *options: Any, **named: Any) -> Any:
        loads.append(folder)
        return real(folder, *options, **named)

    monkeypatch.setattr(predictor, "load", counted)

    def ask(job_id: str) -> int:
        return app.test_client().post(f"/v1/jobs/{job_id}/predict", json=X).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, [jobs[0]] * 16)) == {200}
        assert len(set(loads)) == 1
        assert set(pool.map(ask, jobs * 4)) == {200}
    cache = app.extensions["loopline"].predictor.cache
    assert len(cache) == 2
    assert not any(folder.exists() for folder in loads)


KEYS = st.sampled_from(["speed", "mode", "weight", "walk", "second", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
BODIES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("x", "texts", "rows", "static", "future", "ids", "lengths"), JSON)
)


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES.map(json.dumps) | st.binary(max_size=60), kind=st.sampled_from(["application/json", "text/csv"]))
def test_no_body_makes_a_server_error(app: Flask, publish: Publish, body: Any, kind: str, fuzzed: list[str]) -> None:
    for job_id in fuzzed:
        answer = app.test_client().post(f"/v1/jobs/{job_id}/predict", data=body, content_type=kind)
        assert answer.status_code < 500, (body, answer.get_json())


@pytest.fixture
def fuzzed(publish: Publish, walking: tuple[Trained, TrainedModel]) -> list[str]:
    return [*(publish(name) for name in ("attention", "words", "quantiles")), publish(walking[0].folder)]
