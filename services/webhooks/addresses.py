"""Which addresses a webhook may be sent to: no address inside a private network, however it is written.

The URL is parsed strictly, and its host name is resolved once. Every resulting address is checked, and the connection
goes to one of these addresses. So it does not help an attacker if the name resolves to another address a moment later.
`ipaddress.is_global` is not enough: in Python 3.11 it accepts NAT64, 6to4, `::127.0.0.1` and multicast addresses.

https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from services.errors import AddressRefused
from services.settings import Network
from services.text import clean

Address = IPv4Address | IPv6Address

MAX_URL = 2000
RESOLVE_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}

NOT_PUBLIC: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by a provider's customers; some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # public by number, and the host's own agent in Azure
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; metadata of Oracle's cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        # Of IPv6 only 2000::/3 is public, which leaves out ::1, ::127.0.0.1, ::ffff:127.0.0.1, NAT64 (64:ff9b::/96 and
        # 64:ff9b:1::/48), fc00::/7, fe80::/10, multicast and whatever may yet be invented; and of it not these:
        "::/3",
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds any IPv4 address and is given up
        "3fff::/20",  # documentation
        "4000::/2",
        "8000::/1",
    )
)

_VISIBLE = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # ASCII without spaces, controls and the backslash
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True)
class Place:
    """Where a webhook's URL leads, before its name is resolved."""

    scheme: str
    host: str
    """A name in small letters, or an address without brackets."""
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """For the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Guard:
    """What a service allows: networks of its own that receivers may be in, and whether others need https."""

    allow: tuple[Network, ...] = ()
    https_only: bool = False

    def check(self, url: str) -> tuple[Place, Sequence[Address]]:
        """The place of a URL, and its addresses, all of which may be connected to; resolves the name, once.

        Raises:
            AddressRefused: the URL is none, its name has no address, or one of them is not allowed.
        """
        place = parse(url)
        addresses = resolve(place)
        for address in addresses:
            self._judge(place, address)
        return place, addresses

    def _judge(self, place: Place, address: Address) -> None:
        if any(address in network for network in self.allow):
            return
        if any(address in network for network in NOT_PUBLIC):
            raise _not_public(place)
        if self.https_only and place.scheme != "https":
            raise AddressRefused("In production webhooks are sent over https only: let the URL begin with https://.")


def parse(url: str) -> Place:
    """The parts of a webhook's URL. What browsers and C libraries would guess at (`2130706433`, `0x7f.1`, `127.1`, a
    zone, a user) is refused.

    Raises:
        AddressRefused: it is none, or none that is plain.
    """
    if len(url) > MAX_URL or not _VISIBLE.fullmatch(url):
        raise AddressRefused(
            f"A webhook's URL has at most {MAX_URL} characters of ASCII, no spaces and no backslash: write a name of "
            "other letters as xn--..., and others in a path as %..."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"This is no URL: {clean(str(error), 200)}.") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise AddressRefused("A webhook's URL begins with https:// or http://.")
    if "@" in parts.netloc:
        raise AddressRefused("A webhook's URL holds no user or password; the receiver knows us by the signature.")
    if parts.fragment or port == 0:
        raise AddressRefused("A webhook's URL has no #fragment and no port 0.")
    host = _host(parts.hostname or "", bracketed=parts.netloc.startswith("["))
    query = f"?{parts.query}" if parts.query else ""
    return Place(scheme, host, PORTS[scheme] if port is None else port, f"{parts.path or '/'}{query}")


def _host(host: str, *, bracketed: bool) -> str:
    if bracketed:
        try:
            return str(IPv6Address("zone" if "%" in host else host))
        except ValueError:
            raise AddressRefused("What stands in brackets must be an IPv6 address, without a zone.") from None
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise AddressRefused("An IPv4 address is four decimal numbers, such as 203.0.113.9.") from None
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise AddressRefused("The host of a webhook's URL must be a name such as hooks.example.com, or an address.")
    return host


def resolve(place: Place) -> Sequence[Address]:
    """The addresses of a place, in the order of the system's preference.

    Raises:
        AddressRefused: it has none, or the name servers do not say within 5 s.
    """
    try:
        return [ip_address(place.host)]
    except ValueError:
        pass
    found: list[str] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend(str(one[4][0]) for one in answers)

    # The system's resolver has no time limit that we could set.
    asking = threading.Thread(target=ask, name="resolve", daemon=True)
    asking.start()
    asking.join(RESOLVE_SECONDS)
    addresses = [ip_address(text) for text in dict.fromkeys(found)]
    if not addresses:
        raise _not_public(place)
    return addresses


def _not_public(place: Place) -> AddressRefused:
    """The same for a name that is not there as for one that leads inside: nobody learns which names there are."""
    return AddressRefused(
        f"{place.host} is no public address, and no name that leads to public addresses alone; whoever runs the "
        "service can allow a network of its own with LOOPLINE_WEBHOOK_ALLOW."
    )
