"""From a document to a job: validated, checked against its data set, inserted once.

Whatever takes in specs (one by one here, many at once in batches.py) comes through here, within its own transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loopline.files import SUFFIXES
from sqlalchemy.orm import Session

from services import idempotency
from services.access import tenants
from services.datasets import usable, versions
from services.errors import DatasetNotFound, Problem, SpecInvalid
from services.idempotency import Key
from services.jobs import control, devices
from services.jobs.control import Wanted
from services.orm import Dataset
from services.states import Kind
from services.text import is_plain
from services.training.spec import Spec, check_data, completed, parse
from services.training.spec.fields import Synthetic
from services.training.spec.footprint import of_synthetic
from services.training.spec.room import Device

NAMES_SHOWN = 10
KINDS = "must be `train` here; POST /v1/jobs takes jobs of the kind `predict` too, one by one and without a dry run"


Found = tuple[Dataset | None, list[Problem]]
"""A data set, or why there is none."""


@dataclass(frozen=True)
class Known:
    """What was looked up for a spec, for the specs that follow."""

    datasets: dict[str, Found] = field(default_factory=dict)
    """By the name that a spec gives."""
    devices: dict[str, Sequence[Device]] = field(default_factory=dict)
    """By queue, those of its workers."""


class Parsed(NamedTuple):
    """A document, and the spec in it or what is wrong with it."""

    document: Mapping[str, Any]
    spec: Spec | None
    problems: Sequence[Problem]


class SubmittedJob(NamedTuple):
    """A job, and whether an earlier request with the same Idempotency-Key had made it."""

    job_id: str
    replayed: bool


def submit(
    session: Session,
    parsed: Parsed,
    *,
    key: Key | None = None,
    request_id: str | None = None,
    tenant: str = tenants.DEFAULT,
) -> SubmittedJob:
    """The job that a document asks for: a new one, or the one that an earlier request with this key made.

    Raises SpecInvalid with every problem, that of its data set's name too; IdempotencyConflict where the key came with
    another request; IdempotencyInFlight while that request is under way; DatasetValidating; QuotaExceeded.
    """
    if key is not None and (earlier := idempotency.claim(session, key)) is not None:
        return SubmittedJob(earlier, replayed=True)
    [job] = control.create_all(
        session, [fitted(session, parsed, tenant, Known())], request_id=request_id, tenant=tenant
    )
    if key is not None:
        idempotency.settle(session, key, job.id)
    return SubmittedJob(job.id, replayed=False)


def read(document: Mapping[str, Any], *, accepted: bool = False) -> Parsed:
    """The spec in a document, or its problems. Asks the database nothing. `accepted`: see `parse`."""
    if "kind" in document:
        if document["kind"] != Kind.TRAIN:
            return Parsed(document, None, [Problem("/kind", KINDS)])
        document = {key: value for key, value in document.items() if key != "kind"}
    try:
        return Parsed(document, parse(document, accepted=accepted), ())
    except SpecInvalid as error:
        return Parsed(document, None, error.problems)


def fitted(session: Session, parsed: Parsed, tenant: str, known: Known) -> Wanted[Spec]:
    """The spec as it fits its data set, and the memory of the workers of its queue.

    Raises SpecInvalid with every problem, that of the data set's name too; DatasetValidating while it is being checked.
    """
    dataset, unknown = _dataset(session, parsed, tenant, known)
    unlike = usable.unlike_schema(dataset, parsed.spec) if dataset and parsed.spec else []
    if parsed.spec is None or unknown or unlike:
        raise SpecInvalid([*parsed.problems, *unknown, *unlike])
    summary = versions.summary(dataset) if dataset else of_synthetic(parsed.spec.data.synthetic or Synthetic())
    said, chosen = completed(parsed.spec, parsed.document, summary)
    spec = check_data(said, summary)
    if (too_large := devices.problem(spec, summary, devices_of(session, spec.queue, known))) is not None:
        raise SpecInvalid([too_large])
    warnings = versions.warnings(dataset, said, chosen) if dataset else ()
    return Wanted(spec, parsed.document, dataset.id if dataset else None, warnings, chosen=chosen)


def devices_of(session: Session, queue: str, known: Known) -> Sequence[Device]:
    """What the workers of a queue compute on; see `devices.of_queue`."""
    if queue not in known.devices:
        known.devices[queue] = devices.of_queue(session, queue)
    return known.devices[queue]


def _dataset(session: Session, parsed: Parsed, tenant: str, known: Known) -> Found:
    """The data set that the document names, or why there is none; silent where that is no name at all.

    Raises DatasetValidating.
    """
    data = parsed.document.get("data")
    wanted = data.get("dataset") if isinstance(data, Mapping) else None
    if not isinstance(wanted, str) or (parsed.spec is None and not is_plain(wanted)):  # parse() has said so already
        return None, []
    return find(session, wanted, tenant, known)


def find(session: Session, wanted: str, tenant: str, known: Known, *, raw: bool = False) -> Found:
    """The data set of this name, or why there is none. With `raw` it may be a raw one.

    Raises DatasetValidating.
    """
    if wanted not in known.datasets:
        known.datasets[wanted] = _looked_up(session, wanted, tenant, raw=raw)
    return known.datasets[wanted]


def _looked_up(session: Session, wanted: str, tenant: str, *, raw: bool) -> Found:
    try:
        found = versions.get(session, wanted, tenant=tenant, raw=raw)
    except DatasetNotFound:
        advice = upload_first(wanted) if is_path(wanted) else _unknown(session, wanted, tenant)
        return None, [Problem("/data/dataset", advice)]
    usable.check_validated(found)
    unusable = (usable.why_rejected if raw else usable.why_untrainable)(found)
    return (None, unusable) if unusable else (found, [])


def is_path(name: str) -> bool:
    """Whether the name of a data set looks like the path of a file on somebody's computer."""
    return name.startswith((".", "~")) or "/" in name or "\\" in name or name.lower().endswith(SUFFIXES)


def upload_first(path: str) -> str:
    """What to do about such a name."""
    return (
        f"`{_short(path)}` looks like a file of yours, which the service cannot see: upload it first, with "
        "POST /v1/datasets?name=NAME, then give that name"
    )


def _unknown(session: Session, name: str, tenant: str) -> str:
    names, more = versions.names(session, tenant=tenant)
    close = versions.similar(name, names)
    guess = f"did you mean {close}? " if close else ""
    known = ", ".join(names[:NAMES_SHOWN]) + (", ..." if more or len(names) > NAMES_SHOWN else "")
    return (
        f"no data set named `{_short(name)}`; {guess}known: {known or 'none yet'}; upload with POST "
        "/v1/datasets?name=NAME"
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
