"""Which samples are for training, for validation and for the test."""

from __future__ import annotations

import hashlib
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from services.errors import DatasetInvalid, Problem
from services.training.files import grouping
from services.training.files.grouping import Groups
from services.training.files.npz import Arrays
from services.training.spec import drawing, folds, shares
from services.training.spec.fields import Split
from services.training.tasks import known

CODES = {"validation": 1, "test": 2}
"""What marks a row in the `split` of a data set."""
Parts = dict[str, NDArray[np.int64]]
"""By name, the rows of parts of a split, ascending."""


EMPTY: NDArray[np.int64] = np.array([], np.int64)


def split_rows(arrays: Arrays, split: Split) -> Parts:
    """The rows of each part. A fraction is taken as `split.method` says, and never from rows given elsewhere. With
    folds there is no validation part: all that is not for the test is for training (`split_folds`).

    Raises DatasetInvalid when nothing is left to train on, when a fraction above 0 has no rows, or when a part that the
    data set gives breaks what the method promises.
    """
    given = arrays.split
    rows: Parts = {}
    left = np.arange(len(arrays.x))
    fractions: dict[str, float] = {}
    for name in shares.names(split):
        marked = np.flatnonzero(given == CODES[name]) if given is not None else EMPTY
        share = shares.of_part(split, name, marked=bool(len(marked)))
        if share == "given":
            rows[name] = marked
            left = np.setdiff1d(left, marked, assume_unique=True)
        else:
            fractions[name] = share
    groups = _groups(arrays, split) if split.method == "group" else None
    if groups is not None:
        drawn = _by_group(groups.of[left], left, fractions, split)
    elif split.method == "time":
        drawn = _by_time(_ends(arrays)[left], left, fractions, split)
    elif split.method == "content":
        drawn = _by_content(arrays, left, fractions, split.seed)
    else:
        drawn = _at_random(arrays, left, fractions, split)
    train = np.setdiff1d(left, np.concatenate([left[:0], *drawn.values()]), assume_unique=True)
    rows = {"train": train} | {name: (rows | drawn).get(name, EMPTY) for name in ("validation", "test")}
    _check_sizes(arrays, split, rows, left, fractions)
    if groups is not None:
        _check_groups(groups, rows)
    elif split.method == "time":
        _check_order(_ends(arrays), rows)
    if split.train_on_validation:
        rows["train"], rows["validation"] = np.sort(np.concatenate([rows["train"], rows["validation"]])), EMPTY
    return rows


def split_folds(arrays: Arrays, split: Split) -> list[Parts]:
    """The rows of each part for each fold, and last for the final model, which trains on all that is not for the test.

    Each row that is not for the test is for validation in one fold; by time those of the first period are in none. No
    fold has a test part: nothing of it is even looked at before the final model.

    Raises DatasetInvalid as `split_rows` does, and when there is too little for so many folds.
    """
    assert split.folds is not None, "the split has folds"  # noqa: S101
    final = split_rows(arrays, split)
    rows = final["train"]
    fold_of = _fold_of(arrays, rows, split)
    found: list[Parts] = []
    for fold in range(1, split.folds + 1):
        is_trained_on = fold_of < fold if split.method == "time" else fold_of != fold
        found.append({"train": rows[is_trained_on], "validation": rows[fold_of == fold], "test": EMPTY})
    return [*found, final]


def _fold_of(arrays: Arrays, rows: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """(rows,): the fold that each is for validation in, from 1 on; by time, 0 for the first period."""
    assert split.folds is not None  # noqa: S101
    rng = np.random.default_rng([split.seed, 0xF01D])
    units = np.arange(len(rows))
    if split.method == "group":
        units = _groups(arrays, split).of[rows]
    elif split.method == "time":
        units = _ends(arrays)[rows]
    there, needed = len(np.unique(units)), folds.units_needed(split)
    if there < needed:
        what = {"group": "groups", "time": "times at which samples end"}.get(split.method, "samples")
        detail = f"{split.folds} folds need {needed} {what} outside the test, and there are {there}: set fewer folds"
        raise DatasetInvalid(f"The data cannot be divided: {detail}.", [Problem(folds.PLACE, detail)])
    if split.method == "group":
        return _dealt_groups(units, split.folds, rng)
    if split.method == "time":
        return _periods(units, split.folds + 1)
    order = rng.permutation(len(rows))
    if split.stratify and known.of_y(arrays.y).stratifies:  # one class after the other, so each is dealt evenly
        order = order[np.argsort(arrays.y[rows][order], kind="stable")]
    fold_of = np.empty(len(rows), np.int64)
    fold_of[order] = np.arange(len(rows)) % split.folds + 1
    return fold_of


def _dealt_groups(groups: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole groups, the largest first, each to the fold with the fewest samples so far. `groups` is (rows,)."""
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = rng.permutation(len(sizes))
    dealt, totals = np.empty(len(sizes), np.int64), np.zeros(count, np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        dealt[group] = totals.argmin()
        totals[dealt[group]] += sizes[group]
    fold_of: NDArray[np.int64] = dealt[of.reshape(-1)] + 1
    return fold_of


def _periods(ends: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The number of the period that each time is in: periods of about as many samples, numbered from 0."""
    times, of, sizes = np.unique(ends, return_inverse=True, return_counts=True)
    before = np.concatenate(([0], np.cumsum(sizes)))
    begins = [0]
    for period in range(1, count):
        choices = np.arange(begins[-1] + 1, len(times) - (count - period) + 1)
        begins.append(int(choices[np.abs(before[choices] - period * len(ends) / count).argmin()]))
    found: NDArray[np.int64] = np.searchsorted(begins, of.reshape(-1), side="right") - 1
    return found


def _check_sizes(
    arrays: Arrays,
    split: Split,
    rows: Parts,
    divided: NDArray[np.int64],
    fractions: dict[str, float],
) -> None:
    """Raises DatasetInvalid where a part has no rows that was to have some."""
    if not len(rows["train"]):
        sizes = f"{len(rows['validation']):,} are for validation and {len(rows['test']):,} for the test"
        detail = f"leaves nothing to train on: of the {len(arrays.x):,} samples {sizes}"
        raise DatasetInvalid(f"The split {detail}.", [Problem("/data/split", detail)])
    task = known.of_y(arrays.y)
    classes = len(np.unique(arrays.y[divided])) if task.stratifies else None
    problems = [
        Problem(f"/data/split/{name}", shares.why_empty(split, share, len(divided), classes))
        for name, share in fractions.items()
        if share > 0 and not len(rows[name])
    ]
    if problems:
        raise DatasetInvalid(f"The split has an empty part: {problems[0]}.", problems)


def _by_content(arrays: Arrays, rows: NDArray[np.int64], fractions: dict[str, float], seed: int) -> Parts:
    """Each row's part by a hash of its valid steps, or of its text: the same in whatever company, and for all its
    copies."""
    key = seed.to_bytes(8, "little")
    place = np.empty(len(rows))
    for at, row in enumerate(rows):
        if arrays.texts is not None:
            content = arrays.texts[row].encode()
        else:
            content = np.ascontiguousarray(arrays.x[row, : arrays.lengths[row]], np.float32).data  # whatever is kept
        digest = hashlib.blake2b(content, digest_size=8, key=key).digest()
        place[at] = int.from_bytes(digest, "little") / 2**64
    chosen, begin = {}, 0.0
    for name, share in fractions.items():
        chosen[name] = rows[(place >= begin) & (place < begin + share)]
        begin += share
    return chosen


def _at_random(arrays: Arrays, rows: NDArray[np.int64], fractions: dict[str, float], split: Split) -> Parts:
    rng = np.random.default_rng([split.seed, 0x5EED])
    chosen, samples = {}, len(rows)
    for name, share in fractions.items():
        chosen[name] = _draw(arrays.y, rows, share * samples, rng, stratify=split.stratify)
        rows = np.setdiff1d(rows, chosen[name], assume_unique=True)
    return chosen


def _by_group(of: NDArray[np.int64], rows: NDArray[np.int64], fractions: dict[str, float], split: Split) -> Parts:
    """Whole groups at random, until a part has about as many samples as it is to have. `of` (rows,) are the groups."""
    numbers, of = np.unique(of, return_inverse=True)
    sizes = np.bincount(of.reshape(-1), minlength=len(numbers))
    drawn = drawing.groups_of_parts(sizes.tolist(), fractions, split)
    return {name: rows[np.isin(of.reshape(-1), groups)] for name, groups in drawn.items()}


def _by_time(ends: NDArray[Any], rows: NDArray[np.int64], fractions: dict[str, float], split: Split) -> Parts:
    """The latest rows for the test and those before them for validation. `ends` (rows,) are their times."""
    times, of = np.unique(ends, return_inverse=True)
    up_to = np.concatenate(([0], np.cumsum(np.bincount(of.reshape(-1), minlength=len(times)))))
    chosen, stop = {}, len(times)
    for name, share, others in drawing.with_others(fractions, split):
        begin = stop
        if share > 0 and stop > others:
            begins = np.arange(others, stop)  # of the times that the part may begin with, the one of the nearest size
            begin = int(begins[np.abs(up_to[stop] - up_to[begins] - share * len(rows)).argmin()])
        chosen[name] = rows[(of.reshape(-1) >= begin) & (of.reshape(-1) < stop)]
        stop = begin
    return chosen


def _groups(arrays: Arrays, split: Split) -> Groups:
    """The groups that the split keeps together. Raises DatasetInvalid where the data set has none."""
    columns = grouping.columns(arrays)
    column = split.by or next((name for name, naming in columns.items() if naming), None)
    if column not in columns:
        detail = f"the data set has no column {split.by}" if split.by else "no column of the data set names sequences"
        raise DatasetInvalid(f"The split needs groups, and {detail}.", [Problem("/data/split/method", detail)])
    return grouping.by(arrays, column)


def _ends(arrays: Arrays) -> NDArray[Any]:
    """When each sample ends. Raises DatasetInvalid where the data set has no times."""
    if arrays.ends is None:
        detail = "the data set has no times"
        raise DatasetInvalid(f"The split needs times, and {detail}.", [Problem("/data/split/method", detail)])
    return arrays.ends


def _check_groups(groups: Groups, rows: Parts) -> None:
    """Raises DatasetInvalid where a part that the data set gives has only some of a group."""
    seen: dict[str, NDArray[np.int64]] = {name: np.unique(groups.of[chosen]) for name, chosen in rows.items()}
    for first, second in combinations(seen, 2):
        both = np.intersect1d(seen[first], seen[second], assume_unique=True)
        if len(both):
            shown = ", ".join(str(name) for name in groups.names[both[:10]])
            more = f" and {len(both) - 10:,} more" if len(both) > 10 else ""
            detail = (
                f"{groups.column} {shown}{more} would be in both {first} and {second}, because the data set gives one "
                "of these parts: give all rows of a group the same part, or set both parts to fractions"
            )
            raise DatasetInvalid(f"The split tears groups apart: {detail}.", [Problem("/data/split", detail)])


def _check_order(ends: NDArray[Any], rows: Parts) -> None:
    """Raises DatasetInvalid where a part that the data set gives is not later than what it is to be later than."""
    parts = [(name, ends[chosen]) for name, chosen in rows.items() if len(chosen)]
    for (first, before), (second, after) in pairwise(parts):
        if before.max() >= after.min():
            detail = (
                f"the {second} split begins before the {first} split ends, because the data set gives one of them: set "
                "both parts to fractions, or take method: given if that is meant"
            )
            raise DatasetInvalid(f"The split is not in the order of time: {detail}.", [Problem("/data/split", detail)])


def _draw(
    y: NDArray[Any], rows: NDArray[np.int64], wanted: float, rng: np.random.Generator, *, stratify: bool
) -> NDArray[np.int64]:
    """About `wanted` of the rows at random, each class in proportion and none of them whole."""
    shuffled = rng.permutation(rows)
    if not stratify or not known.of_y(y).stratifies:
        return np.sort(shuffled[: shares.of_all(len(rows), wanted)])
    labels = y[shuffled]
    kinds, counts = np.unique(labels, return_counts=True)
    taken = shares.of_each_class(counts.tolist(), wanted)
    chosen = [shuffled[labels == label][:count] for label, count in zip(kinds, taken, strict=True)]
    return np.sort(np.concatenate(chosen)) if chosen else shuffled[:0]


def check_labels(y: Tensor, classes: list[int | str], rows: Parts, split: Split) -> None:
    """Raises DatasetInvalid where a label is judged by but not trained on: without stratification it may happen."""
    labels = y.numpy().reshape(len(y)).astype(np.int64)
    known = np.unique(labels[rows["train"]])
    advice = {
        "content": "give more sequences of each class",
        "group": "give more groups with each class, or set another data.split.seed",
        "time": "give earlier sequences of each class, or leave out the classes that are new",
        "given": "mark some of these rows as train",
    }.get(split.method, "set data.split.stratify to true")
    problems = []
    for name in ("validation", "test"):
        strange = rows[name][~np.isin(labels[rows[name]], known)]
        if len(strange):
            unseen = ", ".join(str(classes[i]) for i in np.unique(labels[strange])[:10])
            where = ", ".join(map(str, strange[:10])) + (f" and {len(strange) - 10} more" if len(strange) > 10 else "")
            detail = f"labels {unseen} of rows {where} are in no training row: {advice}"
            problems.append(Problem(f"/data/split/{name}", detail))
    if problems:
        raise DatasetInvalid(f"The split does not fit the labels; the first problem: {problems[0].detail}", problems)
