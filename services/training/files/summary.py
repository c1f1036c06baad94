"""What a data set holds, as numbers: enough to check a spec against it without reading the arrays again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from services.training.tasks.task import Target


class Columns(BaseModel):
    """What the features of a data set are, or the values of its whole sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    numbers: int
    """How many are numbers."""
    categories: list[int]
    """Of each one that is a category, the number of its words."""
    gaps: int
    """How many have missing values."""


class DatasetSummary(BaseModel):
    """The shape and targets of a data set; stored beside it, shown by the API, read by `spec.check_data`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    samples: int
    features: int
    max_length: int
    min_length: int
    target: Target
    classes: list[int | str] | None  # sorted; None where there are none
    class_counts: list[int] | None  # of each of `classes`, in the same order
    target_dim: int  # outputs a model needs: the number of classes, or the columns of y
    given_split: dict[str, int] | None  # rows of each named split, such as {"train": 270, "test": 370}
    bytes: int  # of x expanded to float32
    inputs: Columns | None = None  # None: each feature is a number, and nothing is missing
    static: Columns | None = None
