"""Texts as sequences of numbers: 0 is padding, 1 what the vocabulary does not have, 2 its commonest entry."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopline.preprocessing.choices import Choices
from loopline.preprocessing.tokens import By, tokens

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""The numbers of padding, of what is unknown, and of the first entry of a vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """The characters or words of the training split, and the choices that it was made by."""

    by: By
    lowercase: bool
    max_vocabulary: int
    min_count: int
    embedding_size: int
    """Numbers of the vector of each entry."""
    entries: tuple[str, ...]
    """The most frequent one first."""

    @property
    def rows(self) -> int:
        """How many vectors the network needs."""
        return FIRST + len(self.entries)

    def places(self) -> dict[str, int]:
        """The number of each entry."""
        return {entry: number for number, entry in enumerate(self.entries, FIRST)}

    def applied(self, texts: Iterable[str], choices: Choices) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The numbers of texts, one text after the other (steps, `choices.patch`), and the steps of each text. A text
        without any character or word is one that is unknown."""
        place = self.places()
        codes, ends = array("i"), array("q")
        for text in texts:
            found = chosen(tokens(text, self.by, lowercase=self.lowercase), choices)
            codes.extend([place.get(token, UNKNOWN) for token in found] or [UNKNOWN])
            codes.extend([PADDING] * (-len(codes) % choices.patch))
            ends.append(len(codes) // choices.patch)
        lengths = np.array(ends, np.int64)
        lengths[1:] -= lengths[:-1].copy()
        return np.array(codes, np.float32).reshape(-1, choices.patch), lengths

    def lacks(self, newer: Vocabulary, texts: NDArray[np.object_], choices: Choices) -> float:
        """Which share of what is read of texts a newer vocabulary knows and this one does not."""
        (old, _), (new, _) = (each.applied(texts, choices) for each in (self, newer))
        return float(((old == UNKNOWN) & (new >= FIRST)).sum() / (new != PADDING).sum())

    def document(self) -> dict[str, Any]:
        return {**vars(self), "entries": list(self.entries)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Vocabulary:
        """Undoes `document`. Raises KeyError, TypeError."""
        return cls(**{**document, "entries": tuple(document["entries"])})


def chosen(found: Sequence[str], choices: Choices) -> Sequence[str]:
    """What is read of a text: `shape.chosen_steps` of one sequence."""
    most = choices.max_length
    if most is not None and len(found) > most:
        found = found[-most:] if choices.cut == "start" else found[:most]
    return found[:: choices.stride]
