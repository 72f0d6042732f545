"""From what a run saw to its record. Reads the journals of the run."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imagebuilder import __version__
from imagebuilder.runs.record import Hop, ImageFacts, Message, Record, Scene
from imagebuilder.topology import Topology
from imagebuilder.vm.acceptance import Collected, Orders, Seen
from imagebuilder.vm.addresses import addresses
from imagebuilder.vm.tested import Tested
from imagebuilder.vm.world import PUBLIC_TCP


@dataclass(frozen=True)
class Origin:
    """Which files of the operator's a run was made from."""

    topology: str
    """Name of the file."""
    topology_key: str
    """The same for all runs of one file."""
    topology_sha256: str
    lock_sha256: str
    generation: int | None = None


def record_of(
    subject: Tested,
    origin: Origin,
    orders: Orders,
    collected: Collected,
    seen: Seen | None,
    started: datetime,
    ended: datetime,
) -> Record:
    """Return the record of a run; *seen* is None when no test was to run."""
    sightings = seen.sightings if seen else None
    tests = {test.id: test for test in (*(seen.tests if seen else ()), *collected.denied)}
    never = [name for name in collected.selected if name not in tests]
    return Record(
        run=subject.folder.name,
        started=started,
        seconds=round((ended - started).total_seconds(), 1),
        version=__version__,
        topology=origin.topology,
        topology_key=origin.topology_key,
        topology_sha256=origin.topology_sha256,
        lock_sha256=origin.lock_sha256,
        generation=origin.generation,
        images={
            role: ImageFacts(sha256=image.sha256, size_bytes=image.size_bytes, root_hash=image.root_hash)
            for role, image in subject.images.items()
        },
        accelerator=seen.accelerator if seen else "",
        patience=seen.patience if seen else 1.0,
        expression=orders.expression or "",
        deselected=len(collected.deselected),
        never_ran=tuple(never),
        deployed=bool(seen and seen.here),
        scene=scene(subject.topology, seen.here if seen else ()),
        hello_s=seen.boot.hello_s if seen and seen.boot else {},
        settled_s=seen.boot.settled_s if seen and seen.boot else {},
        mail_ready_s=seen.boot.mail_ready_s if seen and seen.boot else None,
        restores_s=seen.restores_s if seen else (),
        charts=sightings.charts if sightings else {},
        messages=tuple(with_log(sightings.messages, _journals(subject.folder))) if sightings else (),
        doors=tuple(sightings.doors) if sightings else (),
        complaints=tuple(sightings.complaints) if sightings else (),
        # In the order in which they stand in their files, whoever ran them.
        tests=tuple(tests[name] for name in collected.all if name in tests),
        notes=tuple(_notes(orders, collected, seen)),
    )


def _notes(orders: Orders, collected: Collected, seen: Seen | None) -> Iterable[str]:
    if seen and seen.boot and not seen.boots:
        yield "nothing booted: the pair was kept by an earlier run, whose boot times these are"
    if orders.denylist:
        yield from orders.denylist.remarks(name.rpartition("::")[2] for name in collected.all)
    if seen and seen.rounds > 1:
        yield f"the outcomes are those of round {seen.rounds}, the last one"
    if seen and seen.stopped:
        yield "the operator stopped the run"


def scene(topology: Topology, here: tuple[str, ...] = ()) -> Scene:
    """Return what a picture of *topology* shows: in the bed's world, or deployed and seen from *here*. Pure."""
    proxy, client, tunnel, places = topology.proxy, topology.client, topology.tunnel, addresses(topology)
    return Scene(
        proxy=proxy.hostname,
        proxy_addresses=_texts(proxy.ipv4.ip, proxy.ipv6 and proxy.ipv6.ip),
        client=client.hostname,
        client_address="" if here else str(places.client.ipv4.ip),
        tunnel_network=str(tunnel.network),
        tunnel_proxy=str(tunnel.proxy_address),
        tunnel_client=str(tunnel.client_address),
        tunnel_port=tunnel.port,
        domains=tuple(domain.name for domain in topology.mail.domains),
        mailboxes=len(topology.mail.mailboxes),
        open_ports=PUBLIC_TCP,
        stranger=here or _texts(places.stranger.ipv4.ip, places.stranger.ipv6 and places.stranger.ipv6.ip),
        user=here or _texts(places.user.ipv4.ip, places.user.ipv6 and places.user.ipv6.ip),
        home="" if here else str(places.home.ipv4.ip),
    )


def _texts(*addresses: object) -> tuple[str, ...]:
    return tuple(str(address) for address in addresses if address)


def _journals(folder: Path) -> str:
    return "\n".join(file.read_text(errors="replace") for file in sorted(folder.rglob("client.journal.txt")))


def with_log(messages: Iterable[Message], journal: str) -> Iterable[Message]:
    """Yield *messages*, their first hop completed by what the client's *journal* has and the message hides. Pure.

    The client takes the address of whoever submitted a message out of it; Postfix logs it under the queue's name.
    """
    logins = {
        found["queue"]: found.groupdict()
        for found in re.finditer(
            r"(?P<queue>[0-9A-F]{6,}): client=(?P<name>[^\s\[]+)\[(?P<address>[^\]]+)\].*?sasl_username=(?P<user>\S+)",
            journal,
        )
    }
    secured: Mapping[str, str] = {
        found["address"]: f"{found['version']} {found['cipher']}"
        for found in re.finditer(
            r"TLS connection established from [^\s\[]+\[(?P<address>[^\]]+)\](?::\d+)?: "
            r"(?P<version>TLSv[\d.]+) with cipher (?P<cipher>[\w-]+)",
            journal,
        )
    }
    for message in messages:
        yield message.model_copy(update={"hops": tuple(_completed(hop, logins, secured) for hop in message.hops)})


def _completed(hop: Hop, logins: Mapping[str, Mapping[str, str]], secured: Mapping[str, str]) -> Hop:
    queue = re.search(r"\bid ([0-9A-F]{6,})\b", hop.text)
    login = logins.get(queue[1]) if queue and not hop.from_address else None
    if login is None:
        return hop
    address = login["address"]
    update = {"from_name": login["name"], "from_address": address, "tls": hop.tls or secured.get(address, "")}
    return hop.model_copy(update=update | {"login": login["user"].rstrip(",")})
