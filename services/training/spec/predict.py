"""What a job of the kind `predict` is asked for. Imports no torch, so that the API can use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from services.errors import SpecInvalid
from services.training.spec.fields import ALIAS_OR_VERSION, MODEL_NAME, Limits, Plain, Strict, Tag
from services.wording import problems_of

MODEL = rf"^(job_[0-9a-hjkmnp-tv-z]{{26}}|{MODEL_NAME[1:-1]}@{ALIAS_OR_VERSION[1:-1]})$"


class PredictData(Strict):
    """The sequences to answer."""

    dataset: Plain = Field(min_length=1, max_length=1024)
    """The name or id of an uploaded data set. One that was uploaded with `raw=true` is read as the data of the model
    was read, and needs no target column."""


class PredictLimits(Limits):
    max_runtime_seconds: int | None = Field(86400, ge=1, le=365 * 86400)
    """The job ends after it has run for this long, all attempts together."""


class Predict(Strict):
    """A job that has a model answer all sequences of a file."""

    kind: Literal["predict"]
    name: Plain | None = Field(None, min_length=1, max_length=200)
    """A name for people, shown in lists."""
    model: Annotated[str, Field(pattern=MODEL)]
    """A version of a model (`vowels@3`), an alias (`vowels@production`), `vowels@latest`, or the id of a job. An alias
    is looked up once, when the job is submitted."""
    data: PredictData
    format: Literal["csv", "parquet"] = "parquet"
    """Of the answers."""
    limits: PredictLimits = PredictLimits()
    """How long the job may wait and run, and how often it is retried."""
    queue: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """Only workers that listen to this queue run the job."""
    priority: int = Field(0, ge=-1000, le=1000)
    """Jobs with a higher priority run first."""
    tags: dict[Tag, Tag] = Field({}, max_length=50)
    """Your own labels, by which you can filter lists and webhooks. At most 50."""

    def document(self) -> dict[str, Any]:
        """As plain JSON, every default filled in."""
        return self.model_dump(mode="json")


def parse(document: Mapping[str, Any]) -> Predict:
    """Validates one document. Raises SpecInvalid with every problem."""
    try:
        return Predict.model_validate(document)
    except ValidationError as error:
        raise SpecInvalid(problems_of(error, Predict, document)) from None
