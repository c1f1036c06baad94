"""What a submission would do: validated as one, with what can be known before the job runs. Nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services.access import tenants
from services.datasets import versions
from services.errors import SpecInvalid
from services.jobs import batches, devices, estimates, submission
from services.jobs.estimates import Estimate, Past
from services.jobs.submission import Known, Parsed
from services.orm import Dataset
from services.training.spec import Spec, automatic, cautions
from services.training.spec.automatic import Choice
from services.training.spec.effort import cheaper, effort
from services.training.spec.fields import Synthetic
from services.training.spec.footprint import of_synthetic

OPEN = "The spec names no network, so what it does not state is chosen when the data is there: see docs/defaults.md."


@dataclass(frozen=True)
class DryRun:
    """What is known of a job that was not submitted."""

    spec: Mapping[str, Any]
    """With every default filled in; without its data set, only those that do not depend on it: none, if it names no
    network."""
    dataset: Dataset | None
    unchecked: str | None
    """Why the data set was not looked at: it is a file that is to be uploaded. Then the fields below are unknown."""
    warnings: Sequence[str]
    parameters: int | None
    """Also unknown for texts: their vocabulary is made when the job begins."""
    samples: Mapping[str, int] | None
    steps_per_epoch: int | None
    steps: int | None
    memory_bytes: int | None
    estimate: Estimate
    cheaper: str | None
    """How an epoch would take less time."""
    chosen: Sequence[Choice] = ()
    """What of the spec was chosen for the data."""


def of_job(session: Session, parsed: Parsed, tenant: str) -> DryRun:
    """What a submission of this document would do.

    Raises what `submission.submit` raises.
    """
    made = _of(session, parsed, tenant, Known(), estimates.past(session, tenant))
    tenants.check_queued(session, tenant, lock=False)
    return made


def of_valid(session: Session, documents: Iterable[Mapping[str, Any]], tenant: str) -> Sequence[DryRun]:
    """The same of each document that is valid, without a look at the tenant's quota. Raises SpecInvalid if none is
    valid; DatasetValidating."""
    known, earlier, made = Known(), estimates.past(session, tenant), []
    refused: SpecInvalid | None = None
    for document in documents:
        try:
            made.append(_of(session, submission.read(document), tenant, known, earlier))
        except SpecInvalid as error:
            refused = error
    if not made and refused is not None:
        raise refused
    return made


def of_batch(session: Session, document: Mapping[str, Any], tenant: str) -> Sequence[DryRun]:
    """The same of each job of a batch's document.

    Raises what `batches.submit` raises.
    """
    sources, specs = batches.parsed(document)
    known = Known()
    earlier = estimates.past(session, tenant)
    made = batches.for_each(sources, specs, lambda parsed: _of(session, parsed, tenant, known, earlier))
    tenants.check_queued(session, tenant, more=len(made), lock=False)
    return made


def _of(session: Session, parsed: Parsed, tenant: str, known: Known, earlier: Sequence[Past]) -> DryRun:
    path = _to_be_uploaded(session, parsed, tenant, known)
    if path is not None:
        if parsed.spec is None:
            raise SpecInvalid(parsed.problems)
        return _without_data(parsed, parsed.spec, path)
    wanted = submission.fitted(session, parsed, tenant, known)
    spec, name = wanted.spec, wanted.spec.data.dataset
    dataset = known.datasets[name][0] if name is not None else None
    summary = versions.summary(dataset) if dataset else of_synthetic(spec.data.synthetic or Synthetic())
    counted = effort(spec, summary)
    need, found = counted.need, estimates.estimate(spec, counted, earlier)
    warnings = [*wanted.warnings, *cautions.of_spec(spec), *cautions.of_data(spec, summary, counted)]
    if (too_long := estimates.exceeds(found, spec.limits)) is not None:
        warnings.append(too_long)
    there = submission.devices_of(session, spec.queue, known)
    if (too_little := devices.caution(spec, summary, there)) is not None:
        warnings.append(too_little)
    return DryRun(
        spec=spec.document(),
        dataset=dataset,
        unchecked=None,
        warnings=warnings,
        parameters=None if summary.texts else need.parameters,
        samples=counted.samples,
        steps_per_epoch=counted.steps_per_epoch,
        steps=counted.steps_per_epoch * counted.epochs,
        memory_bytes=need.network + need.data + need.batch,
        estimate=found,
        cheaper=cheaper(spec, counted.samples),
        chosen=wanted.chosen,
    )


def _to_be_uploaded(session: Session, parsed: Parsed, tenant: str, known: Known) -> str | None:
    """The path of a file in the place of a data set's name, if there is no such data set."""
    data = parsed.document.get("data")
    name = data.get("dataset") if isinstance(data, Mapping) else None
    if not isinstance(name, str) or not submission.is_path(name):
        return None
    return name if submission.find(session, name, tenant, known)[0] is None else None


def _without_data(parsed: Parsed, spec: Spec, path: str) -> DryRun:
    is_open = automatic.is_open(parsed.document)
    return DryRun(
        spec=dict(parsed.document) if is_open else spec.document(),
        dataset=None,
        unchecked=f"The data was not looked at: {submission.upload_first(path)}.",
        warnings=[*cautions.of_spec(spec), *([OPEN] if is_open else [])],
        parameters=None,
        samples=None,
        steps_per_epoch=None,
        steps=None,
        memory_bytes=None,
        estimate=estimates.unknown("the data set is not there yet"),
        cheaper=None,
    )
