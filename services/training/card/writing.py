"""Puts a model card together."""

from __future__ import annotations

from services.training.card import heading, limits, pictures, quality, training, usage
from services.training.card.facts import Facts
from services.training.card.names import README


def files_of(facts: Facts) -> dict[str, bytes]:
    """The files of a card, by their names: README.md and its pictures."""
    drawn = pictures.of(facts)
    lines = [
        *heading.head(facts),
        *heading.about(facts),
        *quality.quality(facts, drawn),
        *training.training(facts, drawn),
        *limits.advice(facts),
        *usage.usage(facts),
    ]
    return {README: ("\n".join(lines).rstrip() + "\n").encode(), **drawn}
