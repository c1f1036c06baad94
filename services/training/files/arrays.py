"""A data set in memory, as training takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from loopline.files.schema import Schema
from loopline.files.sequences import Column
from numpy.typing import NDArray

from services.training.files.steps import FileSteps


@dataclass(frozen=True)
class Arrays:
    """A data set. Steps of `x` from `lengths` on are zero. An `.npz` has nothing below `split`."""

    x: NDArray[Any] | FileSteps
    """float32 (samples, length, features); float64 where float32 cannot hold the differences of a feature. NaN is a
    missing value. A feature that is a category has indices into its `Column.categories`. `FileSteps` are in a file."""
    lengths: NDArray[np.int64]
    """(samples,), 1 to length."""
    y: NDArray[Any]
    """As `services.training.tasks` has it: (samples,), (samples, k) or (samples, length, 1)."""
    split: NDArray[np.int8] | None = None
    """(samples,), indices into SPLITS."""
    static: NDArray[np.float64] | None = None
    """(samples, static columns): values of whole sequences, of the same form as those in x."""
    weights: NDArray[np.float64] | None = None
    """(samples,), above 0: the weight of each sample in the loss."""
    groups: NDArray[np.str_] | None = None
    """(samples,): the id of the sequence or series."""
    ends: NDArray[Any] | None = None
    """(samples,): the time of the last step, int64 nanoseconds since 1970 or float64."""
    features: tuple[Column, ...] | None = None
    """What each feature of x is; None where all are numbers without a name."""
    static_columns: tuple[Column, ...] = ()
    """What each column of `static` is."""
    times: NDArray[Any] | None = None
    """(samples, length): the time of each step, in the unit of `ends`; 0 in the padding."""
    zoned: bool | None = None
    """Whether times were written with a zone, see `loopline.files.sequences.Sequences`."""
    schema: Schema | None = None
    """That of the file; an `.npz` has none."""
    targets: tuple[str, ...] = ()
    """The names of what there is to predict, if it has names."""
    texts: NDArray[np.object_] | None = None
    """(samples,): a str each. Then x has no features, and each length is 1."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What each feature of x is; those without a name have their number."""
        return self.features or tuple(Column(str(number)) for number in range(self.x.shape[2]))

    @property
    def x_in_memory(self) -> NDArray[Any]:
        """x as a whole, read from its file if it is in one."""
        return self.x[:] if isinstance(self.x, FileSteps) else self.x

    def chosen(self, rows: NDArray[np.int64]) -> Arrays:
        """Some of the samples."""
        found = {name: getattr(self, name) for name in _BY_SAMPLE}
        x = self.x.chosen(rows) if isinstance(self.x, FileSteps) else self.x[rows]
        return replace(self, x=x, **{name: values[rows] for name, values in found.items() if values is not None})


_BY_SAMPLE = ("lengths", "y", "split", "static", "weights", "groups", "ends", "times", "texts")
