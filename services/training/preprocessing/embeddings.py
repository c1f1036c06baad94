"""The size of the vectors that a network looks up for the words of a category."""

from __future__ import annotations

from dataclasses import replace

from loopline.preprocessing.choices import Choices
from loopline.preprocessing.fitted import Feature

from services.training.spec.widths import embedding_size


def with_embeddings(features: tuple[Feature, ...], choices: Choices) -> tuple[Feature, ...]:
    """Categories as the network looks them up, if it does."""
    if choices.categories != "embedding":
        return features
    return tuple(replace(each, embedding=_embedding(each, choices.embedding_size)) for each in features)


def _embedding(feature: Feature, wanted: int | None) -> int | None:
    if feature.words is None:
        return None
    return embedding_size(len(feature.words), wanted)
