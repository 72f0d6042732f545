"""What reaches the proxy. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from imagebuilder.services.ban_door import DOOR_PORT
from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.firewall_client import HEADERS_BYTES
from imagebuilder.services.haproxy import IMAPS_PORT, SUBMISSION_PORT
from imagebuilder.services.haraka_out import RELAY_PORT
from imagebuilder.services.tls_results import RESULTS_PORT
from imagebuilder.topology import Role


@dataclass(frozen=True)
class FirewallProxyValues(Values):
    """What overlays/firewall-proxy may refer to."""

    dhcp: bool
    """Whether addresses come by DHCP and router advertisements."""
    tunnel_interface: str
    """Name of the tunnel's interface."""
    tunnel_network: str
    """Addresses inside the tunnel."""
    proxy_address: str
    """Our end of the tunnel."""
    client_address: str
    """The other end."""
    tunnel_network_ipv6: str
    """IPv6 addresses inside the tunnel."""
    proxy_ipv6: str
    """Our end of the tunnel by IPv6."""
    client_ipv6: str
    """The other end by IPv6."""
    ban_door_port: int
    """Where the client names who guesses passwords."""
    results_port: int
    """Where the client asks how TLS went."""
    ban_minutes: int
    """How long such an address is kept out."""
    spared_4: tuple[str, ...]
    """IPv4 networks that no ban touches: our own, and those of the topology."""
    spared_6: tuple[str, ...]
    """The same for IPv6."""
    relay_port: int
    """Where the client hands over mail for the Internet."""
    wireguard_port: int
    """UDP port of the tunnel."""
    user_ports: tuple[int, ...]
    """Where users' mail programs come."""
    segment_4: int
    """Largest TCP payload in one IPv4 packet of the tunnel, in bytes."""
    segment_6: int
    """The same in IPv6."""


def disjoint(version: int, *networks: IPv4Network | IPv6Network) -> tuple[str, ...]:
    """Return those of *networks* that are of the IP *version*, sorted, none within another."""
    if version == 4:
        return tuple(map(str, collapse_addresses(one for one in networks if isinstance(one, IPv4Network))))
    return tuple(map(str, collapse_addresses(one for one in networks if isinstance(one, IPv6Network))))


def firewall_proxy_values(site: Site) -> FirewallProxyValues:
    """Return the values of the proxy's firewall."""
    tunnel, proxy, bans = site.topology.tunnel, site.topology.proxy, site.topology.bans
    return FirewallProxyValues(
        dhcp=site.topology.proxy.dhcp,
        tunnel_interface="wg0",
        tunnel_network=str(tunnel.network),
        proxy_address=str(tunnel.proxy_address),
        client_address=str(tunnel.client_address),
        tunnel_network_ipv6=str(tunnel.network_ipv6),
        proxy_ipv6=str(tunnel.proxy_ipv6),
        client_ipv6=str(tunnel.client_ipv6),
        ban_door_port=DOOR_PORT,
        results_port=RESULTS_PORT,
        ban_minutes=bans.ban_minutes,
        spared_4=disjoint(4, ip_network("127.0.0.0/8"), tunnel.network, ip_network(proxy.ipv4.ip), *bans.never),
        spared_6=disjoint(
            6,
            ip_network("::1"),
            tunnel.network_ipv6,
            *([ip_network(proxy.ipv6.ip)] if proxy.ipv6 else []),
            *bans.never,
        ),
        relay_port=RELAY_PORT,
        wireguard_port=tunnel.port,
        user_ports=(SUBMISSION_PORT, IMAPS_PORT),
        segment_4=tunnel.mtu - HEADERS_BYTES[4],
        segment_6=tunnel.mtu - HEADERS_BYTES[6],
    )


SERVICE = Service(name="firewall-proxy", roles=(Role.PROXY,), values=firewall_proxy_values, units=("nftables.service",))
