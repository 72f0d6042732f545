"""What the authoritative name servers say about a topology's records. Asks them over the network."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

from imagebuilder.dns.records import ROOT_SERVERS, Record

ANSWER_S = 4.0
"""Seconds that one question may take."""
ATTEMPTS = 2
"""Times that a server is asked before it counts as out of reach; a datagram can be lost."""
MAX_DEPTH = 4
"""How often the servers of one zone may have names in another, whose servers have names in another …"""
ROOTS = tuple(ipv4 for ipv4, _ in ROOT_SERVERS.values())
ADDRESS_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class State(StrEnum):
    """How a record stands."""

    GOOD = "good"
    MISSING = "missing"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """No server could be asked."""


@dataclass(frozen=True)
class Answer:
    """What one server has under a name and type."""

    server: str
    """Its address."""
    values: tuple[str, ...]
    """As in a zone file; the strings of a TXT record joined and unquoted."""


@dataclass(frozen=True)
class Finding:
    """What became of one record that is to be published."""

    record: Record
    state: State
    said: str = ""
    """What is wrong, one sentence; empty when nothing is."""

    @property
    def fatal(self) -> bool:
        """Whether mail fails by it."""
        return self.state is not State.GOOD and (self.record.required or self.state is State.WRONG)


@dataclass(frozen=True)
class Zone:
    """The zone that a name lies in."""

    name: dns.name.Name
    servers: tuple[str, ...]
    """Addresses of its name servers, as the parent zone names them, one of each."""
    signed: bool
    """Whether the parent zone vouches for its keys (DNSSEC)."""


@dataclass
class NameServers:
    """The way to the servers that are responsible for a name: down from the root, by each zone's delegation."""

    fixed: tuple[str, ...] = ()
    """Asked for everything instead, when given."""
    roots: tuple[str, ...] = ROOTS
    """Addresses of the root name servers."""
    port: int = 53
    _zones: dict[dns.name.Name, Zone] = field(default_factory=dict)
    """Zones that were met on the way, by name."""
    _silent: set[str] = field(default_factory=set)
    """Servers that did not answer, and are not waited for again."""

    def zone_of(self, owner: str) -> Zone | None:
        """Return the zone that *owner* lies in; None when it can't be found."""
        return self._zone(dns.name.from_text(owner), 0)

    def ask(self, owner: str, kind: str) -> tuple[Answer, ...]:
        """Return what each responsible server that can be reached has under *owner* and *kind*."""
        zone = None if self.fixed else self.zone_of(owner)
        servers = self.fixed or (zone.servers if zone else ())
        found = (self._one(server, owner, kind) for server in servers)
        return tuple(answer for answer in found if answer is not None)

    def _zone(self, owner: dns.name.Name, depth: int) -> Zone | None:
        known = [zone for name, zone in self._zones.items() if owner.is_subdomain(name)]
        zone = max(known, key=lambda zone: len(zone.name), default=Zone(dns.name.root, self.roots, signed=True))
        while below := self._delegated(zone, owner, depth):
            self._zones[below.name] = zone = below
        return zone if zone.servers else None

    def _delegated(self, zone: Zone, owner: dns.name.Name, depth: int) -> Zone | None:
        """Return the zone below *zone* that it delegates *owner* to; None when *owner* is its own."""
        for server in zone.servers:
            reply = self._exchange(server, owner.to_text(), "SOA", want_dnssec=True)
            if reply is None:
                continue
            for rrset in reply.authority:
                deeper = rrset.name != zone.name and rrset.name.is_subdomain(zone.name)
                if rrset.rdtype == dns.rdatatype.NS and deeper and owner.is_subdomain(rrset.name):
                    names = [row.target for row in rrset]
                    signed = zone.signed and any(other.rdtype == dns.rdatatype.DS for other in reply.authority)
                    return Zone(rrset.name, self._addresses(names, reply.additional, depth), signed)
            return None
        return None

    def _addresses(
        self, names: Iterable[dns.name.Name], glue: Sequence[dns.rrset.RRset], depth: int
    ) -> tuple[str, ...]:
        """Return one address of each of *names*, IPv4 where there is one; *glue* came with them."""
        found: list[str] = []
        for name in names:
            given = [rrset for rrset in glue if rrset.name == name and rrset.rdtype in ADDRESS_TYPES]
            given.sort(key=lambda rrset: rrset.rdtype)
            if given:
                found.append(str(given[0][0]))
            elif depth < MAX_DEPTH:
                found += self._looked_up(name, depth + 1)[:1]
        return tuple(dict.fromkeys(found))

    def _looked_up(self, name: dns.name.Name, depth: int) -> list[str]:
        """Return the addresses of a name server that lies in another zone."""
        zone = self._zone(name, depth)
        for kind in ("A", "AAAA"):
            for server in zone.servers if zone else ():
                answer = self._one(server, name.to_text(), kind)
                if answer is not None and answer.values:
                    return list(answer.values)
        return []

    def _one(self, server: str, owner: str, kind: str) -> Answer | None:
        reply = self._exchange(server, owner, kind)
        if reply is None or reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return None
        rows = [row for rrset in reply.answer for row in rrset if row.rdtype == dns.rdatatype.from_text(kind)]
        if kind == "TXT":
            return Answer(server, tuple(b"".join(row.strings).decode("utf-8", "replace") for row in rows))
        return Answer(server, tuple(row.to_text() for row in rows))

    def _exchange(self, server: str, owner: str, kind: str, *, want_dnssec: bool = False) -> dns.message.Message | None:
        query = dns.message.make_query(owner, kind, flags=0, want_dnssec=want_dnssec)
        for _ in range(0 if server in self._silent else ATTEMPTS):
            with suppress(OSError, dns.exception.DNSException):
                return dns.query.udp_with_fallback(query, server, timeout=ANSWER_S, port=self.port)[0]
        self._silent.add(server)
        return None


def findings(records: Iterable[Record], servers: NameServers) -> tuple[Finding, ...]:
    """Return how each of *records* stands with the servers responsible for it."""
    return tuple(_finding(record, servers) for record in records)


def _finding(record: Record, servers: NameServers) -> Finding:
    answers = servers.ask(record.owner, record.type)
    if not answers:
        return Finding(record, State.UNKNOWN, "no responsible name server answers")
    verdicts = [(answer.server, *_judged(record, answer.values, servers)) for answer in answers]
    worst = max(verdicts, key=lambda verdict: list(SEVERITY).index(verdict[1]))
    server, state, said = worst
    differing = len({verdict[1] for verdict in verdicts}) > 1
    return Finding(record, state, f"{said} (at {server}, other servers differ)" if said and differing else said)


SEVERITY = (State.GOOD, State.UNKNOWN, State.MISSING, State.WRONG)


def _judged(record: Record, values: Sequence[str], servers: NameServers) -> tuple[State, str]:
    """Return how *record* stands where *values* are published under its name and type."""
    if record.type == "CNAME" and not values and _leads_there(record, servers):
        return State.GOOD, ""
    if record.type == "CAA" and not _issuers(values):
        return _permitted_above(record, servers)
    return JUDGES.get(record.type, has_it)(record, values)


def _permitted_above(record: Record, servers: NameServers) -> tuple[State, str]:
    """Judge CAA where a name has none of its own: the nearest name above counts (RFC 8659 section 3)."""
    above = record.owner.partition(".")[2]
    while "." in above.rstrip("."):
        values = [value for answer in servers.ask(above, "CAA") for value in answer.values]
        if _issuers(values) and permits(record, values)[0] is State.WRONG:
            return State.WRONG, f"{above} has {_list(sorted(set(values)))}, which forbids our certificates"
        if values:
            break
        above = above.partition(".")[2]
    return State.MISSING, "nothing is there"


def _leads_there(record: Record, servers: NameServers) -> bool:
    """Return whether a name that is to be an alias has the target's own addresses, as some providers do."""
    for kind in ("A", "AAAA"):
        wanted = {value for answer in servers.ask(record.rdata, kind) for value in answer.values}
        found = {value for answer in servers.ask(record.owner, kind) for value in answer.values}
        if found != wanted and (found or kind == "A"):
            return False
    return True


def has_it(record: Record, values: Sequence[str]) -> tuple[State, str]:
    """Judge a kind of which others may stand beside ours."""
    if _plain(record.rdata) in map(_plain, values):
        return State.GOOD, ""
    return (State.WRONG, f"there is {_list(values)}") if values else (State.MISSING, "nothing is there")


def has_it_alone(record: Record, values: Sequence[str]) -> tuple[State, str]:
    """Judge a kind of which no other may stand beside ours."""
    if not values:
        return State.MISSING, "nothing is there"
    others = [value for value in values if _plain(value) != _plain(record.rdata)]
    if not others:
        return State.GOOD, ""
    return State.WRONG, f"remove {_list(others)}" if len(others) < len(values) else f"there is {_list(others)}"


def permits(record: Record, values: Sequence[str]) -> tuple[State, str]:
    """Judge CAA: absence permits every authority, other issuers alone forbid ours."""
    return has_it(record, values) if _issuers(values) else (State.MISSING, "nothing is there")


def _issuers(values: Sequence[str]) -> list[str]:
    """Return those of CAA records *values* that permit an authority."""
    return [value for value in values if " issue " in value]


def says_it(record: Record, values: Sequence[str]) -> tuple[State, str]:
    """Judge a TXT record among others of its name, by the tag it begins with."""
    mark = record.text.partition(";")[0].partition(" ")[0]
    ours = [value for value in values if value.partition(";")[0].partition(" ")[0].strip() == mark]
    if len(ours) > 1:
        return State.WRONG, f"there are {len(ours)} that begin with {mark}, and one is allowed"
    if not ours:
        return State.MISSING, "nothing is there" if not values else f"none of {len(values)} begins with {mark}"
    return TEXT_JUDGES.get(mark, _same_tags)(record.text, ours[0])


def _same_tags(wanted: str, found: str) -> tuple[State, str]:
    """Judge DKIM: every tag of ours, whatever blanks are between."""
    if tags(wanted).items() <= tags(found).items():
        return State.GOOD, ""
    return State.WRONG, f"there is {_list([found])}"


def _spf(wanted: str, found: str) -> tuple[State, str]:
    """Judge SPF: all of ours has to be there; what the operator permits beside it is his to know."""
    terms = found.lower().split()
    if set(wanted.split()[:-1]) <= {term.removeprefix("+") for term in terms} and terms[-1] in ("-all", "~all"):
        return State.GOOD, ""
    return State.WRONG, f"there is {_list([found])}"


def _policy(wanted: str, found: str) -> tuple[State, str]:
    """Judge DMARC: a policy that rejects or quarantines; where reports go is the operator's to know."""
    if tags(found).get("p") in ("reject", "quarantine"):
        return State.GOOD, ""
    return State.WRONG, f"there is {_list([found])}, which lets forged mail pass"


def _has_tag(name: str) -> Callable[[str, str], tuple[State, str]]:
    def judge(wanted: str, found: str) -> tuple[State, str]:
        return (State.GOOD, "") if tags(found).get(name) else (State.WRONG, f"there is {_list([found])}")

    return judge


def tags(text: str) -> dict[str, str]:
    """Return the tags of a list such as ``v=DKIM1; p=…``, without any blanks. Pure."""
    pairs = (part.partition("=")[::2] for part in text.split(";") if "=" in part)
    return {name.strip(): "".join(value.split()) for name, value in pairs}


TEXT_JUDGES: dict[str, Callable[[str, str], tuple[State, str]]] = {
    "v=spf1": _spf,
    "v=DMARC1": _policy,
    # an id of the operator's own is as good
    "v=STSv1": _has_tag("id"),
    "v=TLSRPTv1": _has_tag("rua"),
}
JUDGES: dict[str, Callable[[Record, Sequence[str]], tuple[State, str]]] = {
    "A": has_it_alone,
    "AAAA": has_it_alone,
    "MX": has_it_alone,
    "PTR": has_it_alone,
    "CNAME": has_it_alone,
    "CAA": permits,
    "TXT": says_it,
}


def _plain(rdata: str) -> str:
    """Return *rdata* without differences that mean nothing."""
    return " ".join(rdata.lower().split())


def _list(values: Sequence[str]) -> str:
    return ", ".join(repr(value if len(value) <= 80 else f"{value[:79]}…") for value in values)
