"""A look into data sets, and into uploads of which none is made yet."""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from api.service import MAX_HEAVY, MAX_LOOKING, Service
from tests.client.prediction.tables import walks, written

BINARY = "application/octet-stream"


def uploaded(client: FlaskClient, body: bytes, **query: Any) -> dict[str, Any]:
    answer = client.post("/v1/datasets", query_string={"name": "some", **query}, data=body, content_type=BINARY)
    assert answer.status_code == 201, answer.get_json()
    found: dict[str, Any] = answer.get_json()
    return found


def test_a_table_is_looked_into(client: FlaskClient, tmp_path: Any) -> None:
    body = written(walks(), tmp_path / "walks.csv").read_bytes()
    made = uploaded(client, body, file="walks.csv", group="walk", order="second", target="activity", static="weight")
    answer = client.get(f"/v1/datasets/{made['id']}/preview")
    found = answer.get_json()
    assert answer.headers["Cache-Control"] == "private, max-age=86400"
    columns = {column["name"]: column for column in found["columns"]}
    assert {name: column["kind"] for name, column in columns.items()} == {"speed": "number", "mode": "category"}
    steps = sum(1 for _ in walks()["walk"])
    assert sum(each["count"] for each in columns["speed"]["bins"]) + columns["speed"]["missing"] == steps
    assert sum(each["count"] for each in found["lengths"]) == made["samples"] == found["sampled"]["of"]
    first = found["sequences"][0]
    assert (first["id"], first["target"], first["times"][:2]) == ("w00", walks()["activity"][0], [0.0, 1.0])
    assert len(first["values"]) == 2
    assert set(first["static"]) == {"weight"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_and_texts_are_looked_into(client: FlaskClient, save: Any) -> None:
    file = io.BytesIO()
    x = np.arange(2400, dtype=np.float32).reshape(4, 300, 2)
    save(file, x=x, y=np.array(["a", "b", "a", "b"]), lengths=np.array([300, 200, 1, 4]))
    found = client.get(f"/v1/datasets/{uploaded(client, file.getvalue())['id']}/preview").get_json()
    assert [each["length"] for each in found["sequences"]] == [300, 200, 1, 4]
    assert found["sequences"][2]["values"] == [[1200.0], [1201.0]]
    assert found["sequences"][1]["target"] == "b"
    texts = "".join(f"{'a word' * (place % 3 + 1)}\tlabel {place % 2}\n" for place in range(20)).encode()
    looked = client.get(f"/v1/datasets/{uploaded(client, texts, file='t.txt')['id']}/preview").get_json()
    assert (looked["columns"], looked["sequences"][0]["text"]) == ([], "a word")


def test_what_is_raw_has_no_preview(client: FlaskClient) -> None:
    made = uploaded(client, b"a,b\n1,2\n", raw="true")
    answer = client.get(f"/v1/datasets/{made['id']}/preview")
    assert (answer.status_code, answer.get_json()["detail"]) == (404, "There is no preview of some@1.")


def test_an_upload_is_read_with_other_columns_and_nothing_is_made_of_it(client: FlaskClient, tmp_path: Any) -> None:
    body = written(walks(), tmp_path / "walks.csv").read_bytes()
    sent = client.post(f"/v1/uploads?bytes={len(body)}").get_json()["id"]
    early = client.post(f"/v1/uploads/{sent}/check")
    assert (early.status_code, early.get_json()["code"]) == (409, "upload_conflict")
    client.put(f"/v1/uploads/{sent}?offset=0", data=body, content_type=BINARY)
    path = f"/v1/uploads/{sent}/check?file=walks.csv"
    found = client.post(f"{path}&target=activity").get_json()
    assert (found["problems"], found["samples"], found["target"]) == ([], 24, "classes")
    assert found["schema"]["group"] == ["walk"]
    wrong = client.post(f"{path}&target=activty").get_json()
    assert "activty" in wrong["problems"][0]["detail"]
    assert (wrong["schema"], wrong["samples"]) == (None, None)
    assert client.get("/v1/datasets").get_json()["data"] == []
    made = client.post(f"/v1/datasets?name=walks&upload={sent}&file=walks.csv&target=activity")
    assert (made.status_code, made.get_json()["schema"]) == (201, found["schema"])


def test_looks_into_files_keep_no_documents_out_and_documents_no_looks(
    client: FlaskClient, service: Service, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.bodies.HEAVY_SECONDS", 0.0)
    body = b"a,b\n1,x\n2,y\n"
    made = uploaded(client, body * 9, file="t.csv", target="b")["id"]
    sent = client.post(f"/v1/uploads?bytes={len(body)}").get_json()["id"]
    client.put(f"/v1/uploads/{sent}?offset=0", data=body, content_type=BINARY)
    looks = [("GET", f"/v1/datasets/{made}/preview"), ("POST", f"/v1/uploads/{sent}/check?file=t.csv")]
    with ExitStack() as stack:
        for _ in range(MAX_HEAVY):
            stack.enter_context(service.heavy)
        assert [client.open(path, method=method).status_code for method, path in looks] == [200, 200]
    with ExitStack() as stack:
        for _ in range(MAX_LOOKING):
            stack.enter_context(service.looking)
        for method, path in looks:
            answer = client.open(path, method=method)
            assert (answer.status_code, answer.get_json()["code"]) == (503, "busy"), path
            assert int(answer.headers["Retry-After"]) > 0
        assert client.post("/v1/batches", json={"jobs": [spec]}).status_code == 202
