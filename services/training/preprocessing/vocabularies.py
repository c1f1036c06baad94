"""The vocabulary of the texts of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

from loopline.preprocessing.choices import Choices
from loopline.preprocessing.texts import Vocabulary, chosen
from loopline.preprocessing.tokens import tokens

from services.errors import DatasetInvalid, Problem
from services.training.spec.fields import Text
from services.training.spec.widths import embedding_size


def fit(texts: Iterable[str], text: Text, choices: Choices) -> Vocabulary:
    """The vocabulary of the texts of training: the most frequent entries first, equally frequent ones by code point.

    Raises DatasetInvalid where nothing is frequent enough.
    """
    assert text.by is not None, "check_data() fills it in"  # noqa: S101
    by = text.by
    counted = Counter(chain.from_iterable(chosen(tokens(one, by, lowercase=text.lowercase), choices) for one in texts))
    return of_counts(counted, text)


def of_counts(counted: Mapping[str, int], text: Text) -> Vocabulary:
    """The same of the characters or words themselves, and how often each of them occurs."""
    assert text.by is not None, "check_data() fills it in"  # noqa: S101
    kept = [entry for entry, count in counted.items() if count >= text.min_count]
    if not kept:
        detail = (
            f"none of the {len(counted):,} {text.by} of the training split occurs {text.min_count:,} times: lower it, "
            "or give more texts"
        )
        raise DatasetInvalid(f"There is no vocabulary: {detail}.", [Problem("/data/text/min_count", detail)])
    kept.sort(key=lambda entry: (-counted[entry], entry))
    entries = tuple(kept[: text.max_vocabulary])
    size = embedding_size(len(entries), text.embedding_size)
    return Vocabulary(text.by, text.lowercase, text.max_vocabulary, text.min_count, size, entries)
