"""What a terminal obeys, and what nobody sees, has no place in a name: refused at each door, with a sentence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

HIDDEN = ["a\x1b]0;b\x07", "a\x9bb", "a\u202eb", "a\u200bb", "a\u2028b", "a\n"]
SENTENCE = "control characters, marks of direction or characters without width"


@pytest.mark.parametrize("word", HIDDEN, ids=ascii)
def test_no_door_takes_a_hidden_character_in_a_name(client: FlaskClient, spec: dict[str, Any], word: str) -> None:
    asked = {
        "/name": ("/v1/jobs", spec | {"name": word}),
        "/tags/team": ("/v1/jobs", spec | {"tags": {"team": word}}),
        f"/tags/{word}": ("/v1/jobs", spec | {"tags": {word: "speech"}}),
        "/data/dataset": ("/v1/jobs", spec | {"data": {"dataset": word}}),
        "/jobs/0/name": ("/v1/batches", {"jobs": [spec | {"name": word}]}),
    }
    for pointer, (route, body) in asked.items():
        answer = client.post(route, json=body)
        assert (answer.status_code, answer.get_json()["errors"][0]["pointer"]) == (422, pointer)
        assert SENTENCE in answer.get_json()["errors"][0]["detail"]
    named = client.post("/v1/batches", json={"name": word, "jobs": [spec]})
    assert (named.status_code, named.get_json()["errors"][0]["pointer"]) == (422, "/name")
    key = client.post("/v1/keys", json={"scopes": ["read"], "name": word})
    webhook = client.post("/v1/webhooks", json={"url": "https://example.com/", "tags": {"team": word}})
    assert {key.status_code, webhook.status_code} == {422}
    schedule = {"cron": "@daily", "submit": spec}
    assert client.post("/v1/schedules", json=schedule | {"name": word}).status_code == 422
    within = client.post("/v1/schedules", json=schedule | {"name": "nightly", "submit": spec | {"name": word}})
    assert (within.status_code, within.get_json()["errors"][0]["pointer"]) == (422, "/submit/name")


def test_words_of_every_language_are_names(client: FlaskClient, spec: dict[str, Any]) -> None:
    for word in ("größe", "語", "می\u200cخواهم", "👨\u200d👩\u200d👧", "a\u00a0b"):
        answer = client.post("/v1/jobs", json=spec | {"name": word, "tags": {word: word}})
        assert (answer.status_code, answer.get_json()["name"]) == (202, word)


def test_labels_with_hidden_characters_are_refused_by_their_rows(client: FlaskClient) -> None:
    rng, labels = np.random.default_rng(0), np.array(["yes", "no", "no\x1b[2J", "yes"] * 5)
    np.savez(file := io.BytesIO(), x=rng.normal(size=(20, 3, 1)).astype(np.float32), y=labels)
    answer = client.post("/v1/datasets?name=shout", data=file.getvalue(), content_type="application/octet-stream")
    [problem] = answer.get_json()["errors"]
    assert (answer.status_code, problem["pointer"]) == (422, "/y")
    assert problem["detail"] == (
        f"rows 2, 6, 10, 14 and 18 (5 in all) hold labels with {SENTENCE}, which no label may have: "
        "'no\\x1b[2J'; rename them"
    )
