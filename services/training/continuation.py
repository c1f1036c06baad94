"""From texts to streams of characters or words, each of which is predicted from those before it.

A text is its lines, with a line break after each, which is a character or word like others. The vocabulary comes from
the training part alone. Texts that are joined are one long text. It is divided by place, and each part is cut into
streams that are read side by side: no stream, and so no window, goes over the border of a part.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from loopline.preprocessing.choices import Choices
from loopline.preprocessing.fitted import Fitted, Preprocessing
from loopline.preprocessing.scaling import UNSCALED, Scaling
from loopline.preprocessing.texts import FIRST, UNKNOWN, Vocabulary
from loopline.preprocessing.tokens import LINE_BREAK, tokens
from numpy.typing import NDArray

from services.errors import DatasetInvalid, Problem
from services.training import provenance
from services.training.bptt import Unrolled
from services.training.data import Prepared
from services.training.files.npz import Arrays
from services.training.preprocessing.vocabularies import of_counts
from services.training.spec import Spec, shares
from services.training.spec.fields import NextStep, Split, Text
from services.training.splits import split_rows
from services.training.tasks import next_step

Rows = NDArray[np.int64]
Codes = NDArray[np.int32]
NONE: Rows = np.empty(0, np.int64)
PARTS = ("train", "validation", "test")
EVALUATED_AT_ONCE = 256
"""Steps of a window of validation or of the test, which changes no result."""
LEAST_OF_STREAM = 1024
"""Steps of a stream of validation or of the test, at least: each stream begins without a past."""
MOST_STREAMS = 256
"""Of validation or of the test."""


@dataclass(frozen=True)
class Continuation(Prepared):
    """Texts ready for training."""

    def card(self) -> dict[str, Any]:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        shares = {
            name: round(float((part.y == next_step.UNKNOWN).double().mean()), 6)
            for name, part in parts.items()
            if part is not None
        }
        return {"static_size": 0, "unknown_share": shares}


@dataclass(frozen=True)
class _Read:
    """All texts, by numbers that were given in the order of the first occurrence."""

    codes: Codes
    """(characters or words,) of one text after the other, a line break after each line."""
    sizes: Rows
    """(texts,)"""
    entries: tuple[str, ...]
    """By number."""


def texts_alone(arrays: Arrays) -> Arrays:
    """The data set without targets, and without anything that sequences have beside their texts."""
    return replace(arrays, y=np.empty((len(arrays), 0), np.int64), static=None, static_columns=())


def prepare(arrays: Arrays, spec: Spec, before: Vocabulary | None = None) -> Continuation:
    """Divides texts and makes the vocabulary of the training part, or takes that of a model.

    Raises DatasetInvalid where a part of the split cannot be used, or there is no vocabulary.
    """
    task, text, texts = spec.task, spec.data.text, arrays.texts
    assert isinstance(task, NextStep), "another task is prepared by data.py"  # noqa: S101
    assert texts is not None, "check_data() asks for texts"  # noqa: S101
    assert text is not None, "check_data() fills it in"  # noqa: S101
    read = _read(texts, text)
    rows = dict.fromkeys(PARTS, NONE) if task.joined else split_rows(arrays, spec.data.split)
    if task.joined:
        places = _by_place(len(read.codes), spec.data.split)
        train = read.codes[places["train"]]
    else:
        train = read.codes[_of_texts(read.sizes, rows["train"])]
    vocabulary = before or _vocabulary(train, read.entries, text)
    numbers, lengths = _numbers(read, vocabulary), _lengths(spec)
    if task.joined:
        _check_no_weights(arrays)
        streams = {"train": spec.training.batch_size}
        parts = {name: _joined(numbers[place], lengths[name], streams.get(name)) for name, place in places.items()}
    else:
        begin, weights = vocabulary.places().get(LINE_BREAK, UNKNOWN), _weights(arrays, read.sizes, rows["train"])
        parts = {
            name: _separate(numbers, read.sizes, chosen, begin, lengths[name], weights) for name, chosen in rows.items()
        }
    return Continuation(
        task=next_step.TASK,
        train=parts["train"],
        validation=parts["validation"] if len(parts["validation"]) else None,
        test=parts["test"] if len(parts["test"]) else None,
        classes=None,
        preprocessing=Preprocessing(Fitted(Choices(), (), Scaling("none")), text=vocabulary),
        target_scaling=UNSCALED,
        input_size=1,
        output_size=vocabulary.rows - UNKNOWN,
        rows=rows,
        left_out=dict.fromkeys(PARTS, 0),
        about=provenance.of_data(arrays, None),
    )


def _lengths(spec: Spec) -> dict[str, int]:
    """The steps of a window of each part."""
    assert spec.training.bptt_steps is not None, "check_data() fills it in"  # noqa: S101
    return dict.fromkeys(PARTS, EVALUATED_AT_ONCE) | {"train": spec.training.bptt_steps}


def _read(texts: Iterable[str], text: Text) -> _Read:
    assert text.by is not None  # noqa: S101
    numbers: dict[str, int] = {LINE_BREAK: 0}
    codes, ends = array("i"), array("q")
    for one in texts:
        for line in one.split(LINE_BREAK):
            codes.extend(
                [numbers.setdefault(each, len(numbers)) for each in tokens(line, text.by, lowercase=text.lowercase)]
            )
            codes.append(0)
        ends.append(len(codes))
    sizes = np.array(ends, np.int64)
    sizes[1:] -= sizes[:-1].copy()
    return _Read(np.array(codes, np.int32), sizes, tuple(numbers))


def _vocabulary(train: Codes, entries: tuple[str, ...], text: Text) -> Vocabulary:
    counts = np.bincount(train, minlength=len(entries))
    found = np.flatnonzero(counts)
    return of_counts(Counter({entries[code]: int(counts[code]) for code in found.tolist()}), text)


def _numbers(read: _Read, vocabulary: Vocabulary) -> Codes:
    """The same texts by the numbers of a vocabulary."""
    place = vocabulary.places()
    table = np.array([place.get(entry, UNKNOWN) for entry in read.entries], np.int32)
    found: Codes = table[read.codes]
    return found


# ---- one long text


def _by_place(steps: int, split: Split) -> dict[str, slice]:
    """Where each part is in a text of so many characters or words. Raises DatasetInvalid where one is too small."""
    test, validation = (_share(split, name) for name in ("test", "validation"))
    second = steps - (round(test * steps) if test else 0)
    first = second - (round(validation * steps) if validation else 0)
    parts = {"train": slice(0, first), "validation": slice(first, second), "test": slice(second, steps)}
    wanted = {"train": 1.0, "validation": validation, "test": test}
    problems = []
    for name, part in parts.items():
        if wanted[name] and part.stop - part.start < 2:
            detail = f"the {name} part has {part.stop - part.start} of the {steps:,} characters or words, and needs 2: "
            detail += "give a longer text, or other shares"
            problems.append(Problem("/data/split" if name == "train" else f"/data/split/{name}", detail))
    if problems:
        raise DatasetInvalid(f"The split has an empty part: {problems[0].detail}.", problems)
    return parts


def _share(split: Split, name: str) -> float:
    share = shares.of_part(split, name, marked=False)
    assert share != "given", "tasks.py refuses it"  # noqa: S101
    return share


def _check_no_weights(arrays: Arrays) -> None:
    """Raises DatasetInvalid where texts that are joined have weights of their own."""
    if arrays.weights is not None:
        detail = "weights are of separate texts: set task.joined to false, or upload the file without a weight"
        raise DatasetInvalid(f"The texts cannot be joined: {detail}.", [Problem("/task/joined", detail)])


def _joined(codes: Codes, length: int, streams: int | None) -> Unrolled:
    """A part of one long text, in streams that are equally long, but for a step: so many, or as many as are long enough
    to be judged."""
    steps = max(0, len(codes) - 1)
    if streams is None:
        streams = min(MOST_STREAMS, steps // LEAST_OF_STREAM)
    streams = max(1, min(streams, steps))
    sizes = np.full(streams, steps // streams)
    sizes[: steps % streams] += 1
    return _part(codes[:-1], codes[1:], sizes[sizes > 0], length)


# ---- separate texts


def _weights(arrays: Arrays, sizes: Rows, train: Rows) -> NDArray[np.float64] | None:
    """Of each text, so that the mean over the steps of training is 1."""
    if arrays.weights is None:
        return None
    mean = (arrays.weights[train] * sizes[train]).sum() / sizes[train].sum()
    return np.asarray(arrays.weights / mean, np.float64)


def _separate(
    codes: Codes, sizes: Rows, rows: Rows, begin: int, length: int, weights: NDArray[np.float64] | None
) -> Unrolled:
    """Some texts: each is predicted from its beginning on, after a line break (`begin`), to its own line break."""
    targets, of = codes[_of_texts(sizes, rows)], sizes[rows]
    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    inputs[np.cumsum(of) - of] = begin
    each = None if weights is None else torch.from_numpy(np.repeat(weights[rows], of).astype(np.float32))
    return replace(_part(inputs, targets, of, length), weights=each)


def _of_texts(sizes: Rows, rows: Rows) -> Rows:
    """The places of some texts, one after the other."""
    begins, counts = (np.cumsum(sizes) - sizes)[rows], sizes[rows]
    found: Rows = np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return found


def _part(inputs: Codes, targets: Codes, sizes: Rows, length: int) -> Unrolled:
    return Unrolled(
        x=torch.from_numpy(inputs.astype(np.float32))[:, None],
        lengths=None,
        y=torch.from_numpy(targets.astype(np.int64) - UNKNOWN + next_step.UNKNOWN),
        by_step=True,
        begins=np.cumsum(sizes) - sizes,
        sizes=sizes,
        length=length,
    )


assert FIRST - UNKNOWN == 1, "an output for what is unknown, and then the entries"  # noqa: S101
