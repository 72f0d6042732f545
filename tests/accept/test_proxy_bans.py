"""The client names who guesses passwords; the proxy's firewall keeps exactly that address from the users' ports."""

import json
import subprocess
import time

import pytest

from imagebuilder.topology import Role
from imagebuilder.vm.namespace import entered
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


def name(room: Room, line: str) -> int:
    """Say *line* as the client does and return how the program of the unit ended; its user and capability are its."""
    uid, gid = room.account(Role.PROXY, "nobody")
    only = "-all,+net_admin"
    limits = [f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}", "--no-new-privs"]
    drop = ["/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", *limits]
    argv = ["chroot", str(room.roots[Role.PROXY]), *drop, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin"]
    with entered(Role.PROXY):
        done = subprocess.run([*argv, "/usr/lib/imagebuilder/ban"], input=line.encode(), check=False)
    return done.returncode


def banned(room: Room, family: str) -> list[dict[str, object]]:
    """Return what the set of *family* holds."""
    listed = room.in_root(Role.PROXY, ["nft", "--json", "list", "set", "inet", "filter", f"banned_{family}"])
    found = next(one["set"] for one in json.loads(listed.stdout)["nftables"] if "set" in one)
    return [each.get("elem", each) for each in found.get("elem", [])]


@told_in_a_room
def test_a_guesser_is_kept_from_mailboxes_but_not_from_the_mail_port(room: Room) -> None:
    for port in (25, 587, 993):
        room.listen("proxy", PROXY_4, port)

    assert name(room, f"{NAMELESS_4}\n") == 0

    for port in (587, 993):
        assert not room.answers("internet", PROXY_4, port, NAMELESS_4, 0.5)
        assert room.answers("internet", PROXY_4, port, STRANGER_4)
    assert room.answers("internet", PROXY_4, 25, NAMELESS_4)


@told_in_a_room
def test_an_ipv6_guesser_is_his_whole_network(room: Room) -> None:
    room.listen("proxy", PROXY_6, 993)

    assert name(room, f"{STRANGER_6}\n") == 0

    assert not room.answers("internet", PROXY_6, 993, STRANGER_6, 0.5)
    assert not room.answers("internet", PROXY_6, 993, NEIGHBOUR_6, 0.5)
    assert room.answers("internet", PROXY_6, 993, ELSEWHERE_6)


@told_in_a_room
def test_a_connection_that_is_open_already_hears_nothing_more(room: Room) -> None:
    listener = room.listen("proxy", PROXY_4, 993)
    connection = room.connect("internet", PROXY_4, 993, NAMELESS_4)
    there, _ = listener.accept()
    connection.sendall(b"before")
    assert there.recv(100) == b"before"

    name(room, NAMELESS_4)

    connection.sendall(b"after")
    there.settimeout(1)
    with pytest.raises(TimeoutError):
        there.recv(100)


@told_in_a_room
def test_a_ban_ends_by_itself(room: Room) -> None:
    room.listen("proxy", PROXY_4, 993)
    name(room, NAMELESS_4)
    [element] = banned(room, "4")
    assert 0 < int(str(element["expires"])) <= 3600

    # an hour is too long to wait for: the same element with seconds instead
    set_ = ["nft", "-f", "-"]
    lines = f"delete element inet filter banned_4 {{ {NAMELESS_4} }}\n"
    lines += f"add element inet filter banned_4 {{ {NAMELESS_4} timeout 2s }}\n"
    with entered(Role.PROXY):
        subprocess.run(["chroot", str(room.roots[Role.PROXY]), *set_], input=lines.encode(), check=True)
    assert not room.answers("internet", PROXY_4, 993, NAMELESS_4, 0.5)
    time.sleep(2.5)

    assert room.answers("internet", PROXY_4, 993, NAMELESS_4)


@told_in_a_room
def test_neither_the_proxy_nor_the_tunnel_can_be_banned(room: Room) -> None:
    for port in (587, 993):
        room.listen("proxy", PROXY_4, port)
    room.listen("proxy", TUNNEL_PROXY, 2526)

    for address in (PROXY_4, PROXY_6, TUNNEL_CLIENT, TUNNEL_PROXY, TUNNEL_CLIENT_6, "127.0.0.1", "::1"):
        name(room, address)

    assert room.answers("proxy", PROXY_4, 993, PROXY_4)
    assert room.answers("client", TUNNEL_PROXY, 2526)
    assert room.answers("internet", PROXY_4, 587, STRANGER_4)


@told_in_a_room
def test_what_is_not_one_address_bans_nobody(room: Room) -> None:
    before = room.in_root(Role.PROXY, ["nft", "list", "ruleset"]).stdout
    for line in (
        "", "\n", "localhost", "abc", "dead.beef", "1.2.3", "1.2.3.4.5", "300.1.1.1", "0.0.0.0/0", "1.2.3.4, 5.6.7.8",
        "1.2.3.4 }; flush ruleset", "1.2.3.4\n5.6.7.8", "::/0", "1.2.3.4-1.2.3.9", "x" * 10_000,
    ):  # fmt: skip
        assert name(room, line) != 0, line

    assert room.in_root(Role.PROXY, ["nft", "list", "ruleset"]).stdout == before


@told_in_a_room
def test_only_the_client_reaches_the_door(room: Room) -> None:
    for door, public in ((TUNNEL_PROXY, PROXY_4), (TUNNEL_PROXY_6, PROXY_6)):
        room.listen("proxy", door, 2527)

        assert room.answers("client", door, 2527)
        room.ip("internet", f"route add {door} via {public}")
        assert not room.answers("internet", door, 2527, within_s=0.5)
    assert not room.answers("internet", PROXY_4, 2527, within_s=0.5)
