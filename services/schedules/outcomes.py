"""The possible outcomes of a slot of a schedule, and their reasons, each with a sentence for people.

waiting -> fired -> succeeded | failed | cancelled | deleted         skipped, missed, refused: at once
waiting -> skipped | refused
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of a slot, or of a run that somebody requested."""

    FIRED = "fired"
    """Its batch was submitted, and has not ended."""
    WAITING = "waiting"
    """It is fired when the batch before it has ended."""
    SUCCEEDED = "succeeded"
    """Every job of its batch has."""
    FAILED = "failed"
    """A job of its batch has."""
    CANCELLED = "cancelled"
    """A job of its batch was, and none failed."""
    DELETED = "deleted"
    """The jobs of its batch were, before anybody saw how they had ended."""
    SKIPPED = "skipped"
    """Nothing was submitted, as the schedule asks for."""
    MISSED = "missed"
    """Nothing was submitted, because nobody came to it in time."""
    REFUSED = "refused"
    """What was to be submitted is not right any more, or is too much."""


class Reason(StrEnum):
    """Why. A slot that was refused has the code of the error for a reason instead."""

    sentence: str

    def __new__(cls, word: str, sentence: str) -> Reason:
        reason = str.__new__(cls, word)
        reason._value_ = word
        reason.sentence = sentence
        return reason

    CATCH_UP = "catch_up", "It was fired late: no scheduler came to it in time."
    RUN_NOW = "run_now", "Somebody asked for it."
    REPLACED = "replaced", "The batch before it had not ended and was cancelled, as `overlap: replace` asks for."
    OVERLAP = (
        "overlap",
        "The batch before it had not ended. If that happens often, leave longer between two slots, or set `overlap` to "
        "`queue`.",
    )
    SUPERSEDED = "superseded", "A later slot took its place: of those that are late or wait, one alone is fired."
    NO_NEW_DATA = (
        "no_new_data",
        "No data set has a newer version than at the run before: upload one, or run the schedule now.",
    )
    PAUSED = "paused", "The schedule was paused while it waited: resume it, and run it now if this slot is wanted."
    DOWNTIME = (
        "downtime",
        "No scheduler came to it within `catch_up_seconds`: run the schedule now if this slot is wanted, and see that "
        "a scheduler runs.",
    )


OPEN = (Outcome.FIRED, Outcome.WAITING)
"""Those with which the scheduler is not done."""
