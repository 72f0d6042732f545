"""Measure how many messages pass the proxy, and what runs on both hosts costs: ``python -m tests.bench.mail TOPOLOGY``.

The daemons are those of the package trees with all filters on, in network namespaces; the tunnel is a plain pair of
interfaces. The same sender sends the same messages through the proxy and straight to the client's Postfix by turns, so
that whatever else the machine does weighs on both. Each host has one processor of its own, as in life.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imagebuilder.commands.files import Files
from imagebuilder.commands.sources import sources_of_environment, the_store
from imagebuilder.pipeline import build
from imagebuilder.render import render_role
from imagebuilder.run import run, say
from imagebuilder.secrets.keys import public_keys
from imagebuilder.services import Site
from imagebuilder.tools import Tools
from imagebuilder.topology import Role
from imagebuilder.vm.nameserver import NameServer
from imagebuilder.vm.namespace import NETWORKS, entered, inside, new_network
from tests.accept import proxy_room
from tests.accept.client_letters import letter
from tests.accept.client_room import CLIENT, PASSWORDS, TOPOLOGY, ClientRoom

AT_ONCE, MESSAGES, ROUNDS, SIZE = 10, 300, 3, 2000
SOURCES = tuple(f"198.51.100.{number}" for number in range(100, 200))
"""Many, as the proxy's firewall lets no single one come that fast."""
SENDER = "joe@plain.example"
LEAST_RATIO, MOST_MIB = 0.8, {Role.PROXY: 300, Role.CLIENT: 700}


@dataclass(frozen=True)
class Figures:
    """What one run found."""

    direct: float
    """Messages per second straight to the client's Postfix, median of the rounds."""
    through_the_proxy: float
    """The same through haraka-in."""
    ratio: float
    """The latter by the former, median of the rounds."""
    ratios: tuple[float, ...]
    """Of each round."""
    deferred: int
    """Deliveries that were put off without need."""
    memory_mib: dict[Role, float]
    """What the mail system's processes hold on each host, without the kernel and systemd."""


def wired(tools: Tools, packages: dict[Role, Path]) -> tuple[ClientRoom, proxy_room.Room]:
    """Return both hosts, running."""
    limits = "[filter]\nsource_messages_per_hour = 1_000_000\n"
    roomy = TOPOLOGY.replace("quota_mib = 1\n", "").replace("[filter]\n", limits)
    client = ClientRoom(tools, packages[Role.CLIENT], roomy)
    client.lay_out()
    client.start()
    site = Site(client.topology, public_keys(client.private), Role.PROXY)
    proxy = proxy_room.Room(proxy_room.Parts(tools, packages.__getitem__, lambda _: render_role(site)))
    proxy_room.ROOM.mkdir()
    new_network("internet")
    client.ip(
        "internet",
        "link set lo up",
        f"link add to-proxy type veth peer name eth0 netns {NETWORKS / 'proxy'}",
        "link set to-proxy up",
        "address add 198.18.0.1/24 dev to-proxy",
        *(f"address add {source}/32 dev lo" for source in SOURCES),
    )
    client.ip("proxy", "link set eth0 up", "address add 198.18.0.10/24 dev eth0", "route add default via 198.18.0.1")
    NameServer(tools, proxy_room.ROOM / "dns", "proxy", ["127.0.0.1"]).start(client._records())
    proxy._root(Role.PROXY)
    proxy.in_root(Role.PROXY, ["nft", "-f", "/etc/nftables.conf"])
    proxy.start_haraka_in()
    proxy.start_haraka_out()
    return client, proxy


def send(client: ClientRoom, direct: bool, number: int) -> int:
    """Send one message over a connection of its own, as strangers do; return the last answer's code."""
    source, to = SOURCES[number % len(SOURCES)], tuple(PASSWORDS)[number % 2]
    body = letter(SENDER, to, f"number {number}", "hello\n") + b"some words of it\r\n" * (SIZE // 18)
    commands = [b"EHLO mx.plain.example\r\n", f"MAIL FROM:<{SENDER}>\r\n".encode(), f"RCPT TO:<{to}>\r\n".encode()]
    if direct:
        xclient = f"XCLIENT NAME=[UNAVAILABLE] ADDR={source} PORT=4711 PROTO=ESMTP HELO=mx.plain.example\r\n"
        commands = [b"EHLO mail.example.org\r\n", xclient.encode(), *commands]
        connection = client.connect("proxy", CLIENT, 25)
    else:
        with entered("internet"):
            connection = socket.create_connection(("198.18.0.10", 25), 60, (source, 0))
    with connection, connection.makefile("rb") as answers:
        code = answer(answers)
        for command in (*commands, b"DATA\r\n", body + b".\r\n"):
            if code >= 400:
                return code
            connection.sendall(command)
            code = answer(answers)
        connection.sendall(b"QUIT\r\n")
        return code


def answer(lines: BinaryIO) -> int:
    """Read one reply and return its code."""
    for line in iter(lines.readline, b""):
        if line[3:4] != b"-":
            return int(line[:3])
    return 421


def rate(client: ClientRoom, numbers: "itertools.count[int]", *, direct: bool) -> float:
    """Return the messages per second that were accepted; raise when one was not."""
    wanted = list(itertools.islice(numbers, MESSAGES))
    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = set(pool.map(functools.partial(send, client, direct), wanted))
    taken = time.monotonic() - started
    if codes != {250}:
        raise AssertionError(f"not every message was accepted: {sorted(codes)}")
    return MESSAGES / taken


def processes_of(root: Path) -> Iterator[Path]:
    """Yield the folders in /proc of the processes of the host at *root*."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "root").readlink() == root:
                yield process


def memory_mib(root: Path) -> float:
    """Return what the processes of the host at *root* have for themselves, shared pages by their share."""
    total = 0
    for process in processes_of(root):
        with contextlib.suppress(OSError):
            total += int((process / "smaps_rollup").read_text().split("\nPss:")[1].split()[0])
    return total / 1024


def part(roots: Iterable[Path]) -> None:
    """Give each of the hosts at *roots* a processor of its own, and what its processes will start with them."""
    processors = sorted(os.sched_getaffinity(0))
    for processor, root in zip(processors, roots, strict=False):
        for thread in (thread for process in processes_of(root) for thread in process.glob("task/*")):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), {processor})


def measured(tools: Tools, packages: dict[Role, Path]) -> Figures:
    """Return the figures of one run."""
    client, proxy = wired(tools, packages)
    part((proxy.roots[Role.PROXY], client.root))
    numbers = itertools.count()
    for direct in (True, False):
        rate(client, numbers, direct=direct)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for direct in (True, False) * ROUNDS:
        rates[direct].append(rate(client, numbers, direct=direct))
        say(f"{'direct' if direct else 'through the proxy'}: {rates[direct][-1]:.1f} messages/s")
    ratios = [through / direct for direct, through in zip(rates[True], rates[False], strict=True)]
    deferred = [line for line in client.lines if "status=deferred" in line]
    return Figures(
        direct=statistics.median(rates[True]),
        through_the_proxy=statistics.median(rates[False]),
        ratio=statistics.median(ratios),
        ratios=tuple(round(one, 2) for one in ratios),
        deferred=len(deferred),
        memory_mib={Role.PROXY: memory_mib(proxy.roots[Role.PROXY]), Role.CLIENT: memory_mib(client.root)},
    )


def main() -> int:
    """Print the figures as JSON; fail when they fall short."""
    plan = Files(Path(sys.argv[1])).plan()
    built = build(the_store(), plan, sources_of_environment())
    with tempfile.TemporaryDirectory(prefix="imagebuilder-bench-") as folder:
        packages = {role: Path(folder) / role for role in Role}
        for role, target in packages.items():
            base = the_store().path(plan.roles[role].base)
            argv = ["fsck.erofs", f"--extract={target}", "--overwrite", "--preserve", str(base / "root.erofs")]
            target.mkdir()
            run(built.tools.argv(argv, read=[base], write=[target]))
        figures = inside(functools.partial(measured, built.tools, packages))
    print(json.dumps(dataclasses.asdict(figures), indent=2))
    good = figures.ratio >= LEAST_RATIO and figures.deferred == 0
    return int(not good or any(figures.memory_mib[role] > most for role, most in MOST_MIB.items()))


if __name__ == "__main__":
    sys.exit(main())
