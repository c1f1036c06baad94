"""The states of an attempt, and what it has to do next."""

from __future__ import annotations

import itertools

import pytest

from worker.attempt.conversation import MOVES, Attempt, State
from worker.attempt.deadlines import NEVER, Deadlines


def attempt(state: State) -> Attempt:
    made = Attempt.__new__(Attempt)
    made.state = state
    return made


@pytest.mark.parametrize(("before", "after"), [*itertools.product(State, State)])
def test_an_attempt_moves_only_as_the_table_says(before: State, after: State) -> None:
    made = attempt(before)
    if after in MOVES[before]:
        made.move(after)
        assert made.state is after
        return
    with pytest.raises(ValueError, match=f"cannot go from {before.name} to {after.name}"):
        made.move(after)
    assert made.state is before


def test_every_attempt_comes_to_its_end_and_stays_there() -> None:
    for state in State:
        seen = {state}
        while more := {after for before in seen for after in MOVES[before]} - seen:
            seen |= more
        assert State.DONE in seen
    assert MOVES[State.DONE] == frozenset()


@pytest.mark.parametrize("name", ["renew", "look", "kill", "time_limit", "stall"])
def test_the_next_thing_is_the_one_that_is_due_first(name: str) -> None:
    deadlines = Deadlines(renew=10.0, look=11.0)
    setattr(deadlines, name, 5.0)
    assert deadlines.next(has_events=False, has_output=False) == 5.0


def test_what_is_to_be_written_is_due_only_where_there_is_something() -> None:
    deadlines = Deadlines(renew=10.0, look=11.0, write=3.0, output=4.0)
    assert deadlines.next(has_events=False, has_output=False) == 10.0
    assert deadlines.next(has_events=True, has_output=False) == 3.0
    assert deadlines.next(has_events=False, has_output=True) == 4.0
    deadlines.write = 6.0  # the database could not answer: what was printed waits too
    assert deadlines.next(has_events=False, has_output=True) == 6.0


def test_what_has_no_moment_is_never_due() -> None:
    assert Deadlines(renew=NEVER, look=NEVER).next(has_events=False, has_output=False) == NEVER
