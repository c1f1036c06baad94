"""A job whose spec names no network: what was chosen is stored with it, told as an event, and shown by a dry run."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask.testing import FlaskClient

OPEN: dict[str, Any] = {
    "data": {"synthetic": {"samples": 200, "length": 1000, "features": 2}},
    "training": {"epochs": 3},
}


def test_what_is_chosen_is_stored_and_told(any_app: Flask) -> None:
    client = any_app.test_client()
    answer = client.post("/v1/jobs", json=OPEN)
    assert answer.status_code == 202, answer.get_json()
    job = answer.get_json()
    spec = client.get(f"/v1/jobs/{job['id']}").get_json()["spec"]
    assert (spec["architecture"]["pooling"], spec["data"]["patch"], spec["training"]["epochs"]) == ("max", 10, 3)
    events = client.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    [told] = [each for each in events if each["type"] == "chosen"]
    assert "architecture.pooling max, because" in told["message"]
    assert {"field": "data.patch", "value": 10}.items() <= told["data"]["fields"][-1].items()
    assert "training.epochs" not in {each["field"] for each in told["data"]["fields"]}


def test_a_spec_with_a_network_has_no_such_event(client: FlaskClient, spec: dict[str, Any]) -> None:
    job = client.post("/v1/jobs", json=spec).get_json()
    events = client.get(f"/v1/jobs/{job['id']}/events").get_json()["data"]
    assert "chosen" not in {each["type"] for each in events}
    assert client.post("/v1/jobs/dry-run", json=spec).get_json()["chosen"] == []


def test_a_dry_run_shows_what_would_be_chosen(client: FlaskClient) -> None:
    found = client.post("/v1/jobs/dry-run", json=OPEN).get_json()
    assert {"field": "architecture.hidden_size", "value": 64}.items() <= found["chosen"][2].items()
    assert found["spec"]["architecture"]["bidirectional"] is True


def test_a_dry_run_without_its_data_says_that_the_network_is_chosen_later(client: FlaskClient) -> None:
    found = client.post("/v1/jobs/dry-run", json={"data": {"dataset": "./mine.csv"}}).get_json()
    assert found["chosen"] == []
    assert any("chosen when the data is there" in each for each in found["warnings"])


def test_a_spec_is_judged_with_the_network_that_is_chosen(client: FlaskClient) -> None:
    document = {**OPEN, "architecture": {"forget_gate_bias": 2.0, "dropout": 0.2}}
    answer = client.post("/v1/jobs", json=document)
    assert answer.status_code == 202, answer.get_json()
    architecture = client.get(f"/v1/jobs/{answer.get_json()['id']}").get_json()["spec"]["architecture"]
    assert (architecture["cell"], architecture["num_layers"], architecture["dropout"]) == ("lstm", 2, 0.2)
    refused = client.post("/v1/jobs", json={**OPEN, "architecture": {"nonlinearity": "relu"}}).get_json()
    assert [each["pointer"] for each in refused["errors"]] == ["/architecture/nonlinearity"]


def test_a_dry_run_without_its_data_does_not_judge_what_is_chosen_later(client: FlaskClient) -> None:
    document = {
        "data": {"dataset": "./mine.csv", "missing_mask": True, "scaling_over": "per_sequence"},
        "architecture": {"forget_gate_bias": 2.0, "dropout": 0.2},
        "training": {"lr_schedule": {"name": "cosine", "min_lr": 0.002}},
    }
    answer = client.post("/v1/jobs/dry-run", json=document)
    assert answer.status_code == 200, answer.get_json()


def test_a_search_judges_its_trials_with_the_network_that_is_chosen(client: FlaskClient) -> None:
    document = {
        **OPEN,
        "architecture": {"forget_gate_bias": 2.0},
        "search": {"space": {"architecture.dropout": [0.1, 0.3]}, "trials": 2},
    }
    answer = client.post("/v1/searches", json=document)
    assert answer.status_code == 201, answer.get_json()
