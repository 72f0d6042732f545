"""What the Internet reaches on the proxy: HAProxy, Caddy and the firewall in front of everything."""

import socket
import struct
from contextlib import ExitStack, suppress
from http.client import HTTPConnection

import pytest

from imagebuilder.topology import Role
from tests.accept.proxy_room import (
    ELSEWHERE_6,
    NAMELESS_4,
    NEIGHBOUR_6,
    PROXY_4,
    PROXY_6,
    STRANGER_4,
    STRANGER_6,
    TUNNEL_CLIENT,
    TUNNEL_CLIENT_6,
    TUNNEL_PROXY,
    TUNNEL_PROXY_6,
    Room,
    told_in_a_room,
)

pytestmark = pytest.mark.accept

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"  # PROXY protocol specification, section 2.2
NAMES = ("mail.example.org", "autoconfig.example.org", "autodiscover.example.org", "mta-sts.example.org")
SMTP_AT_ONCE, USERS_AT_ONCE = 20, 100
"""Connections that one source may hold, as the firewall has them."""


def proxied_source(connection: socket.socket) -> tuple[str, int]:
    """Read a PROXY header, version 2, and return address and port of whom it speaks for."""
    header = connection.recv(16, socket.MSG_WAITALL)
    assert header[:12] == SIGNATURE
    length = struct.unpack("!H", header[14:])[0]
    rest = connection.recv(length, socket.MSG_WAITALL)
    if header[12:14] == b"\x21\x11":
        return socket.inet_ntop(socket.AF_INET, rest[:4]), int.from_bytes(rest[8:10], "big")
    assert header[12:14] == b"\x21\x21"
    return socket.inet_ntop(socket.AF_INET6, rest[:16]), int.from_bytes(rest[32:34], "big")


def start_front(room: Room, name: str, port: int) -> None:
    """Start the unit *name* and wait until it takes connections."""
    daemon = room.start(Role.PROXY, name)
    room.until(lambda: room.answers("internet", PROXY_4, port), f"{name} to answer", daemon)


@told_in_a_room
def test_submission_and_imap_go_through_with_the_users_address(room: Room) -> None:
    servers = {port: room.listen("client", TUNNEL_CLIENT, port + 10000) for port in (587, 993)}
    start_front(room, "haproxy.service", 587)

    for port, server in servers.items():
        # The probe for readiness came this way too.
        server.settimeout(0.5)
        with suppress(TimeoutError):
            server.accept()[0].close()
        for source, address in ((STRANGER_4, PROXY_4), (STRANGER_6, PROXY_6)):
            server.settimeout(5)
            user = room.connect("internet", address, port, source)
            inside, _ = server.accept()
            assert proxied_source(inside) == (source, user.getsockname()[1])
            user.sendall(b"from outside")
            assert inside.recv(100) == b"from outside"
            inside.sendall(b"from inside")
            assert user.recv(100) == b"from inside"
            user.close()
            inside.close()


@told_in_a_room
def test_with_the_client_off_a_user_is_let_go_at_once(room: Room) -> None:
    start_front(room, "haproxy.service", 993)

    user = room.connect("internet", PROXY_4, 993)
    user.settimeout(5)
    try:
        said = user.recv(10)
    except ConnectionResetError:
        said = b""

    assert said == b""


@told_in_a_room
def test_plain_http_leads_to_https_and_foreign_names_nowhere(room: Room) -> None:
    start_front(room, "caddy.service", 80)

    for name in NAMES:
        plain = HTTPConnection(name)
        plain.sock = room.connect("internet", PROXY_6, 80)
        plain.request("GET", "/x?y=1")
        redirect = plain.getresponse()
        assert (redirect.status, redirect.getheader("Location")) == (308, f"https://{name}/x?y=1")
        assert redirect.getheader("Server") is None

    foreign = room.connect("internet", PROXY_4, 80)
    foreign.sendall(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
    assert foreign.recv(100) == b""


@told_in_a_room
def test_caddys_settings_can_not_be_changed_over_the_network(room: Room) -> None:
    start_front(room, "caddy.service", 443)

    assert not room.answers("proxy", "127.0.0.1", 2019)


@told_in_a_room
def test_exactly_the_published_ports_are_open(room: Room) -> None:
    published = {22, 25, 80, 443, 587, 993}
    ports = sorted(published | {110, 143, 465, 995, 2019, 2525, 2526, 3000, 8080, 10587, 10993})
    for port in ports:
        for address in ("0.0.0.0", "::"):
            room.listen("proxy", address, port)

    for address in (PROXY_4, PROXY_6):
        found = {port for port in ports if room.answers("internet", address, port, within_s=0.4)}
        assert found == published, address
    for address in (TUNNEL_PROXY, TUNNEL_PROXY_6):
        found = {port for port in ports if room.answers("client", address, port, within_s=0.4)}
        assert found == {2526}, address


@told_in_a_room
def test_one_source_can_not_take_all_connections_to_the_mail_port(room: Room) -> None:
    room.listen("proxy", PROXY_4, 25)

    with ExitStack() as held:
        for _ in range(SMTP_AT_ONCE):
            held.enter_context(room.connect("internet", PROXY_4, 25, STRANGER_4, 2))
        assert not room.answers("internet", PROXY_4, 25, STRANGER_4, 0.8)
        assert room.answers("internet", PROXY_4, 25, NAMELESS_4)


@told_in_a_room
def test_an_ipv6_source_is_its_whole_network(room: Room) -> None:
    room.listen("proxy", PROXY_6, 993)

    with ExitStack() as held:
        for number in range(USERS_AT_ONCE):
            source = (STRANGER_6, NEIGHBOUR_6)[number % 2]
            held.enter_context(room.connect("internet", PROXY_6, 993, source, 2))
        assert not room.answers("internet", PROXY_6, 993, NEIGHBOUR_6, 0.8)
        assert room.answers("internet", PROXY_6, 993, ELSEWHERE_6)


@told_in_a_room
def test_connections_in_the_tunnel_fit_into_its_packets(room: Room) -> None:
    # The other end believes in larger packets.
    room.ip("client", "link set wg0 mtu 1500")
    for address, most in ((TUNNEL_CLIENT, 1380), (TUNNEL_CLIENT_6, 1360)):
        server = room.listen("client", address, 25)

        calling = room.connect("proxy", address, 25)
        accepted, _ = server.accept()

        for end in (calling, accepted):
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= most
