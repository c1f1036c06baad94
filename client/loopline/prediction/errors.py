"""What predicting raises on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from loopline.files.problems import FileInvalid, Problem


class ModelUnusable(Exception):
    """A folder is not that of a model, is damaged, or needs something that is not installed."""


class InputInvalid(ValueError):
    """A model cannot take this. `problems` has everything that was found, at least one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        found = FileInvalid(problems)
        self.problems = found.problems
        super().__init__(str(found))


def refused(detail: str, where: str = "") -> InputInvalid:
    """The error for an input with this one problem."""
    return InputInvalid([Problem(where, detail)])
