"""Who gets how much of something that all want."""

from __future__ import annotations

import pytest

from api.shares import Shares, Turns, neighbours


def filled(shares: Shares, *who: str) -> list[int]:
    """What each holds when they take turns until none may have more."""
    while takers := [one for one in who if shares.may_take(one)]:
        shares.take(takers[0] if len(takers) == 1 else min(takers, key=lambda one: shares.held[one]))
    return [shares.held[one] for one in who]


def test_one_address_holds_three_quarters_and_several_leave_some_as_well() -> None:
    assert filled(Shares(64), "a") == [48]
    assert filled(Shares(64), "a", "b") == [28, 27]
    many = Shares(64)
    filled(many, *"abcdefgh")
    assert many.free > 0
    assert many.may_take("somebody else")


def test_what_is_given_back_is_there_again() -> None:
    shares = Shares(4)
    assert filled(shares, "a") == [3]
    for _ in range(3):
        shares.give_back("a")
    assert (shares.free, dict(shares.held)) == (4, {})


def test_nothing_is_taken_where_there_is_nothing() -> None:
    assert not Shares(0).may_take("a")


def test_addresses_take_turns_and_nobody_waits_behind_one_that_has_its_share() -> None:
    turns, shares = Turns[str](), Shares(8)
    for item in ("a1", "a2", "a3", "b1"):
        turns.put(item[0], item)
    assert [turns.take(shares) for _ in range(3)] == ["a1", "b1", "a2"]
    for _ in range(6):
        shares.take("a")
    turns.put("c", "c1")
    assert (turns.take(shares), turns.take(shares)) == ("c1", None)
    shares.give_back("a")
    assert (turns.take(shares), turns.take(shares)) == ("a3", None)


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_counts_as_one(address: str, who: str) -> None:
    assert neighbours(address) == who
