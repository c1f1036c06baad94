"""Whether a job can use a data set, as far as its row says it. `services/training/spec` checks its shape."""

from __future__ import annotations

from services.errors import DatasetValidating, Problem
from services.orm import Dataset
from services.states import DatasetStatus
from services.training.spec import Spec


def check_validated(dataset: Dataset) -> None:
    """Raises DatasetValidating while the data set is being checked."""
    if dataset.status == DatasetStatus.VALIDATING:
        reference = f"{dataset.name}@{dataset.version}"
        raise DatasetValidating(
            f"The data set {reference} is still being checked, so no job can use it yet; GET /v1/datasets/{reference} "
            "shows when its status is `ready`."
        )


def why_untrainable(dataset: Dataset) -> list[Problem]:
    """Why no job can train on a data set whose check has ended; empty if one can."""
    if dataset.status == DatasetStatus.RAW:
        kept = (
            f"{dataset.name}@{dataset.version} was uploaded with raw=true, so only a job of the kind `predict` reads it"
        )
        return [Problem("/data/dataset", f"{kept}; upload the file without it to train on it")]
    return why_rejected(dataset)


def why_rejected(dataset: Dataset) -> list[Problem]:
    """What is wrong with a data set that was rejected; empty for others."""
    if dataset.status != DatasetStatus.REJECTED:
        return []
    said = [str(problem["detail"]) for problem in dataset.problems or ()] or [dataset.message or ""]
    rejected = f"{dataset.name}@{dataset.version} was rejected when it was checked"
    return [Problem("/data/dataset", f"{rejected}: {detail}") for detail in said]


def unlike_schema(dataset: Dataset, spec: Spec) -> list[Problem]:
    """Where the data set's columns are not what the spec says they are."""
    wanted = spec.data.schema_
    if wanted is None:
        return []
    has, name = dataset.schema or {}, f"{dataset.name}@{dataset.version}"
    return [
        Problem(
            f"/data/schema/{field}",
            f"the data set {name} has {_shown_columns(has.get(field))} here; leave the field out, or upload the file "
            "again with this schema",
        )
        for field, value in wanted.model_dump(exclude_none=True).items()
        if (has.get(field) or []) != value
    ]


def _shown_columns(value: str | list[str] | None) -> str:
    return "nothing" if not value else value if isinstance(value, str) else ", ".join(value)
