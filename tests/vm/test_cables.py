"""The machines' cables: taps, and raw sockets where nobody may make taps. A machine is played by hand here."""

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from imagebuilder.errors import ExitStatus, ImagebuilderError
from imagebuilder.run import run
from imagebuilder.topology import Role
from imagebuilder.vm.cables import VARIABLE, find_cable, plug_in
from imagebuilder.vm.namespace import inside
from imagebuilder.vm.qemu import Cable, mac_address
from imagebuilder.vm.world import CABLE_ENDS, World
from tests.vm.test_namespace import as_nobody

pytestmark = pytest.mark.vm

ARP, IPV4, UDP = 0x0806, 0x0800, 17
ETHERNET = 14


@pytest.fixture(autouse=True)
def packet_cables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, Cable.PACKET)


@contextmanager
def machines_end(device: str) -> Iterator[socket.socket]:
    """Yield what QEMU is given of the cable *device*; afterwards nobody may carry its frames any more."""
    cable, carrier = plug_in(device)
    with cable:
        yield cable
    assert carrier.wait(10) == 0


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frames(cable: socket.socket, kind: int, within_s: float = 5) -> Iterator[bytes]:
    """Yield the frames of *kind* that arrive at the machine's end of *cable*."""
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0 and select.select([cable], [], [], left)[0]:
        frame = cable.recv(1 << 17)
        if struct.unpack("!H", frame[12:14]) == (kind,):
            yield frame


def arp(operation: int, sender: IPv4Address, target: IPv4Address, to: bytes) -> bytes:
    own = octets(mac_address(Role.PROXY))
    header = to + own + struct.pack("!HHHBBH", ARP, 1, IPV4, 6, 4, operation)
    return header + own + sender.packed + to + target.packed


def sum_of(content: bytes) -> int:
    """Return the Internet checksum of *content*; 0 when it includes the right one (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(content) + 1) // 2}H", content + b"\0" * (len(content) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_a_machine_reaches_its_router_and_is_sent_whole_frames(new_world: Callable[[], World]) -> None:
    def work() -> tuple[bytes, bytes]:
        with new_world() as world, machines_end(CABLE_ENDS[Role.PROXY]) as cable:
            own, router = world.topology.proxy.ipv4.ip, world.topology.proxy.ipv4_gateway
            assert router is not None
            cable.send(arp(1, own, router, b"\xff" * 6))
            answer = next(frame for frame in frames(cable, ARP) if frame[20:22] == b"\0\2")
            with world.internet.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x" * 1400, (str(own), 9))
                datagram = next(frame for frame in frames(cable, IPV4) if frame[23] == UDP)
            return answer, datagram

    answer, datagram = inside(work)
    assert answer[6:12] == octets(mac_address("proxy0"))
    packet = datagram[ETHERNET:]
    assert sum_of(packet[:20]) == 0
    # With the pseudo header, by RFC 768: nothing was left for a card to complete.
    assert sum_of(packet[12:20] + struct.pack("!HH", UDP, len(packet) - 20) + packet[20:]) == 0


def test_no_frame_is_larger_than_a_cable_takes(new_world: Callable[[], World]) -> None:
    """What the kernel would leave to a card to cut, by a TCP connection whose other end we play."""

    def work() -> int:
        with new_world() as world, machines_end(CABLE_ENDS[Role.PROXY]) as cable:
            own, router = world.topology.proxy.ipv4.ip, world.topology.proxy.ipv4_gateway
            assert router is not None
            mac = octets(mac_address(Role.PROXY)).hex(":")
            argv = world.tools.argv(["ip", "neigh", "replace", str(own), "lladdr", mac, "dev", "proxy0"], network=True)
            with world.internet.entered():
                run(argv)
                sender = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            with sender:
                sender.setblocking(False)
                sender.connect_ex((str(own), 25))
                syn = next(frame for frame in frames(cable, IPV4) if frame[23] == 6)
                cable.send(accepted(syn))
                assert select.select([], [sender], [], 5)[1]
                sender.send(b"x" * 20_000)
                # Ten segments may be under way unanswered (RFC 6928).
                return max(len(frame) for frame in frames(cable, IPV4, within_s=2))

    assert 1400 < inside(work) <= 1500 + ETHERNET


def accepted(syn: bytes) -> bytes:
    """Return the frame that accepts the connection that *syn* opens."""
    source, destination = syn[26:30], syn[30:34]
    ports, (sequence,) = syn[36:38] + syn[34:36], struct.unpack("!I", syn[38:42])
    options = struct.pack("!BBH", 2, 4, 1460)
    segment = ports + struct.pack("!IIBBHHH", 1, sequence + 1, 6 << 4, 0x12, 65535, 0, 0) + options
    pseudo = destination + source + struct.pack("!BBH", 0, 6, len(segment))
    segment = segment[:16] + struct.pack("!H", sum_of(pseudo + segment)) + segment[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0) + destination + source
    header = header[:10] + struct.pack("!H", sum_of(header)) + header[12:]
    return syn[6:12] + syn[:6] + struct.pack("!H", IPV4) + header + segment


def test_who_may_not_make_taps_gets_cables_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)

    assert as_nobody(lambda: inside(lambda: str(find_cable()))) == Cable.PACKET


def test_who_asks_for_taps_and_may_not_make_them_is_told_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, Cable.TAP)

    def ask() -> str:
        try:
            return inside(lambda: str(find_cable()))
        except ImagebuilderError as error:
            return f"{error}|{error.hint}"

    said = as_nobody(ask)
    assert said.startswith("/dev/net/tun can't be opened (Permission denied)")
    assert "\n" not in said
    assert "run as root" in said


def test_a_kind_of_cable_that_there_is_none_of_is_wrong_input() -> None:
    with pytest.raises(ImagebuilderError, match="IMAGEBUILDER_CABLES is 'string'") as caught:
        inside(lambda: find_cable("string"))

    assert caught.value.hint == "one of: tap, packet"
    assert caught.value.status == ExitStatus.WRONG_INPUT


@pytest.mark.nightly
def test_mail_reaches_the_inbox_over_such_cables(pytestconfig: pytest.Config) -> None:
    topology = Path(str(pytestconfig.getoption("--topology")))
    argv = [sys.executable, "-m", "imagebuilder", "test", "-t", str(topology), "-k", "reaches_the_inbox"]

    run(argv, env={**os.environ, VARIABLE: Cable.PACKET}, timeout_s=1500)
