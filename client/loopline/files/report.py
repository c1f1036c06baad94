"""What a data set has, and what may be wrong with it. A report refuses nothing by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loopline.files import calendar, grids, remarks
from loopline.files.features import Rows
from loopline.files.remark import Remark
from loopline.files.sequences import Sequences
from loopline.files.surveys import Survey, of_times, survey
from loopline.files.table import Table

MOST_BINS = 20
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Bin:
    """How many sequences have between `low` and `high` steps, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Report:
    """Counts of a data set, and remarks with the problems first."""

    sequences: int
    steps: int
    features: tuple[str, ...]
    min_length: int
    median_length: float
    max_length: int
    lengths: tuple[Bin, ...]
    """A histogram of at most MOST_BINS bins."""
    targets: str | None
    """As `Sequences.targets`."""
    target_names: tuple[str, ...]
    classes: tuple[tuple[int | str, int], ...] | None
    """Each class, or tag, and how many sequences, or steps, have it."""
    missing: tuple[tuple[str, int], ...]
    """The columns with missing values, and how many."""
    split: tuple[tuple[str, int], ...] | None
    """The sequences of each part of a given split."""
    first_time: str | None
    last_time: str | None
    usual_step: str | None
    """The usual time between two steps, where there is one."""
    calendar: tuple[str, ...]
    """What a forecast also reads of the calendar, unless its spec says otherwise."""
    remarks: tuple[Remark, ...]

    @property
    def is_trainable(self) -> bool:
        """Whether no remark is a problem."""
        return not any(remark.severity == "problem" for remark in self.remarks)

    def document(self) -> dict[str, Any]:
        """The report as plain JSON."""
        found = asdict(self)
        found["features"] = list(self.features)
        found["target_names"] = list(self.target_names)
        found["calendar"] = list(self.calendar)
        for name in ("lengths", "remarks"):
            found[name] = [asdict(each) for each in getattr(self, name)]
        for remark in found["remarks"]:
            remark["columns"] = list(remark["columns"])
        found["classes"] = None if self.classes is None else [[label, count] for label, count in self.classes]
        found["missing"] = dict(self.missing)
        found["split"] = None if self.split is None else dict(self.split)
        return found


def report(sequences: Sequences, table: Table | None = None) -> Report:
    """Looks at everything in a data set. With the table that it was built from, remarks name its rows."""
    looked_at = survey(sequences)
    times = of_times(sequences)
    lengths = sequences.lengths
    return Report(
        sequences=len(lengths),
        steps=int(lengths.sum()),
        features=tuple(column.name for column in sequences.features),
        min_length=int(lengths.min()),
        median_length=float(np.median(lengths)),
        max_length=int(lengths.max()),
        lengths=_histogram(lengths),
        targets=sequences.targets,
        target_names=sequences.target_names,
        classes=_classes(sequences),
        missing=_missing(sequences, looked_at),
        split=_parts(sequences),
        first_time=times.first if times else None,
        last_time=times.last if times else None,
        usual_step=times.usual if times else None,
        calendar=_calendar(sequences),
        remarks=remarks.of(sequences, looked_at, times, table),
    )


def _calendar(sequences: Sequences) -> tuple[str, ...]:
    if sequences.times is None or sequences.targets not in (None, "step_values"):
        return ()
    grid = grids.of_flat(sequences.times, sequences.lengths, sequences.ids)
    return tuple(calendar.suggested(grid.step, int(sequences.lengths.max()), sequences.schema.known_future or ()))


def _histogram(lengths: Rows) -> tuple[Bin, ...]:
    """Bins of equal width in whole steps; the empty ones too."""
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // MOST_BINS)
    counts = np.bincount((lengths - low) // width)
    return tuple(
        Bin(low + place * width, min(high, low + (place + 1) * width - 1), int(count))
        for place, count in enumerate(counts)
    )


def _classes(sequences: Sequences) -> tuple[tuple[int | str, int], ...] | None:
    if sequences.classes is None or sequences.y is None:
        return None
    counts = np.bincount(sequences.y, minlength=len(sequences.classes))
    return tuple((label, int(count)) for label, count in zip(sequences.classes, counts, strict=True))


def _missing(sequences: Sequences, looked_at: Survey) -> tuple[tuple[str, int], ...]:
    names: Sequence[str] = [column.name for column in sequences.features]
    counts = dict(zip(names, looked_at.missing.tolist(), strict=True))
    if sequences.static is not None:
        own = np.isnan(sequences.static).sum(axis=0).tolist()
        counts |= {column.name: count for column, count in zip(sequences.static_columns, own, strict=True)}
    if sequences.targets == "step_values" and sequences.y is not None:
        counts |= dict(zip(sequences.target_names, np.isnan(sequences.y).sum(axis=0).tolist(), strict=True))
    return tuple((name, count) for name, count in counts.items() if count)


def _parts(sequences: Sequences) -> tuple[tuple[str, int], ...] | None:
    if sequences.split is None:
        return None
    counts = np.bincount(sequences.split, minlength=len(PARTS)).tolist()
    return tuple((name, count) for name, count in zip(PARTS, counts, strict=True) if count)
