"""Retraining: which models a job is compared with, and what becomes of its result in the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from services import db
from services.errors import Conflict, LeaseLost
from services.jobs import attempts, control, events, retraining
from services.jobs.leases import Lease
from services.models import registry
from services.orm import Event, Job
from tests.services.conftest import claimed, let_expire

Claim = Callable[..., Lease]

FILES = [{"name": name, "bytes": 1, "sha256": "0" * 64} for name in ("model.json", "model.safetensors", "history.json")]


def gate(*, passed: bool, reason: str = "better") -> dict[str, Any]:
    return {"passed": passed, "reason": reason, "message": "It is better." if passed else "It is no better."}


@pytest.fixture
def claim(engine: Engine, make_job: Callable[..., Job]) -> Claim:
    """Makes a retraining of the model m, which is claimed and knows what it is compared with."""

    def begin(**changes: Any) -> Lease:
        split = {"synthetic": {"samples": 20, "classes": 2}, "split": {"test": 0.3}}
        make_job(retrain={"model": "m", **changes}, data=split)
        lease = claimed(engine)
        look(engine, lease)
        return lease

    return begin


def look(engine: Engine, lease: Lease) -> dict[str, str | None]:
    """The names of the models that this attempt is told of."""
    with db.session_scope(engine) as session:
        found = retraining.baselines(session, control.get(session, lease.job_id))
        assert found is not None
        return {role: one.name if one else None for role, one in found.items()}


def succeed(engine: Engine, lease: Lease, passed: bool | None = True) -> dict[str, Any]:
    """What became of it."""
    verdict = None if passed is None else gate(passed=passed)
    result = {"metrics": {}, "retrain": {"warm_start": None, "gate": verdict, "drift": None}}
    with db.session_scope(engine) as session:
        job = attempts.succeed(session, lease, result, FILES)
        assert job.result is not None
        found: dict[str, Any] = job.result["retrain"]
        assert job.message == found["message"]
        return found


def production(engine: Engine) -> int | None:
    with db.read_scope(engine) as session:
        return registry.aliases(session, ["m"])["m"].get("production")


def event_types(engine: Engine, lease: Lease) -> Sequence[str]:
    with db.read_scope(engine) as session:
        rows: Sequence[Event] = events.page(session, lease.job_id, after=0, limit=100)[0]
        return [row.type for row in rows if row.type != "status"]


def test_the_first_that_passes_becomes_production_and_the_next_has_to_beat_it(engine: Engine, claim: Claim) -> None:
    first = claim()
    assert look(engine, first) == {"warm_start": None, "against": None}
    done = succeed(engine, first)
    assert (done["decision"], done["version"], production(engine)) == ("promoted", 1, 1)
    assert event_types(engine, first) == ["retraining", "registered", "promoted"]
    second = claim(warm_start="production")
    assert look(engine, second) == {"warm_start": "m@1", "against": "m@1"}
    assert succeed(engine, second)["decision"] == "promoted"
    assert production(engine) == 2
    with db.read_scope(engine) as session:
        moves, _ = registry.history(session, "m")
        assert [(move.from_version, move.to_version) for move in moves] == [(1, 2), (None, 1)]
        assert moves[0].reason == f"It is better. ({second.job_id})"
        assert registry.get(session, "m@2").note == "It is better."


def test_one_that_does_not_pass_is_a_version_and_no_more(engine: Engine, claim: Claim) -> None:
    succeed(engine, claim())
    worse = claim()
    done = succeed(engine, worse, passed=False)
    assert (done["decision"], done["version"], production(engine)) == ("held_back", 2, 1)
    assert done["message"] == "m@2 was not made production. It is no better."
    assert event_types(engine, worse) == ["retraining", "registered", "held_back"]


def test_without_a_gate_whatever_comes_is_promoted_and_without_an_alias_nothing_is(
    engine: Engine, claim: Claim
) -> None:
    assert succeed(engine, claim(gate=None), passed=None)["decision"] == "promoted"
    assert succeed(engine, claim(gate=None, promote=None), passed=None)["decision"] == "registered"
    assert succeed(engine, claim(promote=None, gate={"against": "production"}), passed=True)["decision"] == "registered"
    assert production(engine) == 1


def test_a_candidate_has_to_beat_production_and_leaves_it_where_it_is(engine: Engine, claim: Claim) -> None:
    succeed(engine, claim())
    candidate = claim(promote="candidate", gate={"against": "production"})
    assert look(engine, candidate)["against"] == "m@1"
    assert succeed(engine, candidate)["alias"] == "candidate"
    with db.read_scope(engine) as session:
        assert registry.aliases(session, ["m"])["m"] == {"candidate": 2, "production": 1}


def test_one_that_was_compared_with_nothing_takes_no_alias_from_a_version(engine: Engine, claim: Claim) -> None:
    succeed(engine, claim())
    misspelt = claim(gate={"against": "prodution"})
    done = succeed(engine, misspelt)
    assert (done["decision"], production(engine)) == ("held_back", 1)
    assert "There is no m@prodution to compare with, and m@production is version 1" in done["message"]


def test_every_attempt_is_compared_with_what_the_first_one_was(engine: Engine, claim: Claim) -> None:
    succeed(engine, claim())
    lease = claim()
    succeed(engine, claim())  # production moves on
    let_expire(engine, lease.job_id)
    with db.session_scope(engine) as session:
        assert attempts.expire(session) == [lease.job_id]
    again = claimed(engine)
    assert (again.job_id, look(engine, again)["against"]) == (lease.job_id, "m@1")
    assert event_types(engine, again).count("retraining") == 1


def test_one_that_was_compared_with_what_is_no_more_in_production_is_held_back(engine: Engine, claim: Claim) -> None:
    succeed(engine, claim())
    one, other = claim(), claim()
    assert succeed(engine, one)["decision"] == "promoted"
    late = succeed(engine, other)
    assert (late["decision"], late["version"], production(engine)) == ("held_back", 3, 2)
    assert "Meanwhile m@production became version 2, and it was compared with m@1" in late["message"]


def test_of_many_that_end_at_once_one_is_promoted(engine: Engine, claim: Claim) -> None:
    leases = [claim() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = [*pool.map(lambda lease: succeed(engine, lease), leases)]
    assert sorted(each["version"] for each in done) == [1, 2, 3, 4, 5, 6]
    assert [each["decision"] for each in done].count("promoted") == 1
    [winner] = [each["version"] for each in done if each["decision"] == "promoted"]
    assert production(engine) == winner


def test_an_attempt_that_was_replaced_registers_nothing(engine: Engine, claim: Claim) -> None:
    lease = claim()
    let_expire(engine, lease.job_id)
    with db.session_scope(engine) as session:
        attempts.expire(session)
    with pytest.raises(LeaseLost):
        succeed(engine, lease)
    again = claimed(engine)
    look(engine, again)
    assert succeed(engine, again)["version"] == 1


def test_a_version_that_was_deleted_meanwhile_is_told_to_be_gone(engine: Engine, claim: Claim) -> None:
    succeed(engine, claim())
    lease = claim()
    with db.session_scope(engine) as session:
        registry.demote(session, "m", "production")
        registry.delete(session, "m@1")
        found = retraining.baselines(session, control.get(session, lease.job_id))
        assert found is not None
        assert found["against"] is not None
        assert (found["against"].name, found["against"].job_id) == ("m@1", None)


def test_a_baseline_has_the_files_that_make_a_model(engine: Engine, claim: Claim) -> None:
    first = claim()
    succeed(engine, first)
    lease = claim()
    with db.session_scope(engine) as session:
        found = retraining.baselines(session, control.get(session, lease.job_id))
        assert found is not None
        assert found["against"] is not None
        assert found["against"].job_id == first.job_id
        assert [file["name"] for file in found["against"].files] == ["model.json", "model.safetensors"]


def test_a_registry_that_refuses_costs_the_job_nothing(
    engine: Engine, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Conflict("No more versions.")

    lease = claim()
    monkeypatch.setattr(registry, "register_result", refuse)
    done = succeed(engine, lease)
    assert (done["decision"], done["version"]) == ("failed", None)
    assert done["message"] == "The result could not be registered as m: No more versions."
    assert event_types(engine, lease) == ["retraining", "warning"]


def test_other_jobs_know_nothing_of_all_this(engine: Engine, make_job: Callable[..., Job]) -> None:
    make_job()
    lease = claimed(engine)
    with db.session_scope(engine) as session:
        assert retraining.baselines(session, control.get(session, lease.job_id)) is None
        job = attempts.succeed(session, lease, {"metrics": {}}, [])
        assert job.result == {"metrics": {}}
        assert job.message is None


def test_of_one_model_its_sentence_and_of_many_their_number(engine: Engine, claim: Claim) -> None:
    first = claim()
    succeed(engine, first)
    others = [claim() for _ in range(3)]
    for lease, passed in zip(others, (False, False, True), strict=True):
        succeed(engine, lease, passed=passed)
    with db.read_scope(engine) as session:
        made = [control.get(session, lease.job_id) for lease in (first, *others)]
        assert retraining.outcome(made[:1]) == "m@1 is m@production now. It is better."
        assert retraining.outcome(made) == "Of 4 models 2 promoted, 2 held back."
        assert retraining.outcome([]) is None
