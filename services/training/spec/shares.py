"""How many samples a fraction of a split takes: splits.py draws them, rules.py says so before. Imports no torch.

A fraction that was asked for is never empty: it takes one sample at least, or says why there is none to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from services.training.files.summary import DatasetSummary
from services.training.spec.fields import Split


def of_part(split: Split, name: str, *, marked: bool) -> float | Literal["given"]:
    """The share of the validation or test part. `marked`: the data set marks rows for it."""
    share: float | Literal["given"] | None = getattr(split, name)
    if share is None and (marked or split.method == "given"):
        return "given"
    if share is None:
        return {"validation": 0.2, "test": 0.0}[name]
    return share


def names(split: Split) -> tuple[str, ...]:
    """The parts that are divided from training before anything else. Folds are made of what they leave."""
    return ("test",) if split.folds else ("test", "validation")


def given_and_drawn(split: Split, summary: DatasetSummary) -> tuple[dict[str, int], dict[str, float]]:
    """Of these parts the rows of those that the data set marks, and the fractions of the others."""
    marked, given, drawn = summary.given_split or {}, {}, {}
    for name in names(split):
        share = of_part(split, name, marked=bool(marked.get(name)))
        if share == "given":
            given[name] = marked.get(name, 0)
        else:
            drawn[name] = share
    return given, drawn


def of_all(samples: int, wanted: float) -> int:
    """How many of these samples a part of about `wanted` takes."""
    return min(samples, max(round(wanted), 1 if wanted > 0 else 0))


def of_each_class(counts: Sequence[int], wanted: float) -> list[int]:
    """How many samples of each class a part of about `wanted` takes: in proportion, and of no class all of them."""
    share = wanted / max(1, sum(counts))
    taken, carried = [], 0.0
    for count in counts:
        exact = share * count + carried  # what rounding leaves is carried on, so that the total comes right
        whole = min(round(exact), count - 1)
        carried = exact - whole
        taken.append(max(0, whole))
    if wanted > 0 and not any(taken) and max(counts, default=0) > 1:
        taken[counts.index(max(counts))] = 1
    return taken


def why_empty(split: Split, share: float, samples: int, classes: int | None) -> str:
    """Why a fraction of these samples has none of them, and what to do."""
    instead = "or set it to 0.0 to do without"
    if split.method == "content":
        return (
            f"a share of {share:g} is empty: the content of none of the {samples:,} sequences falls into it; raise the "
            f"share, give more sequences, {instead}"
        )
    if split.method == "group":
        return (
            f"a share of {share:g} is empty: the {samples:,} samples are of too few groups, and training, validation "
            f"and test need a group each; name another column with data.split.by, {instead}"
        )
    if split.method == "time":
        return (
            f"a share of {share:g} is empty: the {samples:,} samples end at too few different times, and training, "
            f"validation and test need one each; choose another method, {instead}"
        )
    if split.stratify and classes is not None:
        return (
            f"a share of {share:g} is empty: training needs a sample of each of the {classes:,} classes, and of the "
            f"{samples:,} samples none is left; give more samples of each class, {instead}"
        )
    return f"a share of {share:g} is empty: of the {samples:,} samples none is left; give more samples, {instead}"
