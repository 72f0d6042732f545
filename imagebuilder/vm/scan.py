"""Which ports of an address answer: every TCP port by one SYN, UDP ports by what clients would send. Raw sockets."""

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from imagebuilder.vm.host import Host, own_address
from imagebuilder.vm.namespace import entered

Address = IPv4Address | IPv6Address

SYN, ACK_SYN = 0x02, 0x12
RATES_PER_S = (10_000, 4000, 4000)
"""SYNs per second, one time after the other, until nothing got lost: an emulated machine mostly keeps up with these."""
ANSWERS_EVERY = 16
"""SYNs after which answers are taken in."""
LINGER_S = 2.0
"""Seconds to go on listening after the last packet."""
LATEST_S = 10.0
"""Seconds to go on listening while a port that should answer has not."""
UDP_PORTS = (19, 53, 67, 68, 69, 111, 123, 137, 161, 443, 500, 514, 546, 547, 1194, 1900, 4500, 5353, 5355, 51820)
"""Ports that something on a Debian host may serve."""
UDP_PROBES = (
    b"\0" * 8,
    # a DNS query for the root's name servers
    bytes.fromhex("beef0100000100000000000000000200 01".replace(" ", "")),
    # an NTP client's request
    b"\x23" + b"\0" * 47,
)


def answering_tcp_ports(
    host: Host,
    target: Address,
    lost: Callable[[], int | None],
    ports: Iterable[int] = range(1, 65536),
    *,
    expected: Collection[int] = (),
    rates_per_s: Iterable[int] = RATES_PER_S,
) -> set[int]:
    """Return the TCP ports of *target* that answer a SYN of *host* with a SYN-ACK.

    *expected* ones are given longer. *lost* returns how many packets were ever lost on the way to a machine; None when
    nobody can tell.
    """
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    source = random.randrange(20000, 30000)
    opened: set[int] = set()
    with host.entered():
        own = ip_address(own_address(target))
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        todo = list(ports)
        random.shuffle(todo)
        for rate in rates_per_s:
            before = lost()
            for number, port in _paced(todo, rate):
                if port not in opened:
                    raw.sendto(_syn(own, target, source, port), (str(target), 0))
                if number % ANSWERS_EVERY == 0:
                    opened |= set(_syn_acks(raw, target, source, 0))
            opened |= set(_syn_acks(raw, target, source, LINGER_S))
            deadline = time.monotonic() + LATEST_S - LINGER_S
            while not opened.issuperset(expected) and time.monotonic() < deadline:
                opened |= set(_syn_acks(raw, target, source, 0.1))
            if before is not None and lost() == before:
                break
    return opened


def lost_packets(networks: Iterable[str]) -> int:
    """Return how many packets the interfaces of *networks*, and the kernel between them, ever lost."""
    lost = sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())
    for network in networks:
        with entered(network):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
        for line in lines:
            received, sent = (int(line.partition(":")[2].split()[column]) for column in (3, 11))
            lost += received + sent
    return lost


def answering_udp_ports(host: Host, target: Address, ports: Iterable[int] = UDP_PORTS) -> set[int]:
    """Return the UDP ports of *target* that send anything back to *host*, an ICMP error included."""
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    sockets: dict[int, socket.socket] = {}
    answered: set[int] = set()
    for port in ports:
        with host.entered():
            sockets[port] = socket.socket(family, socket.SOCK_DGRAM)
        sockets[port].setblocking(False)
        sockets[port].connect((str(target), port))
    try:
        for probe in UDP_PROBES:
            for port, each in sockets.items():
                try:
                    each.send(probe)
                except OSError:
                    answered.add(port)
            time.sleep(0.5)
        deadline = time.monotonic() + LINGER_S
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(list(sockets.values()), [], [], left)
            for port, each in sockets.items():
                if each in ready:
                    answered.add(port)
                    try:
                        each.recv(2048)
                    except OSError:
                        continue
    finally:
        for each in sockets.values():
            each.close()
    return answered


def _paced(ports: Iterable[int], rate_per_s: int) -> Iterator[tuple[int, int]]:
    started = time.monotonic()
    for number, port in enumerate(ports):
        while number > (time.monotonic() - started) * rate_per_s:
            time.sleep(0.002)
        yield number, port


def _syn_acks(raw: socket.socket, target: Address, source: int, within_s: float) -> Iterator[int]:
    """Yield the ports whose SYN-ACK arrives within *within_s*; with 0, those that are there already."""
    deadline = time.monotonic() + within_s
    while select.select([raw], [], [], max(0.0, deadline - time.monotonic()))[0]:
        packet, sender = raw.recvfrom(256)
        if sender[0].partition("%")[0] != str(target):
            continue
        segment = packet if target.version == 6 else packet[(packet[0] & 0x0F) * 4 :]
        port, destination = struct.unpack("!HH", segment[:4])
        if destination == source and segment[13] & ACK_SYN == ACK_SYN:
            yield port


def _syn(own: Address, target: Address, source: int, port: int) -> bytes:
    """Return a TCP SYN with its checksum (RFC 9293 section 3.1). Pure."""
    # An MSS option, as stacks without one are rare enough for firewalls to drop them.
    header = struct.pack("!HHIIBBHHHHH", source, port, 1, 0, 6 << 4, SYN, 64240, 0, 0, 0x0204, 1220)
    pseudo = own.packed + target.packed
    if target.version == 6:
        pseudo += struct.pack("!IHBB", len(header), 0, 0, socket.IPPROTO_TCP)
    else:
        pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(header))
    return header[:16] + struct.pack("!H", _checksum(pseudo + header)) + header[18:]


def _checksum(content: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
