"""Jobs of the kind `predict`: a model answers all sequences of a data set.

An alias is looked up when the job is submitted. What it named then is written down with the job, so that every attempt
asks the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services import idempotency
from services.access import tenants
from services.errors import JobNotFound, ModelNotFound, Problem, SpecInvalid
from services.idempotency import Key
from services.jobs import control, submission
from services.jobs.control import Wanted
from services.jobs.retraining import Baseline
from services.jobs.submission import SubmittedJob
from services.models import registry
from services.orm import Dataset, Job
from services.states import TERMINAL, DatasetStatus, Kind
from services.training.spec import predict
from services.training.spec.predict import Predict

ROLE = "predicts"
"""Of the model, among the models of an order."""
NEEDED = ("model.json", "model.safetensors")
FILES = frozenset({*NEEDED, "model.onnx"})


@dataclass(frozen=True)
class Found:
    """What a job is about, as it was when the job was submitted."""

    spec: Predict
    requested: Mapping[str, Any]
    model_job: str
    model_files: Sequence[Mapping[str, Any]]
    dataset: Dataset


def is_asked(document: Mapping[str, Any]) -> bool:
    """Whether a document asks for such a job."""
    return document.get("kind") == Kind.PREDICT


def found(session: Session, document: Mapping[str, Any], tenant: str) -> Found:
    """What a document asks for. Raises SpecInvalid with every problem; DatasetValidating."""
    spec = predict.parse(document)
    problems: list[Problem] = []
    name, job = "", None
    try:
        name, job = _model(session, spec.model, tenant)
        problems += [Problem("/model", why) for why in _why_unusable(job)]
    except (JobNotFound, ModelNotFound) as error:
        problems.append(Problem("/model", error.message))
    dataset, unknown = submission.find(session, spec.data.dataset, tenant, submission.Known(), raw=True)
    if problems or unknown or dataset is None or job is None:
        raise SpecInvalid([*problems, *unknown])
    resolved = spec.model_copy(update={"model": name})
    return Found(resolved, document, job.id, _files(job), dataset)


def submit(
    session: Session,
    found: Found,
    *,
    warnings: Sequence[str] = (),
    key: Key | None = None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> SubmittedJob:
    """A new job, or the one that an earlier request with this key made.

    Raises IdempotencyConflict, IdempotencyInFlight, DatasetNotFound if the data set was deleted meanwhile,
    QuotaExceeded.
    """
    if key is not None and (earlier := idempotency.claim(session, key)) is not None:
        return SubmittedJob(earlier, replayed=True)
    model = {"name": found.spec.model, "job_id": found.model_job}
    wanted = Wanted(found.spec, found.requested, found.dataset.id, warnings, Kind.PREDICT, {ROLE: model})
    [job] = control.create_all(session, [wanted], request_id=request_id, tenant=tenant)
    if key is not None:
        idempotency.settle(session, key, job.id)
    return SubmittedJob(job.id, replayed=False)


def models(session: Session, job: Job) -> Mapping[str, Baseline | None]:
    """The model that the job asks, with the job of which it is the result; without that if it was deleted since."""
    chosen = (job.baselines or {})[ROLE]
    result = session.get(Job, chosen["job_id"])
    if result is None:
        return {ROLE: Baseline(chosen["name"], None, ())}
    return {ROLE: Baseline(chosen["name"], result.id, _files(result))}


def ending_of(dataset: Dataset) -> str | None:
    """The ending of the name that a raw file had, which may say its format; None of a data set in its stored form."""
    return dataset.format if dataset.status == DatasetStatus.RAW else None


def _files(job: Job) -> list[dict[str, Any]]:
    return [file for file in job.files or () if file["name"] in FILES]


def _model(session: Session, reference: str, tenant: str) -> tuple[str, Job]:
    """The name of a model as it does not change, and the job that trained it. Raises JobNotFound, ModelNotFound."""
    if reference.startswith("job_"):
        return reference, control.get(session, reference, tenant=tenant)
    version = registry.get(session, reference, tenant=tenant)
    return f"{version.name}@{version.version}", control.get(session, version.job_id, tenant=tenant)


def _why_unusable(job: Job) -> list[str]:
    if job.kind != Kind.TRAIN:
        return [f"The job {job.id} has answers and no model: name a job that trained one."]
    if job.status not in TERMINAL:
        return [f"The job {job.id} is {job.status}: it has a model when it has succeeded."]
    has = {file["name"] for file in job.files or ()}
    if not has:
        return [f"The job {job.id} has no model: it ended as {job.status}."]
    return [f"The model of {job.id} has no {name}: train it again." for name in NEEDED if name not in has]
