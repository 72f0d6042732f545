"""Which addresses the outside world of a topology has, none of them the topology's own. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from imagebuilder.errors import ImagebuilderError
from imagebuilder.topology import Topology

OUTSIDE_IPV4 = tuple(map(IPv4Network, ("198.19.0.0/16", "198.18.0.0/16", "100.96.0.0/16")))
"""Ranges of the Internet of the bed, the first that is free is taken (RFC 2544, RFC 6598)."""
OUTSIDE_IPV6 = tuple(map(IPv6Network, ("2001:2:0:ff00::/56", "2001:2:0:fe00::/56")))
"""The same for IPv6 (RFC 5180)."""
HOME_LANS = tuple(map(IPv4Network, ("192.168.77.0/24", "192.168.178.0/24", "172.29.77.0/24")))
"""What the LAN at home may have when the client asks for its address."""

FORMER_ROOT_SERVERS = ("199.9.14.201", "2001:500:200::b")
"""Addresses of the past that older resolvers still ask."""


@dataclass(frozen=True)
class Place:
    """A host's address and router in one segment."""

    ipv4: IPv4Interface
    ipv4_gateway: IPv4Address
    ipv6: IPv6Interface | None = None
    ipv6_gateway: IPv6Address | None = None


@dataclass(frozen=True)
class Addresses:
    """Everybody's addresses."""

    dns_ipv4: IPv4Address
    """The server of the one zone, for the outside hosts."""
    dns_ipv6: IPv6Address
    stranger: Place
    user: Place
    home: Place
    """The home line's public side."""
    lan: Place
    """Another host at home; its IPv6 network is what the provider gives the home."""
    client: Place
    """The client at home: its own, or what DHCP gives it."""


def addresses(topology: Topology) -> Addresses:
    """Return addresses for the outside of *topology* that collide with none of its own."""
    proxy, client = topology.proxy, topology.client
    taken4 = [proxy.ipv4.network, topology.tunnel.network, *([client.ipv4.network] if client.ipv4 else [])]
    taken6 = [proxy.ipv6.network] if proxy.ipv6 else []
    outside4 = _first_free(OUTSIDE_IPV4, taken4, "the Internet of the bed")
    outside6 = next((net for net in OUTSIDE_IPV6 if not any(net.overlaps(other) for other in taken6)), None)
    if outside6 is None:
        raise ImagebuilderError(f"no IPv6 range is left for the Internet of the bed beside {taken6[0]}")
    segments4, segments6 = list(outside4.subnets(new_prefix=24)), list(outside6.subnets(new_prefix=64))

    def place(segment: int, host: int) -> Place:
        net4, net6 = segments4[segment], segments6[segment]
        return Place(
            IPv4Interface((net4[host], 24)), net4[1], IPv6Interface((net6[host], 64)), net6[1]
        )  # fmt: skip

    if client.ipv4 is not None:
        lan, router, own = client.ipv4.network, client.ipv4_gateway or client.ipv4.network[1], client.ipv4.ip
    else:
        lan = _first_free(HOME_LANS, taken4, "the LAN at home")
        router, own = lan[1], lan[20]
    neighbour = next(address for address in lan.hosts() if address not in (router, own))
    return Addresses(
        dns_ipv4=segments4[0][53],
        dns_ipv6=segments6[0][0x53],
        stranger=place(1, 25),
        user=place(2, 77),
        home=place(3, 2),
        lan=Place(
            IPv4Interface((neighbour, lan.prefixlen)),
            router,
            IPv6Interface((segments6[4][0x30], 64)),
            segments6[4][1],
        ),
        client=Place(IPv4Interface((own, lan.prefixlen)), router),
    )


def _first_free(ranges: tuple[IPv4Network, ...], taken: list[IPv4Network], purpose: str) -> IPv4Network:
    for candidate in ranges:
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    raise ImagebuilderError(f"no IPv4 range is left for {purpose} beside {', '.join(map(str, taken))}")
