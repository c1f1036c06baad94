"""What cross-validation (`data.split.folds`) needs of a spec and of its data set; said before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator

from services.errors import Problem
from services.training.files.summary import DatasetSummary
from services.training.spec import shares
from services.training.spec.fields import Forecast, NextStep, Spec, Split
from services.training.tasks import known

PLACE = "/data/split/folds"
METHODS = ("random", "group", "time")


def problems(spec: Spec) -> Iterator[Problem]:
    """What does not go together with folds in the spec itself."""
    split = spec.data.split
    if split.folds is None:
        return
    if isinstance(spec.task, Forecast | NextStep):
        what = "windows of a forecast overlap" if isinstance(spec.task, Forecast) else "steps of a text go on"
        yield Problem(PLACE, f"are of samples, and the {what} from one into the next: leave it out with this task")
        return
    if split.validation is not None:
        yield Problem(
            "/data/split/validation", "is each fold once if there are folds: leave it out, or leave folds out"
        )
    if split.method not in METHODS:
        how = "random, group or time" if split.method == "given" else "random or group"
        yield Problem(
            "/data/split/method",
            f"{split.method} says itself which samples are the validation part, and folds take turns at it: choose "
            f"{how}, or leave folds out",
        )
    if spec.retrain is not None:
        yield Problem(
            PLACE,
            "judge a way to train, and a retraining compares one model with the one before: leave one of both out",
        )


def data_problems(spec: Spec, summary: DatasetSummary) -> Iterator[Problem]:
    """Why the data set has too little for so many folds, if it does."""
    split = spec.data.split
    if split.folds is None or split.method not in METHODS:
        return
    given, drawn = shares.given_and_drawn(split, summary)
    tested = drawn.get("test", 0.0) > 0
    needed, what = units_needed(split) + tested, "samples"
    found: int | None = summary.samples - sum(given.values())
    if split.method == "time":
        found, what = summary.times, "times at which sequences end"
    elif split.method == "group":
        counted = (each.groups for each in summary.groups if split.by in (each.column, None))
        found, what = next(counted, None), "groups"
    if found is None:
        return  # another rule says that the data set has none
    if found < needed:
        also = " and one for the test" if tested else ""
        first = ", one to begin with" if split.method == "time" else ""
        yield Problem(
            PLACE,
            f"{split.folds} folds need at least {needed} {what} (one for each fold{first}{also}), and the data set has "
            f"{found:,}: set fewer folds, or give more data",
        )
    elif not given:
        yield from _rare_classes(split, summary, drawn.get("test", 0.0))


def _rare_classes(split: Split, summary: DatasetSummary, test: float) -> Iterator[Problem]:
    """A class of which a fold would have the only sample: nothing could be trained on it then."""
    counts = summary.class_counts
    if counts is None or split.method != "random" or not split.stratify or not known.named(summary.target).stratifies:
        return
    taken = shares.of_each_class(counts, test * summary.samples)
    rare = [str(name) for name, all_, out in zip(summary.classes or (), counts, taken, strict=True) if all_ - out < 2]
    if rare:
        shown = ", ".join(rare[:10]) + (f" and {len(rare) - 10:,} more" if len(rare) > 10 else "")
        yield Problem(
            PLACE,
            f"the class {shown} has a single sample outside the test, and the fold that is validated on it could not "
            "train on it: give at least two samples of each class, or leave such classes out",
        )


def units_needed(split: Split) -> int:
    """How many samples, groups or times there must be outside the test. By time the first is never validated on."""
    assert split.folds is not None  # noqa: S101
    return split.folds + (split.method == "time")


def counts(split: Split, samples: int) -> dict[str, int]:
    """Of these samples outside the test, how many a fold is validated on, and how many it trains on at the least."""
    parts = units_needed(split)
    validation = math.ceil(samples / parts)
    return {"validation": validation, "train": samples // parts if split.method == "time" else samples - validation}
