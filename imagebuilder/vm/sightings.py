"""What a run sees beside the outcomes of its tests, for its record: messages, doors, complaints, boots."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from imagebuilder.runs.record import Authentication, BootChart, Complaint, DoorCheck, Message
from imagebuilder.topology import Role
from imagebuilder.vm.host import Host
from imagebuilder.vm.scan import RATES_PER_S, UDP_PORTS, answering_tcp_ports, answering_udp_ports
from imagebuilder.vm.verdict import Verdict

EVERY_PORT = range(1, 65536)


@dataclass
class Sightings:
    """What was seen so far."""

    test: str = ""
    """The test that runs now."""
    messages: list[Message] = field(default_factory=list)
    doors: list[DoorCheck] = field(default_factory=list)
    complaints: list[Complaint] = field(default_factory=list)
    charts: dict[Role, BootChart] = field(default_factory=dict)

    def arrived(self, message: Message) -> None:
        """Note a *message* that its reader has."""
        self.messages.append(message.model_copy(update={"test": self.test}))

    def judged(self, subject: str, verdict: Verdict, judge: str) -> None:
        """Note what *judge* made of the message with that *subject*, which arrived before."""
        results = tuple(
            Authentication(method=method, result=result, detail=detail, by=judge)
            for method, result, detail in (
                ("spf", verdict.spf, ""),
                ("dkim", verdict.dkim, f"header.d={verdict.dkim_domain}" if verdict.dkim_domain else ""),
                ("dmarc", verdict.dmarc, ""),
            )
        )
        for index, message in reversed(list(enumerate(self.messages))):
            if message.subject == subject:
                update = {"authentication": (*message.authentication, *results)}
                self.messages[index] = message.model_copy(update=update)
                return


@dataclass(frozen=True)
class Doors:
    """Knocks at ports, and notes what was to answer beside what did."""

    seen: Sightings
    lost: Callable[[], int | None]
    """As answering_tcp_ports wants it."""
    every: range = EVERY_PORT
    """What "every port" means."""
    rates_per_s: tuple[int, ...] = RATES_PER_S

    def tcp(
        self,
        host: Host,
        target: IPv4Address | IPv6Address,
        *,
        expected: Collection[int] = (),
        ports: range | None = None,
    ) -> set[int]:
        """Return the TCP ports of *target* that answer *host*, of *ports* or of every one."""
        ports = ports or self.every
        answered = answering_tcp_ports(host, target, self.lost, ports, expected=expected, rates_per_s=self.rates_per_s)
        self._note(host, target, "tcp", len(ports), expected, answered)
        return answered

    def udp(self, host: Host, target: IPv4Address | IPv6Address, *, expected: Iterable[int] = ()) -> set[int]:
        """Return the UDP ports of *target* that answer *host*."""
        answered = answering_udp_ports(host, target)
        self._note(host, target, "udp", len(UDP_PORTS), expected, answered)
        return answered

    def _note(
        self,
        host: Host,
        target: IPv4Address | IPv6Address,
        protocol: str,
        knocked: int,
        expected: Iterable[int],
        answered: set[int],
    ) -> None:
        check = DoorCheck(
            origin=host.name,
            target=str(target),
            protocol=protocol,
            knocked=knocked,
            expected=tuple(sorted(expected)),
            seen=tuple(sorted(answered)),
        )
        self.seen.doors.append(check)
