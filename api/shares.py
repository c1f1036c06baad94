"""Keeps one address from taking all of something: the server's threads, its connections.

An address may hold at most FACTOR times as many places as are left free. So one alone holds three quarters of them, two
hold three sevenths each, and however many there are, some places are left for the next one. (This is the dynamic
threshold by which switches share their buffers: Choudhury and Hahne, 1998.)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Generic, TypeVar

FACTOR = 3

Item = TypeVar("Item", bound=Hashable)


def neighbours(address: str) -> str:
    """Whom an address stands for: an IPv4 address itself, an IPv6 address its network of 64 bits, for one host has
    all of that. What is no address is taken as it is."""
    with suppress(ValueError):
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address):
            mapped = found.ipv4_mapped
            return str(mapped) if mapped else found.packed[:8].hex()
        return str(found)
    return address


class Shares:
    """So many places, and who holds how many. For one thread."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.held: Counter[str] = Counter()

    def may_take(self, who: str) -> bool:
        """Whether there is a place left for them."""
        return self.held[who] < FACTOR * self.free

    def take(self, who: str) -> None:
        """One more place is theirs."""
        self.free -= 1
        self.held[who] += 1

    def give_back(self, who: str) -> None:
        """One of their places is free."""
        self.free += 1
        self.held[who] -= 1
        if not self.held[who]:
            del self.held[who]


class Turns(Generic[Item]):
    """What waits for a place, in a line for each address; the addresses take turns. For one thread."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Item]] = {}

    def put(self, who: str, item: Item) -> None:
        """To the end of their line."""
        self._lines.setdefault(who, deque()).append(item)

    def take(self, shares: Shares) -> Item | None:
        """The first item of the first line that may have a place; its line goes behind the others."""
        for who in self._lines:
            if shares.may_take(who):
                line = self._lines.pop(who)
                item = line.popleft()
                if line:
                    self._lines[who] = line
                return item
        return None
