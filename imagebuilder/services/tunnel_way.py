"""Which way the client dials the proxy: by IPv4 or IPv6, whichever works, from a fresh port when none does. Pure."""

from dataclasses import dataclass

from imagebuilder.services.base import Service, Site, Values
from imagebuilder.topology import Role


@dataclass(frozen=True)
class TunnelWayValues(Values):
    """What overlays/tunnel-way may refer to."""

    peer_public_key: str
    """The proxy's public key."""
    proxy_address: str
    """Its address in the tunnel, which answers when the tunnel works."""
    ways: tuple[str, ...]
    """Its addresses on the Internet with the tunnel's port, the first one tried first."""


def tunnel_way_values(site: Site) -> TunnelWayValues:
    """Return the values of the look-out."""
    proxy, tunnel = site.topology.proxy, site.topology.tunnel
    ways = [f"{proxy.ipv4.ip}:{tunnel.port}"]
    if proxy.ipv6:
        ways.append(f"[{proxy.ipv6.ip}]:{tunnel.port}")
    return TunnelWayValues(
        peer_public_key=site.public.wireguard.proxy, proxy_address=str(tunnel.proxy_address), ways=tuple(ways)
    )


SERVICE = Service(name="tunnel-way", roles=(Role.CLIENT,), values=tunnel_way_values, units=("tunnel-way.service",))
