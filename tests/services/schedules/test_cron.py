"""Cron expressions in time zones: the days on which clocks change, and what is said of what is no expression."""

from __future__ import annotations

from datetime import datetime
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.schedules import cron
from tests.properties import examples


def next_slots(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next slots after a time by the zone's clocks, by them too."""
    since = datetime.fromisoformat(after).replace(tzinfo=cron.zone(zone)).timestamp()
    return [cron.local(slot, zone).isoformat() for slot in islice(cron.slots(expression, zone, since), count)]


def test_a_time_that_does_not_exist_comes_right_after_the_gap() -> None:
    assert next_slots("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert next_slots("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00", 3) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


def test_a_time_that_comes_twice_is_due_the_first_time_alone() -> None:
    nights = ["2026-04-05T02:30:00+11:00", "2026-04-06T02:30:00+10:00"]
    assert next_slots("30 2 * * *", "Australia/Sydney", "2026-04-04T12:00", 2) == nights
    for minute in (0, 10, 30, 59):  # whoever asks in the second of the two hours
        asked = datetime(2026, 4, 5, 2, minute, tzinfo=cron.zone("Australia/Sydney"), fold=1).timestamp()
        assert (
            next(cron.slots("30 2 * * *", "Australia/Sydney", asked)) == datetime.fromisoformat(nights[1]).timestamp()
        )


def test_what_goes_by_the_time_that_passes_is_due_in_both_hours() -> None:
    assert next_slots("*/30 * * * *", "Australia/Sydney", "2026-04-05T01:40", 5) == [
        "2026-04-05T02:00:00+11:00",
        "2026-04-05T02:30:00+11:00",
        "2026-04-05T02:00:00+10:00",
        "2026-04-05T02:30:00+10:00",
        "2026-04-05T03:00:00+10:00",
    ]
    assert next_slots("*/30 * * * *", "Europe/Berlin", "2026-03-29T01:00", 2) == [
        "2026-03-29T01:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
    ]


def test_every_two_hours_is_two_oclock_twice_or_never_where_clocks_change() -> None:
    sydney = next_slots("0 */2 * * *", "Australia/Sydney", "2026-04-05T00:30", 3)
    assert [slot[11:16] for slot in sydney] == ["02:00", "02:00", "04:00"]
    berlin = next_slots("0 */2 * * *", "Europe/Berlin", "2026-03-28T23:30", 2)
    assert [slot[11:16] for slot in berlin] == ["00:00", "04:00"]


@given(
    expression=st.sampled_from(
        [
            "* * * * *",
            "*/7 * * * *",
            "30 2 * * *",
            "15 */3 * * *",
            "0 0 * * *",
            "@hourly",
            "5,35 1-3 * * SUN",
            "0 0 L * *",
        ]
    ),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "Australia/Sydney", "Australia/Lord_Howe", "America/New_York", "Africa/Cairo"]
    ),
    after=st.floats(1.5e9, 2.5e9),
)
@examples(60)
def test_slots_ascend_from_any_moment_and_do_not_depend_on_where_one_begins(
    expression: str, zone: str, after: float
) -> None:
    slots = [*islice(cron.slots(expression, zone, after), 40)]
    assert slots[0] > after
    assert all(earlier < later for earlier, later in pairwise(slots))
    for place in (0, 7, 38):
        assert next(cron.slots(expression, zone, slots[place])) == slots[place + 1]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("61 * * * *", "has `61` for the minute, which is 0 to 59; try `30 2 * * *` (02:30 every night)"),
        ("0 0 * * MON#6", "has `MON#6` for the day of week, which is 0 to 7"),
        ("0 24 * * *", "has `24` for the hour"),
        ("* * * *", "has 4 fields and must have 5"),
        ("0 * * * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("@reboot", "is none of @hourly, @daily"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4 */2", "never comes"),
        ("9" * 5000, "has 5,000 characters"),
        ("9" * 190 + " * * * *", "for the minute"),
    ],
)
def test_what_is_no_expression_is_told_where_and_how_to_write_one(expression: str, said: str) -> None:
    assert said in (cron.problem(expression) or "")


@pytest.mark.parametrize("expression", [*cron.NAMED, "0 0 29 2 *", "0 0 LW * *", "0 0 * * 5L", "*/15 8-18 * * MON-FRI"])
def test_what_is_one_is_taken(expression: str) -> None:
    assert cron.problem(expression) is None


def test_zones_are_names_of_ianas_and_never_a_path() -> None:
    assert cron.zone_problem("Europe/Berlin") is None
    assert "did you mean Europe/Berlin?" in (cron.zone_problem("Europe/Berln") or "")
    assert "did you mean America/New_York?" in (cron.zone_problem("new york") or "")
    for name in ("../../etc/passwd", "/etc/localtime", "localtime", "Factory", "", "Mars\x00"):
        assert "is no time zone" in (cron.zone_problem(name) or "")


def test_the_shortest_wait_is_found_among_unequal_ones() -> None:
    assert cron.shortest_wait("0,10 4 * * *", "UTC", 0.0) == 600
    assert cron.shortest_wait("0 0 29 2 *", "UTC", 0.0) > 3 * 365 * 86_400
