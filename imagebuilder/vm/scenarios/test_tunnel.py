"""The tunnel just works: by either version of IP, outside and inside, over narrow lines, and wherever the home is."""

# ruff: noqa: D103 (the name of a test is its sentence)

import os
import ssl
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from imagebuilder.render import render_role
from imagebuilder.services import Site
from imagebuilder.topology import PublicKeys, Topology
from imagebuilder.vm.machine import Machine
from imagebuilder.vm.pair import Pair
from imagebuilder.vm.people import IMAPS, Person, Stranger, letter
from imagebuilder.vm.qemu import Acceleration
from imagebuilder.vm.session import Session
from imagebuilder.vm.world import World, unverified

NARROW = 1280
"""Bytes of the tunnel's packets, the least that IPv6 allows (RFC 8200 section 5)."""
OUTER_BYTES = 80
"""What WireGuard, UDP and IPv6 add to them."""
FILE_MIB = {Acceleration.KVM: 25, Acceleration.TCG: 3}
"""What people take for the largest file that mail carries; an emulated proxy would need two minutes for its lines."""
MIB = 2**20
FOUND_AGAIN_S = 30
"""Seconds within which a lost way is found again."""
WORDS = {4: "four", 6: "six"}
"""Names of the versions of IP: mailboxes are searched by words."""


def answers(address: object, port: int) -> str:
    """Return a script that succeeds when something at *address* takes a connection at *port*."""
    return f"timeout 5 bash -c 'exec 5<>/dev/tcp/{address}/{port}' || false"


def dialled(proxy: Machine) -> str:
    """Return where the client dials from, as the proxy sees it."""
    return proxy.succeed("wg show wg0 endpoints").split()[-1]


@pytest.fixture
def by_ipv4(world: World, proxy: Machine, topology: Topology) -> None:
    """Let the client have come by IPv4."""
    world.line.only(4)
    proxy.wait_until_succeeds(answers(topology.tunnel.client_address, 25), within_s=FOUND_AGAIN_S)


@pytest.mark.settled
def test_both_ends_reach_each_other_by_ipv6_too(proxy: Machine, client: Machine, topology: Topology) -> None:
    for port in (25, 4190, 10587, 10993):
        proxy.succeed(answers(topology.tunnel.client_ipv6, port))
    for port in (22, 2526, 2527):
        (client.succeed if port != 22 else client.fail)(answers(topology.tunnel.proxy_ipv6, port))


@pytest.mark.settled
def test_a_message_by_the_ipv6_of_the_tunnel_without_xclient_is_put_off(
    proxy: Machine, topology: Topology, alice: Person
) -> None:
    # each line waits for the answer to the one before, as in any dialogue
    hear = 'hear() { while read -r -t 60 line <&5; do echo "$line"; [[ $line == ???" "* ]] && break; done; }'
    commands = ("EHLO x", "MAIL FROM:<a@stranger.example>", f"RCPT TO:<{alice.address}>", "QUIT")
    told = "; ".join(f"printf '{command}\\r\\n' >&5; hear" for command in commands)

    said = proxy.succeed(f"{hear}; exec 5<>/dev/tcp/{topology.tunnel.client_ipv6}/25; hear; {told}")

    assert "450 4.7.0" in said
    assert "no XCLIENT" in said


@pytest.mark.settled
def test_a_home_whose_line_has_no_ipv4_dials_by_ipv6_and_by_ipv4_again_when_it_loses_that(
    world: World, proxy: Machine, topology: Topology, stranger: Stranger, alice: Person
) -> None:
    if topology.proxy.ipv6 is None:
        pytest.skip("the topology has no IPv6")
    world.line.only(6)
    proxy.wait_until_succeeds("wg show wg0 endpoints | grep -F '['", within_s=FOUND_AGAIN_S)
    proxy.wait_until_succeeds(answers(topology.tunnel.client_address, 25), within_s=10)
    stranger.send_persistently(alice.address, "by six", "A modern line.\n")
    assert alice.receive("by six").text == "A modern line.\n"

    world.line.only(4)
    proxy.wait_until_succeeds(f"wg show wg0 endpoints | grep -F '\t{world.home.ipv4}:'", within_s=FOUND_AGAIN_S)
    stranger.send_persistently(alice.address, "by four", "An old line.\n")
    assert alice.receive("by four").text == "An old line.\n"


@pytest.mark.settled
@pytest.mark.usefixtures("by_ipv4")
def test_the_tunnel_follows_within_half_a_minute_when_the_home_gets_another_address(
    proxy: Machine, world: World, topology: Topology, stranger: Stranger, alice: Person
) -> None:
    new = world.line.change_address()

    proxy.wait_until_succeeds(f"wg show wg0 endpoints | grep -F {new}:", within_s=FOUND_AGAIN_S)
    proxy.succeed(answers(topology.tunnel.client_address, 25))
    stranger.send_persistently(alice.address, "after moving", "Same house.\n")
    assert alice.receive("after moving").text == "Same house.\n"


@pytest.mark.settled
@pytest.mark.usefixtures("by_ipv4")
def test_the_tunnel_survives_a_router_that_forgets_its_connections(
    proxy: Machine, world: World, topology: Topology
) -> None:
    before = dialled(proxy)

    world.line.rebind()

    proxy.wait_until_succeeds(f"! wg show wg0 endpoints | grep -F {before}", within_s=FOUND_AGAIN_S)
    proxy.succeed(answers(topology.tunnel.client_address, 25))


@pytest.mark.settled
@pytest.mark.usefixtures("by_ipv4")
def test_a_router_that_swallows_what_comes_from_the_clients_port_is_got_around(
    proxy: Machine, client: Machine, world: World, topology: Topology
) -> None:
    port = client.succeed("wg show wg0 listen-port").strip()

    world.links["client"].lose_udp(int(port))

    proxy.wait_until_succeeds(answers(topology.tunnel.client_address, 25), within_s=FOUND_AGAIN_S)
    assert client.succeed("wg show wg0 listen-port").strip() != port


@pytest.mark.settled
@pytest.mark.parametrize("version", [4, 6], ids=["four", "six"])
def test_mail_flows_both_ways_with_a_stranger_who_has_one_version_of_ip(
    world: World, topology: Topology, stranger: Stranger, alice: Person, version: int
) -> None:
    if version == 6 and topology.proxy.ipv6 is None:
        pytest.skip("the topology has no IPv6")
    world.links["stranger"].only(version)

    # out first: the proxy knocks for half a minute where nobody answers, before it tries the other version
    alice.send(stranger.address, f"out by {WORDS[version]}", "One way out.\n")
    stranger.send(alice.address, f"in by {WORDS[version]}", "One way in.\n", ipv6=version == 6)
    message = alice.receive(f"in by {WORDS[version]}")
    received = stranger.receive(f"out by {WORDS[version]}")

    assert message.client_address == str(stranger.ipv6 if version == 6 else stranger.ipv4)
    assert (":" in received.client_address) == (version == 6)


# --- narrow lines


@pytest.fixture
def narrow(pair: Pair, topology: Topology, public: PublicKeys, world: World) -> Iterator[None]:
    """Let the tunnel have the smallest MTU there is, and the home's line lose whatever is larger, without a word."""
    tunnel = topology.tunnel.model_copy(update={"mtu": NARROW})
    narrowed = topology.model_copy(update={"tunnel": tunnel})
    for role, machine in pair.machines.items():
        rules = render_role(Site(narrowed, public, role)).files[PurePosixPath("etc/nftables.conf")]
        machine.write_file("/run/narrow.nft", rules.content)
        machine.succeed(f"nft -f /run/narrow.nft && ip link set wg0 mtu {NARROW}")
    world.line.swallow(NARROW + OUTER_BYTES)
    yield
    for machine in pair.machines.values():
        machine.succeed(f"nft -f /etc/nftables.conf && ip link set wg0 mtu {topology.tunnel.mtu}")


@pytest.mark.settled
@pytest.mark.usefixtures("narrow")
def test_a_large_file_passes_a_narrow_line_and_long_mail_goes_back(
    bed: Session, stranger: Stranger, alice: Person, topology: Topology
) -> None:
    file_mib = FILE_MIB[bed.accelerator.kind]
    # as a line of base64 has it
    if max(domain.max_message_mib for domain in topology.mail.domains) * 57 < file_mib * 78:
        pytest.skip(f"no domain of the topology takes a file of {file_mib} MiB")
    message = letter(stranger.address, alice.address, "holiday pictures", "See below.\n")
    pictures = os.urandom(file_mib * MIB)
    message.add_attachment(pictures, maintype="application", subtype="octet-stream", filename="pictures.zip")

    with stranger.dialogue() as dialogue:
        assert dialogue.sock is not None
        dialogue.sock.settimeout(stranger.patience.seconds(90))
        dialogue.sendmail(stranger.address, [alice.address], message.as_bytes())

    [attachment] = alice.receive("holiday pictures", within_s=90).message.iter_attachments()
    assert attachment.get_content() == pictures
    text = "Line after line, as long as they may be in mail, and a picture's worth of them.\n" * 600
    alice.send(stranger.address, "much to answer", text)
    assert stranger.receive("much to answer").message.get_content().replace("\r\n", "\n") == text


@pytest.mark.settled
@pytest.mark.usefixtures("narrow")
def test_a_greeting_of_todays_programs_that_takes_two_packets_passes_a_narrow_line(
    world: World, topology: Topology
) -> None:
    context = unverified()
    # as long as one with a key for the time after quantum computers; this machine's OpenSSL may not know them
    context.set_alpn_protocols(["imap", *(f"x-{number}".ljust(200, "x") for number in range(9))])
    greeting = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), greeting, server_hostname=topology.proxy.hostname).do_handshake()
    assert greeting.pending > 1900

    with (
        world.user.connect(topology.proxy.ipv4.ip, IMAPS) as plain,
        context.wrap_socket(plain, server_hostname=topology.proxy.hostname) as secured,
    ):
        assert secured.recv(4) == b"* OK"
