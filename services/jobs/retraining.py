"""Retraining: the models that a job starts from and has to beat, and the registration of its result.

Which versions those are is written down at the job's first claim, so that every attempt means the same ones. What the
trainer found stands in the result; the version and the move of the alias are made in the transaction in which the job
succeeds. So there is a version exactly when there is a success, and an alias moves at most once for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services import db
from services.errors import AliasMoved, LooplineError, ModelNotFound
from services.jobs import events, leases
from services.jobs.events import Level, Type
from services.jobs.leases import Lease
from services.models import registry
from services.orm import Job, ModelVersion

ROLES = ("warm_start", "against")
WORDS = {"promoted": "promoted", "held_back": "held back", "registered": "registered only", "failed": "not registered"}
FILES = frozenset({"model.json", "model.safetensors"})
"""Of a result, what makes it a model."""


@dataclass(frozen=True)
class Baseline:
    """A version that a job begins with, or has to beat."""

    name: str
    """`vowels@3`"""
    job_id: str | None
    """Whose result it is; None: it was deleted since."""
    files: Sequence[Mapping[str, Any]]


def baselines(session: Session, job: Job) -> Mapping[str, Baseline | None] | None:
    """By role, the versions that the job's attempts mean; None unless it is a retraining. Its first attempt, whose
    lease this is, chooses them.

    Raises:
        LeaseLost: another attempt, or nobody, owns the job now.
    """
    if (retrain := job.spec.get("retrain")) is None:
        return None
    chosen = job.baselines
    if chosen is None:
        chosen = {role: _version(session, job, ref) for role, ref in _refs(retrain).items()}
        held = leases.owned(session, Lease.of(job), baselines=chosen)
        events.add(session, held, Type.RETRAINING, _sentence(job, chosen))
    return {role: _baseline(session, job, chosen.get(role)) for role in ROLES}


def conclude(session: Session, job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a job that succeeds in this transaction, with what became of it in the registry.

    What goes wrong there is recorded, and costs the job nothing.
    """
    if (retrain := job.spec.get("retrain")) is None:
        return dict(result)
    found: dict[str, Any] = {"warm_start": None, "gate": None, "drift": None, **(result.get("retrain") or {})}
    found |= {"model": retrain["model"], "version": None, "alias": retrain["promote"], "decision": "failed"}
    try:
        with db.savepoint(session):
            found |= _registered(session, job, retrain, found["gate"])
    except LooplineError as error:
        found["message"] = f"The result could not be registered as {retrain['model']}: {error.message}"
        events.add(session, job, Type.WARNING, found["message"], Level.WARNING)
    return {**result, "retrain": found}


def outcome(jobs: Iterable[Job]) -> str | None:
    """What became of the models of these jobs, in a sentence; None where none of them is one that was retrained."""
    concluded = [job.result["retrain"] for job in jobs if job.result and "retrain" in job.result]
    if len(concluded) <= 1:
        return str(concluded[0]["message"]) if concluded else None
    counts = Counter(WORDS[each["decision"]] for each in concluded)
    return (
        f"Of {len(concluded)} models {', '.join(f'{counts[word]} {word}' for word in WORDS.values() if counts[word])}."
    )


def _registered(
    session: Session, job: Job, retrain: Mapping[str, Any], gate: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Make the result a version, and move the alias if it passed."""
    model, alias = retrain["model"], retrain["promote"]
    note = None if gate is None else gate["message"]
    version = registry.register_result(session, model, job.id, note=note, tenant=job.tenant).version.version
    name = f"{model}@{version}"
    events.add(session, job, Type.REGISTERED, f"The result is {name} in the registry.", data={"model": name})
    if alias is None:
        verdict = "" if gate is None else f" {gate['message']}"
        return {"version": version, "decision": "registered", "message": f"{name} is registered.{verdict}"}
    if gate is not None and not gate["passed"]:
        return {"version": version, **_held_back(session, job, name, alias, gate["message"])}
    why = "Its spec asks for no gate." if gate is None else gate["message"]
    try:
        with db.savepoint(session):
            if gate is not None:
                _check_unmoved(session, job, retrain)
            registry.promote(session, model, str(version), alias=alias, reason=f"{why} ({job.id})", tenant=job.tenant)
    except AliasMoved as error:
        return {"version": version, **_held_back(session, job, name, alias, error.message)}
    message = f"{name} is {model}@{alias} now. {why}"
    events.add(session, job, Type.PROMOTED, message, data={"model": name, "alias": alias})
    return {"version": version, "decision": "promoted", "message": message}


def _held_back(session: Session, job: Job, name: str, alias: str, why: str) -> dict[str, Any]:
    message = f"{name} was not made {alias}. {why}"
    events.add(session, job, Type.HELD_BACK, message, data={"model": name, "alias": alias})
    return {"decision": "held_back", "message": message}


def _check_unmoved(session: Session, job: Job, retrain: Mapping[str, Any]) -> None:
    """Raises AliasMoved where what it was compared with is not what it has to beat any more, or was nothing while the
    alias points at a version."""
    registry.lock(session, retrain["model"], tenant=job.tenant)
    ref = _refs(retrain)["against"]
    before, now = (job.baselines or {}).get("against"), _version(session, job, ref)
    stands = _version(session, job, retrain["promote"])
    if before is None and now is None and stands is not None:
        model = retrain["model"]
        raise AliasMoved(
            f"There is no {model}@{ref} to compare with, and {model}@{retrain['promote']} is version {stands}: let "
            "retrain.gate.against name what it has to beat, or leave it out."
        )
    if before != now:
        model = retrain["model"]
        was = f"{model}@{before}" if before else "none"
        raise AliasMoved(
            f"Meanwhile {model}@{ref} became version {now or 'none'}, and it was compared with {was}: compare them and "
            "promote by hand, or train again."
        )


def _refs(retrain: Mapping[str, Any]) -> Mapping[str, str | None]:
    gate = retrain["gate"] or {}
    return {"warm_start": retrain["warm_start"], "against": gate.get("against") or retrain["promote"]}


def _version(session: Session, job: Job, ref: str | None) -> int | None:
    """The number of the version that is meant now."""
    if ref is None:
        return None
    try:
        return registry.get(session, f"{job.spec['retrain']['model']}@{ref}", tenant=job.tenant).version
    except ModelNotFound:
        return None


def _baseline(session: Session, job: Job, version: int | None) -> Baseline | None:
    if version is None:
        return None
    name = job.spec["retrain"]["model"]
    row = session.get(ModelVersion, (job.tenant, name, version))
    if row is None:
        return Baseline(f"{name}@{version}", None, ())
    files = session.get_one(Job, row.job_id).files or ()
    return Baseline(f"{name}@{version}", row.job_id, [file for file in files if file["name"] in FILES])


def _sentence(job: Job, chosen: Mapping[str, int | None]) -> str:
    model, refs = job.spec["retrain"]["model"], _refs(job.spec["retrain"])
    begins = "from scratch" if chosen["warm_start"] is None else f"with {model}@{chosen['warm_start']}"
    there_is = f"There is no {model}@{refs['against']} to compare it with"
    if chosen["against"] is not None:
        there_is = f"It is compared with {model}@{chosen['against']}, which is {refs['against']} now"
    if refs["against"] is None:
        there_is = "It is compared with no other"
    return f"A retraining of {model}, which begins {begins}. {there_is}."
