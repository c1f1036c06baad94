"""Which samples are for training, for validation and for the test."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from services.errors import DatasetInvalid, Problem
from services.training.files.npz import Arrays
from services.training.spec import shares
from services.training.spec.fields import Split
from services.training.tasks import known


def split_rows(arrays: Arrays, split: Split) -> dict[str, NDArray[np.int64]]:
    """The rows of each part, ascending. A fraction is drawn from split.seed and never touches rows given elsewhere.

    Raises DatasetInvalid when nothing is left to train on, or a fraction above 0 has no rows.
    """
    given = arrays.split
    rows: dict[str, NDArray[np.int64]] = {}
    left = np.arange(len(arrays.x))
    fractions: dict[str, float] = {}
    for code, name, fallback in ((2, "test", 0.0), (1, "validation", 0.2)):
        share = getattr(split, name)
        marked = np.flatnonzero(given == code) if given is not None else np.array([], dtype=np.int64)
        if share == "given" or (share is None and len(marked)):
            rows[name] = marked
            left = np.setdiff1d(left, marked, assume_unique=True)
        else:
            fractions[name] = fallback if share is None else share
    to_divide = left
    if split.method == "content":
        rows |= _by_content(arrays, left, fractions, split.seed)
        left = np.setdiff1d(left, np.concatenate([rows[name] for name in fractions]), assume_unique=True)
    else:
        rng = np.random.default_rng([split.seed, 0x5EED])
        for name, share in fractions.items():  # of all samples, so that a fraction means the same in any order
            wanted = share * len(arrays.x) if len(fractions) == 2 else share * len(left)
            rows[name] = _draw(arrays.y, left, wanted, rng, stratify=split.stratify)
            left = np.setdiff1d(left, rows[name], assume_unique=True)
    rows = {"train": left, "validation": rows["validation"], "test": rows["test"]}
    _check_sizes(arrays, split, rows, to_divide, fractions)
    return rows


def _check_sizes(
    arrays: Arrays,
    split: Split,
    rows: dict[str, NDArray[np.int64]],
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


def _by_content(
    arrays: Arrays, rows: NDArray[np.int64], fractions: dict[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Each row's part by a hash of its valid steps: the same in whatever company, and for all its copies."""
    key = seed.to_bytes(8, "little")
    place = np.empty(len(rows))
    for at, row in enumerate(rows):
        steps = np.ascontiguousarray(arrays.x[row, : arrays.lengths[row]], np.float32)  # whatever is kept of it
        digest = hashlib.blake2b(steps.data, digest_size=8, key=key).digest()
        place[at] = int.from_bytes(digest, "little") / 2**64
    chosen, begin = {}, 0.0
    for name, share in fractions.items():
        chosen[name] = rows[(place >= begin) & (place < begin + share)]
        begin += share
    return chosen


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


def check_labels(y: Tensor, classes: list[int | str], rows: dict[str, NDArray[np.int64]], split: Split) -> None:
    """Raises DatasetInvalid where a label is judged by but not trained on: without stratification it may happen."""
    labels = y.numpy().reshape(len(y)).astype(np.int64)
    known = np.unique(labels[rows["train"]])
    by_content = split.method == "content"
    advice = "give more sequences of each class" if by_content else "set data.split.stratify to true"
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
