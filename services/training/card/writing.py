"""Puts a model card together."""

from __future__ import annotations

from services.training.card import pictures, sections
from services.training.card.facts import Facts
from services.training.card.names import README


def files_of(facts: Facts) -> dict[str, bytes]:
    """The files of a card, by their names: README.md and its pictures."""
    drawn = pictures.of(facts)
    lines = [
        *sections.head(facts),
        *sections.about(facts),
        *sections.quality(facts, drawn),
        *sections.training(facts, drawn),
        *sections.advice(facts),
        *sections.usage(facts),
    ]
    return {README: ("\n".join(lines).rstrip() + "\n").encode(), **drawn}
