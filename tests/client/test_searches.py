"""Searches of the client: submitted once, waited for, looked at as a table, and given more trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopline import BadRequest, Client, Conflict, NotFound, Search, WaitTimeout

from tests.client.conftest import Service

SPACE = {"training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "architecture.cell": ["lstm", "gru"]}


@pytest.fixture
def wanted(tiny: dict[str, Any]) -> dict[str, Any]:
    return {**tiny, "search": {"space": SPACE, "trials": 2, "final": False}}


def test_a_search_is_waited_for_and_its_best_job_has_the_model(
    client: Client, service: Service, wanted: Any, in_background: Callable[..., Any]
) -> None:
    search = client.searches.submit(wanted)
    assert (search.status, search.wanted, search.metric, search.higher_is_better) == (
        *("running", 2, "validation_loss", False),
    )
    assert (search.varied, search.algorithm, search.best, search.seconds) == (tuple(SPACE), "tpe", None, None)
    in_background(service.trial, search.id, 0.5, 0.25)
    ended = search.wait(timeout=60)
    assert (ended.status, ended.counts["succeeded"]) == ("succeeded", 2)
    assert [(trial.trial, trial.value, trial.best_so_far) for trial in ended.trials] == [(1, 0.5, 0.5), (2, 0.25, 0.25)]
    assert ended.best is not None
    assert ended.best.choices == ended.trials[1].choices
    job = ended.best_job()
    assert job is not None
    assert (job.id, job.search_id, job.trial) == (ended.best.job_id, search.id, 2)
    assert ended.seconds is not None
    assert client.searches.get(search.id) == ended.refresh() == ended


def ended(client: Client, service: Service, wanted: Any, losses: Sequence[float | None], **section: Any) -> Search:
    """A search whose trials came to these losses; None fails."""
    search = client.searches.submit({**wanted, "search": {**wanted["search"], "trials": len(losses), **section}})
    assert search.refresh().advice == ()
    for loss in losses:
        service.trial(search.id, *[] if loss is None else [loss])
        if loss is None:
            [job_id] = [trial.job_id for trial in search.refresh().trials if trial.status == "queued"]
            service.start(job_id)
            service.fail(job_id)
    service.trial(search.id)
    found = search.refresh()
    assert found.terminal
    return found


def test_an_ended_search_says_that_more_data_would_help(client: Client, service: Service, wanted: Any) -> None:
    found = ended(client, service, wanted, [0.5, 0.25, *[0.5] * 6])
    assert found.advice == (
        "The last 6 of 8 trials were not better than trial 2, so more will hardly help.",
        "More data would probably help: train_accuracy is 0.9 and validation_accuracy 0.6 for the best trial.",
    )
    found.add(2)
    service.trial(found.id, 0.5, 0.1)
    [said] = found.refresh().advice
    assert said == "Trial 10 is the best one so far and came late, so more trials may find a better one."


@pytest.mark.parametrize(
    "losses",
    [
        [0.5] * 5 + [0.499, 0.5, 0.5],  # a trifle, and late
        [0.5, 0.25, 0.5, *[None] * 7],  # what failed says nothing
        [0.5] * 6 + [0.1],  # too few
    ],
)
def test_nothing_is_said_where_the_trials_do_not_tell(
    client: Client, service: Service, wanted: Any, losses: list[float | None]
) -> None:
    assert ended(client, service, wanted, losses).advice == ()


def test_a_search_ends_with_a_final_model_that_is_tested_once(client: Client, service: Service, tiny: Any) -> None:
    search = client.searches.submit({**tiny, "search": {"space": SPACE, "trials": 2, "minutes": 5.0}})
    service.trial(search.id, 0.5, 0.25)
    going_on = search.refresh()
    assert going_on.final is not None
    assert (going_on.terminal, going_on.final.status, going_on.final.metrics) == (False, "queued", {})
    best = going_on.model_job()
    assert best is not None
    assert best.trial == 2
    assert not best.spec["data"]["split"]["evaluate_test"]
    assert client.jobs.rerun(best).spec["data"]["split"]["evaluate_test"]
    service.final(search.id, test_accuracy=0.9, test_loss=0.3)
    ended = search.refresh()
    assert (ended.status, ended.made) == ("succeeded", 2)
    assert ended.final is not None
    assert ended.final.metrics == {"test_accuracy": 0.9, "test_loss": 0.3}
    model = ended.model_job()
    assert model is not None
    assert (model.id, model.trial, model.search_id) == (ended.final.job_id, None, search.id)


def test_changes_are_told_until_the_end(client: Client, service: Service, wanted: Any) -> None:
    search = client.searches.submit(wanted)
    seen = []
    for change in search.changes(timeout=60):
        seen.append((change.status, change.made))
        if change.made == 0:
            service.trial(search.id, 0.5, 0.25)
    assert (seen[0], seen[-1]) == (("running", 0), ("succeeded", 2))


def test_a_search_that_takes_too_long_goes_on(client: Client, wanted: Any) -> None:
    search = client.searches.submit(wanted)
    with pytest.raises(WaitTimeout, match=f"Search {search.id} is still running") as caught:
        search.wait(timeout=0.1)
    assert isinstance(caught.value.job, Search)


def test_a_search_is_paused_resumed_extended_and_cancelled(client: Client, service: Service, wanted: Any) -> None:
    search = client.searches.submit(wanted)
    assert (search.pause().status, search.resume().status) == ("paused", "running")
    service.trial(search.id, 0.5, 0.5)
    assert search.refresh().terminal
    with pytest.raises(Conflict, match="has ended"):
        search.pause()
    assert (search.add(3).wanted, search.refresh().status) == (5, "running")
    with pytest.raises(BadRequest, match="/more"):
        search.add(1000)
    assert search.cancel().status == "cancelled"


def test_a_key_submits_once_and_searches_are_listed(client: Client, wanted: Any) -> None:
    first, again = (client.searches.submit(wanted, idempotency_key="k") for _ in range(2))
    assert (first.replayed, again.replayed, again.id) == (False, True, first.id)
    assert [each.id for each in client.searches.list()] == [first.id]
    with pytest.raises(NotFound):
        client.searches.get("search_1")


def test_a_file_is_uploaded_and_withdrawn_if_the_search_is_refused(client: Client, wanted: Any, tmp_path: Path) -> None:
    file = tmp_path / "toy.npz"
    rng = np.random.default_rng(0)
    np.savez(file, x=rng.standard_normal((20, 5, 2)).astype(np.float32), y=np.arange(20) % 2)
    given = {**wanted, "data": {"dataset": str(file)}}
    with pytest.raises(BadRequest, match=r"architecture\.cell"):
        client.searches.submit({**given, "search": {"space": {"architecture.cell": ["gruu"]}}})
    assert [*client.datasets.list()] == []
    search = client.searches.submit(given)
    assert search.raw["settings"]["datasets"] == {"toy@2": "toy@2"}


def test_a_search_that_was_only_read_cannot_ask() -> None:
    with pytest.raises(RuntimeError, match="was not read through a Client"):
        Search.of({"id": "search_1", "status": "running"}).refresh()
