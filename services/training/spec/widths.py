"""How many steps a network reads of a sequence, and how many numbers at each. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.training.files.summary import Columns, DatasetSummary
from services.training.spec.fields import Data

MOST_OF_EMBEDDING = 50


def steps_read(length: int, max_length: int | None, stride: int, patch: int) -> int:
    """The steps that a network reads of a sequence of so many."""
    kept = length if max_length is None else min(length, max_length)
    return math.ceil(math.ceil(kept / stride) / patch)


def embedding_size(words: int, wanted: int | None) -> int:
    """The size of the vectors of so many words."""
    return wanted or max(1, min(MOST_OF_EMBEDDING, (words + 1) // 2))


@dataclass(frozen=True)
class Widths:
    """What a network reads of a data set, at most: categories and gaps may be missing from the training split."""

    channels: int
    """Numbers of each step that are kept in memory."""
    inputs: int
    """Numbers of each step that reach the recurrent layers, after words were looked up."""
    embeddings: int
    """Parameters of the vectors of words."""
    static: int
    """Numbers that the head reads beside the pooled steps."""
    longest: int
    """Steps that are read of the longest sequence."""
    shortest: int


def widths(data: Data, summary: DatasetSummary) -> Widths:
    steps = summary.inputs or Columns(numbers=summary.features, categories=[], gaps=0)
    masks = steps.gaps if data.missing_mask else 0
    numbers = steps.numbers * (2 if data.differences == "append" else 1) + masks
    sizes = [(words + 1, embedding_size(words, data.embedding_size)) for words in steps.categories]
    if data.categories == "one_hot":
        channels = inputs = numbers + sum(steps.categories)
        sizes = []
    else:
        channels, inputs = numbers + len(sizes), numbers + sum(size for _, size in sizes)
    static = 0
    if (values := summary.static) is not None:
        static = values.numbers + sum(values.categories) + (values.gaps if data.missing_mask else 0)
    longest, shortest = (
        steps_read(length, data.max_length, data.stride, data.patch)
        for length in (summary.max_length, summary.min_length)
    )
    return Widths(
        channels=data.patch * channels,
        inputs=data.patch * inputs,
        embeddings=sum(words * size for words, size in sizes),
        static=static,
        longest=longest,
        shortest=shortest,
    )
