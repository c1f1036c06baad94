"""Jobs with folds over HTTP: what is refused at the submission, and what is shown of each fold."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from api.service import Service
from services import db
from services.jobs import attempts, control, progress
from services.jobs.leases import Lease
from services.training.messages import FoldProgress, as_dict
from tests.api.conftest import SPEC

FOLDED: dict[str, Any] = {**SPEC, "data": {**SPEC["data"], "split": {"test": 0.2, "folds": 2}}}
PLACE = FoldProgress(number=2, folds=2, epochs=3, epochs_before=2, total_epochs=8, total_steps=32)


def test_a_submission_is_told_what_does_not_go_together_with_folds(client: FlaskClient) -> None:
    split = {"folds": 2, "validation": 0.2, "method": "content"}
    told = client.post("/v1/jobs", json={**FOLDED, "data": {**SPEC["data"], "split": split}})
    assert told.status_code == 422
    pointers = [error["pointer"] for error in told.get_json()["errors"]]
    assert pointers == ["/data/split/validation", "/data/split/method"]


def test_a_job_with_too_few_samples_for_its_folds_is_refused(client: FlaskClient) -> None:
    data = {"synthetic": {**SPEC["data"]["synthetic"], "samples": 12}, "split": {"test": 0.2, "folds": 12}}
    told = client.post("/v1/jobs", json={**FOLDED, "data": data})
    assert told.status_code == 422
    [error] = told.get_json()["errors"]
    assert error["pointer"] == "/data/split/folds"
    assert error["detail"].startswith("12 folds need at least 13 samples (one for each fold and one for the test)")


@pytest.fixture
def folded_job(client: FlaskClient, service: Service) -> str:
    """It has trained its first fold, and is in the second one."""
    job_id: str = client.post("/v1/jobs", json=FOLDED).get_json()["id"]
    with db.session_scope(service.engine) as session:
        job = attempts.claim(session, "default", worker="w:1", lease_seconds=60)
        assert job is not None
        lease = Lease.of(job)
        first = FoldProgress(number=1, folds=2, epochs=3, epochs_before=0, total_epochs=9, total_steps=36)
        progress.started(session, lease, epochs=9, steps_per_epoch=4, info={}, fold=as_dict(first))
        for epoch in (1, 2, 3):
            fold = 1 if epoch < 3 else 2
            if epoch == 3:
                progress.fold_started(session, lease, as_dict(PLACE))
            progress.record_steps(session, lease, 4 * epoch - 3, [1.0 / epoch] * 4, [1.0] * 4, fold)
            record = {"epoch": epoch, "fold": fold, "fold_epoch": epoch if epoch < 3 else 1, "train_loss": 1.0 / epoch}
            best = {"epoch": epoch, "metric": "validation_loss", "value": 1.0}
            progress.record(session, lease, record | {"validation_loss": 1.0}, best=best)
    return job_id


def test_the_progress_is_of_all_folds_and_says_which_one_is_trained(client: FlaskClient, folded_job: str) -> None:
    submitted = client.post("/v1/jobs", json=FOLDED).get_json()["progress"]
    assert (submitted["epochs"], submitted["fold"]) == (9, None)
    shown = client.get(f"/v1/jobs/{folded_job}").get_json()["progress"]
    assert {name: shown[name] for name in ("epoch", "epochs", "step", "steps", "fraction")} == {
        "epoch": 3, "epochs": 8, "step": 12, "steps": 32, "fraction": 12 / 32,
    }  # fmt: skip
    assert [shown[name] for name in ("fold", "folds", "fold_epoch", "fold_epochs")] == [2, 2, 1, 3]


def test_epochs_and_steps_show_their_fold_and_can_be_asked_for_by_it(client: FlaskClient, folded_job: str) -> None:
    epochs = client.get(f"/v1/jobs/{folded_job}/epochs").get_json()["data"]
    assert [(one["epoch"], one["fold"], one["fold_epoch"]) for one in epochs] == [(1, 1, 1), (2, 1, 2), (3, 2, 1)]
    of_second = client.get(f"/v1/jobs/{folded_job}/epochs?fold=2").get_json()
    assert ([one["epoch"] for one in of_second["data"]], of_second["has_more"]) == ([3], False)
    page = client.get(f"/v1/jobs/{folded_job}/epochs?fold=1&limit=1").get_json()
    assert page["has_more"]
    rest = client.get(f"/v1/jobs/{folded_job}/epochs?fold=1&after={page['data'][-1]['epoch']}").get_json()
    assert ([one["epoch"] for one in rest["data"]], rest["has_more"]) == ([2], False)
    steps = client.get(f"/v1/jobs/{folded_job}/steps").get_json()
    assert steps["fold"] == [1] * 8 + [2] * 4
    steps = client.get(f"/v1/jobs/{folded_job}/steps?fold=2").get_json()
    assert (steps["step"], steps["fold"], steps["total"]) == ([9, 10, 11, 12], [2] * 4, 4)
    assert client.get(f"/v1/jobs/{folded_job}/epochs?fold=0").status_code == 400


def test_a_job_without_folds_has_none_in_its_answers(client: FlaskClient, trained_job: str) -> None:
    job = client.get(f"/v1/jobs/{trained_job}").get_json()
    assert [job["progress"][name] for name in ("fold", "folds", "fold_epoch", "fold_epochs")] == [None] * 4
    assert [job["result"][name] for name in ("folds", "mean", "std")] == [None] * 3
    assert client.get(f"/v1/jobs/{trained_job}/steps").get_json()["fold"] is None
    epochs = client.get(f"/v1/jobs/{trained_job}/epochs").get_json()["data"]
    assert not any("fold" in epoch for epoch in epochs)


def test_the_result_of_an_incomplete_job_says_which_folds_had_ended(
    client: FlaskClient, service: Service, folded_job: str
) -> None:
    fold = {"fold": 1, "best_epoch": 2, "epochs": 2, "stopped_early": True, "seed": 0}
    fold |= {"samples": {"train": 8, "validation": 8}, "metrics": {"validation_loss": 0.5}}
    result = {"complete": False, "incomplete_because": "cancelled", "fold": 2, "best_epoch": 1, "epochs": 1}
    result |= {"stopped_early": False, "metrics": {"validation_loss": 1.0}, "folds": [fold]}
    result |= {"mean": {"validation_loss": 0.5}, "std": {"validation_loss": None}}
    with db.session_scope(service.engine) as session:
        control.cancel(session, folded_job, tenant="default")
        attempts.cancelled(session, Lease.of(control.get(session, folded_job)), result=result)
    shown = client.get(f"/v1/jobs/{folded_job}").get_json()["result"]
    assert (shown["fold"], shown["folds"], shown["std"]) == (2, [fold], {"validation_loss": None})


def test_jobs_of_a_batch_can_be_compared_by_the_means_of_their_folds(client: FlaskClient, service: Service) -> None:
    batch = client.post("/v1/batches", json={"jobs": [FOLDED, SPEC]}).get_json()
    results = [
        {"metrics": {"test_loss": 1.0}, "mean": {"validation_loss": 0.5}, "std": {"validation_loss": 0.1}},
        {"metrics": {"validation_loss": 0.7}},
    ]
    for result in results:
        with db.session_scope(service.engine) as session:
            job = attempts.claim(session, "default", worker="w:1", lease_seconds=60)
            assert job is not None
            of_all = {"best_epoch": 1, "epochs": 1, "stopped_early": False}
            attempts.succeed(session, Lease.of(job), {**of_all, **result}, [])
    rows = client.get(f"/v1/batches/{batch['id']}").get_json()["jobs"]
    assert [row["metrics"] for row in rows] == [{"test_loss": 1.0, "validation_loss": 0.5}, {"validation_loss": 0.7}]
