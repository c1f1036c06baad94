"""What is wrong with a file, in sentences that name the place and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_PROBLEMS = 100
"""A report of more than these helps nobody."""
_SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    where: str
    """The place, as the owner of the file would name it: `line 700,001`, `column load_mw`, `walk_3.csv`; or empty."""
    detail: str
    """What is wrong there and what to do about it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}" if self.where else self.detail


class FileInvalid(Exception):
    """A file cannot be read as what it should be. `problems` has everything that was found, at least one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = _merged(problems)
        more = len(self.problems) - 1
        super().__init__(f"{self.problems[0]} (and {more:,} more)" if more else str(self.problems[0]))


def _merged(problems: Sequence[Problem]) -> list[Problem]:
    """The same problem in several places, as one that names the first of them."""
    places: dict[str, list[str]] = {}
    for problem in problems:
        places.setdefault(problem.detail, []).append(problem.where)
    return [Problem(_listed(where), detail) for detail, where in places.items()]


def _listed(places: Sequence[str]) -> str:
    shown = [place for place in places[:_SHOWN] if place]
    more = len(places) - _SHOWN
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 and shown else "")


@dataclass
class Findings:
    """Collects problems, so that a file is refused with all of them at once."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, where: str, detail: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(where, detail))

    def check(self) -> None:
        """Raises FileInvalid if there are problems."""
        if self.problems:
            raise FileInvalid(self.problems)


def refuse(where: str, detail: str) -> FileInvalid:
    """The error for a file with this one problem."""
    return FileInvalid([Problem(where, detail)])
