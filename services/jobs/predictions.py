"""Jobs of the kind `predict`: a model answers all sequences of a data set.

An alias is looked up when the job is submitted. What it named then is written down with the job, so that every attempt
asks the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services import db, idempotency
from services.access import tenants
from services.blobs import transfers
from services.blobs.objects import Changed
from services.blobs.storage import Storage
from services.blobs.transfers import Gone
from services.datasets.checking import CHECKER, Checker, CheckUnfinished, Upload
from services.errors import NotFound, Problem, SpecInvalid
from services.idempotency import Key
from services.jobs import control, submission
from services.jobs.control import Wanted
from services.jobs.retraining import Baseline
from services.jobs.submission import SubmittedJob
from services.models import registry
from services.orm import Dataset, Job
from services.prediction import sources
from services.prediction.sources import Source
from services.states import DatasetStatus, Kind
from services.training.files.npz import Limits
from services.training.spec import predict
from services.training.spec.predict import Predict

ROLE = "predicts"
"""Of the model, among the models of an order."""
DESCRIPTION = "model.json"
NEEDED = (DESCRIPTION, "model.safetensors")
FILES = frozenset({*NEEDED, "model.onnx"})
CHECKED_BYTES = 64 << 20
"""A larger file is not looked at before the job is accepted."""


@dataclass(frozen=True)
class Found:
    """What a job is about, as it was when the job was submitted."""

    spec: Predict
    requested: Mapping[str, Any]
    model_job: str
    model_files: Sequence[Mapping[str, Any]]
    dataset: Dataset
    warnings: Sequence[str] = ()
    """What makes the answers less sure."""


def is_asked(document: Mapping[str, Any]) -> bool:
    """Whether a document asks for such a job."""
    return document.get("kind") == Kind.PREDICT


def found(session: Session, document: Mapping[str, Any], tenant: str) -> Found:
    """What a document asks for. Raises SpecInvalid with every problem; DatasetValidating."""
    spec = predict.parse(document)
    problems: list[Problem] = []
    name, source = "", None
    try:
        name, source = _source(session, spec.model, tenant)
        has, trained = {file["name"] for file in source.files}, source.job_id
        lacks = [f"The model of {trained} has no {file}: train it again." for file in NEEDED if file not in has]
        problems += [Problem("/model", why) for why in lacks]
    except NotFound as error:
        problems.append(Problem("/model", error.message))
    dataset, unknown = submission.find(session, spec.data.dataset, tenant, submission.Known(), raw=True)
    if problems or unknown or dataset is None or source is None:
        raise SpecInvalid([*problems, *unknown])
    resolved = spec.model_copy(update={"model": name})
    return Found(resolved, document, source.job_id, _used(source.files), dataset)


def check(
    storage: Storage, found: Found, limits: Limits, *, wait_seconds: float, checker: Checker = CHECKER
) -> Sequence[str]:
    """What makes the answers less sure. Of a file that is large, or takes longer than `wait_seconds`, the trainer finds
    it out.

    Raises:
        DatasetInvalid: the model cannot answer this data set.
        SpecInvalid: a file is gone.
        StorageUnavailable: the object store cannot answer.
    """
    db.check_no_session("a data set is checked")
    if found.dataset.bytes > CHECKED_BYTES:
        return ()
    with storage.work() as work, suppress(CheckUnfinished):
        model = work / "model"
        model.mkdir()
        for name in NEEDED:
            _see(storage, found, model / name)
        try:
            path = transfers.fetch_upload(storage, found.dataset.sha256, work, lambda: True)
        except Gone as error:
            raise SpecInvalid([Problem("/data/dataset", str(error))]) from None
        upload = Upload(path, work, ending_of(found.dataset) or "")
        return checker.warnings(upload, model, storage.room, limits, wait_seconds=wait_seconds)
    return ()


def _see(storage: Storage, found: Found, path: Path) -> None:
    """See that a file of the model is there, and copy it if it is the description."""
    [file] = (each for each in found.model_files if each["name"] == path.name)
    try:
        if path.name == DESCRIPTION:
            transfers.copy(storage, found.model_job, file, path)
        else:
            transfers.opened(storage, found.model_job, file).close()
    except (FileNotFoundError, Changed):
        gone = f"The file {path.name} of the model is gone from the storage, or damaged: train it again."
        raise SpecInvalid([Problem("/model", gone)]) from None


def submit(
    session: Session,
    found: Found,
    *,
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
    wanted = Wanted(found.spec, found.requested, found.dataset.id, found.warnings, Kind.PREDICT, {ROLE: model})
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
    return {ROLE: Baseline(chosen["name"], result.id, _used(result.files or ()))}


def ending_of(dataset: Dataset) -> str | None:
    """The ending of the name that a raw file had, which may say its format; None of a data set in its stored form."""
    return dataset.format if dataset.status == DatasetStatus.RAW else None


def _used(files: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [file for file in files if file["name"] in FILES]


def _source(session: Session, reference: str, tenant: str) -> tuple[str, Source]:
    """The name of a model as it does not change, and where it is. Raises NotFound."""
    name, job_id = reference, reference
    if not reference.startswith("job_"):
        version = registry.get(session, reference, tenant=tenant)
        name, job_id = f"{version.name}@{version.version}", version.job_id
    return name, sources.of_job(session.connection(), job_id, tenant=tenant)
