from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.service import Service
from tests.checking import do_checks

NPZ = "application/octet-stream"


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})
    return file.getvalue()


def leftovers(service: Service) -> list[Path]:
    folder = service.settings.data_dir
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent != service.storage.room.folder)
    return [path for path in files if path.suffix != ".npz"]


def test_an_uploaded_data_set_is_described_and_found(client: FlaskClient, vowels: Path) -> None:
    answer = client.post("/v1/datasets?name=vowels", data=vowels.read_bytes(), content_type=NPZ)
    dataset = answer.get_json()
    assert answer.status_code == 201
    assert (dataset["samples"], dataset["features"], dataset["target"]) == (640, 12, "classes")
    assert (dataset["min_length"], dataset["max_length"], len(dataset["classes"])) == (7, 29, 9)
    for known in (dataset["id"], "vowels", "vowels@1", "vowels@latest"):
        assert client.get(f"/v1/datasets/{known}").get_json() == dataset
    assert answer.headers["Location"] == f"/v1/datasets/{dataset['id']}"


def test_a_class_for_each_step_is_described_and_submitted(client: FlaskClient) -> None:
    x, y = np.zeros((9, 4, 2), np.float32), np.arange(36).reshape(9, 4) % 3
    lengths = np.full(9, 4) - (np.arange(9) == 8)
    dataset = client.post("/v1/datasets?name=words", data=npz(x=x, y=y, lengths=lengths), content_type=NPZ).get_json()
    assert (dataset["target"], dataset["target_dim"], dataset["class_counts"]) == ("tags", 3, [12, 12, 11])
    spec = {"architecture": {"cell": "gru"}, "data": {"dataset": "words"}}
    job = client.post("/v1/jobs", json=spec)
    assert job.status_code == 202
    assert job.get_json()["spec"]["architecture"]["pooling"] == "none"
    refused = client.post("/v1/jobs", json=spec | {"architecture": {"cell": "gru", "pooling": "mean"}})
    assert [error["pointer"] for error in refused.get_json()["errors"]] == ["/architecture/pooling"]


def test_the_same_content_is_the_same_version_and_other_content_the_next(
    client: FlaskClient, npz_bytes: Callable[..., bytes]
) -> None:
    first = client.post("/v1/datasets?name=toy", data=npz_bytes(0), content_type=NPZ)
    again = client.post("/v1/datasets?name=toy", data=npz_bytes(0), content_type="application/zip")
    other = client.post("/v1/datasets?name=toy", data=npz_bytes(1), content_type=NPZ)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert again.get_json() == first.get_json()
    assert other.get_json()["version"] == 2


def test_a_form_upload_is_the_same_as_a_raw_one(
    client: FlaskClient, service: Service, npz_bytes: Callable[..., bytes]
) -> None:
    form = {"file": (io.BytesIO(npz_bytes()), "../../../etc/passwd")}
    answer = client.post("/v1/datasets?name=toy", data=form)
    assert answer.status_code == 201
    raw = client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type=NPZ)
    assert (raw.status_code, raw.get_json()) == (200, answer.get_json())
    assert client.post("/v1/datasets?name=toy", data={"other": "x"}).status_code in (400, 415)
    assert client.post(
        "/v1/datasets?name=toy", data={"data": (io.BytesIO(b"x"), "x")}, content_type="multipart/form-data"
    ).get_json()["errors"] == [{"pointer": "/file", "detail": "send the .npz as the form's field `file`"}]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": [[1.0, np.nan], [1.0, 2.0], [np.inf, 0.0]], "y": [0, 1, 0]}, "rows 0 and 2"),
        ({"x": np.ones((3, 4)), "y": [0, 1, 0], "lengths": [4, 0, 4]}, "row 1"),
        ({"x": np.ones((3, 4)), "y": [0, 1]}, "2 rows"),
        ({"x": np.array([[object()]]), "y": [0]}, "object"),
        ({"y": [0, 1]}, "x"),
    ],
)
def test_a_wrong_data_set_is_422_and_says_which_rows(
    client: FlaskClient, service: Service, arrays: dict[str, object], said: str
) -> None:
    answer = client.post("/v1/datasets?name=toy", data=npz(**arrays), content_type=NPZ)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "dataset_invalid")
    assert said in " ".join(one["detail"] for one in answer.get_json()["errors"])
    assert client.get("/v1/datasets").get_json()["data"] == []
    assert [path for path in leftovers(service) if path.suffix == ".part"] == []


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04", b"\x80\x04."])
def test_what_is_no_npz_is_422(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/v1/datasets?name=toy", data=body, content_type=NPZ)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "dataset_invalid")


@pytest.mark.parametrize("name", ["", "../../x", "C:\\x", "x" * 300, "a b", "A", "é", "a@1", "a/b", "%00"])
def test_a_name_that_is_none_is_refused(client: FlaskClient, npz_bytes: Callable[..., bytes], name: str) -> None:
    answer = client.post("/v1/datasets", query_string={"name": name}, data=npz_bytes(), content_type=NPZ)
    assert (answer.status_code, answer.get_json()["errors"][0]["pointer"]) == (400, "/query/name")
    assert "a-z" in answer.get_json()["errors"][0]["detail"]


def test_an_upload_without_a_name_is_refused(client: FlaskClient) -> None:
    assert client.post("/v1/datasets", data=b"", content_type=NPZ).status_code == 400


@pytest.mark.parametrize("media", ["application/json", "text/plain", ""])
def test_an_upload_of_another_type_is_415(client: FlaskClient, media: str) -> None:
    assert client.post("/v1/datasets?name=toy", data=b"{}", content_type=media).status_code == 415


@pytest.mark.parametrize("terminated", [False, True])
def test_an_upload_over_the_limit_is_413_and_leaves_nothing(
    make_app: Callable[..., Flask], sqlite_url: str, npz_bytes: Callable[..., bytes], terminated: bool
) -> None:
    app = make_app(sqlite_url, max_upload_bytes=100, max_body_bytes=50)
    body = npz_bytes(samples=10_000)
    length = {} if terminated else {"content_length": len(body)}
    answer = app.test_client().post(
        "/v1/datasets?name=toy",
        input_stream=io.BytesIO(body),
        content_type=NPZ,
        environ_overrides={"wsgi.input_terminated": True},
        **length,
    )
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
    assert list(app.extensions["loopline"].settings.data_dir.rglob("*.part")) == []


def test_a_data_set_over_the_expanded_limit_is_422(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((1000, 100, 10)), y=np.arange(1000) % 2)
    client = make_app(sqlite_url, max_dataset_bytes=1_000_000).test_client()
    answer = client.post("/v1/datasets?name=toy", data=file.getvalue(), content_type=NPZ)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "dataset_invalid")


def test_data_sets_are_listed_newest_first(client: FlaskClient, npz_bytes: Callable[..., bytes]) -> None:
    for seed, name in enumerate(["a", "b", "a"]):
        client.post(f"/v1/datasets?name={name}", data=npz_bytes(seed), content_type=NPZ)
    page = client.get("/v1/datasets?limit=2").get_json()
    assert [(one["name"], one["version"]) for one in page["data"]] == [("a", 2), ("b", 1)]
    assert page["has_more"]
    rest = client.get(f"/v1/datasets?after={page['data'][-1]['id']}").get_json()
    assert [(one["name"], one["version"]) for one in rest["data"]] == [("a", 1)]
    assert len(client.get("/v1/datasets?name=b").get_json()["data"]) == 1


@pytest.mark.parametrize("name", ["nothing", "ds_" + "0" * 26, "a@b", "%00", "..", "a@0", "a" * 500])
def test_an_unknown_data_set_is_404(client: FlaskClient, name: str) -> None:
    for method in ("GET", "DELETE"):
        answer = client.open(f"/v1/datasets/{name}", method=method)
        assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


def test_an_unknown_data_set_says_what_may_have_been_meant(
    client: FlaskClient, npz_bytes: Callable[..., bytes]
) -> None:
    client.post("/v1/datasets?name=walks", data=npz_bytes(), content_type=NPZ)
    told = {name: client.get(f"/v1/datasets/{name}").get_json()["detail"] for name in ("wlaks@1", "walks@2", "pumps")}
    assert told["wlaks@1"] == "There is no data set 'wlaks@1'; did you mean walks?"
    assert told["walks@2"] == "There is no data set 'walks@2'."
    assert told["pumps"] == "There is no data set 'pumps'."


def test_an_upload_on_postgresql(
    make_app: Callable[..., Flask], postgresql_url: str, npz_bytes: Callable[..., bytes]
) -> None:
    client = make_app(postgresql_url).test_client()
    assert client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type=NPZ).status_code == 201
    assert client.get("/v1/datasets/toy").get_json()["class_counts"] == [6, 6]


def test_a_zip_that_is_no_data_set_is_422(client: FlaskClient) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil.npy", b"x")
    assert client.post("/v1/datasets?name=toy", data=file.getvalue(), content_type=NPZ).status_code == 422


def test_a_data_set_is_deleted_and_its_version_never_comes_back(
    any_app: Flask, npz_bytes: Callable[..., bytes]
) -> None:
    client = any_app.test_client()
    client.post("/v1/datasets?name=toy", data=npz_bytes(0), content_type=NPZ)
    assert client.delete("/v1/datasets/toy").status_code == 204
    assert client.delete("/v1/datasets/toy").status_code == 404
    assert client.get("/v1/datasets").get_json()["data"] == []
    assert client.post("/v1/datasets?name=toy", data=npz_bytes(0), content_type=NPZ).get_json()["version"] == 2


def test_of_several_versions_one_must_be_said(any_app: Flask, npz_bytes: Callable[..., bytes]) -> None:
    client = any_app.test_client()
    ids = [
        client.post("/v1/datasets?name=toy", data=npz_bytes(seed), content_type=NPZ).get_json()["id"]
        for seed in range(3)
    ]
    for name in ("toy", "toy@latest"):  # sent twice it would delete two
        answer = client.delete(f"/v1/datasets/{name}")
        assert (answer.status_code, answer.get_json()["errors"][0]["pointer"]) == (400, "/path/dataset")
        assert "say which, such as toy@3" in answer.get_json()["errors"][0]["detail"]
    assert client.delete("/v1/datasets/toy@2").status_code == 204
    assert client.delete(f"/v1/datasets/{ids[0]}").status_code == 204
    assert client.delete("/v1/datasets/toy").status_code == 204


def test_a_data_set_in_use_is_not_deleted(any_app: Flask, npz_bytes: Callable[..., bytes]) -> None:
    client = any_app.test_client()
    client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type=NPZ)
    job = client.post("/v1/jobs", json={"preset": "basic_rnn", "data": {"dataset": "toy"}}).get_json()
    for verb in ("pause", "resume"):
        answer = client.delete("/v1/datasets/toy")
        assert (answer.status_code, answer.get_json()["code"]) == (409, "dataset_in_use")
        assert "1 job that has not ended uses the data set toy@1" in answer.get_json()["detail"]
        client.post(job["links"][verb])
    client.post(job["links"]["cancel"])
    assert client.delete("/v1/datasets/toy").status_code == 204
    assert client.get(job["links"]["self"]).get_json()["dataset"]["name"] == "toy"
    assert client.post("/v1/jobs", json={"preset": "basic_rnn", "data": {"dataset": "toy"}}).status_code == 422


def test_nothing_that_is_uploaded_is_ever_unpickled(client: FlaskClient, service: Service, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    objects = np.array([Harmful()] * 4, dtype=object)
    x, y = np.ones((4, 3, 2)), np.arange(4) % 2
    for arrays in ({"x": objects, "y": y}, {"x": x, "y": objects}, {"x": x, "y": y, "lengths": objects}):
        file = io.BytesIO()
        np.savez(file, **arrays)
        for body in (file.getvalue(), pickle.dumps(objects)):
            answer = client.post("/v1/datasets?name=toy", data=body, content_type=NPZ)
            assert (answer.status_code, answer.get_json()["code"]) == (422, "dataset_invalid")
    assert not marker.exists()
    pickle.loads(pickle.dumps(objects))  # noqa: S301  (the harm was real)
    assert marker.exists()
    assert leftovers(service) == []


def test_a_zip_in_a_zip_and_text_that_is_none_are_refused(client: FlaskClient, npz_bytes: Callable[..., bytes]) -> None:
    bad_header = b"\x93NUMPY\x03\x00" + struct.pack("<I", 64) + b"{'descr': '\xff\xfe'".ljust(63) + b"\n"
    bad_words = io.BytesIO()
    np.savez(bad_words, x=np.ones((4, 3, 2)), y=np.arange(4) % 2, split=np.array([b"\xff\xfe"] * 4))
    for members in ({"x.npy": npz_bytes(), "y.npy": npz_bytes()}, {"data.npz": npz_bytes()}, {"x.npy": bad_header}):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        answer = client.post("/v1/datasets?name=toy", data=file.getvalue(), content_type=NPZ)
        assert (answer.status_code, answer.get_json()["code"]) == (422, "dataset_invalid")
    answer = client.post("/v1/datasets?name=toy", data=bad_words.getvalue(), content_type=NPZ)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "dataset_invalid")
    misnamed = npz_bytes().replace(b"y.npy", b"\xff.npy")
    assert client.post("/v1/datasets?name=toy", data=misnamed, content_type=NPZ).status_code == 422


@pytest.mark.parametrize("name", ["../../x", "C:\\x", "x" * 300, "x\x00y", "é.npz", ""])
def test_what_a_form_calls_its_file_goes_nowhere(
    client: FlaskClient, service: Service, npz_bytes: Callable[..., bytes], name: str
) -> None:
    form = {"file": (io.BytesIO(npz_bytes()), name)}
    answer = client.post("/v1/datasets?name=toy", data=form, content_type="multipart/form-data")
    assert answer.status_code in (201, 400)
    files = [path for path in service.settings.data_dir.rglob("*") if path.is_file()]
    kept = [path for path in files if path.parent != service.storage.room.folder]
    assert all(re.fullmatch(r"[0-9a-f]{64}\.npz", path.name) for path in kept)
    assert len(kept) == (answer.status_code == 201)


def test_an_upload_that_finds_no_memory_is_kept_and_checked_later(
    make_app: Callable[..., Flask], sqlite_url: str, npz_bytes: Callable[..., bytes]
) -> None:
    app = make_app(sqlite_url, check_wait_seconds=0.3)
    client, service = app.test_client(), app.extensions["loopline"]
    with service.storage.room.taken(1 << 40):
        answer = client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type=NPZ)
        assert (answer.status_code, answer.get_json()["status"]) == (202, "validating")
        assert leftovers(service) == []
        bad = io.BytesIO()
        np.savez(bad, x=np.array([{}]), y=np.array([{}]))
        told = make_app(sqlite_url).test_client().post("/v1/datasets?name=toy", data=bad.getvalue(), content_type=NPZ)
        assert told.status_code == 422  # what is wrong with the headers is told at once
    assert do_checks(service.settings, service.engine) == 1
    ready = client.get(answer.headers["Location"]).get_json()
    assert (ready["status"], ready["samples"]) == ("ready", 12)
