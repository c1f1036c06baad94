"""Where webhooks may go: of every address inside a network, however spelled, no connection ever comes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from services.errors import AddressRefused
from services.settings import networks
from services.webhooks import addresses, posting
from services.webhooks.addresses import Guard, parse

INSIDE = (
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),  # noqa: S104
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("[::1]", "[::]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:a00:1]", "[0:0:0:0:0:ffff:7f00:1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::a00:1]", "[2002:7f00:1::1]", "[2002:a00:1::]"),
    *("[2001::1]", "[2001:db8::1]", "[3fff::1]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]"),
    *("[100::1]", "[5f00::1]", "[4000::1]", "[8000::1]"),
)
"""Addresses that are not public, plainly spelled."""

ODD = (
    *("2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "1", "0"),
    *("127.0.0.1.", "localhost.", "127.0.0.01", "127.0.0.256", "127.0.0.0x1", "foo.127", "foo.0x7f"),
    *("[fe80::1%25lo]", "[fe80::1%lo]", "[::1%1]", "[127.0.0.1]", "[::1", "[v1.x]", "::1", "%31%32%37.0.0.1"),
    *("user@127.0.0.1", "user:word@127.0.0.1", "example.com@127.0.0.1", "example.com\\@127.0.0.1", "127.0.0.1%00"),
    *("①②⑦.0.0.1", "127。0。0。1", "ｌocalhost", "löcalhost", "a..b", "-a.b", "a_b-.c", "", "*", "a b", "127.0.0.1\t"),
)
"""What some program would take for an address or a name, and this one does not."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listens on every address of this machine, IPv4 and IPv6, and has heard nobody."""
    with closing(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)) as server:
        server.setblocking(False)
        yield server
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()


def test_an_address_inside_a_network_gets_no_connection_however_it_is_spelled(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    for host in (*INSIDE, *ODD, "localhost"):
        url = f"http://{host}:{port}/"
        with pytest.raises(AddressRefused):
            Guard().check(url)
        outcome = posting.post(Guard(), url, [posting.new_secret()], "msg_1", b"{}")
        assert (outcome.status, outcome.delivered) == (None, False)
        assert (outcome.error or "").startswith("Nothing was sent: "), url


def test_the_listener_would_have_heard_them(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    for host in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0"):  # noqa: S104
        with closing(socket.create_connection((host, port), 5)):
            listener.accept()[0].close()


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "file:///etc/passwd", "gopher://127.0.0.1/", "//example.com/", "example.com", ""),
        *("https:///x", "https://", "http://example.com:0/", "http://example.com:99999/", "http://example.com:x/"),
        *("http://example.com/#a", "http://example.com/a b", "http://example.com/\r\nX: y", "http://example.com\\@b/"),
        f"https://example.com/{'x' * 2000}",
    ],
)
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        parse(url)


def test_a_plain_url_is_read_as_it_is() -> None:
    place = parse("https://Hooks.Example.com:8443/a/b?c=d")
    assert (place.scheme, place.host, place.port, place.target) == ("https", "hooks.example.com", 8443, "/a/b?c=d")
    assert place.authority == "hooks.example.com:8443"
    assert (parse("http://a.b").port, parse("http://a.b").target, parse("http://a.b").authority) == (80, "/", "a.b")
    assert parse("https://[2606:4700::1111]/").authority == "[2606:4700::1111]"


def test_public_addresses_are_allowed() -> None:
    for host in ("1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "223.255.255.255", "[2606:4700:4700::1111]"):
        Guard(https_only=True).check(f"https://{host}/")
    with pytest.raises(AddressRefused, match="https only"):
        Guard(https_only=True).check("http://1.1.1.1/")


def test_a_network_of_ours_is_allowed_on_purpose_and_no_other() -> None:
    guard = Guard(networks("127.0.0.0/8, 10.1.0.0/16"), https_only=True)
    assert guard.check("http://127.0.0.1:9/")[1] == [ip_address("127.0.0.1")]
    for host in ("10.2.0.1", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(AddressRefused, match="is no public address"):
            guard.check(f"https://{host}/")


def test_a_name_is_resolved_once_and_its_very_address_is_connected_to(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that says a public address first, and one inside afterwards."""
    asked: list[str] = []
    port = listener.getsockname()[1]
    really, connect = socket.getaddrinfo, socket.create_connection
    tried: list[str] = []

    def rebinding(host: str, *args: object, **kwargs: object) -> object:
        if host != "rebind.example.com":
            return really(host, *args, **kwargs)  # type: ignore[arg-type]
        asked.append(host)
        address = "127.0.0.1" if len(asked) > 1 else "198.41.0.4"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def refused(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(address[0])
        if address[0] == "198.41.0.4":  # no test leaves this machine
            raise ConnectionRefusedError("refused")
        return connect(address, timeout)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(posting.socket, "create_connection", refused)
    url = f"http://rebind.example.com:{port}/"
    assert "refused" in (posting.post(Guard(), url, [posting.new_secret()], "msg_1", b"{}").error or "")
    assert (asked, tried) == (["rebind.example.com"], ["198.41.0.4"])
    again = posting.post(Guard(), url, [posting.new_secret()], "msg_1", b"{}")  # it resolves to the inside now
    assert "rebind.example.com is no public address, and no name that leads to public" in (again.error or "")
    assert tried == ["198.41.0.4"]


def test_a_name_with_one_address_inside_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("198.41.0.4", "10.0.0.1")]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(AddressRefused) as inside:
        Guard().check("http://both.example.com/")
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(AddressRefused) as nowhere:
        Guard().check("http://both.example.com/")
    assert inside.value.message == nowhere.value.message  # nobody learns what names there are inside
    assert "10.0.0.1" not in inside.value.message
