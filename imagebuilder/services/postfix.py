"""Postfix on the client: whom it takes mail for, who may send as whom. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role, Topology

MIB = 1024 * 1024
TRACE_BYTES = 64 * 1024
"""Room for the fields that the proxy adds, so that a message of just the allowed size passes both hosts."""

SUBMISSION_PORT = 10587
"""Where the proxy hands on port 587, on the client's tunnel address."""
RELAY_PORT = 2526
"""Where the proxy takes outgoing mail, on its tunnel address."""
LOCAL_PORT = 10025
"""Where this host's own programs hand in mail, on the loopback address."""

FORWARD_PORT = 10026
"""Where mail that only passes by gets a sender of ours, on the loopback address."""
SRS_FORWARD_PORT, SRS_REVERSE_PORT = 10001, 10002
"""Where PostSRSd answers, on the loopback address."""

ROLE_NAMES = ("postmaster", "abuse")
"""Local parts that every mail domain has to answer (RFC 5321 section 4.5.1, RFC 2142 section 4)."""
NOBODY = "nobody"
"""Stands where an address has no owner among our logins; no login looks like it, as all have an @."""


@dataclass(frozen=True)
class Row:
    """One line of a map."""

    address: str
    """The address that is looked up; "@domain": all that have no line of their own."""
    targets: str
    """What it leads to, separated by commas."""


@dataclass(frozen=True)
class PostfixValues(Values):
    """What overlays/postfix may refer to."""

    hostname: str
    """The name shown to the outside: the proxy's."""
    principal_domain: str
    """Domain of mail that this host itself writes."""
    proxy_address: str
    """The proxy's address in the tunnel."""
    proxy_addresses: str
    """All of the proxy's addresses there, in Postfix's form."""
    listen_addresses: tuple[str, ...]
    """Our own addresses there, in Postfix's form."""
    tunnel_networks: tuple[str, ...]
    """The networks of the tunnel."""
    submission_port: int
    """Where users' mail comes in."""
    local_port: int
    """Where this host's own programs hand in mail."""
    forward_port: int
    """Where mail that only passes by gets a sender of ours."""
    srs_forward_port: int
    """Where to ask for that sender."""
    srs_reverse_port: int
    """Where to ask who it was."""
    relay_port: int
    """Where the proxy takes outgoing mail."""
    max_message_bytes: int
    """The largest limit of any domain, as Postfix has one for all."""
    domains: tuple[str, ...]
    """Domains we take mail for."""
    mailboxes: tuple[str, ...]
    """Addresses of all mailboxes."""
    send_only: tuple[str, ...]
    """Those of them that take no mail."""
    aliases: tuple[Row, ...]
    """Address to addresses; mailboxes lead to themselves."""
    owners: tuple[Row, ...]
    """Address to the logins that may send as it."""


def role_target(topology: Topology, taken: Mapping[str, tuple[str, ...]]) -> str:
    """Return who gets the mail of postmaster@ and abuse@: the administrator, or the first mailbox that takes mail.

    An address elsewhere would send strangers' complaints out again, which their DMARC policies forbid.
    """
    if topology.admin.email in taken:
        return topology.admin.email
    receiving = [mailbox.address for mailbox in topology.mail.mailboxes if not mailbox.send_only]
    return (receiving or [topology.mail.mailboxes[0].address])[0]


def alias_targets(topology: Topology) -> dict[str, tuple[str, ...]]:
    """Return what every address we take leads to, "@domain" for a catch-all; a mailbox leads to itself."""
    taken: dict[str, tuple[str, ...]] = {box.address: (box.address,) for box in topology.mail.mailboxes}
    for box in topology.mail.mailboxes:
        for alias in box.aliases:
            taken[alias] = (*taken.get(alias, ()), box.address)
    for entry in topology.mail.aliases:
        taken[entry.address] = (*taken.get(entry.address, ()), *entry.targets)
    target = role_target(topology, taken)
    for domain in topology.mail.domains:
        for name in ROLE_NAMES:
            taken.setdefault(f"{name}@{domain.name}", (target,))
        if domain.catch_all:
            taken[f"@{domain.name}"] = (domain.catch_all,)
    return {address: tuple(dict.fromkeys(targets)) for address, targets in taken.items()}


def mailboxes_behind(address: str, taken: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the mailboxes that mail to *address* ends in; addresses elsewhere and loops are left out."""
    seen: set[str] = set()
    waiting = [address]
    while waiting:
        here = waiting.pop(0)
        if here in seen:
            continue
        seen.add(here)
        targets = taken.get(here, ())
        if targets == (here,):
            yield here
        else:
            waiting.extend(targets)


def owner_rows(topology: Topology, taken: Mapping[str, tuple[str, ...]]) -> tuple[Row, ...]:
    """Return who may send as which address: whoever gets its mail. A mailbox's own address is its own alone.

    Where a catch-all stands, an address without an owner here is named too, or the catch-all's owner had it.
    """
    mailboxes = {box.address for box in topology.mail.mailboxes}
    owners = {
        address: [address] if address in mailboxes else sorted(set(mailboxes_behind(address, taken)))
        for address in taken
    }
    return tuple(Row(address, ",".join(logins or [NOBODY])) for address, logins in sorted(owners.items()))


def largest_message_bytes(topology: Topology) -> int:
    """Return the largest message that Postfix takes, in bytes."""
    return max(domain.max_message_mib for domain in topology.mail.domains) * MIB + TRACE_BYTES


def postfix_values(site: Site) -> PostfixValues:
    """Return the values of Postfix."""
    topology = site.topology
    taken = alias_targets(topology)
    return PostfixValues(
        hostname=topology.proxy.hostname,
        principal_domain=topology.mail.domains[0].name,
        proxy_address=str(topology.tunnel.proxy_address),
        proxy_addresses=f"{topology.tunnel.proxy_address}, [{topology.tunnel.proxy_ipv6}]",
        listen_addresses=(str(topology.tunnel.client_address), f"[{topology.tunnel.client_ipv6}]"),
        tunnel_networks=tuple(map(str, topology.tunnel.networks)),
        submission_port=SUBMISSION_PORT,
        local_port=LOCAL_PORT,
        forward_port=FORWARD_PORT,
        srs_forward_port=SRS_FORWARD_PORT,
        srs_reverse_port=SRS_REVERSE_PORT,
        relay_port=RELAY_PORT,
        max_message_bytes=largest_message_bytes(topology),
        domains=tuple(sorted(domain.name for domain in topology.mail.domains)),
        mailboxes=tuple(sorted(box.address for box in topology.mail.mailboxes)),
        send_only=tuple(sorted(box.address for box in topology.mail.mailboxes if box.send_only)),
        aliases=tuple(Row(address, ",".join(targets)) for address, targets in sorted(taken.items())),
        owners=owner_rows(topology, taken),
    )


SERVICE = Service(name="postfix", roles=(Role.CLIENT,), values=postfix_values, units=("postfix.service",))
