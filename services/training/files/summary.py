"""What a data set holds, as numbers: enough to check a spec against it without reading the arrays again."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class DatasetSummary(BaseModel):
    """The shape and targets of a data set; stored beside it, shown by the API, read by `spec.check_data`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    samples: int
    features: int
    max_length: int
    min_length: int
    target: Literal["classes", "values", "multilabel"]
    classes: list[int | str] | None  # sorted; None unless target is "classes"
    class_counts: list[int] | None  # samples of each of `classes`, in the same order
    target_dim: int  # outputs a model needs: the number of classes, or the columns of y
    given_split: dict[str, int] | None  # rows of each named split, such as {"train": 270, "test": 370}
    bytes: int  # of x expanded to float32
