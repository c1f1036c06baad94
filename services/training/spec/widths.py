"""How many steps a network reads of a sequence, and how many numbers at each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loopline.preprocessing.shape import steps_read

from services.training.files.summary import Columns, DatasetSummary, TextSummary
from services.training.spec.fields import Data, Text

MOST_OF_EMBEDDING = 50
FEW_WORDS = 3
"""Texts of so many words are read by their characters if nothing is said."""


def embedding_size(words: int, wanted: int | None) -> int:
    """The size of the vectors of so many words."""
    return wanted or max(1, min(MOST_OF_EMBEDDING, (words + 1) // 2))


def of_texts(text: Text | None, texts: TextSummary) -> Text:
    """How texts are read, with what a spec leaves to the data set filled in."""
    text = text or Text()
    by = text.by or ("characters" if texts.median_in_words <= FEW_WORDS else "words")
    return text.model_copy(update={"by": by})


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
    steps: int
    """Steps of all sequences that are kept in memory."""


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
    low, high, steps_kept = summary.min_length, summary.max_length, None
    if (texts := summary.texts) is not None:
        text, total = of_texts(data.text, texts), texts.characters
        if text.by == "words":
            low, high, total = texts.shortest_in_words, texts.longest_in_words, texts.words
        entries = min(text.max_vocabulary, total)
        sizes = [(entries + 2, embedding_size(entries, text.embedding_size))]
        channels, inputs = 1, sizes[0][1]
        steps_kept = min(total // data.stride, summary.samples * (data.max_length or total)) // data.patch
    longest, shortest = (steps_read(length, data.max_length, data.stride, data.patch) for length in (high, low))
    return Widths(
        channels=data.patch * channels,
        inputs=data.patch * inputs,
        embeddings=sum(words * size for words, size in sizes),
        static=static,
        longest=longest,
        shortest=shortest,
        steps=summary.samples * longest if steps_kept is None else steps_kept,
    )


def sure(data: Data, summary: DatasetSummary, most: Widths) -> Widths:
    """Of what a network reads at `most`, what it reads even if the training split lacks all words, categories and
    gaps."""
    steps = summary.inputs or Columns(numbers=summary.features, categories=[], gaps=0)
    numbers = steps.numbers * (2 if data.differences == "append" else 1)
    if summary.texts is not None:
        text = of_texts(data.text, summary.texts)
        return replace(most, inputs=data.patch * (text.embedding_size or 1), embeddings=0)
    static = 0 if summary.static is None else summary.static.numbers
    width = data.patch * numbers
    return replace(most, channels=width, inputs=width, embeddings=0, static=static)
