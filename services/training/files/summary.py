"""What a data set holds, as numbers: enough to check a spec against it without reading the arrays again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from services.training.tasks.task import Target


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
