"""What reaches the proxy. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.services.haproxy import IMAPS_PORT, SUBMISSION_PORT
from imagebuilder.services.haraka_out import RELAY_PORT
from imagebuilder.topology import Role

IP_AND_TCP_BYTES = 40
"""The headers of a segment in IPv4, the tunnel's only protocol."""


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
    relay_port: int
    """Where the client hands over mail for the Internet."""
    wireguard_port: int
    """UDP port of the tunnel."""
    user_ports: tuple[int, ...]
    """Where users' mail programs come."""
    tunnel_segment: int
    """Largest TCP payload in one packet of the tunnel, in bytes."""


def firewall_proxy_values(site: Site) -> FirewallProxyValues:
    """Return the values of the proxy's firewall."""
    tunnel = site.topology.tunnel
    return FirewallProxyValues(
        dhcp=site.topology.proxy.dhcp,
        tunnel_interface="wg0",
        tunnel_network=str(tunnel.network),
        proxy_address=str(tunnel.proxy_address),
        client_address=str(tunnel.client_address),
        relay_port=RELAY_PORT,
        wireguard_port=tunnel.port,
        user_ports=(SUBMISSION_PORT, IMAPS_PORT),
        tunnel_segment=tunnel.mtu - IP_AND_TCP_BYTES,
    )


SERVICE = Service(name="firewall-proxy", roles=(Role.PROXY,), values=firewall_proxy_values, units=("nftables.service",))
