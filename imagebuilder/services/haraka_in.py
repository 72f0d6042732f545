"""Mail from the Internet, passed through the tunnel at once. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role

MIB = 1024 * 1024

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Addresses that the client trusts as its own."""

SMTP_PORT = 25


@dataclass(frozen=True)
class HarakaInValues(Values):
    """What overlays/haraka-in may refer to."""

    hostname: str
    """The proxy's full name, in the greeting and the trace header."""
    public_ipv4: str
    """The proxy's public IPv4 address."""
    hosted_domains: tuple[str, ...]
    """Domains accepted from the Internet, sorted."""
    max_message_bytes: int
    """The largest limit of any domain, as Haraka has one for all."""
    upstream: str
    """Where accepted mail goes at once: the client's address in the tunnel."""
    upstream_port: int
    """Its port there."""
    postmaster: str
    """Who gets mail to <postmaster> without a domain."""
    refused_networks: tuple[str, ...]
    """Senders that can't be outside: the client must never hear such an address from us."""


def haraka_in_values(site: Site) -> HarakaInValues:
    """Return the values of the inbound relay."""
    topology = site.topology
    domains = topology.mail.domains
    return HarakaInValues(
        hostname=topology.proxy.hostname,
        public_ipv4=str(topology.proxy.ipv4.ip),
        hosted_domains=tuple(sorted(domain.name for domain in domains)),
        max_message_bytes=max(domain.max_message_mib for domain in domains) * MIB,
        upstream=str(topology.tunnel.client_address),
        upstream_port=SMTP_PORT,
        postmaster=f"postmaster@{domains[0].name}",
        refused_networks=(*LOOPBACK, *map(str, topology.tunnel.networks)),
    )


SERVICE = Service(name="haraka-in", roles=(Role.PROXY,), values=haraka_in_values, units=("haraka-in.service",))
