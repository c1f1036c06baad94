"""What a data set holds, as numbers: enough to check a spec against it without reading the arrays again."""

from __future__ import annotations

import re

from loopline.files.grids import Step
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


class SeriesSummary(BaseModel):
    """What a forecast can be made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    targets: list[str]
    """The columns to predict; empty if nobody has said which they are."""
    columns: int
    """What a model reads at each step: the features and the targets."""
    known_future: list[str]
    """The columns whose values are known ahead of time."""
    gaps: int
    """How many targets have missing values."""
    steps: int
    """Of all series together."""
    step: str | None = None
    """The time between two steps, such as `1 hour`; None if it is unknown."""
    usual: int | float | None = None
    """The same, see `grids.Step`; None if it is unknown, and in a summary of an older version."""
    in_months: bool = False
    seasons: list[int] = []
    """The steps of a day and a week, of a week, or of a year: what the time between two steps suggests."""
    irregular: str | None = None
    """Where the time between two steps is another one, in words; None if it is nowhere."""
    absent: int = 0
    """How many rows all series lack, so that their steps are equal; 0 if adding rows does not make them equal."""

    @property
    def usual_step(self) -> Step | None:
        """The time between two steps; None if it is unknown."""
        return _worded(self.step) if self.usual is None else Step(self.usual, self.in_months)


def _worded(step: str | None) -> Step | None:
    """The time between two steps of which an older version wrote only the words; None if it is unknown, or a number."""
    found = re.fullmatch(r"([\d,.]+(?:e[+-]?\d+)?) ([a-z]+?)s?", step or "")
    if found is None or found[2] not in (*_SECONDS, "month"):
        return None
    count = float(found[1].replace(",", ""))
    return Step(int(count), True) if found[2] == "month" else Step(round(count * _SECONDS[found[2]] * 10**9))


_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


class TextSummary(BaseModel):
    """How long the texts of a data set are, by either way to read them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    characters: int
    """Of all texts together."""
    words: int
    longest_in_words: int
    shortest_in_words: int
    median_in_words: int


class Grouping(BaseModel):
    """A column by which a split can keep sequences together."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    column: str
    groups: int
    """How many different values it has."""
    names: bool
    """Whether it names the sequences; the first that does is the default."""
    sizes: list[int] | None = None
    """The samples of each group, sorted by its name. None: they are many, or nobody counted them."""


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
    bytes: int  # of x expanded to float32, or of the texts
    inputs: Columns | None = None  # None: each feature is a number, and nothing is missing
    static: Columns | None = None
    series: SeriesSummary | None = None  # None: there is nothing that goes on after the last step
    texts: TextSummary | None = None  # None: there are none; otherwise lengths are in characters
    groups: list[Grouping] = []
    times: int | None = None  # how many different times sequences end at; None where steps have no times
    spread: float | None = None
    """How much more the numbers vary within some sequences than within others: of the standard deviations of a feature,
    one for each sequence, the 90th percentile divided by the 10th; the median over the features. Rows that are given as
    the test do not count. None: unknown, or without a meaning."""
